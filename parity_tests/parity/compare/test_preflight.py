"""Preflight: which settings of two programs are warned of, with which numbers, and that a clean pair has none."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention.parity.adapters import Call, Program, program
from attention.parity.compare import matmul_precision
from attention.parity.compare.module_tree import activations, parts
from attention.parity.compare.settings_audit import CANCELLATION, GELU, warnings

CALL = Call.of(np.ones((2, 4), np.float32))
EXACT = functools.partial(nnx.gelu, approximate=False)


class Torch(nn.Module):
    def __init__(self, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, eps=eps)
        self.act = act or nn.GELU()
        self.out = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.out(self.act(self.norm(x))))


class Jax(nnx.Module):
    def __init__(self, eps: float = 1e-5, fast: bool = False, off: bool = True, act: Any = EXACT, dtype: Any = None) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(4, epsilon=eps, use_fast_variance=fast, rngs=rngs)
        self.act = act
        self.out = nnx.Linear(4, 4, dtype=dtype, rngs=rngs)
        self.drop = nnx.Dropout(0.2, deterministic=off, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop(self.out(self.act(self.norm(x))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = linen.LayerNorm(epsilon=1e-5, use_fast_variance=False)(x)
        x = linen.Dense(4)(linen.gelu(x, approximate=False))
        return linen.Dropout(0.2)(x, deterministic=not train)


def found(first: Any, second: Any, call: Call = CALL) -> dict[str, str]:
    """Return the warnings on a torch side and a JAX side by what they begin with."""
    lines = warnings(program(first, "torch", "torch"), program(second, "jax", "jax"), call)
    return {line.partition(":")[0]: line for line in lines}


def linen_pair() -> tuple[Linen, Any]:
    return Linen(), Linen().init(jax.random.key(0), jnp.ones((2, 4)))


class TestLaws:
    def test_a_clean_pair_is_not_warned_of(self) -> None:
        assert found(Torch().eval(), Jax()) == {}

    def test_a_clean_pair_in_linen_is_not_warned_of(self) -> None:
        assert found(Torch().eval(), linen_pair()) == {}

    def test_plain_functions_are_not_warned_of(self) -> None:
        assert found(lambda x: x, lambda x: x) == {}

    def test_the_order_of_the_sides_does_not_matter(self) -> None:
        first, second = program(Torch(1e-3).eval(), name="torch"), program(Jax(), name="jax")
        assert len(warnings(first, second, CALL)) == len(warnings(second, first, CALL)) == 1

    def test_looking_changes_neither_side(self) -> None:
        module = Torch()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        _ = found(module, Jax())
        assert module.training
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class TestValues:
    def test_eps_is_compared_norm_by_norm(self) -> None:
        line = found(Torch().eval(), Jax(eps=1e-6))["norm eps"]
        assert "torch norm (LayerNorm) 1e-05, jax norm (LayerNorm) 1e-06, 1 of 1 norms" in line
        assert "relative error 4.5e-06 / variance" in line

    def test_the_relative_error_of_an_eps_is_what_is_said(self) -> None:
        # (v + a)^-1/2 / (v + b)^-1/2 - 1 = (b - a) / 2v, at v = 1
        assert 1 / np.sqrt(1 + 1e-6) / (1 / np.sqrt(1 + 1e-5)) - 1 == pytest.approx(4.5e-6, rel=1e-3)

    def test_torch_takes_the_machine_epsilon_for_no_eps(self) -> None:
        rows = nnx.RMSNorm(4, rngs=nnx.Rngs(0))
        assert "torch itself (RMSNorm) 1.19e-07, jax itself (RMSNorm) 1e-06" in found(nn.RMSNorm(4), rows)["norm eps"]

    def test_a_norm_that_one_side_lacks_is_counted(self) -> None:
        twice = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
        assert "torch 2 LayerNorm, jax 1 LayerNorm" in found(twice, Jax())["norm layers"]

    def test_the_eps_of_a_norm_of_somebody_elses_is_read(self) -> None:
        class LlamaRMSNorm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.variance_epsilon = 1e-6

        (part,) = parts(program(LlamaRMSNorm()), CALL)
        assert (part.norm, part.eps) == ("RMSNorm", 1e-6)

    def test_fast_variance_cancels_as_much_as_is_said(self) -> None:
        line = found(Torch().eval(), Jax(fast=True))["fast variance"]
        assert "use_fast_variance=True in norm (LayerNorm)" in line
        x = (np.random.default_rng(0).normal(size=(64, 256)) + 100).astype(np.float32)
        wide = x.astype(np.float64)
        right = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
        error = np.abs(nnx.LayerNorm(256, rngs=nnx.Rngs(0))(x) - right).max()
        assert CANCELLATION * 1e4 / 3 < error < CANCELLATION * 1e4 * 3

    def test_fast_variance_of_an_rms_norm_costs_nothing(self) -> None:
        assert "fast variance" not in found(nn.RMSNorm(4, eps=1e-6), nnx.RMSNorm(4, rngs=nnx.Rngs(0)))

    def test_flavours_of_gelu_differ_by_what_is_said(self) -> None:
        assert "torch erf in act, jax tanh in act" in found(Torch().eval(), Jax(act=nnx.gelu))["gelu"]
        assert "gelu" not in found(Torch(act=nn.GELU("tanh")).eval(), Jax(act=nnx.gelu))
        x = torch.linspace(-6, 6, 10_001, dtype=torch.float64)
        gap = (nn.functional.gelu(x) - nn.functional.gelu(x, approximate="tanh")).abs().max().item()
        assert gap == pytest.approx(GELU, rel=0.02)

    def test_an_activation_held_as_a_function_is_read(self) -> None:
        layer = nn.TransformerEncoderLayer(4, 2, activation="gelu")
        assert activations(parts(program(layer), CALL)) == {"activation": "erf"}

    def test_dropout_of_a_side_that_trains_is_named(self) -> None:
        line = found(Torch(), Jax())["training mode"]
        assert "torch drops elements in drop (Dropout), the other side does not: relative error about 0.5 (rate 0.2)" in line
        assert (
            "jax drops elements in drop (Dropout), the other side does not"
            in found(Torch().eval(), Jax(off=False))["training mode"]
        )

    def test_dropout_of_a_linen_module_is_seen_in_its_call(self) -> None:
        call = Call((np.ones((2, 4), np.float32),), {"train": True})
        assert "jax drops elements in Dropout_0" in found(Torch().eval(), linen_pair(), call)["training mode"]

    def test_batch_statistics_of_one_side_are_named(self) -> None:
        trains = nnx.BatchNorm(4, use_running_average=False, use_fast_variance=False, rngs=nnx.Rngs(0))
        assert "jax norms by the statistics of the batch" in found(nn.BatchNorm1d(4).eval(), trains)["training mode"]
        assert "training mode" not in found(nn.BatchNorm1d(4), trains)

    def test_float64_that_jax_would_narrow_is_named(self) -> None:
        assert "(input)" in found(Torch().eval(), Jax(), Call.of(np.ones((2, 4))))["x64"]
        with jax.enable_x64(True):
            assert "x64" not in found(Torch().eval(), Jax(), Call.of(np.ones((2, 4))))

    def test_wide_integers_that_jax_would_wrap_are_named(self) -> None:
        assert (
            "wraps integers beyond 2^31 to 32 bits: input"
            in found(lambda x: x, lambda x: x, Call.of(np.asarray([2**31])))["x64"]
        )

    def test_parameters_in_other_dtypes_are_named(self) -> None:
        line = found(Torch().eval().to(torch.bfloat16), Jax())["parameter dtypes"]
        assert "torch bfloat16, jax float32: relative error up to 3.9e-03" in line

    def test_a_coarser_compute_dtype_is_named(self) -> None:
        assert "jax computes in bfloat16" in found(Torch().eval(), Jax(dtype=jnp.bfloat16))["compute dtype"]

    def test_autocast_is_named_and_measured(self) -> None:
        side = program(Torch().eval(), name="torch")
        assert matmul_precision.loss(side) < matmul_precision.LEAST / 50
        with torch.autocast("cpu"):
            assert 2.0**-10 < matmul_precision.loss(side) < 2.0**-7
            said = found(Torch().eval(), Jax())
            assert said.keys() == {"autocast"}
            assert "autocast to bfloat16: relative error up to 3.9e-03" in said["autocast"]

    def test_products_that_lose_digits_are_measured_not_guessed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def in_tf32(_: Program, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = (((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b))
            return a @ b

        monkeypatch.setattr(matmul_precision, "_jax_product", in_tf32)
        line = found(Torch().eval(), Jax())["matmul precision"]
        assert "jax multiplies float32 with a relative error of" in line
        assert "jax_default_matmul_precision=None on cpu" in line
        side = program(Jax(), name="jax")
        assert 2.0**-13 < matmul_precision.loss(side) < 2.0**-10

    def test_frozen_parameters_are_named(self) -> None:
        module = Torch().eval()
        _ = module.out.requires_grad_(False)
        assert "torch has frozen out.weight, out.bias" in found(module, Jax())["requires_grad"]


class TestRefusals:
    def test_a_linen_module_that_raises_is_left_to_the_comparison(self) -> None:
        class Broken(linen.Module):
            @linen.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                raise RuntimeError(str(x.shape))

        assert found(lambda x: x, (Broken(), {})) == {}
