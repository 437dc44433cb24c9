"""Any call: right programs agree whatever they compute with, and what a framework does not define is no difference.

random keys, exact constants, complex values, bfloat16 inside, caches in results, masks, ties, frozen rows, statistics
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: basic

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention.parity import compare
from attention.parity.adapters import Call, program
from attention.spec.errors import OptionError

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
KEY = jax.random.key(0)


def noted(report: Any, text: str) -> bool:
    return any(text in note for note in report.notes)


def nothing(shape: Any, key: Any) -> Any:
    return 0 * jax.random.normal(key, shape)


def keyless(x: Any, key: Any = None) -> Any:
    del key
    return torch.tanh(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(5))

    def forward(self, x: Any) -> Any:
        return x * self.w


class ScaledPort(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(5))

    def __call__(self, x: Any) -> Any:
        return x * self.w[...]


class TestRandomKeys:
    @pytest.mark.parametrize(
        ("port", "call"),
        [
            (lambda x: jnp.tanh(x + nothing(x.shape, jax.random.key(0))), X),
            (lambda x: jnp.tanh(x + nothing(x.shape, jax.random.PRNGKey(0))), X),
            (lambda x, key: jnp.tanh(x + nothing(x.shape, key)), {"x": X, "key": KEY}),
            (lambda x, key: jnp.tanh(x + nothing(x.shape, key)), {"x": X, "key": jax.random.PRNGKey(0)}),
            (lambda x: jnp.tanh(x + sum(nothing(x.shape, k) for k in jax.random.split(KEY, 2))), X),
            (
                lambda x: jax.lax.scan(lambda c, k: (c, jnp.tanh(x + nothing(x.shape, k))), 0, jax.random.split(KEY, 2))[1][0],
                X,
            ),
        ],
        ids=["typed", "raw", "typed, given", "raw, given", "split", "scanned"],
    )
    def test_a_program_with_a_random_key_is_traced(self, port: Any, call: Any) -> None:
        report = compare(keyless, port, call)
        report.assert_ok()
        assert not noted(report, "because")

    def test_a_recurrent_layer_of_flax_is_traced(self) -> None:
        cell = nnx.SimpleCell(5, 4, rngs=nnx.Rngs(0))
        layer, kernel, hidden = nnx.RNN(cell), np.asarray(cell.dense_i.kernel[...]), np.asarray(cell.dense_h.kernel[...])

        def recurrent(x: Any) -> Any:
            h, found = torch.zeros(1, 4, dtype=x.dtype), []
            for i in range(3):
                h = torch.tanh(x[:, i] @ torch.tensor(kernel).to(x) + h @ torch.tensor(hidden).to(x))
                found.append(h)
            return torch.stack(found, 1)

        report = compare(recurrent, layer, X[None])
        report.assert_ok()
        assert noted(report, "traced in float64")


class TestExactConstants:
    @pytest.mark.parametrize("budget", ["jax", "torch"])
    @pytest.mark.parametrize("power", [2.0, 3.0, -1.0])
    def test_a_whole_exponent_in_a_float_stays_whole(self, budget: str, power: float) -> None:
        right = compare(
            lambda x: torch.pow(x, torch.tensor(power)).mean(-1),
            lambda x: jnp.mean(jnp.power(x, jnp.asarray(power, jnp.float32)), -1),
            X,
            budget=budget,
        )
        right.assert_ok()
        wrong = compare(lambda x: x.pow(power).mean(-1), lambda x: jnp.mean(jnp.power(x, jnp.asarray(power)), -1) * 1.0001, X)
        assert not wrong.ok

    def test_an_exponent_that_is_an_input_may_be_whole_too(self) -> None:
        compare(torch.pow, jnp.power, (X, np.full((3, 5), 2.0, np.float32)), gradients=False).assert_ok()

    def test_constants_made_of_constants_are_not_rounded_where_the_dtype_holds_them(self) -> None:
        # 3.0 - 1.0 picks a row; were it rounded, floor would pick another one in half of the runs.
        def picked(x: Any) -> Any:
            return x * jnp.floor(jnp.asarray(3.0) - jnp.asarray(1.0))

        compare(lambda x: x * 2.0, picked, X).assert_ok()

    def test_results_of_data_are_rounded_however_whole_they_are(self) -> None:
        threes = np.full((3, 5), 3.0, np.float32)
        compare(lambda x: x.sum(-1) / 5, lambda x: jnp.sum(x, -1) * np.float32(1 / 5), threes).assert_ok()


class TestNumbers:
    @pytest.mark.parametrize("budget", ["jax", "torch"])
    def test_complex_outputs_are_compared_in_both_parts(self, budget: str) -> None:
        right = compare(torch.fft.fft, jnp.fft.fft, X, budget=budget)
        right.assert_ok()
        assert {v.name for v in right.rows[0].verdicts} == {"output.real", "output.imag", "d input"}
        assert not compare(torch.fft.fft, lambda x: jnp.conj(jnp.fft.fft(x)), X, budget=budget).ok

    def test_complex_numbers_inside_and_among_the_inputs(self) -> None:
        angles = np.exp(1j * X).astype(np.complex64)

        def turned(x: Any, angle: Any) -> Any:
            return torch.view_as_real(torch.complex(x, 2 * x) * angle)

        def ported(x: Any, angle: Any) -> Any:
            made = jax.lax.complex(x, 2 * x) * angle
            return jnp.stack([made.real, made.imag], -1)

        compare(turned, ported, (X, angles)).assert_ok()
        assert not compare(turned, lambda x, angle: ported(x, angle.conj()), (X, angles)).ok

    def test_a_part_in_bfloat16_is_allowed_its_own_rounding(self) -> None:
        def torch_side(x: Any) -> Any:
            return (torch.tanh(x.to(torch.bfloat16)) * 3).float() + x

        def jax_side(x: Any) -> Any:
            return (jnp.tanh(x.astype(jnp.bfloat16)) * 3).astype(jnp.float32) + x

        compare(torch_side, jax_side, X).assert_ok()
        assert not compare(torch_side, lambda x: jax_side(x) * 1.1, X).ok

    def test_a_part_in_bfloat16_in_one_program_alone_is_a_difference(self) -> None:
        def jax_side(x: Any) -> Any:
            return jax.nn.softmax(x.astype(jnp.bfloat16), -1).astype(jnp.float32)

        assert compare(lambda x: torch.softmax(x, -1), jax_side, X).verdict == "differs"

    def test_options_of_every_kind_pass_through(self) -> None:
        class Config:
            times = 2

        def scaled(x: Any, *, flag: bool, name: str, none: Any, config: Any, count: int) -> Any:
            return x * config.times * count if flag and name == "a" and none is None else x

        compare(scaled, scaled, {"x": X, "flag": True, "name": "a", "none": None, "config": Config(), "count": 3}).assert_ok()


class TestWrappers:
    @pytest.mark.parametrize(
        "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "parallel"]
    )
    def test_a_wrapped_module_is_compared_under_the_names_of_the_one_inside(self, wrap: Any) -> None:
        report = compare(wrap(Scaled()), ScaledPort(), X)
        report.assert_ok()
        assert {v.name for v in report.rows[0].verdicts} == {"output", "d input", "d w"}

    def test_a_module_of_torchscript_runs_as_a_copy_with_other_values(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).train())
        before = {name: x.clone() for name, x in scripted.state_dict().items()}
        made = program(scripted).run(Call.of(X), params={name: 2 * x for name, x in program(scripted).params.items()})
        assert not np.array_equal(made.outputs["output"], program(scripted).run(Call.of(X)).outputs["output"])
        params = {"w": np.zeros((5, 3), np.float32), "b": np.zeros(3, np.float32)}
        linear = scripted[0]
        assert compare(linear, (lambda p, x: x @ p["w"] + p["b"], params), X, load="first").ok
        assert not compare(linear, (lambda p, x: x @ p["w"] - p["b"], params), X, load="first").ok
        assert all(torch.equal(x, before[name]) for name, x in scripted.state_dict().items())

    def test_a_container_without_length_or_without_parts_is_a_module(self) -> None:
        compare(nn.Sequential(), lambda x: x, X).assert_ok()


@dataclass
class Result:
    """What a program of JAX returns by name."""

    last: Any
    note: str = "a text"


class ModelOutput(dict):
    """Stands for the class of transformers that its results derive from."""


class Batched(nn.Module):
    bn: Any

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(5, momentum=momentum)
        with torch.no_grad():
            self.bn.running_mean.copy_(torch.arange(5.0) / 3)
            self.bn.running_var.copy_(1 + torch.arange(5.0))

    def forward(self, x: Any) -> Any:
        return self.bn(x)


class BatchedPort(nnx.Module):
    def __init__(self, momentum: float = 0.9, *, average: bool = True) -> None:
        self.bn = nnx.BatchNorm(5, momentum=momentum, epsilon=1e-5, use_running_average=average, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.bn(x)


class LinenBatched(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, name="bn")(x)


class TestOutputs:
    def test_caches_of_a_result_are_left_out_and_said_to_be(self) -> None:
        def model(x: Any) -> Any:
            return ModelOutput(logits=x * 2, past_key_values=object())

        report = compare(model, lambda x: x * 2, X)
        report.assert_ok()
        assert noted(report, "left out of torch: output.past_key_values, a cache")

    def test_a_lone_output_is_compared_with_the_logits_of_a_result_that_has_more(self) -> None:
        def model(x: Any) -> Any:
            return ModelOutput(loss=x.mean(), logits=x * 2, hidden_states=(x, x))

        report = compare(model, lambda x: x * 2, X)
        report.assert_ok()
        assert noted(report, "output.logits is compared, and not output, ") or noted(report, "output.logits is compared")
        assert not compare(model, lambda x: x * 2.1, X).ok

    def test_what_both_have_by_name_is_compared_and_the_rest_named(self) -> None:
        report = compare(lambda x: {"a": x, "b": 2 * x}, lambda x: {"b": 2 * x}, X)
        report.assert_ok()
        assert noted(report, "output.b is compared, and not output.a")

    @pytest.mark.parametrize("picked", ["last", ("last",), "output.last", {"last": "hidden[1]"}, "la*"])
    def test_outputs_picks_what_is_compared(self, picked: Any) -> None:
        def torch_side(x: Any) -> Any:
            return {"first": x, "last": 2 * x}

        def jax_side(x: Any) -> Any:
            return {"hidden": [x, 2 * x]} if isinstance(picked, dict) else {"first": x + 1, "last": 2 * x}

        report = compare(torch_side, jax_side, X, outputs=picked)
        report.assert_ok()
        assert len(report.rows[0].verdicts) == 2

    def test_a_pick_that_nothing_has_cannot_be_told(self) -> None:
        report = compare(torch.tanh, jnp.tanh, X, outputs="logits")
        assert report.verdict == "cannot tell"
        assert "outputs logits must pick one of" in report.rows[0].failure
        with pytest.raises(OptionError, match="outputs 3 must be a name, several names"):
            _ = compare(torch.tanh, jnp.tanh, X, outputs=3)

    def test_numbers_are_arrays_and_texts_are_left_out(self) -> None:
        report = compare(lambda x: (x, 3, True), lambda x: [x, 3, True], X)
        report.assert_ok()
        report = compare(lambda x: {"last": x}, lambda x: Result(last=x), X)
        report.assert_ok()
        assert noted(report, "left out of jax: output.note, a str")


class TestUndefinedGradients:
    def test_a_mask_that_one_program_differentiates_is_named_and_the_rest_compared(self) -> None:
        mask = (np.arange(15).reshape(3, 5) % 3 > 0).astype(np.float32)

        def torch_side(x: Any, m: Any) -> Any:
            return torch.softmax(x + torch.where(m > 0, 0.0, -1e9), -1)

        report = compare(torch_side, lambda x, m: jax.nn.softmax(x - 1e9 * (1 - m), -1), (X, mask))
        report.assert_ok()
        assert noted(report, "d input[1] is not compared: one program differentiates this mask")
        assert {v.name for v in report.rows[0].verdicts} == {"output", "d input[0]"}

    def test_an_input_that_is_no_mask_must_have_its_gradient(self) -> None:
        assert not compare(lambda x: x.detach() * 2, lambda x: x * 2, X).ok
        assert not compare(lambda x: x.detach() * 2, lambda x: x * 2, np.ones((3, 5), np.float32)).ok

    def test_a_frozen_row_is_named_and_the_others_are_compared(self) -> None:
        class Table(nn.Module):
            def __init__(self, factor: float) -> None:
                super().__init__()
                self.e, self.factor = nn.Embedding(7, 4, padding_idx=2), factor

            def forward(self, ids: Any) -> Any:
                e = self.e(ids)
                return e.detach() + self.factor * (e - e.detach())

        ids, port = np.array([[2, 1, 0], [3, 2, 2]]), nnx.Embed(7, 4, rngs=nnx.Rngs(0))
        report = compare(Table(1.0), port, ids, load="first")
        report.assert_ok()
        assert noted(report, "d embedding, row 2 is not compared: torch gives its lookup no gradient (padding_idx)")
        assert not compare(Table(1.01), port, ids, load="first").ok

    def test_a_padding_row_of_a_table_that_is_the_head_too(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.e = nn.Embedding(7, 4, padding_idx=2)
                self.head = nn.Linear(4, 7, bias=False)
                self.head.weight = self.e.weight

            def forward(self, ids: Any) -> Any:
                return self.head(torch.tanh(self.e(ids)))

        class Port(nnx.Module):
            def __init__(self, factor: float) -> None:
                self.e, self.factor = nnx.Embed(7, 4, rngs=nnx.Rngs(0)), factor

            def __call__(self, ids: Any) -> Any:
                x = jnp.tanh(self.e(ids))
                return self.e.attend(x + (self.factor - 1) * (x - jax.lax.stop_gradient(x)))

        ids = np.array([[2, 1, 0], [3, 2, 2]])
        report = compare(Tied(), Port(1.0), ids, load="first")
        report.assert_ok()
        assert noted(report, "row 2 is not compared: torch gives its lookup no gradient (padding_idx)")
        assert not compare(Tied(), Port(1.01), ids, load="first").ok

    @pytest.mark.parametrize(
        ("torch_side", "jax_side"),
        [
            (lambda x: x.max(-1)[0], lambda x: jnp.max(x, -1)),
            (torch.relu, lambda x: jnp.maximum(x, 0)),
            (torch.abs, lambda x: jnp.where(x >= 0, x, -x)),
            (lambda x: x.clamp(0, 1), lambda x: jnp.minimum(jnp.maximum(x, 0), 1)),
        ],
        ids=["max", "relu", "abs", "clip"],
    )
    def test_a_tie_or_kink_is_compared_beside_it(self, torch_side: Any, jax_side: Any) -> None:
        report = compare(torch_side, jax_side, np.zeros((3, 5), np.float32))
        report.assert_ok()
        assert noted(report, "d input: not defined at these numbers")

    def test_a_wrong_gradient_at_a_kink_is_wrong_beside_it_too(self) -> None:
        zeros = np.zeros((3, 5), np.float32)
        assert not compare(lambda x: x.max(-1)[0].detach() + 0 * x.sum(-1), lambda x: jnp.max(x, -1), zeros).ok

    def test_a_program_is_judged_by_the_rounding_of_its_own_operations(self) -> None:
        # Torch differentiates logsumexp by exp(x - logsumexp), which loses |logsumexp| roundings.
        x = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32) + 900
        report = compare(lambda x: torch.logsumexp(x, -1), lambda x: jax.nn.logsumexp(x, -1), x)
        report.assert_ok()
        assert noted(report, "is judged by the rounding of its own operations")
        assert not compare(lambda x: torch.logsumexp(x, -1), lambda x: jax.nn.logsumexp(x[:, 1:], -1), x).ok

    @pytest.mark.parametrize("low", [0.1, 0.9, 1.9, 3.0, 30.0])
    def test_the_gamma_functions_are_right_near_their_zeros(self, low: float) -> None:
        x = np.random.default_rng(0).uniform(low, 1.5 * low, (4, 50)).astype(np.float32)

        def ours(x: Any) -> Any:
            return torch.lgamma(x), torch.digamma(x)

        def theirs(x: Any, factor: float = 1.0) -> Any:
            return jax.lax.lgamma(x * factor), jax.lax.digamma(x)

        compare(ours, theirs, x).assert_ok()
        assert not compare(ours, lambda x: theirs(x, 1.0001), x).ok

    def test_a_spread_of_a_choice_hides_no_mistake(self) -> None:
        # Half-way between two codes, the nearest code has a spread of the distance of the two.
        x = (np.arange(40, dtype=np.float32)[None] + 0.5) / 4
        codes = np.round(x * 4) / 4

        def ours(x: Any) -> Any:
            return torch.round(x * 4) / 4

        compare(ours, lambda x: 0 * x + codes, x, gradients=False).assert_ok()
        assert not compare(ours, lambda x: 0 * x + (codes + 0.1), x, gradients=False).ok

    def test_torchs_gelu_cancels_where_that_of_jax_does_not(self) -> None:
        # The gradient of w is what gelu makes of -5: 1 + erf(-3.5) has an error of half a unit, erfc(3.5) a relative one.
        x = np.linspace(-6, -4, 24).astype(np.float32)[:, None]

        def ours(w: Any, x: Any, factor: float = 1.0) -> Any:
            return torch.nn.functional.gelu(factor * x) @ w["w"]

        def theirs(w: Any, x: Any) -> Any:
            return jax.nn.gelu(x, approximate=False) @ w["w"]

        first, second = {"w": torch.full((1, 2), 0.5)}, {"w": jnp.full((1, 2), 0.5)}
        for rows in (x[:1], x[12:13], x):
            compare((ours, first), (theirs, second), rows).assert_ok()
        wrong = (lambda w, x: ours(w, x, 1.01), first)
        assert not compare(wrong, (theirs, second), x).ok

    def test_a_large_pair_is_not_condemned_because_the_other_program_was_lucky(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.modules["attention.parity.compare.oracle"], "LARGE", 0)
        x = np.random.default_rng(0).standard_normal((3, 4096)).astype(np.float32)

        def exact(x: torch.Tensor) -> torch.Tensor:
            return x.double().sum(-1).to(x.dtype)

        def one_by_one(x: jax.Array, factor: float = 1.0) -> jax.Array:
            return factor * jax.lax.scan(lambda total, term: (total + term, None), jnp.zeros(3, x.dtype), x.T)[0]

        assert compare(exact, one_by_one, x, budget="ratio").verdict == "differs"
        report = compare(exact, one_by_one, x)
        report.assert_ok()
        assert noted(report, "is judged by the rounding of the operations of torch")
        assert not compare(exact, lambda x: one_by_one(x, 1 + 1e-5), x).ok


class TestState:
    def test_statistics_are_loaded_with_the_parameters(self) -> None:
        report = compare(Batched().eval(), BatchedPort(), X, load="first")
        report.assert_ok()
        assert noted(report, "state differs in bn.running_mean of torch and bn.mean of jax")
        assert compare(Batched().eval(), BatchedPort(), X, load="second").ok
        apart = compare(Batched().eval(), BatchedPort(), X)
        assert not apart.ok
        assert noted(apart, ": pass load='first' or load='second' to copy it")

    @pytest.mark.parametrize(("momentum", "right"), [(0.9, True), (0.99, False), (0.1, False)])
    def test_updated_statistics_are_compared_in_training(self, momentum: float, right: bool) -> None:
        report = compare(Batched().train(), BatchedPort(momentum, average=False), X, load="first")
        assert report.ok is right, report
        assert noted(report, "torch takes 3 / 2 of the batch's variance") is right
        assert noted(report, "batch norm momentum: of each batch") is not right
        assert {"bn.mean after the call"} <= {v.name for v in report.rows[0].verdicts}

    def test_a_linen_module_writes_its_collections(self) -> None:
        module = LinenBatched()
        report = compare(Batched().train(), (module, module.init(jax.random.key(0), X)), X, load="first")
        report.assert_ok()
        assert any("after the call" in v.name for v in report.rows[1].verdicts)

    def test_a_buffer_that_is_no_statistic_is_part_of_the_program(self) -> None:
        class Biased(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("final_bias", torch.arange(5.0))

            def forward(self, x: Any) -> Any:
                return x + self.final_bias

        class Port(nnx.Module):
            def __init__(self) -> None:
                self.final_bias = nnx.Variable(jnp.zeros(5))

            def __call__(self, x: Any) -> Any:
                return x + self.final_bias[...]

        assert compare(Biased(), Port(), X, load="first").ok
        assert not compare(Biased(), Port(), X).ok


class TestVerdicts:
    def test_nothing_compared_is_no_agreement(self) -> None:
        report = compare(Scaled(), ScaledPort(), np.zeros((0, 5), np.float32))
        assert report.verdict == "cannot tell"
        assert report.exit_code == 2

    def test_a_program_that_fails_leaves_it_open_and_one_that_differs_does_not(self) -> None:
        assert compare(torch.tanh, lambda x: 1 / 0, X).verdict == "cannot tell"  # noqa: ARG005 - fails before it looks

    def test_a_parameter_that_nothing_was_loaded_into_leaves_it_open(self) -> None:
        net = torch.nn.Linear(4, 3, bias=False)
        weights = {"w": net.weight.detach().numpy().T.copy(), "b": np.ones(3, np.float32)}

        def shifted(params: Any, x: Any) -> Any:
            return x @ params["w"] + params["b"]

        x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        left = compare(net, (shifted, weights), x, load="first")
        assert left.verdict == "cannot tell"
        assert "nothing of torch was loaded into b of jax" in str(left)
        # Values that are the port's own are part of what is compared.
        assert compare(net, (shifted, weights), x).verdict == "differs"

    def test_programs_whose_parameters_have_no_map_are_compared_by_what_they_return(self) -> None:
        first, second = torch.nn.Linear(4, 5, bias=False), torch.nn.Linear(5, 3, bias=False)
        both = (second.weight @ first.weight).detach().numpy().T

        def product(params: Any, x: Any) -> Any:
            return x @ params["w"]

        net = torch.nn.Sequential(first, second)
        x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        right = compare(net, (product, {"w": both}), x)
        assert right.verdict == "agrees"
        assert "gradients of parameters are not compared" in str(right)
        # The values may be at fault, so nothing is known of the programs.
        assert compare(net, (product, {"w": both * 1.01}), x).verdict == "cannot tell"
        assert compare(net, (product, {"w": both}), x, load="first").verdict == "cannot tell"
        assert compare(torch.tanh, jnp.sin, X).verdict == "differs"
        assert compare(torch.tanh, lambda x: jnp.tanh(x)[:1], X).verdict == "differs"
        assert compare(torch.tanh, lambda x: jnp.tanh(x) / 0, X).verdict == "differs"
        assert compare(torch.tanh, jnp.tanh, X).verdict == "agrees"

    def test_numbers_are_for_people_and_no_side_is_called_wrong(self) -> None:
        text = str(compare(torch.tanh, lambda x: 2 * jnp.tanh(x), X))
        assert "verdict: differs" in text
        assert "differs from the reference, jax in float64; either may be the wrong one" in text
        assert "FAIL" not in text
        assert re.search(r"z rms \d\.\de[67],", text)
