"""Limits: too large sizes are refused at once in a short line; arrays without elements are computed or refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import jax_impl, spec, torch_impl
from attention.spec.axes import Sizes
from attention.spec.errors import AttentionError

MANY = list(range(10**6))
Q = torch.zeros(2, 3, 2, 4)
LONG = {"torch": torch.zeros(1, 2**16, 1, 1), "jax": jnp.zeros((1, 2**16, 1, 1))}
BACKENDS: dict[str, tuple[Any, Callable[[Any], Any]]] = {"torch": (torch_impl, torch.as_tensor), "jax": (jax_impl, jnp.asarray)}
SECONDS = 2.0

LARGE: dict[str, Callable[[], Any]] = {
    "lengths": lambda: torch_impl.dot_product_attention(Q, Q, Q, mask=spec.Lengths(MANY)),
    "no lengths": lambda: spec.Lengths([[0.5]] * 10**6),
    "prefixes": lambda: torch_impl.dot_product_attention(Q, Q, Q, mask=spec.Prefix(MANY)),
    "a document of 2**31 - 1": lambda: spec.Segments.from_cu_seqlens([0, 2**31 - 1]),
    "documents that fall": lambda: spec.Segments.from_cu_seqlens(MANY[::-1]),
    "buckets": lambda: spec.RelativeBias(2**20),
    "tiles": lambda: spec.masks.schedule(spec.Causal(), Sizes((1,), 2**22, 2**22, 1, 1, 4, 4), (1, 1)),
    "dropout in torch": lambda: torch_impl.dot_product_attention(*[LONG["torch"]] * 3, dropout_rate=0.5, dropout_seed=1),
    "dropout in jax": lambda: jax_impl.dot_product_attention(*[LONG["jax"]] * 3, dropout_rate=0.5, dropout_seed=1),
}


def composed(batch: int, t: int, s: int) -> dict[str, spec.Mask | None]:
    """Return masks for a call some of whose sizes may be 0."""
    lengths, dense = spec.Lengths(np.full(batch, min(s, 1))), spec.DenseMask(np.ones((t, s), bool))
    segments = spec.Segments(np.zeros((batch, s), int), np.zeros((batch, t), int))
    return {
        "none": None,
        "lengths & causal": lengths & spec.Causal(align="end"),
        "dense | ~lengths": dense | ~lengths,
        "window & dense": spec.Causal(align="start") & spec.Window(1, 0, align="end") & dense,
        "segments & prefix": segments & spec.Prefix(min(s, 1)),
        "per head": spec.PerHead((spec.Causal(align="start"), dense)),
        "chunked | lengths": spec.Chunked(2, align="start") | lengths,
    }


class TestRefusals:
    @pytest.mark.parametrize("name", LARGE)
    def test_what_is_too_large_is_refused_at_once_in_a_short_line(self, name: str) -> None:
        begun = time.process_time()
        with pytest.raises(AttentionError) as caught:
            _ = LARGE[name]()
        assert time.process_time() - begun < SECONDS
        assert 0 < len(str(caught.value)) < 500


class TestLaws:
    @pytest.mark.parametrize(("batch", "t", "s"), [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
    @pytest.mark.parametrize(
        ("backend", "kernel"), [(name, k) for name, (backend, _) in BACKENDS.items() for k in backend.kernels.KERNELS]
    )
    def test_axes_of_size_zero_are_computed_or_refused_by_us(
        self, backend: str, kernel: str, batch: int, t: int, s: int
    ) -> None:
        module, native = BACKENDS[backend]
        q, kv = (native(np.ones((batch, length, 2, 4), np.float32)) for length in (t, s))
        if backend == "torch":
            q.requires_grad_()
        for mask in composed(batch, t, s).values():
            try:
                output = module.dot_product_attention(q, kv, kv, mask=mask, implementation=kernel)
            except AttentionError:
                assert kernel != "reference"
                continue
            assert tuple(output.shape) == (batch, t, 2, 4)
            # Without a key there is nothing to take a mean of: 0.
            assert s > 0 or not np.asarray(output.detach() if backend == "torch" else output).any()
            if backend == "torch":
                output.sum().backward()
