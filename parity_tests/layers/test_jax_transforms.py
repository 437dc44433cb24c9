"""Layers under the transforms of JAX and NNX: jit, vmap, grad, jvp, hessian, checkpoint, scan, sharding.

transformed(layer)(x) = layer(x)        to rounding; masks are arguments like any other
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from attention import spec
from attention.jax_impl import MultiHeadAttention, dot_product_attention
from attention.spec.masks.algebra import Mask
from parity_tests.support.backends import JAX, KERNELS, close, numbers

B, T, M, H, K, D = 3, 5, 12, 4, 2, 6
CONTRACT = spec.MultiHeadAttention(M, H, K, head_dim=D, mask=spec.Causal(), positions=spec.Rotary(), softcap=20.0)
DROPS = spec.MultiHeadAttention(M, H, K, head_dim=D, dropout_rate=0.5)
KINDS: dict[str, Mask] = {
    "causal": spec.Causal(align="end"),
    "positions": spec.Causal(query_positions=[0, 2]),
    "window": spec.Window(before=1, after=None),
    "chunked": spec.Chunked(size=2),
    "prefix": spec.Prefix(2),
    "prefix rows": spec.Prefix([1, 2]),
    "segments": spec.Segments(kv=[[0, 1]], q=[[1, 1]]),
    "lengths": spec.Lengths(kv=[3, 2, 1], q=[1, 2, 3], padding="left"),
    "dense": spec.DenseMask(np.eye(3, dtype=bool)),
    "algebra": ~(spec.Causal() & spec.Lengths(kv=[1])) | spec.Prefix(1),
}


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    """float64 everywhere, so that agreement is to 1e-14 and not to a tolerance."""
    with jax.enable_x64(True):
        yield


def layer(contract: spec.MultiHeadAttention = CONTRACT, seed: Any = 0) -> MultiHeadAttention:
    return MultiHeadAttention(contract, seed=seed, dtype="float64")


def array(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(numbers(seed, *shape))


def qkv() -> tuple[jax.Array, ...]:
    return tuple(array(i, B, T, heads, 4) for i, heads in enumerate((H, K, K)))


def same(got: Any, wanted: Any, within: float = 1e-14) -> None:
    """Raise unless both trees hold the same numbers, to rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        close(np.asarray(one), np.asarray(other), within)


