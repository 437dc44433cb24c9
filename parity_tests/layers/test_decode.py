"""Decoding: a layer with a cache, chunk by chunk, equals the layer on the whole sequence.

layer(x[:n], cache) ++ layer(x[n:], cache) = layer(x)        for every contract whose mask hides later keys, and every split
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import jax_impl, spec, torch_impl
from attention.spec.cases import CASES
from attention.spec.errors import CacheError, DTypeError, OptionError, PositionError, ShapeError
from attention.spec.layers.multi_head.cache_checks import looks_ahead
from attention.spec.masks.algebra import both
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers

B, N, M = 2, 11, 22
TABLE = [[3, 0, 5], [1, 7, 2]]


def causal(contract: spec.MultiHeadAttention) -> spec.MultiHeadAttention:
    """Return the contract with a mask that hides later keys, if its own does not, and inputs of one width."""
    mask = contract.mask if contract.mask is not None and not looks_ahead(contract.mask) else both(spec.Causal(), contract.mask)
    return replace(contract, mask=mask, kdim=None, vdim=None, dropout_rate=0.0)


CONTRACTS = {
    name: causal(case.contract)
    for name, case in CASES.items()
    if isinstance(case.contract, spec.MultiHeadAttention) and not isinstance(case.contract.positions, spec.AxialRotary)
}
X = numbers(0, B, N, M)


@cache
def layer(backend: Backend, name: str) -> Any:
    return backend.layer(CONTRACTS[name], dtype="float64")


def caches(backend: Backend, c: spec.MultiHeadAttention) -> dict[str, Any]:
    """Return every cache that keeps enough for the contract."""
    widths = (c.kv_heads, c.width, c.value_width)
    made = {
        "static": backend.module.StaticCache.make(B, N, *widths, dtype="float64"),
        "paged": backend.module.PagedCache.make(TABLE, 8, 4, *widths, dtype="float64"),
    }
    reach = None if c.mask is None else c.mask.reach
    return made if reach is None else {**made, "rolling": backend.module.RollingCache.make(B, reach, *widths, dtype="float64")}


def decode(backend: Backend, name: str, cache: Any, splits: Sequence[int]) -> np.ndarray:
    chunks = []
    for start, stop in zip((0, *splits), (*splits, N), strict=True):
        y, cache = layer(backend, name)(backend.array(X[:, start:stop]), cache=cache)
        chunks.append(backend.numpy(y))
    return np.concatenate(chunks, axis=1)


class TestLaws:
    @pytest.mark.parametrize("name", CONTRACTS)
    @settings(max_examples=6)
    @given(splits=st.sets(st.integers(1, N - 1), max_size=4).map(sorted))
    def test_decoding_is_the_whole_sequence(self, name: str, splits: list[int]) -> None:
        whole = TORCH.numpy(layer(TORCH, name)(torch.from_numpy(X)))
        # The first chunk has to cover a prefix that all may see.
        splits = [n for n in splits if n >= 3] if name == "prefix" else splits
        for empty in caches(TORCH, CONTRACTS[name]).values():
            close(decode(TORCH, name, empty, splits), whole, 1e-13)

    def test_decoding_in_jax_is_the_whole_sequence(self) -> None:
        # The caches of JAX have their own tests; the layer asks all of them alike.
        with jax.enable_x64(True):
            whole = JAX.numpy(layer(JAX, "rotary")(jnp.asarray(X)))
            for empty in caches(JAX, CONTRACTS["rotary"]).values():
                close(decode(JAX, "rotary", empty, [5]), whole, 1e-13)

    @each_backend
    def test_absent_tokens_on_the_left_change_nothing(self, backend: Backend) -> None:
        with jax.enable_x64(True):
            alone = backend.numpy(layer(backend, "rotary")(backend.array(X[:, 3:])))
            poisoned = np.where(np.arange(N)[:, None] < 3, np.nan, X)
            positions = np.maximum(np.arange(N) - 3, -1)
            positions[:3] = -1
            held, chunks = caches(backend, CONTRACTS["rotary"])["static"], []
            for start, stop in ((0, 5), (5, N)):
                at = backend.array(np.broadcast_to(positions[start:stop], (B, stop - start)))
                y, held = layer(backend, "rotary")(backend.array(poisoned[:, start:stop]), query_positions=at, cache=held)
                chunks.append(backend.numpy(y))
            close(np.concatenate(chunks, axis=1)[:, 3:], alone, 1e-13)

    @each_backend
    def test_an_absent_token_may_hold_anything(self, backend: Backend) -> None:
        contract = spec.MultiHeadAttention(M, 2, mask=spec.Causal(), gate="headwise", add_bias_kv=True)
        made = backend.layer(contract)
        x = X[:, :3].astype(np.float32)
        poisoned = np.where(np.arange(3)[:, None] < 1, np.float32(np.nan), x)
        at = backend.array(np.broadcast_to(np.array([-1, 0, 1]), (B, 3)))
        empty = backend.module.StaticCache.make(B, N, 2, 11)
        clean, dirty = (backend.numpy(made(backend.array(y), query_positions=at, cache=empty)[0]) for y in (x * 0, poisoned))
        assert np.isfinite(dirty).all()
        np.testing.assert_array_equal(dirty[:, 0], clean[:, 0])

    def test_one_compilation_decodes_token_by_token(self) -> None:
        made = jax_impl.MultiHeadAttention(CONTRACTS["rotary"])
        x = jnp.asarray(X, jnp.float32)
        c, traces = CONTRACTS["rotary"], []

        @jax.jit
        def step(cache: Any, token: Any) -> Any:
            traces.append(token)
            y, cache = made(token[:, None], cache=cache)
            return cache, y[:, 0]

        empty = jax_impl.StaticCache.make(B, N, c.kv_heads, c.width, c.value_width)
        _, decoded = jax.lax.scan(step, empty, jnp.moveaxis(x, 1, 0))
        close(np.asarray(jnp.moveaxis(decoded, 0, 1)), np.asarray(made(x)), 1e-5)
        assert len(traces) == 1

    def test_compiled_torch_decodes_as_eager_torch_does(self) -> None:
        made = torch_impl.MultiHeadAttention(CONTRACTS["grouped"])
        c, x = CONTRACTS["grouped"], torch.from_numpy(X.astype(np.float32))
        empty = torch_impl.StaticCache.make(B, N, c.kv_heads, c.width, c.value_width)
        wanted, _ = made(x[:, :3], cache=empty)
        got, _ = torch.compile(made, fullgraph=True, backend="aot_eager")(x[:, :3], cache=empty)
        close(got.detach().numpy(), wanted.detach().numpy(), 1e-5)

    @each_backend
    def test_intermediates_come_between_the_output_and_the_cache(self, backend: Backend) -> None:
        with jax.enable_x64(True):
            made = layer(backend, "grouped")(
                backend.array(X[:, :3]),
                cache=caches(backend, CONTRACTS["grouped"])["static"],
                return_intermediates=("weights",),
            )
        y, intermediates, cache = made
        assert y.shape == (B, 3, M)
        assert intermediates["weights"].shape == (B, 6, 3, N)
        assert type(cache) is backend.module.StaticCache


class TestRefusals:
    @each_backend
    def test_what_cannot_go_on_from_a_cache(self, backend: Backend) -> None:
        free, grows = (
            backend.layer(spec.MultiHeadAttention(M, 2, mask=mask, positions=positions))
            for mask, positions in (
                (None, None),
                (spec.Causal(), spec.Rotary(rotary_dim=4, scaling=spec.DynamicNTKScaling(2.0, 8))),
            )
        )
        x = backend.array(X[:, :2].astype(np.float32))
        held = backend.module.StaticCache.make(B, 1, 2, 11)
        rolls = backend.module.RollingCache.make(B, 3, 2, 11)
        causal = backend.layer(spec.MultiHeadAttention(M, 2, mask=spec.Causal()))
        with pytest.raises(OptionError, match=r"^mask None must hide later keys to be used with a cache, as Causal\(\) does$"):
            _ = free(x, cache=held)
        with pytest.raises(OptionError, match=r"^positions Rotary.* must not depend on the length"):
            _ = grows(x, cache=held)
        with pytest.raises(CacheError, match=r"^cache holds 0 of 1 tokens and cannot take 2 more$"):
            _ = causal(x, cache=held)
        with pytest.raises(OptionError, match=r"a cache of window 3 keeps fewer$"):
            _ = causal(x, cache=rolls)
        with pytest.raises(ShapeError, match=r"must have the cache's batch \(2,\), and a key for each query$"):
            _ = causal(x[:1], cache=held)
        with pytest.raises(DTypeError, match=r"^cache dict must be a StaticCache, RollingCache or PagedCache$"):
            _ = causal(x, cache={})
        with pytest.raises(PositionError, match=r"^key_positions must be None with a cache"):
            _ = causal(x, key_positions=backend.array(np.arange(2)), cache=held)

    @each_backend
    def test_a_chunk_that_ends_inside_a_prefix(self, backend: Backend) -> None:
        layer = backend.layer(spec.MultiHeadAttention(M, 2, mask=spec.Causal() | spec.Prefix(3)))
        empty = backend.module.StaticCache.make(B, N, 2, 11)
        with pytest.raises(OptionError, match=r"^query of 2 tokens from 0 on must cover the prefix of 3, whole$"):
            _ = layer(backend.array(X[:, :2].astype(np.float32)), cache=empty)
