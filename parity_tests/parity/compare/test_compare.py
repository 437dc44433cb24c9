"""Compare: any two programs agree within their budget, or the report says what is wrong, with which side, in words.

report.ok  <=>  z of every output and gradient of both sides is within the limits, and neither side failed
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax import lax
from torch import nn

from attention.parity.adapters import Call, program
from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.compare import compare
from attention.parity.compare.jax_budget import traced
from attention.parity.compare.torch_budget import perturbed
from attention.parity.results.report import Report
from attention.spec.errors import DTypeError, OptionError, ParityError, ShapeError, UnknownName

T, D = 5, 4
Q, K, V = (np.random.default_rng(seed).standard_normal((2, T, D)).astype(np.float32) for seed in range(3))
X = Q[0]
W = np.random.default_rng(3).standard_normal((D, D)).astype(np.float32)
SCALE = 0.5


def torch_attention(q: Any, k: Any, v: Any, scale: float = SCALE) -> Any:
    scores = (q @ k.mT * scale).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    return torch.softmax(scores, -1) @ v


def jax_attention(q: Any, k: Any, v: Any, scale: float = SCALE) -> Any:
    scores = jnp.where(jnp.tri(T, dtype=bool), q @ k.mT * scale, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ v


def numpy_attention(q: Any, k: Any, v: Any, scale: float = SCALE) -> Any:
    scores = np.where(np.tri(T, dtype=bool), q @ np.swapaxes(k, -1, -2) * q.dtype.type(scale), -np.inf)
    weights = np.exp(scores - np.max(scores, -1, keepdims=True))
    return (weights / np.sum(weights, -1, keepdims=True)).astype(q.dtype) @ v


def torch_mistaken(q: Any, k: Any, v: Any) -> Any:
    return torch_attention(q, k, v, SCALE * (1 + 3e-5))


def jax_mistaken(q: Any, k: Any, v: Any) -> Any:
    return jax_attention(q, k, v, SCALE * (1 + 3e-5))


class Torch(nn.Module):
    def __init__(self, w: np.ndarray = W) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Any) -> Any:
        return torch.tanh(x @ self.w)


class Nnx(nnx.Module):
    def __init__(self, w: np.ndarray = W) -> None:
        self.w = nnx.Param(jnp.asarray(w))

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(x @ self.w[...])


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return jnp.tanh(x @ self.param("w", linen.initializers.zeros_init(), (D, D)))


@jax.tree_util.register_dataclass
@dataclass
class Tree:
    w: Any

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(x @ self.w)


def pure(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"])


def rms_z(report: Report, side: str) -> float:
    return max(verdict.rms for row in report.rows for verdict in row.verdicts if row.side == side)


def failure(report: Report) -> str:
    """The one failure of a report that it condemns."""
    assert not report.ok
    (row,) = (row for row in report.rows if row.failure)
    return f"{row.side}: {row.failure}"


def noted(report: Report, text: str) -> bool:
    return any(text in note for note in report.notes)


class TestLaws:
    @pytest.mark.parametrize(
        "side",
        [Nnx(), (Linen(), {"params": {"w": W}}), Tree(jnp.asarray(W)), (pure, {"w": jnp.asarray(W)})],
        ids=["nnx", "linen", "pytree", "pure"],
    )
    def test_every_kind_of_side_is_compared_with_its_parameters(self, side: Any) -> None:
        report = compare(Torch(), side, X)
        report.assert_ok()
        assert {verdict.name for row in report.rows for verdict in row.verdicts} == {"output", "d input", "d w"}
        assert [row.side for row in report.rows] == ["torch", "jax"]
        assert noted(report, "1 of 1 of torch, 1 of 1 of jax matched")

    @pytest.mark.parametrize("budget", ["auto", "torch", "ratio"])
    def test_a_scale_wrong_by_a_few_millionths_is_seen_and_a_right_one_passes(self, budget: str) -> None:
        compare(torch_attention, jax_attention, (Q, K, V), budget=budget).assert_ok()
        wrong = compare(torch_mistaken, jax_attention, (Q, K, V), budget=budget)
        assert not wrong.ok
        assert max(rms_z(wrong, side) for side in ("torch", "jax")) > 30

    def test_the_side_that_is_the_oracle_does_not_decide_what_is_seen(self) -> None:
        wrong = compare(torch_attention, jax_mistaken, (Q, K, V))
        assert rms_z(wrong, "torch") > 30
        assert rms_z(wrong, "jax") < 4
        assert noted(wrong, "the reference is jax in float64")

    @pytest.mark.parametrize(
        ("first", "second", "labels", "way"),
        [
            (program(jax_attention, "jax"), program(torch_attention, "torch"), ("jax", "torch"), "traced in float64"),
            (
                torch_attention,
                program(torch_attention, "torch"),
                ("torch (first)", "torch (second)"),
                "run in float64, each op",
            ),
            (program(jax_attention), jax_attention, ("jax (first)", "jax (second)"), "traced in float64"),
            (torch_attention, numpy_attention, ("torch", "numpy"), "run in float64, each operation"),
            (program(numpy_attention, "numpy"), jax_attention, ("numpy", "jax"), "traced in float64"),
            (program(numpy_attention, "numpy"), numpy_attention, ("numpy (first)", "numpy (second)"), "4 times the RMS error"),
        ],
    )
    def test_the_sides_may_be_of_any_two_frameworks(self, first: Any, second: Any, labels: Any, way: str) -> None:
        report = compare(first, second, (Q, K, V))
        report.assert_ok()
        assert tuple(row.side for row in report.rows) == labels
        assert noted(report, way)
        for label, row in zip(labels, report.rows, strict=True):
            assert len(row.verdicts) == (1 if "numpy" in label else 4)
            assert noted(report, f"{label} has no gradients") == ("numpy" in label)

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16", ("bfloat16", "float32")])
    def test_every_dtype_and_pair_of_dtypes_has_its_budget(self, dtype: Any) -> None:
        report = compare(torch_attention, jax_attention, (Q, K, V), dtypes=[dtype])
        report.assert_ok()
        coarse = 2.0**-8 if "bfloat16" in dtype else 2.0**-11 if dtype == "float16" else 2.0**-53
        sigma = report.rows[0].verdicts[0].sigma
        assert coarse / 30 < sigma < coarse * 30

    def test_both_programs_of_a_pair_of_dtypes_are_given_the_same_bits(self) -> None:
        report = compare(lambda x: x * 1, lambda x: x * 1, X, dtypes=[("bfloat16", "float32")], gradients=False)
        assert [verdict.worst for row in report.rows for verdict in row.verdicts] == [0.0, 0.0]

    def test_float64_sees_what_float32_cannot(self) -> None:
        def shifted(q: Any, k: Any, v: Any) -> Any:
            return torch_attention(q, k, v, SCALE * (1 + 1e-11))

        assert compare(shifted, jax_attention, (Q, K, V)).ok
        assert not compare(shifted, jax_attention, (Q, K, V), dtypes=["float64"]).ok


def torch_lookup(ids: Any, batch: Any, *, times: int, mode: str | None = None) -> Any:
    assert mode is None
    hidden = batch["table"][ids.long()] * times
    return {"hidden": hidden, "best": [hidden.argmax(-1), None]}


def jax_lookup(ids: Any, batch: Any, *, times: int, mode: str | None = None) -> Any:
    assert mode is None
    hidden = batch["table"][ids] * range(times + 1)[-1]
    return {"hidden": hidden, "best": [jnp.argmax(hidden, -1), None]}


def carried(x: Any) -> Any:
    """A loop whose state is float32 whatever x is: JAX cannot trace it in float64."""
    return lax.scan(lambda state, row: (state * jnp.float32(0.5) + row, None), jnp.zeros(D, jnp.float32), x)[0]


def carried_torch(x: Any) -> Any:
    state = torch.zeros(D)
    for row in x:
        state = state * 0.5 + row
    return state


def branching(x: Any) -> Any:
    return jnp.tanh(x) if x[0, 0] > -100 else x


class TestValues:
    def test_the_budgets_of_torch_and_of_jax_agree(self) -> None:
        data: Any = (Call((Q, K, V)), {}, {"output": np.ones_like(Q) + Q})
        one, other = program(torch_attention, "torch"), program(jax_attention, "jax")
        assert isinstance(other, JaxProgram)
        from_torch, from_jax = perturbed(one, *data, dtype="float32"), traced(other, *data, dtype="float32")
        assert from_torch.value.keys() == from_jax.value.keys() == {"output", "d input[0]", "d input[1]", "d input[2]"}
        for name, value in from_torch.value.items():
            np.testing.assert_allclose(value, from_jax.value[name], rtol=1e-10, atol=1e-14)
            ratio = np.sqrt(np.mean(from_torch.sigma[name] ** 2) / np.mean(from_jax.sigma[name] ** 2))
            assert 0.6 < ratio < 1.7

    @pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.Conv1d, nn.LSTM, nn.MultiheadAttention])
    def test_torchs_own_modules_stay_within_the_budget_that_torch_gives(self, kind: Any) -> None:
        sizes = {nn.GELU: (), nn.Conv1d: (T, 3, 2), nn.LSTM: (D, 3), nn.MultiheadAttention: (D, 2)}
        with torch.random.fork_rng():
            _ = torch.manual_seed(0)
            module = kind(*sizes.get(kind, (D,)))
        inputs = (X, X, X) if kind is nn.MultiheadAttention else X
        report = compare(module, program(module, name="torch again"), inputs)
        report.assert_ok()
        # A budget that is far too large would let everything pass.
        assert rms_z(report, "torch (first)") > 0.1

    def test_a_torch_program_that_says_float32_is_run_in_float64_all_the_same(self) -> None:
        def normed(x: Any) -> Any:
            wide = x.to(torch.float32)
            return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

        made = perturbed(program(normed, "torch"), Call.of(X), {}, None, dtype="float32")
        wide = X.astype(np.float64)
        np.testing.assert_allclose(made.value["output"], wide / np.sqrt(np.mean(wide**2, -1, keepdims=True) + 1e-6), rtol=1e-14)

    def test_a_jax_program_that_float64_does_not_fit_is_traced_in_its_own_dtype(self) -> None:
        report = compare(carried_torch, carried, X)
        report.assert_ok()
        assert noted(report, "traced in float32 and evaluated in float64, each operation perturbed, because")
        assert noted(report, "carry")

    def test_a_jax_program_that_cannot_be_traced_takes_torchs_budget(self) -> None:
        report = compare(torch.tanh, branching, X)
        report.assert_ok()
        assert noted(report, "run in float64, each operation perturbed, because jax test_compare.py:branching: TracerBool")
        assert noted(report, "the reference is torch in float64")

    def test_a_constant_that_follows_the_dtype_is_taken_from_the_dtype_that_ran(self) -> None:
        def normed(x: Any) -> Any:
            eps = jnp.finfo(x.dtype).eps
            return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e3 * eps)

        def normed_torch(x: Any) -> Any:
            return x / torch.sqrt(torch.mean(x * x, -1, keepdim=True) + 1e3 * torch.finfo(x.dtype).eps)

        report = compare(normed_torch, normed, X)
        report.assert_ok()
        assert noted(
            report, "traced in float32 and evaluated in float64, each operation perturbed, because it is another program"
        )

    def test_pytrees_integers_options_and_several_outputs_are_compared(self) -> None:
        ids = np.array([[0, 3, 3]])
        inputs = {"ids": ids, "batch": {"table": X}, "times": 3, "mode": None}
        report = compare(torch_lookup, jax_lookup, inputs)
        report.assert_ok()
        assert {v.name for v in report.rows[0].verdicts} == {"output.hidden", "output.best[0]", "d batch.table"}
        wrong = compare(
            lambda **kwargs: {**(made := torch_lookup(**kwargs)), "best": [made["best"][0] + 1]}, jax_lookup, inputs
        )
        assert [verdict.name for _, verdict in wrong.failures()] == ["output.best[0]"]

    def test_a_numpy_function_may_be_either_side(self) -> None:
        def plain(x: Any) -> Any:
            return np.tanh(x)

        for report in (compare(plain, jnp.tanh, X), compare(torch.tanh, plain, X)):
            assert report.ok
            assert noted(report, "numpy has no gradients")

    def test_token_ids_and_the_scattered_gradient_of_their_table_are_traced(self) -> None:
        ids = np.asarray([[1, 1, 5], [0, 6, 1]])
        tables = nn.Embedding(7, 4), (lambda p, i: p["table"][i], {"table": jnp.zeros((7, 4))})
        report = compare(*tables, (ids,), load="first")
        assert report.ok, report
        assert noted(report, "budget: jax")
        assert {v.name for row in report.rows for v in row.verdicts} == {"output", "d table"}

    def test_tensors_and_jax_arrays_are_inputs_too(self) -> None:
        compare(torch.tanh, jnp.tanh, torch.tensor(X)).assert_ok()
        compare(torch.tanh, jnp.tanh, [jnp.asarray(X)]).assert_ok()

    def test_outputs_of_other_names_are_paired_in_order_and_said_to_be(self) -> None:
        report = compare(lambda x: {"last_hidden_state": torch.tanh(x)}, jnp.tanh, X)
        report.assert_ok()
        assert noted(report, "paired in order, torch with jax: output.last_hidden_state with output")

    def test_values_are_copied_onto_the_side_that_lacks_them(self) -> None:
        other = Nnx(2 * W)
        for load in ("first", "second"):
            compare(Torch(), other, X, load=load).assert_ok()
        np.testing.assert_array_equal(other.w[...], 2 * W)

    def test_tied_parameters_are_compared_by_their_summed_gradient(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(D, D, bias=False)
                self.b = nn.Linear(D, D, bias=False)
                self.b.weight = self.a.weight

            def forward(self, x: Any) -> Any:
                return self.b(torch.tanh(self.a(x)))

        class TiedNnx(nnx.Module):
            def __init__(self) -> None:
                self.a = nnx.Linear(D, D, use_bias=False, rngs=nnx.Rngs(0))
                self.b = self.a

            def __call__(self, x: Any) -> Any:
                return self.b(jnp.tanh(self.a(x)))

        report = compare(Tied(), TiedNnx(), X, load="first")
        report.assert_ok()
        assert [[v.name for v in row.verdicts if v.name.startswith("d a")] for row in report.rows] == [["d a.kernel"]] * 2

    def test_modules_are_left_as_they_were_whatever_happens(self) -> None:
        class Counting(Torch):
            def forward(self, x: Any) -> Any:
                self.calls = getattr(self, "calls", 0) + 1
                return torch.dropout(super().forward(x), 0.5, train=True)

        module, state = Counting(), torch.get_rng_state()
        for side in (Nnx(2 * W), lambda x: x @ x):
            assert not compare(module, side, X, load="second" if isinstance(side, Nnx) else None, budget="torch").ok
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_default_dtype() == torch.float32
        assert not hasattr(module, "calls")
        assert module.w.grad is None
        np.testing.assert_array_equal(module.w.detach().numpy(), W)

    def test_cotangents_may_be_given(self) -> None:
        ones = compare(torch.tanh, jnp.tanh, X, cotangents={"output": 0 * X + 1})
        twos = compare(torch.tanh, jnp.tanh, X, cotangents={"output": torch.full((T, D), 2.0)})
        (one,), (two,) = ([v for v in report.rows[0].verdicts if v.name == "d input"] for report in (ones, twos))
        assert two.sigma > 1.5 * one.sigma
        assert [v.name for v in compare(torch.tanh, jnp.tanh, X, gradients=False).rows[0].verdicts] == ["output"]


class TestFailures:
    """What is wrong with a side is in its row, in words, and never an exception of ours."""

    def test_an_exception_is_told_by_side_with_the_users_line(self) -> None:
        def broken(x: Any) -> Any:
            return x @ x  # mine

        here = "failed at parity_tests/parity/compare/test_compare.py:"
        text = failure(compare(broken, jnp.tanh, X))
        assert text.startswith(
            f"torch: torch test_compare.py:TestFailures.test_an_exception_is_told_by_side_with_the_users_line.broken {here}"
        )
        assert "`return x @ x  # mine`: RuntimeError: " in text
        text = failure(compare(torch.tanh, broken, X))
        assert text.startswith("jax: jax test_compare.py:")
        assert "`return x @ x  # mine`: TypeError: dot_general requires contracting dimensions" in text
        with pytest.raises(ParityError, match="return x @ x  # mine"):
            compare(broken, jnp.tanh, X).assert_ok()

    def test_nan_is_counted_by_side(self) -> None:
        def logs(x: Any) -> Any:
            return torch.where(x < 0, torch.nan, x)

        count = int((X < 0).sum())
        row, column = np.argwhere(X < 0)[0]
        text = failure(compare(logs, lambda x: x * 1, X, gradients=False))
        assert text == f"torch: NaN in output of torch: {count} of 20 elements, first at [{row}, {column}]"
        assert "torch: inf in output of torch: 20 of 20" in failure(
            compare(lambda x: x / 0, lambda x: x * 1, X, gradients=False)
        )

    def test_nothing_but_nan_on_both_sides_is_no_agreement(self) -> None:
        report = compare(lambda x: x * torch.nan, lambda x: x * jnp.nan, X, gradients=False)
        assert not report.ok
        assert [row.failure for row in report.rows] == [
            f"output is NaN in float64 too, all of it: nothing was compared with {side}" for side in ("torch", "jax")
        ]

    def test_outputs_that_do_not_fit_are_told_with_both_shapes(self) -> None:
        assert (
            failure(compare(lambda x: x[:, :3], jnp.tanh, X))
            == "torch: output (5, 3) of torch must be (5, 4) as that of jax is"
        )
        text = failure(compare(lambda x: (x, x), jnp.tanh, X))
        assert (
            text == "torch: outputs output[0] (5, 4), output[1] (5, 4) of torch must be as many as those of jax, output (5, 4)"
        )
        text = failure(compare(lambda x: {"a": x[0]}, jnp.tanh, X))
        assert text == "torch: output.a (4,) of torch must be (5, 4) as output of jax is"

    def test_an_output_may_be_called_anything(self) -> None:
        text = failure(compare(lambda x: {"{0}": x[0]}, lambda x: {"{0}": x}, X))
        assert text == "torch: output.{0} (4,) of torch must be (5, 4) as that of jax is"

    def test_a_program_that_exits_has_not_agreed(self) -> None:
        text = failure(compare(torch.tanh, lambda _: sys.exit(0), X))
        assert text.endswith("RuntimeError: the program called sys.exit(0)")
        assert failure(compare(lambda _: sys.exit(0), jnp.tanh, X)).endswith("SystemExit: 0")

    def test_empty_outputs_prove_nothing(self) -> None:
        assert not compare(lambda x: x, lambda x: x, np.zeros((0, 3), np.float32)).ok

    def test_nan_on_both_sides_is_said(self) -> None:
        report = compare(torch.log, jnp.log, np.asarray([-1.0, 2.0], np.float32), gradients=False)
        assert noted(report, "warning: 1 elements of output of jax are NaN")

    def test_what_is_no_array_is_told_by_side(self) -> None:
        assert "jax: output of jax test_compare.py:" in (text := failure(compare(torch.tanh, lambda _: None, X)))
        assert text.endswith("is None, and must be an array: let it return the arrays to compare")

    def test_values_that_differ_are_named(self) -> None:
        text = failure(compare(Torch(), Nnx(2 * W), X))
        assert text == (
            "jax: values of w differ between torch and jax:"
            " pass load='first' or load='second' to copy those of one onto the other"
        )

    def test_parameters_without_overlap_are_named(self) -> None:
        text = failure(compare(Torch(), (lambda p, x: x * p["scale"], {"scale": jnp.ones((7, 3))}), X))
        assert text == "jax: no parameter of torch (w) fits any of jax (scale)"

    def test_parameters_that_one_side_lacks_are_noted(self) -> None:
        w = torch.tensor(W)
        report = compare(lambda x: torch.tanh(x @ w), Nnx(), X)
        report.assert_ok()
        assert noted(report, "parameters of jax (w) are not compared: torch has none")

    def test_parameters_left_over_are_named(self) -> None:
        module = Torch()
        module.register_parameter("spare", nn.Parameter(torch.ones(2)))
        report = compare(module, Nnx(), X)
        report.assert_ok()
        assert noted(report, "parameters left over in torch, their gradients not compared: spare")

    def test_an_interrupt_passes(self) -> None:
        def interrupted(_: Any) -> Any:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _ = compare(interrupted, jnp.tanh, X)

    def test_a_budget_that_cannot_be_had_is_a_failure(self) -> None:
        assert "there is no budget: jax" in failure(compare(torch.tanh, branching, X, budget="jax"))


class TestRefusals:
    def test_a_class_in_the_place_of_an_instance(self) -> None:
        with pytest.raises(OptionError, match=r"side ReLU is a class, and must be an instance of it, or a function"):
            _ = compare(nn.ReLU, jnp.tanh, X)

    def test_bad_arguments_are_ours(self) -> None:
        with pytest.raises(UnknownName, match="dtypes 'float8' must be one of float64, float32, bfloat16, float16, or a pair"):
            _ = compare(torch.tanh, jnp.tanh, X, dtypes=["float8"])
        with pytest.raises(OptionError, match=r"dtypes .* must name at least one"):
            _ = compare(torch.tanh, jnp.tanh, X, dtypes=[])
        with pytest.raises(OptionError, match="inputs int must hold arrays"):
            _ = compare(torch.tanh, jnp.tanh, 3)
        with pytest.raises(DTypeError, match="input <U1 must be numbers or bools"):
            _ = compare(torch.tanh, jnp.tanh, np.array(["a"]))
        with pytest.raises(OptionError, match="budget 'mine' must be one of auto, jax, torch, ratio"):
            _ = compare(torch.tanh, jnp.tanh, X, budget="mine")
        with pytest.raises(OptionError, match="load 'both' must be one of None, 'first', 'second'"):
            _ = compare(torch.tanh, jnp.tanh, X, load="both")
        with pytest.raises(UnknownName, match="cotangents 'loss' must be one of the float outputs output"):
            _ = compare(torch.tanh, jnp.tanh, X, cotangents={"loss": X})
        with pytest.raises(ShapeError, match=r"cotangents 'output' \(4,\) must be \(5, 4\) as the output is"):
            _ = compare(torch.tanh, jnp.tanh, X, cotangents={"output": X[0]})
        with pytest.raises(OptionError, match="inputs w must not be called as parameters of torch are"):
            _ = compare(Torch(), jnp.tanh, {"w": X})
        with pytest.raises(OptionError, match="side int must be callable"):
            _ = compare(3, jnp.tanh, X)
