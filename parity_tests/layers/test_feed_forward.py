"""Feed-forward layers and activations in both backends, compared with loops and with torch's own functions.

output = drop(f(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import parity, spec
from attention.parity.contracts import backends
from attention.parity.contracts.check import expect, verdicts
from attention.parity.contracts.probes import Probe, probes
from attention.spec.errors import AttentionError, DTypeError, OptionError, ShapeError
from attention.spec.layers import activations
from attention.spec.random import keep
from parity_tests.support.backends import JAX, TORCH, Backend, each_backend, numbers

M, A = 7, 13
SHAPE = (2, 3, M)
WITHIN = 1e-13


def contract(**options: Any) -> spec.FeedForward:
    return spec.FeedForward(**{"embed_dim": M, "hidden_dim": A, **options})


CONTRACTS = {
    "relu": contract(),
    "gelu": contract(activation="gelu", bias=False),
    "gelu_tanh": contract(activation="gelu_tanh"),
    "silu": contract(activation="silu", dropout_rate=0.3),
    "swiglu": contract(activation="swiglu", bias=False),
    "geglu": contract(activation="geglu", dropout_rate=0.3),
    "geglu_tanh": contract(activation="geglu_tanh"),
}
each_contract = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
each_side = pytest.mark.parametrize("side", ["torch", "jax_eager"])

CURVES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}
SLOPES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: float(x > 0),
    "gelu": lambda x: (1 + math.erf(x / math.sqrt(2))) / 2 + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "silu": lambda x: 1 / (1 + math.exp(-x)) + x * math.exp(-x) / (1 + math.exp(-x)) ** 2,
}


def close(got: Any, wanted: Any, within: float = WITHIN) -> None:
    assert np.shape(got) == np.shape(wanted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=within * max(1.0, float(np.abs(wanted).max())))


def loops(c: spec.FeedForward, w: spec.Weights, x: np.ndarray, seed: int | None = None) -> np.ndarray:
    """Return the output one number at a time, sharing with the formula the random bits alone."""
    curve = CURVES[{"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}.get(c.activation, c.activation)]
    shape = (*x.shape[:-1], c.hidden_dim)
    kept = np.ones(shape) if seed is None else keep(seed, c.dropout_rate, shape) / (1 - c.dropout_rate)
    output = np.zeros(x.shape)
    for at in np.ndindex(*x.shape[:-1]):
        hidden = []
        for a in range(c.hidden_dim):
            up, gate = (
                sum(x[at][m] * w[f"{name}.kernel"][m, a] for m in range(M)) + w.get(f"{name}.bias", np.zeros(A))[a]
                for name in ("up", "gate" if c.gated else "up")
            )
            hidden.append(curve(gate) * (up if c.gated else 1) * kept[at][a])
        output[at] = hidden @ w["down.kernel"] + w.get("down.bias", 0.0)
    return output


def weights_of(c: spec.FeedForward) -> spec.Weights:
    return {name: numbers(i, *param.shape) for i, (name, param) in enumerate(c.params.items())}


class TestActivations:
    X = np.array([-30.0, -8.6, -3.3, -1.0, -0.2, 0.0, 1e-9, 0.7, 1.0, 4.4, 8.6, 30.0])

    @pytest.mark.parametrize("name", CURVES)
    def test_values_are_those_of_the_math_module(self, name: str) -> None:
        close(activations.PLAIN[name](np, self.X), np.array([CURVES[name](x) for x in self.X]), 1e-15)

    @pytest.mark.parametrize("name", SLOPES)
    def test_slopes_are_those_of_the_textbook(self, name: str) -> None:
        with jax.enable_x64(True):
            got = jax.vmap(jax.grad(lambda x: activations.PLAIN[name](jnp, x)))(jnp.asarray(self.X))
        close(np.asarray(got), np.array([SLOPES[name](x) for x in self.X]), 2e-15)

    def test_erf_is_exact_everywhere(self) -> None:
        x = np.linspace(-7, 7, 2001)
        close(activations.erf(np, x), np.array([math.erf(v) for v in x]), 1e-15)

    def test_values_known_by_heart(self) -> None:
        # Abramowitz and Stegun, table 7.1: erf(1). Phi(1) = 0.841344746068543.
        close(activations.erf(np, np.array(1.0)), 0.8427007929497149, 1e-15)
        close(activations.gelu(np, np.array(1.0)), 0.8413447460685429, 1e-15)
        close(activations.silu(np, np.array(1.0)), 0.7310585786300049, 1e-15)

    def test_gelu_has_two_forms_that_differ(self) -> None:
        x = np.linspace(-4, 4, 401)
        apart = np.abs(activations.gelu(np, x) - activations.gelu_tanh(np, x)).max()
        assert 4e-4 < apart < 5e-4

    @pytest.mark.parametrize("name", CURVES)
    def test_nothing_overflows_far_out(self, name: str) -> None:
        far = np.array([-1e4, 1e4])
        close(activations.PLAIN[name](np, far), np.array([0.0, 1e4]))
        with jax.enable_x64(True):
            slopes = jax.vmap(jax.grad(lambda x: activations.PLAIN[name](jnp, x)))(jnp.asarray(far))
        close(np.asarray(slopes), np.array([0.0, 1.0]))

    @pytest.mark.parametrize("name", activations.PLAIN)
    def test_both_backends_call_the_same_function_by_the_name(self, name: str) -> None:
        from attention.jax_impl.layers import feed_forward as in_jax  # noqa: PLC0415 - a backend's own table
        from attention.torch_impl.layers import feed_forward as in_torch  # noqa: PLC0415

        wanted = activations.PLAIN[name](np, self.X)
        close(in_torch.CURVES[name](torch.tensor(self.X)).numpy(), wanted)
        with jax.enable_x64(True):
            close(np.asarray(in_jax.CURVES[name](jnp.asarray(self.X))), wanted)


class TestLaws:
    @each_contract
    def test_the_formula_is_the_loops(self, contract: spec.FeedForward) -> None:
        x, w = numbers(9, *SHAPE), weights_of(contract)
        for seed in (None, 2**40 + 3):
            resolved = contract.resolve({"x": x}, dropout_seed=seed)
            made = contract.formula(np, w, {"x": x}, resolved)["output"]
            close(made, loops(contract, w, x, seed if contract.dropout_rate else None))

    @each_side
    @each_contract
    def test_float64_is_the_oracle_to_1e_13(self, contract: spec.FeedForward, side: str) -> None:
        # All probes, the saturated one and dropout included; outputs and the gradient of every parameter and of x.
        for probe in probes(contract, "float64"):
            got, wanted = backends.find(side).run(probe, "auto").results, expect(probe).value
            assert set(got) == set(wanted) == {"output", "d x", *(f"d {name}" for name in contract.params)}
            for name, value in got.items():
                close(value, wanted[name])

    @pytest.mark.parametrize("name", ["relu", "geglu"])
    def test_float32_is_within_its_budget(self, name: str) -> None:
        parity.check(CONTRACTS[name], name=name).assert_ok()

    # Not relu: a feature that rounding moves across its corner changes a gradient by a whole, and no budget knows of it.
    @pytest.mark.parametrize(("name", "dtype"), [("gelu", "bfloat16"), ("geglu", "bfloat16"), ("silu", "float16")])
    def test_narrow_dtypes_are_within_their_budgets(self, name: str, dtype: str) -> None:
        parity.check(CONTRACTS[name], name=name, dtypes=(dtype,), backends=("torch", "jax_eager")).assert_ok()

    @each_backend
    def test_weights_come_back_bit_for_bit(self, backend: Backend) -> None:
        c = CONTRACTS["geglu"]
        layer = c.build(backend.name, seed=3)
        for name, value in c.init(3).items():
            np.testing.assert_array_equal(layer.weights()[name], value)


def with_contract(**changed: Any) -> Callable[[Probe], Probe]:
    def plant(probe: Probe) -> Probe:
        assert isinstance(probe.contract, spec.FeedForward)
        return replace(probe, contract=replace(probe.contract, **changed))

    return plant


def without_biases(probe: Probe) -> Probe:
    return replace(probe, weights={n: x * (not n.endswith("bias")) for n, x in probe.weights.items()})


def gate_and_up_swapped(probe: Probe) -> Probe:
    other = {"up": "gate", "gate": "up", "down": "down"}
    names = {name: ".".join((other[name.split(".")[0]], name.split(".")[1])) for name in probe.weights}
    return replace(probe, weights={name: probe.weights[names[name]] for name in names})


MUTANTS: list[tuple[str, str, Callable[[Probe], Probe]]] = [
    ("activation is another", "relu", with_contract(activation="gelu")),
    ("gelu is the tanh form", "gelu", with_contract(activation="gelu_tanh")),
    ("gelu is the erf form", "gelu_tanh", with_contract(activation="gelu")),
    ("silu is gelu", "silu", with_contract(activation="gelu_tanh")),
    ("swiglu is geglu", "swiglu", with_contract(activation="geglu")),
    ("geglu is swiglu", "geglu", with_contract(activation="swiglu")),
    ("geglu is the tanh form", "geglu", with_contract(activation="geglu_tanh")),
    ("geglu is the erf form", "geglu_tanh", with_contract(activation="geglu")),
    ("the gate is the other projection", "swiglu", gate_and_up_swapped),
    ("biases are forgotten", "relu", without_biases),
    ("dropout rate is another", "silu", with_contract(dropout_rate=0.30001)),
    ("dropout is forgotten", "geglu", with_contract(dropout_rate=0.0)),
]


class TestMutants:
    @pytest.mark.parametrize(("name", "case", "plant"), MUTANTS, ids=[m[0] for m in MUTANTS])
    def test_every_mutant_is_killed(
        self, name: str, case: str, plant: Callable[[Probe], Probe], record_property: Callable[[str, Any], None]
    ) -> None:
        for right in probes(CONTRACTS[case]):
            got = backends.find("torch").run(plant(right), "auto").results
            if not all(verdict.agrees for verdict in verdicts({"output": got["output"]}, expect(right))):
                record_property("kill", (name, f"FeedForward {case}", "torch", right.name))
                return
        pytest.fail(f"{name} survives")


class TestPeers:
    @pytest.mark.parametrize(
        ("name", "module"),
        [
            ("relu", torch.nn.ReLU()),
            ("gelu", torch.nn.GELU()),
            ("gelu_tanh", torch.nn.GELU(approximate="tanh")),
            ("silu", torch.nn.SiLU()),
        ],
        ids=["relu", "gelu", "gelu_tanh", "silu"],
    )
    def test_a_sequence_of_torchs_own_modules(self, name: str, module: torch.nn.Module) -> None:
        c = contract(activation=name)
        w, x = weights_of(c), numbers(9, *SHAPE)
        peer = torch.nn.Sequential(torch.nn.Linear(M, A), module, torch.nn.Linear(A, M)).double()
        for part, linear in (("up", peer[0]), ("down", peer[2])):
            _ = linear.load_state_dict(
                {k: torch.tensor(v) for k, v in (("weight", w[f"{part}.kernel"].T), ("bias", w[f"{part}.bias"]))}
            )
        close(c.formula(np, w, {"x": x}, c.resolve({"x": x}))["output"], peer(torch.tensor(x)).detach().numpy())


class TestTransforms:
    C = CONTRACTS["geglu"]

    def test_jax(self) -> None:
        layer, x = self.C.build("jax"), jnp.asarray(numbers(9, *SHAPE, dtype="float32"))
        plain = layer(x, dropout_seed=3)
        close(np.asarray(nnx.jit(lambda m, x, s: m(x, dropout_seed=s))(layer, x, jnp.uint32(3))), np.asarray(plain), 1e-6)
        close(
            np.asarray(jax.vmap(nnx.view(layer, deterministic=True))(x)),
            np.asarray(nnx.view(layer, deterministic=True)(x)),
            1e-6,
        )
        assert not np.array_equal(layer(x), layer(x))
        layer.eval()
        assert np.array_equal(layer(x), layer(x))

    def test_torch(self) -> None:
        layer, x = self.C.build("torch"), torch.tensor(numbers(9, *SHAPE, dtype="float32"))
        fast = torch.compile(layer, fullgraph=True, backend="eager")
        torch.testing.assert_close(fast(x, dropout_seed=torch.tensor(3)), layer(x, dropout_seed=3), rtol=0, atol=0)
        assert not torch.equal(layer(x), layer(x))
        again = copy.deepcopy(layer)
        _ = again.load_state_dict(self.C.build("torch", seed=5).state_dict())
        _ = again.load_state_dict(layer.state_dict())
        assert torch.equal(again.eval()(x), layer.eval()(x))
        vmapped = torch.func.vmap(lambda x: torch.func.functional_call(layer, dict(layer.named_parameters()), (x,)))(x)
        torch.testing.assert_close(vmapped, layer(x))

    def test_dropped_features_are_the_same_in_both_backends_in_bfloat16(self) -> None:
        # 1 - 0.3 is no bfloat16; a backend that rounds it before it divides is off by one digit here and there.
        c = spec.FeedForward(M, M, bias=False, dropout_rate=0.3)
        x = spec.cast({"x": numbers(9, *SHAPE)}, "bfloat16")["x"]
        wanted = np.where(keep(5, 0.3, SHAPE), np.maximum(x.astype(np.float32), 0) / 0.7, 0).astype(x.dtype)
        for backend in (TORCH, JAX):
            layer = c.build(backend.name, dtype="bfloat16")
            layer.load_weights(dict.fromkeys(c.params, np.eye(M, dtype=x.dtype)))
            np.testing.assert_array_equal(backend.numpy(layer(backend.array(x), dropout_seed=5)), wanted)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"embed_dim": 0}, "embed_dim 0 must be a positive int"),
            ({"hidden_dim": 2.0}, r"hidden_dim 2\.0 must be a positive int"),
            (
                {"activation": "gelu_new"},
                "activation 'gelu_new' must be one of 'relu', 'gelu', 'gelu_tanh', 'silu', 'swiglu', ",
            ),
            ({"bias": 1}, "bias 1 must be True or False"),
            ({"dropout_rate": 1.0}, r"dropout_rate 1\.0 must be in \[0, 1\)"),
            ({"precision": "tf32"}, "precision 'tf32' must be one of"),
        ],
        ids=str,
    )
    def test_a_contract_that_cannot_be(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError, match=f"^{text}"):
            _ = contract(**options)

    @each_backend
    def test_inputs_that_do_not_fit(self, backend: Backend) -> None:
        layer = contract().build(backend.name)
        calls: list[tuple[Any, type[AttentionError], str]] = [
            (backend.array(np.zeros((2, 3, 8), np.float32)), ShapeError, r"x \(2, 3, 8\) must be \(\*batch, T, M\) with M = 7"),
            (backend.array(np.zeros(7, np.float32)), ShapeError, r"x \(7,\) must be \(\*batch, T, M\) with M = 7"),
            (backend.array(np.zeros((3, 7), np.float16)), DTypeError, "parameters float32 must be float16 as x is"),
            ([0.0] * 7, DTypeError, "x builtins.list must be a"),
        ]
        for x, error, text in calls:
            with pytest.raises(error, match=text, check=lambda caught, error=error: type(caught) is error):
                _ = layer(x)
