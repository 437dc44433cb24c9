"""The decode kernels equal the formula; their cost follows the keys attended to, and masked keys are never read.

decode(q, k, v, mask) = attend(q, k[seen], v[seen])        whatever k and v hold where nobody sees them
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attention import jax_impl, spec, torch_impl
from attention.jax_impl.kernels.decode import Decode, tiles
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused
from attention.spec.masks.algebra import Mask, evaluate
from parity_tests.support.backends import JAX, TORCH, Backend, Kernel, close, each_backend, numbers
from parity_tests.support.formula import formula

B, T, S, H, K, D, E = 2, 3, 11, 4, 2, 3, 5
AT = np.array([[5, 6, 7], [2, 3, -1]])
"""Positions of the queries; the last of the second row is absent."""
SLOTS = np.array([[0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1], [-1, -1, 0, 1, 2, 3, -1, -1, -1, -1, -1]])
"""Positions of what a filled cache holds, in the second row after two absent tokens."""
MIXED = np.array([[7, -1, 5, 6, 1, 3, 4, -1, 2, 0, -1], [0, 3, -1, -1, 2, -1, -1, -1, 1, -1, -1]])
"""The same in slots that are filled in any order, as those of a window that rolls."""

MASKS: dict[str, Mask | None] = {
    "none": None,
    "filled": spec.Placed(spec.Causal(), AT, SLOTS),
    "rolling": spec.Placed(spec.Causal() & spec.Window(before=2, after=0), AT, MIXED),
    "present": spec.Placed(None, AT, MIXED),
    "lengths": spec.Lengths(kv=np.array([4, 9])),
    "nothing yet": spec.Lengths(kv=np.array([0, 1]), q=np.array([3, 2])),
    "end": spec.Causal(align="end"),
    "first and last": spec.Prefix(2) | spec.Window(before=1, after=0, align="end"),
    "by head": spec.PerHead(tuple(spec.Window(before=3 * h, after=0, align="end") for h in range(H))),
    "dense": spec.DenseMask(numbers(9, B, 1, T, S) > 0.5),
}
CACHED = ("filled", "rolling", "lengths", "by head")
OPTIONS = {"softcap": 1.5, "sinks": numbers(6, H), "bias": numbers(7, B, 1, 1, S)}


Given = tuple[np.ndarray, np.ndarray, np.ndarray]


def qkv(t: int = T) -> Given:
    return numbers(0, B, t, H, D), numbers(1, B, S, K, D), numbers(2, B, S, K, E)


def unseen(mask: Mask) -> np.ndarray:
    """Return bool `(B, S, K, 1)`: the keys of a head that no query of the row may attend to."""
    allowed = evaluate(mask, Sizes((B,), T, S, H, K, D, E))
    seen = np.broadcast_to(np.asarray(allowed), (B, H, T, S)).any(2).reshape(B, K, H // K, S).any(2)
    return ~np.swapaxes(seen, 1, 2)[..., None]


class TestLaws:
    @pytest.mark.parametrize("name", MASKS)
    def test_torch_is_the_formula(self, name: str) -> None:
        given = qkv()
        close(Kernel(TORCH, "decode").attend(*given, mask=MASKS[name]), formula(*given, mask=MASKS[name])["context"], 1e-14)

    # Tiles that divide the keys, that do not, and one that is larger; torch's kernel has none.
    @pytest.mark.parametrize(
        ("name", "tile"), [*((name, 4) for name in MASKS), ("filled", 1), ("first and last", 1), ("end", 64)]
    )
    def test_jax_is_the_formula_whatever_the_tile(self, name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(jax_impl.kernels.KERNELS, "decode", Decode(tile=tile))
        given = qkv()
        close(Kernel(JAX, "decode").attend(*given, mask=MASKS[name]), formula(*given, mask=MASKS[name])["context"], 1e-14)

    @pytest.mark.parametrize("name", ["none", "filled", "by head"])
    @each_backend
    def test_options_are_the_formulas(self, backend: Backend, name: str) -> None:
        given = qkv()
        got = Kernel(backend, "decode").attend(*given, mask=MASKS[name], **OPTIONS)
        close(got, formula(*given, mask=MASKS[name], **OPTIONS)["context"], 1e-14)

    @pytest.mark.parametrize("name", CACHED)
    @each_backend
    def test_what_nobody_sees_may_be_anything(self, backend: Backend, name: str) -> None:
        mask, (q, k, v), kernel = MASKS[name], qkv(), Kernel(backend, "decode")
        assert mask is not None
        hidden, along = unseen(mask), numbers(5, B, T, H, E)
        poisoned: Given = (q, np.where(hidden, np.nan, k), np.where(hidden, np.inf, v))
        zeroed: Given = (q, np.where(hidden, 0.0, k), np.where(hidden, 0.0, v))
        assert hidden.any()
        np.testing.assert_array_equal(kernel.attend(*poisoned, mask=mask), kernel.attend(*zeroed, mask=mask))
        for got, wanted in zip(*(kernel.grads(*given, along, mask=mask) for given in (poisoned, zeroed)), strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert np.isfinite(got).all()

    @each_backend
    def test_an_absent_query_is_zero_whatever_it_holds(self, backend: Backend) -> None:
        (q, k, v), mask = qkv(), MASKS["filled"]
        q[1, 2] = np.nan
        out = Kernel(backend, "decode").attend(q, k, v, mask=mask)
        np.testing.assert_array_equal(out[1, 2], 0)
        close(out, formula(np.nan_to_num(q), k, v, mask=mask)["context"], 1e-14)

    @each_backend
    def test_batch_axes_are_rows(self, backend: Backend) -> None:
        given = [np.stack([x, 2 * x, -x], axis=1) for x in qkv()]
        lengths = np.array([[0, 4, 9], [11, 1, 2]])
        got = Kernel(backend, "decode").attend(*given, mask=spec.Lengths(kv=lengths))
        rows = [x.reshape(-1, *x.shape[2:]) for x in given]
        wanted = Kernel(backend, "decode").attend(*rows, mask=spec.Lengths(kv=lengths.reshape(-1)))
        close(got.reshape(wanted.shape), wanted, 1e-15)

    @each_backend
    def test_a_row_without_a_batch_axis(self, backend: Backend) -> None:
        given = [x[0] for x in qkv()]
        got = Kernel(backend, "decode").attend(*given, mask=spec.Prefix(4))
        close(got, formula(*given, mask=spec.Prefix(4))["context"], 1e-14)


class TestValues:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @each_backend
    def test_the_error_is_no_larger_than_that_of_torchs_own(self, backend: Backend, dtype: str) -> None:
        shapes = ((2, 1, 8, 64), (2, 512, 2, 64), (2, 512, 2, 64))
        given = [spec.cast({"x": numbers(i, *shape)}, dtype)["x"] for i, shape in enumerate(shapes)]
        wanted = Kernel(TORCH, "reference").attend(*(x.astype(np.float64) for x in given))
        torches = scaled_dot_product_attention(*(TORCH.array(x).transpose(1, 2) for x in given), enable_gqa=True)
        ours = Kernel(backend, "decode").attend(*given)
        error, bound = (
            np.sqrt(np.mean((x.astype(np.float64) - wanted) ** 2)) for x in (ours, TORCH.numpy(torches.transpose(1, 2)))
        )
        assert 0 < error <= 1.1 * bound

    @pytest.mark.parametrize(("tile", "wanted"), [(1, [2, 9]), (4, [0, 2]), (11, [0])])
    def test_jax_reads_the_tiles_in_which_a_key_is_seen(self, tile: int, wanted: list[int]) -> None:
        seen = np.zeros((1, 2, S), bool)
        assert int(tiles(jnp.asarray(seen), tile)[0]) == 0
        seen[0, 0, 2], seen[0, 1, 9] = True, True
        count, order = tiles(jnp.asarray(seen), tile)
        assert order[: int(count)].tolist() == wanted

    @pytest.mark.parametrize(("name", "reads"), [("filled", [(1, 8), (1, 4)]), ("end", [(2, 11)]), ("nothing yet", [(1, 1)])])
    def test_torch_reads_the_keys_that_are_seen_where_they_lie(
        self, name: str, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        q, k, v = map(torch.from_numpy, qkv())
        read: list[tuple[int, int]] = []

        def spy(q: Any, key: Any, value: Any, **options: Any) -> Any:
            assert key.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
            assert value.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
            read.append((key.shape[0], key.shape[2]))
            return scaled_dot_product_attention(q, key, value, **options)

        monkeypatch.setattr("attention.torch_impl.kernels.decode.scaled_dot_product_attention", spy)
        _ = torch_impl.dot_product_attention(q, k, v, mask=MASKS[name], implementation="decode")
        assert read == reads

    @pytest.mark.parametrize("rows", [1, 2])
    def test_jax_makes_no_copy_of_a_cache_in_half_precision(self, rows: int) -> None:
        shapes = ((rows, 1, H, 32), (rows, 2048, K, 32), (rows, 2048, K, 32))
        given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        mask = spec.Lengths(kv=jnp.full(rows, 5))
        call = jax.jit(partial(jax_impl.dot_product_attention, implementation="decode"))
        memory: Any = call.lower(*given, mask=mask).compile().memory_analysis()
        assert memory.temp_size_in_bytes < np.prod(shapes[1])


class TestGradients:
    @pytest.mark.parametrize("name", ["filled", "by head", "nothing yet"])
    @each_backend
    def test_gradients_are_the_references(self, backend: Backend, name: str) -> None:
        given, along = qkv(), numbers(5, B, T, H, E)
        got, wanted = (
            Kernel(backend, kernel).grads(*given, along, mask=MASKS[name], **OPTIONS) for kernel in ("decode", "reference")
        )
        for one, other in zip(got, wanted, strict=True):
            close(one, other, 1e-13)

    def test_jax_has_every_derivative_in_both_directions(self) -> None:
        with jax.enable_x64(True):
            q, k, v = map(jnp.asarray, qkv())
            mask = spec.Lengths(kv=[4, 9])

            def scalar(kernel: str, q: Any) -> Any:
                return jnp.sin(jax_impl.dot_product_attention(q, k, v, mask=mask, implementation=kernel)).sum()

            way = jnp.asarray(numbers(8, *q.shape))
            for derivative in (lambda f: jax.jvp(f, (q,), (way,))[1], lambda f: jax.jvp(jax.grad(f), (q,), (way,))[1]):
                got, wanted = (
                    np.asarray(jax.jit(partial(derivative, partial(scalar, name)))()) for name in ("decode", "reference")
                )
                close(got, wanted, 1e-13)

    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    def test_torch_has_every_derivative_in_both_directions(self) -> None:
        # Of one width, for which torch's fused kernel has no second derivative.
        q, k, v = (torch.from_numpy(x[..., :D]) for x in qkv())

        def scalar(kernel: str, q: Any) -> Any:
            return torch_impl.dot_product_attention(q, k, v, mask=MASKS["lengths"], implementation=kernel).sin().sum()

        way = torch.from_numpy(numbers(8, *q.shape))
        derivatives: tuple[Callable[..., Any], ...] = (
            lambda f: torch.func.jvp(f, (q,), (way,))[1],
            lambda f: torch.func.jvp(torch.func.grad(f), (q,), (way,))[1],
            lambda f: torch.autograd.functional.vhp(f, q, way)[1],
        )
        for derivative in derivatives:
            got, wanted = (TORCH.numpy(derivative(partial(scalar, name))) for name in ("decode", "reference"))
            close(got, wanted, 1e-13)


def filled(backend: Backend, n: int) -> Mask:
    """Return the mask of one query behind a cache of n tokens."""
    slots = np.where(np.arange(S) < n, np.arange(S), -1)
    return spec.Placed(
        spec.Causal(), backend.array(np.full((B, 1), n - 1)), backend.array(np.broadcast_to(slots, (B, S)).copy())
    )


class TestCompilers:
    def run(self, backend: Backend, compiled: Callable[..., Any]) -> None:
        given = [backend.array(x.astype(np.float32)) for x in qkv(t=1)]
        for n in (1, 5, 11):
            mask = filled(backend, n)
            wanted = backend.module.dot_product_attention(*given, mask=mask, implementation="reference")
            close(backend.numpy(compiled(*given, mask)), backend.numpy(wanted), 1e-6)

    def test_one_compilation_in_jax_serves_a_cache_that_grows(self) -> None:
        traces: list[Any] = []

        @jax.jit
        def step(q: Any, k: Any, v: Any, mask: Any) -> Any:
            traces.append(mask)
            return jax_impl.dot_product_attention(q, k, v, mask=mask, implementation="decode")

        self.run(JAX, step)
        assert len(traces) == 1

    def test_one_compilation_in_torch_serves_a_cache_that_grows(self) -> None:
        graphs: list[Any] = []

        def backend(graph: Any, _inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        def step(q: Any, k: Any, v: Any, mask: Any) -> Any:
            return torch_impl.dot_product_attention(q, k, v, mask=mask, implementation="decode")

        torch.compiler.reset()
        with torch.no_grad():
            self.run(TORCH, torch.compile(step, fullgraph=True, backend=backend))
        assert len(graphs) == 1

    @each_backend
    def test_vmap_over_rows_is_the_batch(self, backend: Backend) -> None:
        with jax.enable_x64(True):
            given = [backend.array(x) for x in qkv()]
            lengths = backend.array(np.array([4, 9]))

            def one(q: Any, k: Any, v: Any, n: Any) -> Any:
                return backend.module.dot_product_attention(q, k, v, mask=spec.Lengths(kv=n), implementation="decode")

            rows = {"jax": jax.vmap, "torch": torch.func.vmap}[backend.name](one)(*given, lengths)
            close(backend.numpy(rows), formula(*qkv(), mask=MASKS["lengths"])["context"], 1e-14)


class TestRefusals:
    @each_backend
    def test_what_is_no_decoding(self, backend: Backend) -> None:
        q, k, v = (backend.array(x.astype(np.float32)) for x in qkv(t=9))
        ask = partial(backend.module.dot_product_attention, implementation="decode")
        with pytest.raises(KernelRefused, match=r"^kernel 'decode' refuses: has no more than 8 queries, not 9$"):
            _ = ask(q, k, v)
        with pytest.raises(KernelRefused, match=r"^kernel 'decode' refuses: has no dropout$"):
            _ = ask(q[:, :8], k, v, dropout_rate=0.5, dropout_seed=0)
        with pytest.raises(KernelRefused, match=r"^kernel 'decode' refuses: has no score_mod$"):
            _ = ask(q[:, :8], k, v, score_mod=lambda x, *_: x)
        with pytest.raises(KernelRefused, match=r"^kernel 'decode' refuses: does not support axes of size 0$"):
            _ = ask(q[:, :8], k[:, :0], v[:, :0])
