"""`score_mod`: a function of one score, written with operators, equals the built-in option in every kernel that supports it.

score_mod(x, b, h, t, s) = x + table[h, s - t + T - 1]      bias of relative positions
                         = x - slope[h] |t - s|             Alibi
                         = x where s <= t, else -inf        Causal
                         = c tanh(x / c)                    softcap
                         = x temperature[b]                 queries times a temperature; b counts rows of all batch axes
"""

# ruff: noqa: ARG005 - a function of a score has five arguments, whichever of them it reads

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import jax_impl, spec, torch_impl
from attention.spec.axes import sizes
from attention.spec.errors import DTypeError, OptionError, ShapeError
from attention.spec.masks.algebra import evaluate
from parity_tests.support.backends import TORCH, Backend, Kernel, close, each_backend, each_kernel, numbers
from parity_tests.support.formula import D, E, H, K, S, T, loops

BATCH = (2, 3)
TABLE, SLOPE, TEMPERATURE = numbers(30, H, T + S - 1), np.abs(numbers(31, H)), numbers(32, 6)
OFFSET = np.arange(S) - np.arange(T)[:, None]
NAMESPACE: dict[str, Any] = {"torch": torch, "jax": jnp}

# name: (the function of a namespace and its arrays, the arrays, the options that say the same)
Make = Callable[..., Callable[..., Any]]
MODS: dict[str, tuple[Make, tuple[np.ndarray, ...], dict[str, Any]]] = {
    "relative": (
        lambda _, table: lambda x, b, h, t, s: x + table[h, s - t + T - 1],
        (TABLE,),
        {"bias": TABLE[:, OFFSET + T - 1]},
    ),
    "alibi": (
        lambda _, slope: lambda x, b, h, t, s: x - slope[h] * abs(t - s),
        (SLOPE,),
        {"bias": -SLOPE[:, None, None] * abs(OFFSET)},
    ),
    "causal": (
        lambda xp: lambda x, b, h, t, s: xp.where(s <= t, x, -xp.inf),
        (),
        {"mask": spec.Causal(align="start")},
    ),
    "capped": (lambda xp: lambda x, *_: 2.0 * xp.tanh(x / 2.0), (), {"softcap": 2.0}),
}


def qkv(dtype: str = "float64", e: int = D) -> tuple[np.ndarray, ...]:
    shapes = ((*BATCH, T, H, D), (*BATCH, S, K, D), (*BATCH, S, K, e))
    return tuple(numbers(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes))


def made(backend: Backend, name: str, dtype: str = "float64") -> Callable[..., Any]:
    make, arrays, _ = MODS[name]
    return make(NAMESPACE[backend.name], *(backend.array(x.astype(dtype)) for x in arrays))


def said(options: dict[str, Any], *given: np.ndarray) -> dict[str, Any]:
    """Return options of a call as `loops` takes them."""
    options = {"scale": 1 / np.sqrt(D), **options}
    mask = options.pop("mask", None)
    return options if mask is None else options | {"allowed": evaluate(mask, sizes(*given))}


each_mod = pytest.mark.parametrize("name", MODS)


class TestValues:
    @each_mod
    @each_kernel
    def test_it_is_the_option_that_says_the_same(self, kernel: Kernel, name: str) -> None:
        given = qkv(e=E)
        with jax.enable_x64(True):
            got = kernel.attend(*given, score_mod=made(kernel.backend, name))
        close(got, loops(*given, **said(MODS[name][2], *given))[0], 1e-14)

    @each_kernel
    def test_b_counts_the_rows_of_all_batch_axes(self, kernel: Kernel) -> None:
        q, k, v = qkv()
        with jax.enable_x64(True):
            temperature = kernel.backend.array(TEMPERATURE)
            got = kernel.attend(q, k, v, score_mod=lambda x, b, *_: x * temperature[b])
        close(got, loops(q * TEMPERATURE.reshape(*BATCH, 1, 1, 1), k, v, scale=1 / np.sqrt(D))[0], 1e-14)

    @each_kernel
    def test_it_sees_the_capped_and_biased_score_of_its_own_query_head(self, kernel: Kernel) -> None:
        # One dimension, one key head for two: scores 3 and 6, capped and biased by hand.
        q, k, v = np.array([[[3.0], [6.0]]]), np.ones((1, 1, 1)), np.ones((1, 1, 1))
        got = kernel.intermediates(
            q, k, v, scale=1.0, softcap=2.0, bias=np.full((1, 1), 0.5), score_mod=lambda x, b, h, *_: x * (h + 1)
        )
        capped = 2 * np.tanh(np.array([1.5, 3.0]))[:, None, None]
        close(got["scaled"], np.array([3.0, 6.0])[:, None, None], 0)
        close(got["capped"], capped, 1e-15)
        close(got["scores"], (capped + 0.5) * np.array([1, 2])[:, None, None], 1e-15)


