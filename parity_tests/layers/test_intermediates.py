"""Intermediates: named alike in both backends, equal to the formula's, differentiable, and without effect on the context.

scaled -> capped -> scores -> masked -> weights, mean_weights, logsumexp -> context
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import spec
from attention.spec.attend import INTERMEDIATES, attend
from attention.spec.errors import OptionError
from attention.spec.kernels import recorded
from parity_tests.support.backends import JAX, KERNELS, Backend, Kernel, close, each_backend, each_kernel, numbers, wide
from parity_tests.support.covering import pairwise
from parity_tests.support.formula import CASES, B, D, H, S, T, qkv, resolved

MASK = spec.Lengths(kv=[4, 0]) & spec.Causal(align="end")
EVERY: dict[str, Any] = {"softcap": 1.5, "bias": numbers(6, H, T, S), "sinks": numbers(5, H), "mask": MASK, "scale": 0.7}
DROPPED: dict[str, Any] = EVERY | {"dropout_rate": 0.5, "dropout_seed": 3}
NARROW = ("float32", "bfloat16")
each_intermediate = pytest.mark.parametrize("intermediate", INTERMEDIATES)


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """Return the intermediates of `EVERY`, each by a line of NumPy."""
    k, v = (np.repeat(x, 2, axis=-2) for x in (k, v))
    out = {"scaled": 0.7 * np.einsum("bthd,bshd->bhts", q, k)}
    out["capped"] = 1.5 * np.tanh(out["scaled"] / 1.5)
    out["scores"] = out["capped"] + EVERY["bias"]
    allowed = (np.arange(S) <= np.arange(T)[:, None] + S - T) & (np.arange(S) < np.array([4, 0])[:, None, None, None])
    out["masked"] = np.where(allowed, out["scores"], -np.inf)
    raised, sinks = np.exp(out["masked"]), np.exp(EVERY["sinks"])[:, None]
    out["logsumexp"] = np.log(raised.sum(-1) + sinks)
    out["weights"] = raised / np.exp(out["logsumexp"])[..., None]
    out["mean_weights"] = out["weights"].sum(1) / H
    return out | {"context": np.einsum("bhts,bshe->bthe", out["weights"], v)}


class TestValues:
    @each_kernel
    def test_each_intermediate_is_its_line(self, kernel: Kernel) -> None:
        given = qkv()
        intermediates, wanted = kernel.intermediates(*given, **EVERY), by_hand(*given)
        # Of a row or a key that nothing may read, the numbers are zeros instead of those below the mask.
        seen = np.isfinite(wanted["masked"])
        for name in ("scaled", "capped", "scores"):
            intermediates[name], wanted[name] = np.where(seen, intermediates[name], 0), np.where(seen, wanted[name], 0)
        for name in INTERMEDIATES:
            close(intermediates[name], wanted[name], 1e-14)

    @each_kernel
    def test_shapes(self, kernel: Kernel) -> None:
        intermediates = kernel.intermediates(*qkv(batch=(2, 3), dtype="float32"))
        scores = dict.fromkeys(("scaled", "capped", "scores", "masked", "weights"), (2, 3, H, T, S))
        rest = {"mean_weights": (2, 3, T, S), "logsumexp": (2, 3, H, T), "context": (2, 3, T, H, D)}
        assert {name: x.shape for name, x in intermediates.items()} == scores | rest

    @each_kernel
    def test_without_an_option_an_intermediate_is_the_one_before(self, kernel: Kernel) -> None:
        intermediates = kernel.intermediates(*qkv(dtype="float32"))
        for name in ("capped", "scores", "masked"):
            np.testing.assert_array_equal(intermediates[name], intermediates["scaled"])


class TestLaws:
    @pairwise("kernel, case, dtype", KERNELS, ("plain", "E != D", "mask", "cap, bias, mask", "dropout", "sinks"), NARROW)
    def test_to_look_changes_no_bit_of_the_context(self, kernel: Kernel, case: str, dtype: str) -> None:
        changed, options = CASES[case]
        options = {name: x.astype(np.float32) if isinstance(x, np.ndarray) else x for name, x in options.items()}
        options = {name: kernel.backend.native(x) for name, x in options.items()}
        given = [kernel.backend.array(x) for x in spec.cast(dict(zip("qkv", qkv(**changed), strict=True)), dtype).values()]
        # One operation after another: a compiler may fuse what is looked at in another way.
        looked, _ = kernel.answer(*given, return_intermediates=INTERMEDIATES, **options)
        np.testing.assert_array_equal(kernel.backend.numpy(looked), kernel.backend.numpy(kernel.answer(*given, **options)))

    @each_kernel
    def test_to_look_changes_no_kernel(self, kernel: Kernel) -> None:
        given = [kernel.backend.array(x) for x in qkv(dtype="float32")]
        module = kernel.backend.module
        for name in (kernel.name, "auto"):
            with recorded() as plain:
                _ = module.dot_product_attention(*given, implementation=name)
            with recorded() as looked:
                _ = module.dot_product_attention(*given, implementation=name, return_intermediates=INTERMEDIATES)
            assert [one.name for one in looked] == [one.name for one in plain]
            assert len(plain) == 1

    @each_kernel
    def test_one_intermediate_is_as_among_all_in_the_order_asked_for(self, kernel: Kernel) -> None:
        given = [kernel.backend.array(x) for x in qkv(dtype="float32")]
        _, every = kernel.backend.module.dot_product_attention(
            *given, implementation=kernel.name, return_intermediates=INTERMEDIATES
        )
        for names in (("logsumexp", "scaled"), ("weights",), ("context",)):
            _, some = kernel.backend.module.dot_product_attention(
                *given, implementation=kernel.name, return_intermediates=names
            )
            assert tuple(some) == names
            for name in names:
                np.testing.assert_array_equal(kernel.backend.numpy(some[name]), kernel.backend.numpy(every[name]))


@cache
def formula_slopes(intermediate: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a direction of an intermediate and its gradients along it by JAX in float64: of q, k, v, bias and sinks."""
    given = qkv()
    fixed = resolved(*given, DROPPED)
    inputs = (*given, fixed.pop("bias"), fixed.pop("sinks"))

    def value(q: Any, k: Any, v: Any, bias: Any, sinks: Any) -> Any:
        return attend(jnp, q, k, v, bias=bias, sinks=sinks, constant=jax.lax.stop_gradient, **fixed)[intermediate]

    with wide(*inputs):
        made, pull = jax.vjp(value, *map(jnp.asarray, inputs))
        # What is -inf does not move, and has no direction.
        along = np.where(np.isfinite(made), numbers(8, *made.shape), 0)
        return along, [np.asarray(g) for g in pull(jnp.asarray(along))]