class Traced:
    """A function that counts how often it is traced."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.count = function, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return self.function(*args, **options)


def kernels(*refusing: str) -> Any:
    here = [kernel.name for kernel in KERNELS if kernel.backend is JAX]
    return pytest.mark.parametrize("kernel", [name for name in here if name not in refusing])


class TestMasks:
    """Every mask is a pytree: data are leaves, structure is static."""

    @pytest.mark.parametrize("name", KINDS)
    def test_flatten_and_unflatten_are_inverse(self, name: str) -> None:
        leaves, structure = jax.tree.flatten(KINDS[name])
        back = jax.tree.unflatten(structure, leaves)
        assert type(back) is type(KINDS[name])
        again, same_structure = jax.tree.flatten(back)
        assert structure == same_structure
        assert hash(structure) == hash(same_structure)
        assert len(leaves) == len(again)
        assert all(one is other for one, other in zip(leaves, again, strict=True))

    @pytest.mark.parametrize("name", [name for name, mask in KINDS.items() if jax.tree.leaves(mask)])
    def test_a_leaf_stays_a_leaf_whatever_stands_in_its_place(self, name: str) -> None:
        # vmap puts ints there, and tree_map anything.
        structure = jax.tree.structure(KINDS[name])
        for placeholder in (0, object(), 1.5):
            filled = jax.tree.unflatten(structure, [placeholder] * structure.num_leaves)
            assert jax.tree.structure(filled) == structure

    def test_structure_tells_masks_apart(self) -> None:
        structures = {jax.tree.structure(mask) for mask in KINDS.values()}
        assert len(structures) == len(KINDS)
        assert jax.tree.structure(spec.Prefix(2)) != jax.tree.structure(spec.Prefix(3))
        assert jax.tree.structure(spec.Prefix([2])) == jax.tree.structure(spec.Prefix([3]))

    def test_leaves_have_names(self) -> None:
        paths = jax.tree_util.tree_flatten_with_path(spec.Causal() & spec.Lengths(kv=[1], q=[2]))[0]
        assert [jax.tree_util.keystr(path) for path, _ in paths] == [".right.kv", ".right.q"]


class TestJit:
    def test_new_lengths_do_not_trace_again_and_new_structure_does(self) -> None:
        module, x = layer(), array(0, B, T, M)
        call = Traced(lambda inputs, mask: module(inputs, mask=mask))
        fast = jax.jit(call)
        for kv in ([5, 2, 1], [1, 4, 0], [0, 0, 5]):
            mask = spec.Lengths(kv=kv)
            same(fast(x, mask), module(x, mask=mask))
        assert call.count == 1
        for window in (1, 2):
            mask = spec.Window(before=window, after=0)
            same(fast(x, mask), module(x, mask=mask))
        assert call.count == 3

    def test_a_traced_seed_does_not_trace_again(self) -> None:
        q, k, v = qkv()
        call = Traced(lambda seed: dot_product_attention(q, k, v, dropout_rate=0.5, dropout_seed=seed))
        fast = jax.jit(call)
        for seed in (0, 7, 2**31):
            same(fast(jnp.uint32(seed)), dot_product_attention(q, k, v, dropout_rate=0.5, dropout_seed=seed))
        assert call.count == 1

    def test_nnx_jit_takes_the_layer_and_moves_its_dropout(self) -> None:
        x, fast = array(0, B, T, M), nnx.jit(lambda module, inputs: module(inputs))
        same(fast(layer(), x), layer()(x))
        one, other = layer(DROPS), layer(DROPS)
        draws = [(fast(one, x), other(x)) for _ in range(2)]
        for got, wanted in draws:
            same(got, wanted)
        assert not np.array_equal(draws[0][0], draws[1][0])

    def test_intermediates_come_out_of_jit(self) -> None:
        module, x = layer(), array(0, B, T, M)
        call = partial(module, return_intermediates=("weights", "logsumexp"))
        same(jax.jit(call)(x), call(x))


class TestVmap:
    @pytest.mark.parametrize(
        "mask", [spec.Lengths(kv=[5, 2, 0]), spec.DenseMask(numbers(1, B, 1, T, T) > 0)], ids=["lengths", "dense"]
    )
    def test_over_rows_and_their_masks_is_the_batch(self, mask: Mask) -> None:
        module, x = layer(), array(0, B, T, M)
        same(jax.vmap(lambda row, m: module(row, mask=m))(x, mask), module(x, mask=mask))

    def test_over_rows_with_one_mask_is_the_batch(self) -> None:
        module, x, mask = layer(), array(0, B, T, M), spec.Segments(kv=jnp.array([0, 0, 1, 1, -1]))
        got = jax.vmap(lambda row, m: module(row, mask=m), in_axes=(0, None))(x, mask)
        same(got, module(x, mask=spec.Segments(kv=mask.kv[None])))

    @kernels()
    def test_the_core_maps_in_every_kernel(self, kernel: str) -> None:
        q, k, v = (x.astype(jnp.float32) for x in qkv())
        call = partial(dot_product_attention, mask=spec.Causal(), implementation=kernel)
        # float32, because not every kernel has float64; a batch of products is summed as each product is.
        same(jax.vmap(call)(q, k, v), call(q, k, v), 1e-6)

    def test_over_stacked_weights_is_each_layer_in_turn(self) -> None:
        layers, x = [layer(seed=seed) for seed in range(3)], array(0, B, T, M)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(one) for one in layers))
        graph = nnx.graphdef(layers[0])
        got = jax.vmap(lambda state: nnx.merge(graph, state)(x))(stacked)
        same(got, jnp.stack([one(x) for one in layers]))

    def test_unbatched_and_many_batch_axes_are_the_flat_batch(self) -> None:
        module, x = layer(), array(0, 2, 3, T, M)
        mask = spec.Lengths(kv=np.array([[5, 2, 1], [0, 3, 4]]))
        # Three shapes, each of which is compiled as a whole.
        call = jax.jit(lambda inputs, mask: module(inputs, mask=mask))
        flat = call(x.reshape(6, T, M), spec.Lengths(kv=mask.kv.reshape(6)))
        same(call(x, mask), flat.reshape(x.shape))
        same(call(x[0, 1], spec.Lengths(kv=np.array(2))), flat[1])


class TestDerivatives:
    MASK = spec.Causal() & spec.Lengths(kv=[5, 2, 0])

    def scalar(self, *given: jax.Array) -> jax.Array:
        return jnp.cos(dot_product_attention(*given, mask=self.MASK)).sum()

    def test_grad_and_jvp_are_finite_differences(self) -> None:
        given, steps = qkv(), tuple(1e-6 * array(10 + i, *x.shape) for i, x in enumerate(qkv()))
        scalar = jax.jit(self.scalar)
        ahead, behind = (scalar(*(x + s * d for x, d in zip(given, steps, strict=True))) for s in (1, -1))
        _, slope = jax.jvp(scalar, given, steps)
        np.testing.assert_allclose(slope, (ahead - behind) / 2, rtol=1e-8)
        pulled = sum((g * d).sum() for g, d in zip(jax.grad(scalar, (0, 1, 2))(*given), steps, strict=True))
        np.testing.assert_allclose(slope, pulled, rtol=1e-12)

    def test_hessian_is_symmetric_and_a_difference_of_gradients(self) -> None:
        q, k, v = (x[0, :, :1, :2] for x in qkv())
        # Two keys of five exist and query 0 sees one of them, so its rows of the matrix are zero.
        mask = spec.Lengths(kv=np.array(2)) & spec.Causal()

        def scalar(x: jax.Array) -> jax.Array:
            return jnp.cos(dot_product_attention(x, k, v, mask=mask)).sum()

        curved, step, slope = jax.jit(jax.hessian(scalar))(q), 1e-6 * array(7, *q.shape), jax.jit(jax.grad(scalar))
        flat = np.asarray(curved).reshape(q.size, q.size)
        assert np.abs(flat).max() > 1e-6
        np.testing.assert_allclose(flat, flat.T, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(flat[:2], 0)
        difference = (slope(q + step) - slope(q - step)) / 2
        np.testing.assert_allclose(jnp.tensordot(curved, step, 3), difference, rtol=0, atol=1e-16)

    def test_an_empty_row_has_zero_derivatives_of_every_order(self) -> None:
        q, k, v = (x[0, :, :1, :2] for x in qkv())
        empty = {"mask": spec.Lengths(kv=np.array(0)), "return_intermediates": ("weights",)}

        def call(x: jax.Array) -> Any:
            return dot_product_attention(x, k, v, **empty)

        for derivative in (jax.jacfwd(call), jax.jacrev(call), jax.jacfwd(jax.jacrev(call))):
            tree = jax.jit(derivative)(q)
            for leaf in jax.tree.leaves(tree):
                np.testing.assert_array_equal(leaf, 0)

    def test_checkpoint_changes_nothing(self) -> None:
        module, x = layer(), array(0, B, T, M)
        graph, state = nnx.split(module)

        def call(weights: Any, inputs: jax.Array) -> jax.Array:
            return nnx.merge(graph, weights)(inputs, mask=self.MASK)

        def loss(weights: Any, again: bool) -> jax.Array:
            return jnp.cos((jax.checkpoint(call) if again else call)(weights, x)).sum()

        assert "remat" in str(jax.make_jaxpr(lambda s: loss(s, again=True))(state))
        slopes = [jax.jit(jax.grad(partial(loss, again=again)))(state) for again in (True, False)]
        same(slopes[0], slopes[1], 1e-13)

    def test_nnx_grad_has_a_gradient_for_every_parameter(self) -> None:
        x = array(0, B, T, M)
        grads = nnx.grad(lambda module: jnp.cos(module(x, mask=self.MASK)).sum())(layer())
        paths = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(grads)}
        assert set(paths) == set(CONTRACT.params)
        assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0 for name, g in paths.items() if name != "k_proj.bias")


class TestModules:
    def test_scan_over_a_stack_of_layers_is_the_loop(self) -> None:
        seeds, x, mask = jnp.arange(4), array(0, B, T, M), spec.Lengths(kv=[5, 2, 0])
        stack = nnx.vmap(lambda seed: layer(seed=seed))(seeds)
        assert stack.q_proj.kernel.shape == (4, M, H, D)

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(carry: jax.Array, module: MultiHeadAttention) -> jax.Array:
            return carry + module(carry, mask=mask)

        looped = x
        for seed in range(4):
            looped = looped + layer(seed=seed)(looped, mask=mask)
        same(run(x, stack), looped, 1e-13)

    def test_scan_over_layers_with_dropout_draws_in_each(self) -> None:
        x = array(0, B, T, M)
        stack = nnx.vmap(lambda seed: layer(DROPS, seed=seed))(jnp.arange(2))

        @nnx.scan(in_axes=(None, 0), out_axes=0)
        def run(inputs: jax.Array, module: MultiHeadAttention) -> jax.Array:
            return module(inputs)

        same(run(x, stack), jnp.stack([layer(DROPS, seed=seed)(x) for seed in range(2)]))

    def test_a_traced_seed_draws_the_bits_of_the_contract(self) -> None:
        state: Any = jax.jit(lambda seed: nnx.state(layer(seed=seed)))(7)
        for name, value in CONTRACT.init(seed=7, dtype="float64").items():
            part, leaf = name.split(".")
            np.testing.assert_array_equal(state[part][leaf].get_value(), value)

    @pytest.mark.parametrize("seed", [2**32 + 5, 2**63 + 1, np.int64(7), np.uint64(2**64 - 1)])
    def test_any_seed_in_range_makes_a_layer_with_dropout(self, seed: Any) -> None:
        for name, value in DROPS.init(seed=seed, dtype="float64").items():
            np.testing.assert_array_equal(layer(DROPS, seed=seed).weights()[name], value)
        draws = [layer(DROPS, seed=s)(array(0, B, T, M)) for s in (seed, seed, int(seed) ^ 2**32)]
        same(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])

    def test_sharding_names_are_the_letters_of_the_axes(self) -> None:
        specs: Any = nnx.get_partition_spec(nnx.state(layer(), nnx.Param))
        for name, param in CONTRACT.params.items():
            part, leaf = name.split(".")
            assert specs[part][leaf].get_value() == PartitionSpec(*param.axes)

    def test_split_and_merge_are_inverse(self) -> None:
        module, x = layer(DROPS), array(0, B, T, M)
        graph, state = nnx.split(module)
        first, second = (nnx.merge(graph, state, copy=True)(x) for _ in range(2))
        same(first, second)
        assert nnx.merge(graph, state).contract == DROPS
        copied = nnx.clone(module)
        same(copied(x), first)
        same(module(x), first)
        copied.q_proj.kernel.set_value(jnp.zeros((M, H, D)))
        assert module.weights()["q_proj.kernel"].any()

    def test_train_and_eval_switch_dropout(self) -> None:
        module, x = layer(DROPS), array(0, B, T, M)
        assert not module.deterministic
        dropped = module(x, dropout_seed=3)
        module.eval()
        assert module.deterministic
        whole = module(x)
        same(module(x, dropout_seed=3), whole)
        module.train()
        same(module(x, dropout_seed=3), dropped)
        assert np.abs(dropped - whole).max() > 1e-3
        same(nnx.view(module, deterministic=True)(x), whole)
        assert not module.deterministic

    @pytest.mark.parametrize("precision", ["default", "highest"])
    def test_every_product_of_a_layer_has_the_contracts_precision(self, precision: str) -> None:
        contract = spec.MultiHeadAttention(M, H, precision=precision)
        with jax.enable_x64(False):
            module = MultiHeadAttention(contract)
            traced = str(jax.make_jaxpr(module)(jnp.zeros((B, T, M))))
        assert traced.count("dot_general[") == 6
        assert traced.count(f"(Precision.{precision.upper()}, Precision.{precision.upper()})") == 6
