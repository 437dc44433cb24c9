"""Additive scores in chunks of features: the same numbers, without an array of all features of all pairs.

chunked(q, k, v) = full(q, k, v)        largest array (B, T, S, chunk_size), all that training keeps: q, k and v

The memory is seen from inside: the sizes of all that a jaxpr makes, and of every tensor that torch makes or keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # torch names no public way to see every tensor

from attention import jax_impl, spec, torch_impl
from attention.jax_impl import scores as jax_scores
from attention.spec.layers import alignment_scores
from attention.torch_impl import scores as torch_scores
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T, S, A = 2, 5, 7, 11
WITHIN = 1e-14
ROWS = 64
PAIRS = 2 * ROWS * ROWS
"""B T S of the calls whose memory is looked at, of A = 64 features, two at a time."""
FEATURES, FEW = 64, 2
SHAPES = ((2, ROWS, FEATURES), (2, ROWS, FEATURES), (FEATURES,))
additive: dict[Backend, Callable[..., Any]] = {TORCH: torch_scores.additive, JAX: jax_scores.additive}
# torch.func's forward mode loads decompositions that torch itself still writes as TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def given(*batch: int) -> list[np.ndarray]:
    return [numbers(seed, *shape) for seed, shape in enumerate(((*batch, T, A), (*batch, S, A), (A,)))]


def loops(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    found = np.zeros((*q.shape[:-1], k.shape[-2]))
    for *b, t, s in np.ndindex(found.shape):
        found[(*b, t, s)] = sum(v[a] * math.tanh(q[(*b, t, a)] + k[(*b, s, a)]) for a in range(len(v)))
    return found


def large() -> list[torch.Tensor]:
    return [torch.from_numpy(numbers(seed, *shape)).requires_grad_() for seed, shape in enumerate(SHAPES)]


class TestLaws:
    @pytest.mark.parametrize(("chunk_size", "batch"), [(1, (2, 3)), (3, ()), (100, (2,))])
    @each_backend
    def test_a_few_at_a_time_is_all_at_once(self, backend: Backend, chunk_size: int, batch: tuple[int, ...]) -> None:
        arrays = given(*batch)
        with wide(*arrays):
            got = backend.numpy(additive[backend](*map(backend.array, arrays), chunk_size=chunk_size))
        close(got, loops(*arrays), WITHIN)
        close(alignment_scores.additive(np, *arrays), loops(*arrays), WITHIN)

    @forward_mode
    def test_torch_transforms_the_chunked_form(self) -> None:
        q, k, v = arrays = tuple(torch.from_numpy(x) for x in given(B))
        chunked, full = partial(torch_scores.additive, chunk_size=3), additive[TORCH]
        same = partial(torch.testing.assert_close, rtol=1e-13, atol=1e-13)
        transforms: Any = torch.func
        same(transforms.vmap(chunked, (0, 0, None))(*arrays), full(*arrays))
        along = tuple(x.flip(-1) for x in arrays)
        same(transforms.jvp(chunked, arrays, along), transforms.jvp(full, arrays, along))
        # Forward over reverse.
        curve = (transforms.hessian(lambda v, f=f: f(q, k, v).square().sum())(v) for f in (chunked, full))
        same(next(curve), next(curve))
        _, moved = transforms.jvp(lambda v: chunked(q, k, v), (v,), along[2:])
        same(moved, full(q, k, along[2]))

    # torch.compile makes an instance of every autograd.Function that it meets, and warns itself of it.
    @pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
    def test_torch_compiles_the_chunked_form(self) -> None:
        contract = spec.AlignmentAttention(A, score=spec.Additive(chunk_size=3))
        layer = torch_impl.AlignmentAttention(contract, dtype="float64")
        torch.compiler.reset()
        fast = torch.compile(layer, fullgraph=True, backend="aot_eager")
        query, key, _ = (torch.from_numpy(x) for x in given(B))
        for call in (layer, fast):
            layer.zero_grad()
            torch.autograd.backward([x.square().sum() for x in call(query, key)])
            close(np.asarray(layer.score_v.grad), self.slope(contract, layer, query, key), 1e-13)

    @staticmethod
    def slope(contract: spec.AlignmentAttention, layer: Any, *given: torch.Tensor) -> np.ndarray:
        """Return the gradient of v by the full form."""
        full = torch_impl.AlignmentAttention(contract.unresolved(), dtype="float64")
        full.load_weights(layer.weights())
        torch.autograd.backward([x.square().sum() for x in full(*given)])
        return np.asarray(full.score_v.grad)

    def test_jax_transforms_the_chunked_form(self) -> None:
        arrays = given(B)
        with jax.enable_x64(True):
            inputs = tuple(map(jnp.asarray, arrays))
            chunked, full = partial(jax_scores.additive, chunk_size=3), jax_scores.additive
            pairs = [
                (jax.vmap(chunked, (0, 0, None))(*inputs), full(*inputs)),
                (jax.jvp(chunked, inputs, inputs)[1], jax.jvp(full, inputs, inputs)[1]),
            ]
        for got, wanted in pairs:
            close(np.asarray(got), np.asarray(wanted), 1e-13)


class TestGradients:
    @pytest.mark.parametrize("chunk_size", [3, 100])
    @each_backend
    def test_the_gradients_are_those_of_the_full_form(self, backend: Backend, chunk_size: int) -> None:
        arrays, along = given(B), numbers(9, B, T, S)
        with wide(*arrays):
            way = backend.array(along)
            got, wanted = (
                [
                    backend.numpy(g)
                    for g in backend.grad(
                        lambda *x, n=n: (additive[backend](*x, chunk_size=n) * way).sum(), [backend.array(x) for x in arrays]
                    )
                ]
                for n in (chunk_size, None)
            )
        for one, other in zip(got, wanted, strict=True):
            close(one, other, WITHIN)

    def test_torch_s_own_backward_pass_is_the_derivative_twice_over(self) -> None:
        arrays = [torch.from_numpy(x[..., :4]).requires_grad_() for x in given()]
        chunked = partial(torch_scores.additive, chunk_size=3)
        assert torch.autograd.gradcheck(chunked, arrays)
        assert torch.autograd.gradgradcheck(chunked, arrays)


class Watch(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in (made if isinstance(made, (tuple, list)) else (made,)) if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *(x.numel() for x in tensors)])
        return made


def torch_memory(function: Callable[..., torch.Tensor], *arrays: torch.Tensor) -> tuple[int, int]:
    """Return the elements of the largest tensor of both passes, and of all that the forward pass keeps, each once."""
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.data_ptr()] = x.numel()
        return x

    with Watch() as watch:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            scores = function(*arrays)
        torch.autograd.backward(scores.square().sum())
    return watch.largest, sum(kept.values())


def jax_sizes(jaxpr: Any) -> Iterator[int]:
    """Give the number of elements of every array that a jaxpr makes, those inside its scans and checkpoints included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(out.aval.shape) for out in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from jax_sizes(getattr(inner, "jaxpr", inner))


