"""Caches under compilers: a compiled step equals the eager one, and an overflow that cannot raise gives NaN.

compiled(step)(cache, x) = step(cache, x)        lengths are data, so the next step compiles nothing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from attention import spec
from attention.jax_impl import cache as jax_cache
from attention.spec.cache import Appended
from attention.spec.errors import CacheError
from attention.spec.masks import Placed
from attention.spec.masks.algebra import Mask
from parity_tests.layers.test_cache import CACHES, CAUSAL, KINDS, each_kind, full, make, qkv
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers

TWO = CAUSAL & spec.Chunked(2)


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    """float64 everywhere, so that agreement is to 1e-13."""
    with jax.enable_x64(True):
        yield


def step(backend: Backend, cache: Any, q: Any, k: Any, v: Any, mask: Mask, positions: Any = None) -> tuple[Any, Any]:
    """Append a chunk and attend in the backend's own arrays: the context, and the cache with the chunk in it."""
    new = cache.append(k, v, positions)
    placed = Placed(mask, new.query_positions, new.key_positions)
    return backend.module.dot_product_attention(q, new.key, new.value, mask=placed), new.cache


class Compiled:
    """A step that is compiled, and how often it was."""

    def __init__(self, backend: Backend, mask: Mask = CAUSAL) -> None:
        self.count, self.backend = 0, backend
        torch.compiler.reset()

        def call(cache: Any, q: Any, k: Any, v: Any, positions: Any = None) -> tuple[Any, Any]:
            return step(backend, cache, q, k, v, mask, positions)

        def traced(*args: Any) -> tuple[Any, Any]:
            self.count += 1
            return call(*args)

        def graph(module: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
            self.count += 1
            return module.forward

        # Inductor would compile for half a minute what another test file compiles.
        self.call = jax.jit(traced) if backend is JAX else torch.compile(call, fullgraph=True, backend=graph)

    def __call__(self, *args: Any) -> tuple[Any, Any]:
        return self.call(*args)


class TestCompile:
    @each_backend
    @each_kind
    def test_compiled_steps_are_the_sequence_and_compile_once(self, backend: Backend, kind: str) -> None:
        arrays = qkv()
        native, fast, cache, got = [backend.array(x) for x in arrays], Compiled(backend), make(backend, kind), []
        # The first tokens come eagerly: what a compiled step returns, and takes, is a cache as any other.
        cache = cache.append(*(x[:, :2] for x in native[1:])).cache
        for i in range(2, 6):
            out, cache = fast(cache, *(x[:, i : i + 1] for x in native))
            got.append(backend.numpy(out))
        assert fast.count == 1
        last = cache.append(*(x[:, 6:] for x in native[1:]))
        close(np.concatenate(got, axis=1), full(arrays, CAUSAL)[:, 2:6], 1e-13)
        assert backend.numpy(last.query_positions).tolist() == [[6], [6]]


class TestGradients:
    @each_backend
    @each_kind
    def test_of_chunks_are_those_of_the_sequence(self, backend: Backend, kind: str) -> None:
        # Two of row 1 are absent, and nothing reaches them.
        positions = np.array([range(6), [-1, -1, 0, 1, 2, 3]])
        arrays, along, mask = qkv(n=6), numbers(3, 2, 6, 4, 5), CAUSAL & spec.Window(4, 0)

        def scalar(*xs: Any) -> Any:
            cache, total = make(backend, kind), 0.0
            for some in (slice(0, 4), slice(4, 6)):
                out, cache = step(backend, cache, *(x[:, some] for x in xs), mask=mask, positions=positions[:, some])
                total = total + (out * backend.array(along[:, some])).sum()
            return total

        def whole(*xs: Any) -> Any:
            placed = Placed(mask, torch.as_tensor(positions), torch.as_tensor(positions))
            return (TORCH.module.dot_product_attention(*xs, mask=placed) * torch.as_tensor(along)).sum()

        got = backend.grad(jax.jit(scalar) if backend is JAX else scalar, [backend.array(x) for x in arrays])
        got = [backend.numpy(g) for g in got]
        wanted = [g.numpy() for g in TORCH.grad(whole, [torch.tensor(x) for x in arrays])]
        for one, other in zip(got, wanted, strict=True):
            close(one, other, 1e-13)
            np.testing.assert_array_equal(one[1, :2], 0)
            # A query that sees one key has no gradient of its own.
            assert np.abs(one[1, 3:]).min() > 0


class TestHiddenOverflow:
    """A mask of chunks of two, so that a query beside its own key sees at most one slot."""

    @each_backend
    def test_of_slots_is_nan_from_then_on(self, backend: Backend) -> None:
        arrays = [backend.array(x[:, :3].astype("float32")) for x in qkv()]
        fast = Compiled(backend, TWO)
        cache = CACHES[backend.name].StaticCache.make(2, 8, 2, 3, 5)
        for wanted in (False, False, True, True):
            out, cache = fast(cache, *arrays)
            assert np.isnan(backend.numpy(out)).all() == wanted
            assert np.isnan(backend.numpy(out)).any() == wanted
        with pytest.raises(CacheError, match="cache holds 8 of 8 tokens and cannot take 3 more"):
            _ = step(backend, cache, *arrays, mask=TWO)

    @each_backend
    def test_of_rows_is_nan_from_then_on_and_spoils_no_other(self, backend: Backend) -> None:
        # With the second chunk of two: row 0 is full, row 1 has no block, row 2 has one of row 4, row 3 skips a position.
        table = [[0, 1, 2], [3, -1, -1], [4, 6, -1], [5, 8, 14], [6, 7, 9]]
        mended = [[0, 1, 9], [3, 10, 12], [4, 11, 13], [5, 8, 14], [6, 7, 9]]
        starts = [[3, 0, 0, 0, 0], [5, 2, 2, 3, 2], [7, 4, 4, 5, 4]]
        arrays = [x.astype("float32") for x in qkv(n=6, batch=5)]
        cache = CACHES[backend.name].PagedCache.make(table, 15, 2, 2, 3, 5).assign(table, starts[0])
        fast, outs = Compiled(backend, TWO), []
        for i, start in enumerate(starts):
            # A mended table gives what was missing, but not the tokens that are gone; a lost row takes no block of others.
            cache = cache.assign(mended) if i == 2 else cache
            positions = np.array(start)[:, None] + np.arange(2)
            out, cache = fast(cache, *(backend.array(x[:, 2 * i : 2 * i + 2]) for x in arrays), backend.array(positions))
            outs.append(backend.numpy(out))
        assert fast.count == 1
        assert np.isfinite(outs[0]).all()
        assert all(np.isnan(out[:4]).all() for out in outs[1:])
        close(np.concatenate(outs, axis=1)[4], full([x[4] for x in arrays], TWO), 1e-6)
        with pytest.raises(CacheError, match=r"^row 0 of the cache holds 6 of 6 tokens and cannot take 2 more$"):
            _ = cache.append(*(backend.array(x[:, :2]) for x in arrays[1:]))


class TestTrees:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_cache_goes_through_jax_trees(self, kind: str) -> None:
        cache = make(JAX, kind)
        leaves, structure = jax.tree.flatten(cache)
        again = jax.tree.unflatten(structure, leaves)
        assert type(again) is type(cache)
        assert jax.tree.structure(again) == structure
        assert all(one is other for one, other in zip(jax.tree.leaves(again), leaves, strict=True))
        names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(cache)[0]]
        assert names[:2] == [".key", ".value"]
        shapes = jax.eval_shape(lambda c, x: c.append(x, jnp.zeros((2, 2, 2, 5))), cache, jnp.zeros((2, 2, 2, 3)))
        assert type(shapes) is Appended
        # The same types, so that a loop can carry it.
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(shapes.cache)] == [(x.shape, x.dtype) for x in leaves]

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_cache_goes_through_torch_trees(self, kind: str) -> None:
        cache = make(TORCH, kind)
        leaves, structure = pytree.tree_flatten(cache)
        again = pytree.tree_unflatten(leaves, structure)
        assert type(again) is type(cache)
        assert len(leaves) == len(vars(cache))
        assert all(one is other for one, other in zip(pytree.tree_leaves(again), leaves, strict=True))


