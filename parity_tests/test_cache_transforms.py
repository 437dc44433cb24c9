"""Caches under compilers: a step that is compiled is the step, and an overflow that a compiler hides is NaN and not a lie.

compiled(step)(cache, x) = step(cache, x)        lengths are data, so the next step compiles nothing
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import spec
from attention.jax_impl import cache as jax_cache
from attention.spec.algebra import Mask
from attention.spec.cache import Appended
from attention.spec.errors import ShapeError
from parity_tests.rooms import JAX, TORCH, Room, close, each_room
from parity_tests.test_cache import CACHES, CAUSAL, KINDS, decode, each_kind, full, make, qkv, step, wide

TWO = CAUSAL & spec.Chunked(2)


class Counted:
    """A step that is compiled, and how often it was."""

    def __init__(self, room: Room, mask: Mask = CAUSAL) -> None:
        self.count, self.room = 0, room
        torch.compiler.reset()

        def call(cache: Any, q: Any, k: Any, v: Any, positions: Any = None) -> tuple[Any, Any]:
            return step(room, cache, q, k, v, mask, positions)

        def traced(*args: Any) -> tuple[Any, Any]:
            self.count += 1
            return call(*args)

        def graph(module: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
            self.count += 1
            return module.forward

        # Inductor would compile for half a minute what another test file compiles.
        self.call = jax.jit(traced) if room is JAX else torch.compile(call, fullgraph=True, backend=graph)

    def __call__(self, *args: Any) -> tuple[Any, Any]:
        return self.call(*args)


class TestCompile:
    @each_room
    @each_kind
    def test_a_compiled_step_is_the_step_and_compiles_once(self, room: Room, kind: str) -> None:
        arrays = qkv()
        with wide(*arrays):
            native, fast = [room.array(x) for x in arrays], Counted(room)
            _, cache = step(room, make(room, kind), *(x[:, :3] for x in native), CAUSAL)
            wanted = room.numpy(decode(room, cache, [x[:, 3:6] for x in native], CAUSAL, [1, 1, 1]))
            got = []
            for i in range(3, 6):
                out, cache = fast(cache, *(x[:, i : i + 1] for x in native))
                got.append(room.numpy(out))
            assert fast.count == 1
            # What a compiled step returned is a cache as any other.
            last = room.numpy(step(room, cache, *(x[:, 6:] for x in native), CAUSAL)[0])
        close(np.concatenate(got, axis=1), wanted, 1e-14)
        close(last, full(room, arrays, CAUSAL)[:, 6:], 1e-13)


class TestHiddenOverflow:
    """A mask of chunks of two, so that a query beside its own key sees at most one slot."""

    @each_room
    def test_of_slots_is_nan_from_then_on(self, room: Room) -> None:
        arrays = [room.array(x[:, :3].astype("float32")) for x in qkv()]
        fast = Counted(room, TWO)
        cache = CACHES[room.name].StaticCache.make(2, 8, 2, 3, 5)
        for wanted in (False, False, True, True):
            out, cache = fast(cache, *arrays)
            assert np.isnan(room.numpy(out)).all() == wanted
            assert np.isnan(room.numpy(out)).any() == wanted
        with pytest.raises(ShapeError, match="cache holds 8 of 8 tokens and cannot take 3 more"):
            _ = step(room, cache, *arrays, TWO)

    @each_room
    @pytest.mark.parametrize("fault", ["full", "outside", "shared", "gaps"])
    def test_of_a_row_is_nan_from_then_on_and_spoils_no_other(self, room: Room, fault: str) -> None:
        # Row 0 meets the fault in its second chunk of two tokens; row 1 has room for all.
        table, held, size = {
            "full": ([[5, -1], [2, 3]], 1, 3),
            "outside": ([[5, 6], [2, 3]], 0, 2),
            "shared": ([[5, 2], [2, 3]], 0, 2),
            "gaps": ([[5, 4], [2, 3]], 0, 2),
        }[fault]
        size = 2
        if fault == "full":
            table, held = [[5, 4], [2, 3]], 1
        arrays = [room.array(x[:, :2].astype("float32")) for x in qkv()]
        cache = CACHES[room.name].PagedCache.make(table, 6, size, 2, 3, 5).assign(table, [held, 0])
        fast, rows = Counted(room, TWO), [[0, 1], [0, 1]]
        outs = []
        for i in range(2):
            positions = np.array(rows) + 2 * i + np.array([[held], [0]]) + np.array([[i * (fault == "gaps")], [0]])
            out, cache = fast(cache, *arrays, room.array(positions))
            outs.append(room.numpy(out))
        assert np.isfinite(outs[0]).all()
        assert np.isnan(outs[1][0]).all()
        if fault == "shared":
            # Both rows would write into block 2 were row 1 not past it; it is row 0 that must not.
            assert np.isfinite(outs[1][1]).all()
        alone = CACHES[room.name].PagedCache.make(table[1:], 6, size, 2, 3, 5)
        wanted = room.numpy(decode(room, alone, [room.array(np.concatenate([x, x], 1))[1:] for x in map(room.numpy, arrays)], TWO, [2, 2]))
        close(np.concatenate([outs[0][1], outs[1][1]]), wanted[0], 1e-6)
        # Another table repairs the next step's writes but not the tokens that are gone.
        out, cache = fast(cache.assign([[5, 4, 0], [2, 3, 1]]), *arrays, room.array(np.array([[-1, 8], [4, 5]])))
        assert np.isnan(room.numpy(out)[0, 1]).all()
        assert np.isfinite(room.numpy(out)[1]).all()


class TestTrees:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_cache_goes_through_jax_trees(self, kind: str) -> None:
        cache = make(JAX, kind, dtype="float32")
        leaves, structure = jax.tree.flatten(cache)
        again = jax.tree.unflatten(structure, leaves)
        assert type(again) is type(cache)
        assert jax.tree.structure(again) == structure
        assert all(one is other for one, other in zip(jax.tree.leaves(again), leaves, strict=True))
        names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(cache)[0]]
        assert names[:2] == [".key", ".value"]
        shapes = jax.eval_shape(lambda c, x: c.append(x, jnp.zeros((2, 2, 2, 5))), cache, jnp.zeros((2, 2, 2, 3)))
        assert type(shapes) is Appended
        assert jax.tree.map(lambda x: x.dtype, shapes.cache) == jax.tree.map(lambda x: x.dtype, cache)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_cache_goes_through_torch_trees(self, kind: str) -> None:
        pytree = torch.utils._pytree  # noqa: SLF001
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
        with jax.enable_x64(True):
            native = [jnp.asarray(x) for x in arrays]
            first, cache = step(JAX, make(JAX, kind), *(x[:, :2] for x in native), CAUSAL)

            def body(carry: Any, token: Any) -> tuple[Any, Any]:
                out, carry = step(JAX, carry, *(x[:, None] for x in token), CAUSAL)
                return carry, out[:, 0]

            cache, rest = jax.lax.scan(body, cache, [jnp.moveaxis(x[:, 2:], 1, 0) for x in native])
            got = np.concatenate([first, np.moveaxis(np.asarray(rest), 0, 1)], axis=1)
        close(got, full(JAX, arrays, CAUSAL), 1e-13)

    @pytest.mark.parametrize("kind", ["StaticCache", "RollingCache"])
    def test_vmap_over_rows_of_their_own_length_is_each_row(self, kind: str) -> None:
        arrays, held = qkv(), np.array([2, 4])
        with jax.enable_x64(True):
            native = [jnp.asarray(x) for x in arrays]
            cut = [getattr(jax_cache, kind).make((), 7, 2, 3, 5, dtype="float64") for _ in held]
            filled = [c.append(native[1][b, :n], native[2][b, :n]).cache for b, (c, n) in enumerate(zip(cut, held, strict=True))]
            stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *filled)
            token = [jnp.stack([x[b, n] for b, n in enumerate(held)])[:, None] for x in native]
            got, _ = jax.vmap(lambda c, *xs: step(JAX, c, *xs, CAUSAL))(stacked, *token)
            got = np.asarray(got)
        wanted = full(JAX, arrays, CAUSAL)
        close(got[:, 0], np.stack([wanted[b, n] for b, n in enumerate(held)]), 1e-13)

    def test_torch_vmap_over_rows_is_the_batch(self) -> None:
        native = [torch.as_tensor(x) for x in qkv()]
        cache = torch_rows = CACHES["torch"].StaticCache.make((), 7, 2, 3, 5, dtype="float64")
        got = torch.func.vmap(lambda k, v: (lambda new: (new.key, new.value))(torch_rows.append(k, v)))(*native[1:])
        wanted = make(TORCH, "StaticCache").append(*native[1:])
        torch.testing.assert_close(got, (wanted.key, wanted.value), rtol=0, atol=0)
        assert int(cache.length) == 0