class TestGradients:
    @each_intermediate
    @each_backend
    def test_each_intermediate_has_the_formulas_gradient(self, backend: Backend, intermediate: str) -> None:
        along, wanted = formula_slopes(intermediate)
        got = Kernel(backend, "reference").grads(*qkv(), along, intermediate=intermediate, **DROPPED)
        largest = max(np.abs(g).max() for g in wanted)
        # The order of arrays among the options is bias, sinks.
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * largest)
        reached = {"scaled": 2, "capped": 2, "scores": 3, "masked": 3, "context": 5}.get(intermediate, 4)
        assert sum(bool(g.any()) for g in got) == reached

    @pytest.mark.parametrize("intermediate", ["weights", "scores", "logsumexp", "mean_weights"])
    @each_kernel
    def test_a_loss_of_context_and_intermediate_sums_both_gradients(self, kernel: Kernel, intermediate: str) -> None:
        q, k, v = qkv(dtype="float32")
        context = kernel.grads(q, k, v, np.ones_like(q), mask=MASK)
        shape = {"logsumexp": (B, H, T), "mean_weights": (B, T, S)}.get(intermediate, (B, H, T, S))
        beside = kernel.grads(q, k, v, np.full(shape, 0.5, np.float32), intermediate=intermediate, mask=MASK)
        backend = kernel.backend

        def scalar(q: Any, k: Any, v: Any) -> Any:
            # By name where the kernel has a gradient.
            name = kernel.chosen(q, k, v, mask=MASK)
            out, intermediates = backend.module.dot_product_attention(
                q, k, v, mask=MASK, return_intermediates=(intermediate,), implementation=name
            )
            return out.sum() + (0.5 * intermediates[intermediate]).sum()

        both = backend.grad(scalar, [backend.array(x) for x in (q, k, v)])
        for got, one, other in zip(both, context, beside, strict=True):
            np.testing.assert_allclose(backend.numpy(got), one + other, rtol=0, atol=1e-5)


class TestRefusals:
    @each_kernel
    def test_an_intermediate_that_is_none(self, kernel: Kernel) -> None:
        given = [kernel.backend.array(x) for x in qkv(dtype="float32")]
        text = f"^return_intermediates 'probs' must be among {', '.join(INTERMEDIATES)}$"
        for name in (kernel.name, "auto"):
            with pytest.raises(OptionError, match=text, check=lambda caught: type(caught) is OptionError):
                _ = kernel.backend.module.dot_product_attention(*given, return_intermediates=("probs",), implementation=name)

    def test_intermediates_under_jit_are_those_outside(self) -> None:
        given = qkv(dtype="float32")
        outside = Kernel(JAX, "xla").intermediates(*given)
        called = jax.jit(
            lambda *x: JAX.module.dot_product_attention(*x, implementation="xla", return_intermediates=INTERMEDIATES)[1]
        )
        for name, intermediate in called(*given).items():
            np.testing.assert_allclose(intermediate, outside[name], rtol=0, atol=1e-6)
