"""The blockwise kernel in JAX equals the formula for tiles of any size and any mask; new lengths do not recompile.

blockwise(request, tile) = reference(request)        context, logsumexp, d q, d k, d v, d bias, d sinks; both modes
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attention import spec
from attention.jax_impl import dot_product_attention
from attention.jax_impl.attend import make_request
from attention.jax_impl.kernels.blockwise import Blockwise
from attention.jax_impl.kernels.blockwise.scores import power
from attention.jax_impl.kernels.blockwise.tiles import tiling, walks
from attention.jax_impl.kernels.reference import Reference
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused, ShapeError
from attention.spec.masks.algebra import evaluate
from parity_tests.support.backends import numbers

B, T, S, H, K, D, E = 2, 13, 11, 4, 2, 6, 5
SMALL = Blockwise(tile=(4, 8))
BAND = Blockwise(tile=(4, 4))
NEAR = spec.Window(before=2, after=0, align="end")
IDS = np.arange(S) // 4 % 3


def given(t: int = T, s: int = S, dtype: str = "float32") -> tuple[Any, ...]:
    shapes = ((B, t, H, D), (B, s, K, D), (B, s, K, E))
    return tuple(jnp.asarray(numbers(i, *shape, dtype=dtype)) for i, shape in enumerate(shapes))


# name: (kernel, options of the call). Together: every mask, every option, tiles that divide nothing.
CALLS: dict[str, tuple[Blockwise, dict[str, Any]]] = {
    "lengths and sinks": (SMALL, {"mask": spec.Lengths(kv=[5, 0]), "sinks": numbers(5, H, dtype="float32")}),
    "causal, bias and dropout": (
        SMALL,
        {
            "mask": spec.Causal(align="end"),
            "bias": numbers(6, B, 1, T, S, dtype="float32"),
            "dropout_rate": 0.3,
            "dropout_seed": 5,
        },
    ),
    "capped with a bias of rows": (SMALL, {"softcap": 1.5, "bias": numbers(7, H, T, 1, dtype="float32")}),
    "dense": (SMALL, {"mask": spec.DenseMask(numbers(8, B, 1, T, S) > -0.5)}),
    "documents": (SMALL, {"mask": spec.Segments(kv=IDS, q=np.arange(T) // 4 % 4 - 1)}),
    "placed": (SMALL, {"mask": spec.Placed(spec.Causal(), np.arange(T) - 2, np.arange(S)[::-1].copy())}),
    "each row its own": (SMALL, {"mask": spec.PerRow((spec.Causal(align="start"), spec.Lengths(kv=[4, 4])))}),
    "each head its own band": (
        BAND,
        {"mask": spec.PerHead(tuple(spec.Window(before=i, after=0, align="end") for i in range(H)))},
    ),
    "a band with lengths and bias": (
        BAND,
        {"mask": NEAR & spec.Lengths(kv=[11, 7]), "bias": numbers(9, 1, H, T, S, dtype="float32")},
    ),
}


def both(kernel: Any, *arrays: Any, **options: Any) -> tuple[jax.Array, jax.Array]:
    made = kernel.run(replace(make_request(*arrays, **options), intermediates=("logsumexp",)))
    return made["context"], made["logsumexp"]


def pulled(kernel: Any, *arrays: jax.Array, **options: Any) -> dict[str, Any]:
    """Return values, gradients and one directional derivative of a scalar of context and logsumexp.

    The formula's directional derivative is the product of its gradients and the direction, which compiles nothing.
    """
    arrays_of = {"q": arrays[0], "k": arrays[1], "v": arrays[2]}
    arrays_of |= {name: jnp.asarray(options.pop(name)) for name in ("bias", "sinks") if name in options}

    def scalar(x: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        more = {name: x[name] for name in x if name in ("bias", "sinks")}
        context, logsumexp = both(kernel, x["q"], x["k"], x["v"], **options, **more)
        finite = jnp.where(jnp.isinf(logsumexp), 0, logsumexp)
        return (context * along).sum() + jnp.sin(finite).sum(), (context, logsumexp)

    along = jnp.asarray(numbers(20, B, arrays[0].shape[1], H, E, dtype=str(arrays[0].dtype)))
    # One compilation each for the formula and the kernel.
    (_, made), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(arrays_of)
    moves = {name: jnp.cos(x) for name, x in arrays_of.items()}
    if isinstance(kernel, Reference):
        slope = sum(np.vdot(grads[name], move) for name, move in moves.items())
    else:
        slope = jax.jit(lambda x, dx: jax.jvp(scalar, (x,), (dx,), has_aux=True)[1])(arrays_of, moves)
    return {"made": made, "grads": grads, "slope": slope}


def same(got: Any, wanted: Any, within: float = 5e-6) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        largest = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0)) + 1e-30
        np.testing.assert_allclose(a, b, rtol=0, atol=within * max(largest, 1.0))


class TestLaws:
    @pytest.mark.parametrize("name", CALLS)
    def test_tiles_are_the_formula_with_every_derivative(self, name: str) -> None:
        kernel, options = CALLS[name]
        assert kernel.plan(make_request(*given(), **options))[0].cut.band == (kernel is BAND)
        same(pulled(kernel, *given(), **options), pulled(Reference(), *given(), **options))

    def test_what_dropout_drops_is_the_same_in_tiles_of_any_size(self) -> None:
        options = {"dropout_rate": 0.5, "dropout_seed": 3}
        small, large = (both(kernel, *given(), **options)[0] for kernel in (SMALL, Blockwise()))
        same(small, large)

    def test_nan_in_a_tile_that_nobody_may_see_is_nowhere(self) -> None:
        q, k, v = given()
        k, v = k.at[:, 7:].set(jnp.nan), v.at[:, 7:].set(jnp.inf)

        def scalar(*arrays: jax.Array) -> jax.Array:
            return both(SMALL, *arrays, mask=spec.Lengths(kv=[7, 3]))[0].sum()

        value, grads = jax.jit(jax.value_and_grad(scalar, (0, 1, 2)))(q, k, v)
        assert all(bool(jnp.isfinite(x).all()) for x in (value, *grads))
        assert not any(bool(x[:, 7:].any()) for x in grads[1:])

    def test_new_lengths_and_documents_compile_nothing(self) -> None:
        traces: list[int] = []

        @jax.jit
        def call(mask: spec.Mask, *arrays: jax.Array) -> jax.Array:
            traces.append(1)
            return both(SMALL, *arrays, mask=mask)[0]

        for kv in ([11, 3], [0, 8]):
            mask = spec.Lengths(kv=jnp.array(kv)) & spec.Segments(kv=jnp.asarray(IDS + kv[0]), q=jnp.zeros(T, int) + kv[0])
            same(call(mask, *given()), both(Reference(), *given(), mask=mask)[0])
        assert len(traces) == 1

    def test_a_map_over_rows_is_the_batch(self) -> None:
        mask = spec.Lengths(kv=jnp.array([5, 11]))

        def call(mask: spec.Mask, *row: jax.Array) -> jax.Array:
            return both(SMALL, *row, mask=mask)[0]

        def slope(mask: spec.Mask, *row: jax.Array) -> jax.Array:
            return jax.grad(lambda q: call(mask, q, *row[1:]).sum())(row[0])

        for each in (call, slope):
            same(jax.jit(jax.vmap(each))(mask, *given()), jax.jit(each)(mask, *given()))

    def test_inputs_on_many_devices_are_the_same(self) -> None:
        mesh = Mesh(np.array(jax.devices()), "b")
        placed = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, None, None, None))) for x in given()]
        same(jax.jit(lambda *x: both(SMALL, *x)[0])(*placed), both(SMALL, *given())[0])

    def test_a_function_of_the_score_is_differentiated_by_what_it_closes_over(self) -> None:
        def scalar(table: jax.Array, kernel: Any) -> jax.Array:
            return jnp.sin(both(kernel, *given(), score_mod=lambda x, _, h, t, s: x * table[h] - table[0] * (t - s))[0]).sum()

        table = jnp.asarray(numbers(11, H, dtype="float32"))
        slope = jax.jit(jax.grad(scalar), static_argnums=1)
        same(slope(table, SMALL), slope(table, Reference()), 2e-5)


class TestValues:
    def test_a_function_of_the_score_is_not_asked_beyond_the_last_query_and_key(self) -> None:
        def mod(score: Any, _b: Any, _h: Any, t: Any, s: Any) -> Any:
            return score / (T - t) * jnp.sqrt(jnp.asarray(S - s, score.dtype))

        for got, wanted in zip(
            *(pulled(kernel, *given(), score_mod=mod).items() for kernel in (SMALL, Reference())), strict=True
        ):
            for one, other in zip(jax.tree.leaves(got[1]), jax.tree.leaves(wanted[1]), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)

    def test_a_function_that_does_something_else_is_something_else(self) -> None:
        class Scaled:
            by = 1.0

            def __call__(self, score: Any, *_: Any) -> Any:
                return score * self.by

        mod = Scaled()
        first = dot_product_attention(*given(), score_mod=mod, implementation="blockwise")
        mod.by = 3.0
        assert jnp.abs(dot_product_attention(*given(), score_mod=mod, implementation="blockwise") - first).max() > 0.1

    def test_integers_that_a_function_closes_over_may_be_traced(self) -> None:
        def scalar(ids: Any, kernel: str) -> Any:
            def apart(score: Any, _b: Any, _h: Any, t: Any, s: Any) -> Any:
                return jnp.where(ids[t % S] == ids[s], score, -5.0)

            return dot_product_attention(*given(), score_mod=apart, implementation=kernel).sum()

        for shift in (0, 1):
            got, wanted = (
                jax.jit(scalar, static_argnums=1)(jnp.asarray(IDS) + shift, name) for name in ("blockwise", "reference")
            )
            np.testing.assert_allclose(got, wanted, rtol=1e-5)

    def test_a_gradient_of_a_gradient_that_moves_the_cotangent_alone_is_there(self) -> None:
        q, k, v = given()

        def penalty(kernel: str) -> Any:
            def slope(w: Any) -> Any:
                return jax.grad(lambda x: (w * dot_product_attention(x, k, v, implementation=kernel)).sum())(q)

            return jax.grad(lambda w: (slope(w) ** 2).sum())(jnp.ones((B, T, H, E)))

        np.testing.assert_allclose(penalty("blockwise"), penalty("reference"), rtol=0, atol=1e-5)

    def test_powers_of_two_are_right_to_the_last_bits(self) -> None:
        x = np.concatenate([-np.linspace(0, 120, 4001), [-np.inf, -1e30, -127.0, np.nan]]).astype(np.float32)
        plan = SMALL.plan(make_request(*given()))[0]
        assert plan.binary
        got = np.asarray(jax.jit(lambda x: power(plan, x, jnp.zeros(1)))(x), np.float64)
        wanted = np.exp2(x[:4001].astype(np.float64))
        assert np.max(np.abs(got[:4001] / wanted - 1)) < 3e-7
        assert got[0] == 1.0
        np.testing.assert_array_equal(got[4001:], [0, 0, 0, np.nan])

    def test_a_tile_divides_its_axis_or_is_padded_to_whole_vectors(self) -> None:
        sizes = Sizes((), 1000, 1023, 1, 1, 8, 8)
        cut = tiling(sizes, None, (512, 512))
        assert (cut.ahead, cut.whole, cut.band) == ((500, 512), (1000, 1024), False)

    def test_a_narrow_window_is_a_band_and_a_wide_one_is_not(self) -> None:
        sizes = Sizes((1,), 4096, 4096, 1, 1, 8, 8)
        assert tiling(sizes, spec.Window(before=255, after=0)).ahead == (256, 512)
        assert not tiling(sizes, spec.Window(before=2047, after=0)).band

    def test_a_band_holds_every_key_that_is_seen_whatever_the_sizes(self) -> None:
        draw = np.random.default_rng(0)
        for _ in range(300):
            t, s, before, after = (int(x) for x in (*draw.integers(20, 400, 2), *draw.integers(0, 40, 2)))
            mask, sizes = spec.Window(before=before, after=after, align="start"), Sizes((), t, s, 1, 1, 8, 8)
            cut = tiling(sizes, mask, (32, 32))
            if not cut.band:
                continue
            seen = np.asarray(evaluate(mask, sizes))
            for turned, table, (rows, width) in ((False, seen, cut.ahead), (True, seen.T, cut.behind[::-1])):
                (walk,) = walks(mask, sizes, cut, turned=turned)
                starts = np.asarray(walk.starts)[0, 0, :, 0]
                for row, start in enumerate(starts):
                    keys = np.flatnonzero(table[row * rows : (row + 1) * rows].any(0))
                    assert keys.size == 0 or (start <= keys[0] and keys[-1] < start + width)

    def test_what_is_said_of_an_empty_row_reaches_nothing(self) -> None:
        mask = spec.Lengths(kv=[5, 0], q=[T, T])
        out, pull = jax.vjp(lambda *x: dot_product_attention(*x, mask=mask, implementation="blockwise"), *given())
        for slope in pull(jnp.ones_like(out).at[1].set(jnp.nan)):
            assert jnp.isfinite(slope).all()

    def test_scores_of_any_size_make_no_nan(self) -> None:
        q, k, v = given()
        options = {"bias": np.full((T, S), np.finfo(np.float32).min, np.float32)}
        same(both(SMALL, q, k, v, **options)[0], both(Reference(), q, k, v, **options)[0])


class TestRefusals:
    def test_a_second_derivative_is_refused(self) -> None:
        q, k, v = given()
        with pytest.raises(KernelRefused, match="'blockwise' refuses: has no second derivative; implementation='reference'"):
            _ = jax.grad(lambda x: jax.grad(lambda q: both(SMALL, q, k, v)[0].sum())(x).sum())(q)

    def test_an_axis_of_size_0_is_refused(self) -> None:
        with pytest.raises(KernelRefused, match="'blockwise' refuses: does not support axes of size 0"):
            _ = dot_product_attention(*given(s=0), implementation="blockwise")

    def test_a_function_that_changes_the_shape_of_the_scores_is_refused(self) -> None:
        with pytest.raises(ShapeError, match="score_mod result"):
            _ = dot_product_attention(*given(), score_mod=lambda x, *_: x.sum(), implementation="blockwise")