class TestLoops:
    @pytest.mark.parametrize("kind", KINDS)
    def test_scan_decodes_token_by_token(self, kind: str) -> None:
        arrays = qkv()
        native = [jnp.asarray(x) for x in arrays]
        cache = make(JAX, kind).append(*(x[:, :2] for x in native[1:])).cache

        def body(carry: Any, token: Any) -> tuple[Any, Any]:
            out, carry = step(JAX, carry, *(x[:, None] for x in token), mask=CAUSAL)
            return carry, out[:, 0]

        _, rest = jax.lax.scan(body, cache, [jnp.asarray(np.moveaxis(x[:, 2:], 1, 0)) for x in arrays])
        close(np.moveaxis(np.asarray(rest), 0, 1), full(arrays, CAUSAL)[:, 2:], 1e-13)

    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_vmap_over_rows_of_their_own_length_is_each_row(self, kind: str) -> None:
        arrays, held = qkv(), (2, 4)
        empty = getattr(jax_cache, kind).make((), 7, 2, 3, 5, dtype="float64")
        filled = [empty.append(*(jnp.asarray(x[b, :n]) for x in arrays[1:])).cache for b, n in enumerate(held)]
        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *filled)
        token = [jnp.asarray(np.stack([x[b, n : n + 1] for b, n in enumerate(held)])) for x in arrays]
        got, _ = jax.jit(jax.vmap(lambda c, *xs: step(JAX, c, *xs, mask=CAUSAL)))(stacked, *token)
        wanted = full(arrays, CAUSAL)
        close(np.asarray(got)[:, 0], np.stack([wanted[b, n] for b, n in enumerate(held)]), 1e-13)

    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_torch_vmap_over_rows_is_the_batch(self, kind: str) -> None:
        _, k, v = (torch.as_tensor(x) for x in qkv())
        empty = getattr(CACHES["torch"], kind).make((), 7, 2, 3, 5, dtype="float64")

        def call(k: Any, v: Any) -> Any:
            new = empty.append(k, v)
            return new.key, new.value, new.key_positions

        batch = getattr(CACHES["torch"], kind).make(2, 7, 2, 3, 5, dtype="float64").append(k, v)
        for one, other in zip(torch.func.vmap(call)(k, v), (batch.key, batch.value, batch.key_positions), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