class TestLaws:
    @each_kernel
    def test_what_the_mask_forbids_stays_forbidden(self, kernel: Kernel) -> None:
        given = qkv()
        mask = spec.Lengths(kv=[[4, 0, 7], [1, 2, 3]]) & spec.Causal(align="end")
        # It lifts every score, those under the mask as well, and so changes nothing.
        lifted = kernel.attend(*given, mask=mask, score_mod=lambda x, *_: x + 1000.0)
        close(lifted, loops(*given, **said({"mask": mask}, *given))[0], 1e-12)
        np.testing.assert_array_equal(lifted[0, 1], 0)

    @each_kernel
    def test_a_row_that_it_forbids_is_empty(self, kernel: Kernel) -> None:
        given = qkv("float32")
        xp = NAMESPACE[kernel.backend.name]
        intermediates = kernel.intermediates(*given, score_mod=lambda x, b, h, t, s: xp.where(t == 1, -xp.inf, x))
        empty = np.arange(T) == 1
        np.testing.assert_array_equal(intermediates["context"][..., empty, :, :], 0)
        np.testing.assert_array_equal(intermediates["weights"][..., empty, :], 0)
        np.testing.assert_array_equal(
            np.isneginf(intermediates["logsumexp"]), np.broadcast_to(empty, intermediates["logsumexp"].shape)
        )

    @pytest.mark.parametrize("name", ["alibi", "causal"])
    def test_both_backends_under_their_compilers(self, name: str) -> None:
        given = [x[0] for x in qkv("float32")]
        make, arrays, _ = MODS[name]
        arrays = tuple(x.astype(np.float32) for x in arrays)

        def called(module: Any, xp: Any, implementation: str) -> Callable[..., Any]:
            return lambda q, k, v, *rest: module.dot_product_attention(
                q, k, v, score_mod=make(xp, *rest), implementation=implementation
            )

        jitted = jax.jit(called(jax_impl, jnp, "auto"))(*given, *arrays)
        tensors = [TORCH.array(x) for x in (*given, *arrays)]
        plain = called(torch_impl, torch, "auto")(*tensors)
        np.testing.assert_allclose(jitted, plain, rtol=0, atol=1e-6)
        torch.compiler.reset()
        for kernel in ("auto", "flex"):
            fast = torch.compile(called(torch_impl, torch, kernel), fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(fast(*tensors), plain, rtol=0, atol=1e-6)


class TestGradients:
    @pytest.mark.parametrize("name", ["relative", "alibi"])
    @each_backend
    def test_what_it_holds_learns_as_a_bias_would(self, backend: Backend, name: str) -> None:
        (q, k, v), (make, (held,), options) = qkv(), MODS[name]
        along = numbers(8, *BATCH, T, H, D)
        with jax.enable_x64(True):
            inputs, direction = [backend.array(x) for x in (q, k, v, held)], backend.array(along)

            def scalar(q: Any, k: Any, v: Any, held: Any) -> Any:
                mod = make(NAMESPACE[backend.name], held)
                return (backend.module.dot_product_attention(q, k, v, score_mod=mod) * direction).sum()

            *slopes, learned = (backend.numpy(g) for g in backend.grad(scalar, inputs))
        *wanted, by_bias = Kernel(backend, "reference").grads(q, k, v, along, **options)
        for got, one in zip(slopes, wanted, strict=True):
            close(got, one, 1e-13)
        gathered = np.zeros_like(held)
        if name == "relative":
            for t, s in np.ndindex(T, S):
                gathered[:, s - t + T - 1] += by_bias[:, t, s]
        else:
            gathered = -(by_bias * abs(OFFSET)).sum((-1, -2))
        close(learned, gathered, 1e-13)


class TestRefusals:
    @pytest.mark.parametrize(
        ("mod", "error", "text"),
        [
            ("alibi", OptionError, r"score_mod 'alibi' must be a function \(score, b, h, t, s\) -> score, or None"),
            (lambda x, *_: x.sum(-1), ShapeError, r"score_mod result \(.*\) must be \(\*batch, H, T, S\) = \("),
            (lambda *_: 1.0, ShapeError, r"score_mod result \(\) must be \(\*batch, H, T, S\)"),
            (lambda x, b, h, t, s: x > 0, DTypeError, "score_mod result bool must be float32 as the scores are"),
        ],
        ids=["no function", "another shape", "a number", "another dtype"],
    )
    @each_backend
    def test_a_function_that_gives_no_score(self, backend: Backend, mod: Any, error: type[Exception], text: str) -> None:
        given = [backend.array(x) for x in qkv("float32")]
        for name in ("auto", "reference", "flex") if backend is TORCH else ("auto", "reference"):
            with pytest.raises(error, match=f"^{text}", check=lambda caught: type(caught) is error):
                _ = backend.module.dot_product_attention(*given, score_mod=mod, implementation=name)

    def test_fused_kernels_say_that_they_take_none(self) -> None:
        for module, name, array in ((torch_impl, "sdpa", torch.zeros), (jax_impl, "xla", jnp.zeros)):
            x = array((1, 2, 1, 3))
            choice = module.explain(x, x, x, score_mod=lambda x, *_: x)
            assert (choice.kernel.name, choice.refusals) == ("reference", ((name, "has no score_mod"),))
