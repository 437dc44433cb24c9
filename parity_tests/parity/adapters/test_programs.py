"""Programs: whatever a user brings runs by the same names, and is left as it was.

made = program(side).run(call, cotangents=c)        made.gradients["d x"] = d sum(c * output) / d x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention.parity.adapters import Call, Made, Program, program
from attention.parity.adapters.pytree_paths import mapped, paths
from attention.spec.errors import MissingExtra, OptionError, ParamError, SideFailed, UnknownName

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
C = np.random.default_rng(2).standard_normal((2, 5)).astype(np.float32)
CALL = Call.of(X)
WANTED = {"output": X @ W, "d input": C @ W.T, "d w": X.T @ C}


class Linen(linen.Module):
    """A layer that also keeps a running sum, in a collection that is not learned."""

    @linen.compact
    def __call__(self, x: Any, *, shift: float = 0.0) -> Any:
        seen = self.variable("stats", "seen", lambda: jnp.zeros(3))
        return (x + seen.value.astype(x.dtype)) @ self.param("w", linen.initializers.zeros_init(), (3, 5)) + shift


class Nnx(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.asarray(W))
        self.calls = nnx.Variable(jnp.asarray(0.0))

    def __call__(self, x: Any) -> Any:
        self.calls[...] += 1
        return x @ self.w[...]


@jax.tree_util.register_dataclass
@dataclass
class Callable:
    """What Equinox makes: a pytree with arrays for leaves."""

    w: Any

    def __call__(self, x: Any) -> Any:
        return x @ self.w


class Torch(nn.Module):
    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(W))
        self.register_buffer("calls", torch.zeros(()))
        self.last: Any = None

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = x
        x += torch.rand(()) * 0
        return x @ self.w


def torch_function(params: Any, x: Any) -> Any:
    return x @ params["w"]


JAX_SIDES: dict[str, Any] = {
    "nnx": Nnx(),
    "linen": (Linen(), {"params": {"w": jnp.asarray(W)}, "stats": {"seen": jnp.zeros(3)}}),
    "bound linen": Linen().bind({"params": {"w": jnp.asarray(W)}, "stats": {"seen": jnp.zeros(3)}}),
    "pytree": Callable(jnp.asarray(W)),
    "function and params": (lambda params, x: x @ params["w"], {"w": jnp.asarray(W)}),
}
SIDES: dict[str, Any] = {
    **JAX_SIDES,
    "module": Torch(),
    "torch function and params": (torch_function, {"w": torch.tensor(W)}),
}


def near(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=1e-5, atol=1e-5)


class TestLaws:
    @pytest.mark.parametrize("kind", SIDES)
    def test_every_kind_of_side_makes_the_same_outputs_and_gradients(self, kind: str) -> None:
        subject = program(SIDES[kind])
        made = subject.run(CALL, cotangents={"output": C})
        assert list(subject.params) == ["w"]
        assert made.outputs.keys() | made.gradients.keys() == WANTED.keys()
        for name, array in {**made.outputs, **made.gradients}.items():
            assert array.dtype == np.float32
            near(array, WANTED[name])

    @pytest.mark.parametrize("kind", SIDES)
    def test_values_that_are_given_stand_in_for_the_programs_own(self, kind: str) -> None:
        subject = program(SIDES[kind])
        near(subject.run(CALL, params={"w": 2 * W}).outputs["output"], 2 * X @ W)
        np.testing.assert_array_equal(subject.params["w"], W)
        near(subject.run(CALL).outputs["output"], X @ W)

    @pytest.mark.parametrize("kind", SIDES)
    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
    def test_a_program_runs_in_the_dtype_asked_for(self, kind: str, dtype: str) -> None:
        made = program(SIDES[kind]).run(CALL, cotangents={"output": C}, dtype=dtype)
        assert {str(x.dtype) for x in (*made.outputs.values(), *made.gradients.values())} == {dtype}
        given = {"x": X.astype(dtype).astype(np.float64), "w": W.astype(dtype).astype(np.float64)}
        unit = {"float64": 1e-14, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
        np.testing.assert_allclose(made.outputs["output"].astype(np.float64), given["x"] @ given["w"], rtol=unit, atol=4 * unit)

    def test_a_numpy_function_has_outputs_and_no_gradients(self) -> None:
        def doubled(x: Any) -> Any:
            x *= 2
            return x, {"sum": x.sum()}

        subject = program(doubled, "numpy")
        made = subject.run(CALL)
        assert not subject.differentiable
        near(made.outputs["output[0]"], 2 * X)
        near(made.outputs["output[1].sum"], 2 * X.sum())
        assert subject.run(CALL, dtype="float64").outputs["output[0]"].dtype == np.float64
        with pytest.raises(OptionError, match="NumPy has no gradients"):
            _ = subject.run(CALL, cotangents={"output": C})
        with_params = program((torch_function, {"w": W}), "numpy")
        near(with_params.run(CALL).outputs["output"], X @ W)


def embedded_torch(ids: Any, table: Any, mode: str, *, keep: bool, extra: Any = None) -> Any:
    assert keep is True
    assert extra is None
    return {"first": table[ids.long()], "rest": [ids + 1, (table * (2.0 if mode == "twice" else 1.0)).sum()]}


def embedded_jax(ids: Any, table: Any, mode: str, *, keep: bool, extra: Any = None) -> Any:
    assert keep is True
    assert extra is None
    return {"first": table[ids], "rest": [ids + 1, (table * (2.0 if mode == "twice" else 1.0)).sum()]}


class TestValues:
    @pytest.mark.parametrize(("function", "framework"), [(embedded_torch, "torch"), (embedded_jax, "jax")])
    def test_integers_options_and_several_outputs_pass_through(self, function: Any, framework: str) -> None:
        ids = np.array([[0, 1, 1]], np.int32)
        call = Call((ids, W, "twice"), {"keep": True, "extra": None})
        made = program(function, framework).run(call, cotangents={"output.first": np.ones((1, 3, 5), np.float32)})
        assert list(made.outputs) == ["output.first", "output.rest[0]", "output.rest[1]"]
        np.testing.assert_array_equal(made.outputs["output.rest[0]"], ids + 1)
        assert list(made.gradients) == ["d input[1]"]
        np.testing.assert_array_equal(made.gradients["d input[1]"][:, 0], [1, 2, 0])

    def test_an_output_that_no_parameter_reaches_has_gradients_of_zero(self) -> None:
        for side, framework in (
            (lambda p, x: (x.detach(), p["w"] * 0 + 1), "torch"),
            (lambda _, x: (jax.lax.stop_gradient(x), 1 + 0 * x), "jax"),
        ):
            leaf = torch.tensor(W) if framework == "torch" else jnp.asarray(W)
            made = program((side, {"w": leaf}), framework).run(CALL, cotangents={"output[0]": X})
            np.testing.assert_array_equal(made.gradients["d input"], 0 * X)
            np.testing.assert_array_equal(made.gradients["d w"], 0 * W)

    def test_bfloat16_crosses_the_border_bit_for_bit(self) -> None:
        x = X.astype(ml_dtypes.bfloat16)
        for framework in ("torch", "jax", "numpy"):
            got = program(lambda x: x * 1, framework).run(Call.of(x)).outputs["output"]
            assert got.dtype == x.dtype
            np.testing.assert_array_equal(got, x)

    def test_names_are_the_frameworks_own(self) -> None:
        layers = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2))
        assert list(program(layers).params)[:3] == ["0.weight", "0.bias", "1.weight_ih_l0"]
        mlp = nnx.List([nnx.Linear(3, 4, rngs=nnx.Rngs(0))])

        class Stack(nnx.Module):
            def __init__(self) -> None:
                self.layers = mlp

            def __call__(self, x: Any) -> Any:
                return self.layers[0](x)

        assert list(program(Stack()).params) == ["layers.0.bias", "layers.0.kernel"]
        tree = {"layers": [{"w": jnp.asarray(W)}], "steps": jnp.arange(3)}
        assert list(program((lambda p, x: x @ p["layers"][0]["w"], tree)).params) == ["layers[0].w"]

    def test_a_program_is_named_after_its_framework_file_and_class(self) -> None:
        assert program(Torch()).name == "torch test_programs.py:Torch"
        assert program((Linen(), {})).name == "jax test_programs.py:Linen"
        assert program(torch_function, "torch").name == "torch test_programs.py:torch_function"
        assert program(torch_function, name="mine").name == "mine"
        given = program(torch_function)
        assert program(given) is given
        assert isinstance(given, Program)

    def test_dataclasses_named_tuples_and_absent_values_are_read(self) -> None:
        @dataclass
        class Out:
            hidden: Any
            cache: Any = None

        made = program(lambda x: (Out(x), torch.max(x, -1)), "torch").run(CALL)
        assert list(made.outputs) == ["output[0].hidden", "output[1][0]", "output[1][1]"]

    def test_a_call_maps_every_leaf_and_keeps_its_structure(self) -> None:
        call = Call((X, {"mask": [X, None]}), {"mode": "a"})
        seen = call.map(lambda path, leaf: path if isinstance(leaf, np.ndarray) else leaf)
        assert seen.args == ("input[0]", {"mask": ["input[1].mask[0]", None]})
        assert seen.kwargs == {"mode": "a"}
        assert list(call.leaves) == ["input[0]", "input[1].mask[0]"]
        assert Call.of(X).map(lambda path, _: path).args == ("input",)
        assert list(paths(mapped(lambda _, leaf: leaf, (1, [2])))) == [("[0]", 1), ("[1][0]", 2)]


class TestRestoration:
    @pytest.mark.parametrize("fails", [False, True])
    def test_a_torch_module_is_left_as_it_was(self, fails: bool) -> None:
        module = Torch().train()
        if fails:
            _ = module.register_forward_hook(lambda *_: 1 / 0)
        module.w.grad = torch.ones_like(module.w)
        state, draws, parameter = torch.get_rng_state(), module.calls.clone(), module.w
        subject = program(module)
        for dtype in ("float64", None):
            if fails:
                with pytest.raises(SideFailed, match=r"1 / 0\)`: ZeroDivisionError"):
                    _ = subject.run(CALL, cotangents={"output": C}, dtype=dtype)
            else:
                _ = subject.run(CALL, cotangents={"output": C}, dtype=dtype)
        assert module.w is parameter
        assert module.w.dtype == torch.float32
        assert module.last is None
        assert module.training
        assert torch.equal(module.w.grad, torch.ones_like(module.w))
        assert torch.equal(module.calls, draws)
        assert torch.equal(torch.get_rng_state(), state)
        np.testing.assert_array_equal(subject.params["w"], W)

    def test_recurrent_and_normalised_modules_run_with_other_values_and_stay(self) -> None:
        module = nn.Sequential(nn.BatchNorm1d(3), nn.LSTM(3, 2))
        before = {name: x.clone() for name, x in module.state_dict().items()}
        subject = program(module)
        doubled = {name: 2 * x for name, x in subject.params.items()}
        plain, other = (subject.run(CALL, params=params).outputs["output[0]"] for params in (None, doubled))
        assert abs(plain - other).max() > 1e-3
        assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
        # The module itself still computes with its own values.
        near(module(torch.tensor(X))[0].detach(), plain)

    def test_an_nnx_module_is_left_as_it_was(self) -> None:
        module = Nnx()
        _ = program(module).run(CALL, cotangents={"output": C}, dtype="float64")
        assert float(module.calls[...]) == 0
        assert jnp.zeros(1, int).dtype == np.int32

    def test_inputs_are_left_as_they_were(self) -> None:
        x = X.copy()
        for framework in ("torch", "numpy"):
            _ = program(lambda x: x.__imul__(2), framework).run(Call.of(x))
        np.testing.assert_array_equal(x, X)

    def test_tied_parameters_stand_once_and_gather_both_gradients(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
                self.b.weight = self.a.weight

            def forward(self, x: Any) -> Any:
                return self.b(self.a(x))

        class TiedNnx(nnx.Module):
            def __init__(self) -> None:
                self.a = nnx.Param(jnp.asarray(kernel.T))
                self.b = self.a

            def __call__(self, x: Any) -> Any:
                return x @ self.a[...] @ self.b[...]

        module = Tied()
        kernel = module.a.weight.detach().numpy()
        ones = {"output": np.ones((2, 3), np.float32)}
        one, other = program(module), program(TiedNnx())
        assert list(one.params) == ["a.weight"]
        assert list(other.params) == ["a"]
        d_one = one.run(CALL, cotangents=ones, params={"a.weight": kernel}).gradients["d a.weight"]
        near(d_one.T, other.run(CALL, cotangents=ones).gradients["d a"])


class TestRefusals:
    def test_an_error_is_told_with_the_users_line_and_without_our_traceback(self) -> None:
        def wrong(x: Any) -> Any:
            return x @ x  # the user's line

        for framework, error in (("torch", "RuntimeError: "), ("jax", "TypeError: "), ("numpy", "ValueError: ")):
            with pytest.raises(SideFailed) as caught:
                _ = program(wrong, framework, name="mine").run(CALL)
            assert str(caught.value).startswith("mine failed at parity_tests/parity/adapters/test_programs.py:")
            assert "`return x @ x  # the user's line`: " + error in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__

    def test_an_interrupt_passes(self) -> None:
        def interrupted(_: Any) -> Any:
            raise KeyboardInterrupt

        for framework in ("torch", "jax", "numpy"):
            with pytest.raises(KeyboardInterrupt):
                _ = program(interrupted, framework).run(CALL)

    @pytest.mark.parametrize("framework", ["torch", "jax", "numpy"])
    def test_what_is_no_array_is_refused_by_its_path(self, framework: str) -> None:
        for made, text in ((None, "output of mine is None"), ("a", "output of mine is a str"), ((), "tuple without an array")):
            with pytest.raises(SideFailed, match=text):
                _ = program(lambda _, made=made: made, framework, name="mine").run(CALL)
        subject = program(lambda x: (x, {"x": object()}), framework, name="mine")
        assert list(subject.run(CALL).outputs) == ["output[0]"]
        assert subject.choice.left_out == {"output[1].x": "a object"}

    def test_what_is_no_side_is_refused(self) -> None:
        with pytest.raises(OptionError, match="side int must be callable"):
            _ = program(3)
        with pytest.raises(OptionError, match=r"Linen must be a pair \(linen module, variables\)"):
            _ = program(Linen())
        with pytest.raises(ParamError, match="variables w of Linen must be a dict with 'params'"):
            _ = program((Linen(), {"w": W}))
        with pytest.raises(UnknownName, match="framework 'tf' must be one of torch, jax, numpy"):
            _ = program(torch_function, "tf")
        with pytest.raises(ParamError, match=r"parameters weight, bias of .* call the module once before"):
            _ = program(nn.LazyLinear(3))
        assert issubclass(MissingExtra, ImportError)
        assert Made({}).gradients == {}