def jax_program(chunk_size: int | None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the score's value and gradients as one program, and the shapes that it is called with."""
    program = jax.value_and_grad(
        lambda q, k, v: jnp.square(jax_scores.additive(q, k, v, chunk_size=chunk_size)).sum(), (0, 1, 2)
    )
    return program, tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES)


class TestMemory:
    def test_torch_makes_no_tensor_of_all_pairs_and_features_and_keeps_none_in_slices(self) -> None:
        largest, kept = torch_memory(partial(torch_scores.additive, chunk_size=FEW), *large())
        assert largest == PAIRS * FEW
        assert kept == sum(x.numel() for x in large())

    def test_the_watch_sees_the_full_form(self) -> None:
        largest, kept = torch_memory(torch_scores.additive, *large())
        assert largest >= PAIRS * FEATURES
        assert kept >= PAIRS * FEATURES

    def test_slices_under_autograd_would_keep_as_much_as_the_full_form(self) -> None:
        # This is what the backward pass of our own is for.
        def sliced(*arrays: torch.Tensor) -> torch.Tensor:
            parts = zip(*(x.split(FEW, dim=-1) for x in arrays), strict=True)
            return reduce(torch.add, (torch_scores.additive(*part) for part in parts))

        largest, kept = torch_memory(sliced, *large())
        assert largest <= PAIRS * FEW
        assert kept >= PAIRS * FEATURES

    def test_jax_makes_no_array_of_all_pairs_and_features(self) -> None:
        for chunk_size, least, most in ((FEW, PAIRS, PAIRS * FEW), (None, PAIRS * FEATURES, PAIRS * FEATURES)):
            program, shapes = jax_program(chunk_size)
            assert least <= max(jax_sizes(jax.make_jaxpr(program)(*shapes).jaxpr)) <= most

    def test_a_scan_without_checkpoints_would_keep_all_of_them(self) -> None:
        def scanned(*arrays: jax.Array) -> jax.Array:
            slices = tuple(jnp.moveaxis(x.reshape(*x.shape[:-1], -1, FEW), -2, 0) for x in arrays)
            term = partial(alignment_scores.additive, jnp)
            return jnp.square(
                jax.lax.scan(lambda x, part: (x + term(*part), None), jnp.zeros((2, ROWS, ROWS)), slices)[0]
            ).sum()

        jaxpr = jax.make_jaxpr(jax.grad(scanned, (0, 1, 2)))(*jax_program(None)[1]).jaxpr
        assert max(jax_sizes(jaxpr)) >= PAIRS * FEATURES

    def test_xla_sets_aside_less(self) -> None:
        taken = [
            jax.jit(program).lower(*shapes).compile().memory_analysis() for program, shapes in map(jax_program, (FEW, None))
        ]
        chunked, full = (analysis.temp_size_in_bytes for analysis in taken if analysis is not None)
        assert full >= 4 * PAIRS * FEATURES
        assert chunked < full / 4

    def test_the_layers_hand_the_mode_on(self) -> None:
        contract = spec.AlignmentAttention(3, score=spec.Concat(hidden=FEATURES, chunk_size=FEW))
        query, key = (numbers(seed, 2, ROWS, 3, dtype="float32") for seed in (0, 1))
        layer = torch_impl.AlignmentAttention(contract)
        largest, _ = torch_memory(lambda q, k: layer(q, k)[0], *map(torch.from_numpy, (query, key)))
        assert PAIRS <= largest < PAIRS * FEATURES / 4
        other = jax_impl.AlignmentAttention(contract)
        jaxpr = jax.make_jaxpr(jax.grad(lambda q: other(q, jnp.asarray(key))[0].sum()))(query).jaxpr
        assert PAIRS <= max(jax_sizes(jaxpr)) < PAIRS * FEATURES / 4
