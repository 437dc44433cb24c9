"""Derivatives of every order: the reference kernel has all of them in both backends; other kernels refuse those they lack.

f'(x) = vjp        <f'(x) u, w> = <u, f'(x)^T w>        f''(x) u = jvp of the gradient along u = vjp of <gradient, u>
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

from attention import jax_impl, spec, torch_impl
from attention.spec.errors import KernelRefused
from parity_tests.support.backends import KERNELS, Backend, Kernel, close, each_backend, numbers
from parity_tests.support.covering import pairwise
from parity_tests.support.formula import CASES, PER_HEAD, B, D, H, T, formula, formula_grads, qkv

each_case = pytest.mark.parametrize("case", CASES)
# torch.func's forward mode loads decompositions that torch itself still writes as TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class TestFirst:
    @each_case
    def test_the_formulas_gradients_are_finite_differences(self, case: str) -> None:
        (changed, options), (along, grads) = CASES[case], formula_grads(case)
        given = qkv(**changed)
        steps = [1e-5 * numbers(20 + i, *x.shape) for i, x in enumerate(given)]
        ahead, behind = (
            (formula(*(x + sign * d for x, d in zip(given, steps, strict=True)), **options)["context"] * along).sum()
            for sign in (1, -1)
        )
        slope = sum((g * d).sum() for g, d in zip(grads, steps, strict=False))
        # A central difference of 1e-5 is off by about 1e-10 third derivatives, which are 1e6 times larger at scale 100.
        np.testing.assert_allclose((ahead - behind) / 2, slope, rtol=1e-4 if case == "large scores" else 1e-7)

    # Every kernel and every case; values are asked of every kernel in every case in `test_dot_product_attention.py`.
    @pairwise("kernel, case", KERNELS, CASES, strength=1)
    def test_float64_gradients_are_the_formulas_to_1e_13(self, kernel: Kernel, case: str) -> None:
        (changed, options), (along, wanted) = CASES[case], formula_grads(case)
        given = qkv(**changed)
        got = kernel.grads(*given, along, **options)
        # One key head gathers what all query heads say: sums cancel, so all gradients share one scale.
        largest = max(np.abs(g).max() for g in wanted)
        for one, other in zip(got, wanted, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * largest)

    @each_backend
    def test_the_gradient_of_logsumexp_is_the_weights(self, backend: Backend) -> None:
        # d lse / d scores = weights and d lse / d sink = exp(sink - lse), so d lse / d q = scale * weights k.
        kernel = Kernel(backend, "reference")
        (q, k, v), sinks, mask = qkv(K=H), numbers(5, H), PER_HEAD
        intermediates = kernel.intermediates(q, k, v, sinks=sinks, mask=mask)
        along = numbers(8, B, H, T)
        dq, dk, dv, dsinks = kernel.grads(q, k, v, along, intermediate="logsumexp", sinks=sinks, mask=mask)
        pull = along[..., None] * intermediates["weights"] / np.sqrt(D)
        close(dq, np.einsum("bhts,bshd->bthd", pull, k), 1e-13)
        close(dk, np.einsum("bhts,bthd->bshd", pull, q), 1e-13)
        np.testing.assert_array_equal(dv, 0)
        close(dsinks, (along * np.exp(sinks[:, None] - intermediates["logsumexp"])).sum((0, 2)), 1e-13)


SMALL = ((1, 3, 2, 2), (1, 3, 1, 2), (1, 3, 1, 2))
MASK = spec.Causal() & spec.Lengths(kv=[2])


def small() -> list[np.ndarray]:
    """Return q, k, v and a direction of them, in one list; two query heads read one key head, and one key nobody."""
    return [numbers(seed, *shape) for seed, shape in enumerate(SMALL * 2)]


def jax_slope(implementation: str, *given: Any) -> Any:
    """Return the gradient of a scalar of the call that is nowhere linear."""

    def scalar(*x: Any) -> Any:
        return jnp.sin(jax_impl.dot_product_attention(*x, mask=MASK, implementation=implementation)).sum()

    return jax.grad(scalar, (0, 1, 2))(*given)


def torch_scalar(implementation: str, *given: Tensor) -> Tensor:
    return torch_impl.dot_product_attention(*given, mask=MASK, implementation=implementation).sin().sum()


def torch_slope(implementation: str, *given: Tensor) -> Any:
    return torch.func.grad(partial(torch_scalar, implementation), (0, 1, 2))(*given)


def tensors() -> tuple[list[Tensor], list[Tensor]]:
    arrays = [torch.from_numpy(x) for x in small()]
    return arrays[:3], arrays[3:]


@cache
def oracle() -> list[np.ndarray]:
    """Return the second derivative along the direction, by central differences of the formula's gradient."""
    with jax.enable_x64(True):
        given, step = (list(map(jnp.asarray, part)) for part in (small()[:3], small()[3:]))
        ends = [jax_slope("reference", *(x + sign * 1e-5 * d for x, d in zip(given, step, strict=True))) for sign in (1, -1)]
        return [np.asarray(ahead - behind) / 2e-5 for ahead, behind in zip(*ends, strict=True)]


def dotted(one: Any, other: Any) -> Any:
    return sum((a * b).sum() for a, b in zip(one, other, strict=True))


class TestSecond:
    def test_jax_forward_and_reverse_over_reverse_are_finite_differences(self) -> None:
        wanted = oracle()
        with jax.enable_x64(True):
            given, step = (tuple(map(jnp.asarray, part)) for part in (small()[:3], small()[3:]))
            slope = partial(jax_slope, "reference")
            forward = jax.jvp(slope, given, step)[1]
            reverse = jax.grad(lambda *x: dotted(slope(*x), step), (0, 1, 2))(*given)
            for one, other, difference in zip(forward, reverse, wanted, strict=True):
                assert np.abs(difference).max() > 1e-2
                close(np.asarray(one), np.asarray(other), 1e-13)
                # A central difference of 1e-5 is off by about 1e-10 of the third derivative.
                close(np.asarray(one), difference, 1e-8)

    @forward_mode
    @pytest.mark.parametrize("implementation", ["reference", "auto"])
    def test_torch_forward_and_reverse_over_reverse_are_those_of_jax(self, implementation: str) -> None:
        given, step = tensors()
        with jax.enable_x64(True):
            at, along = (tuple(map(jnp.asarray, part)) for part in (small()[:3], small()[3:]))
            wanted = [np.asarray(x) for x in jax.jvp(partial(jax_slope, "reference"), at, along)[1]]
        slope: Any = partial(torch_slope, implementation)
        forward: Any = torch.func.jvp(slope, tuple(given), tuple(step))[1]
        reverse = torch.func.grad(lambda *x: dotted(slope(*x), step), (0, 1, 2))(*given)
        leaves = [x.clone().requires_grad_() for x in given]
        mixed = torch.autograd.grad(dotted(slope(*leaves), step), leaves)
        for one, others in zip(wanted, zip(forward, reverse, mixed, strict=True), strict=True):
            for other in others:
                close(other.numpy(), one, 1e-13)

    @forward_mode
    def test_a_hessian_just_works(self) -> None:
        (q, k, v), _ = tensors()
        got = torch.func.hessian(lambda x: torch_scalar("auto", x, k, v))(q)
        wanted = torch.autograd.functional.hessian(lambda x: torch_scalar("reference", x, k, v), q)
        close(got.numpy(), wanted.numpy(), 1e-13)
        assert np.abs(got.numpy()).max() > 1e-2
        close(got.numpy(), np.transpose(got.numpy(), (4, 5, 6, 7, 0, 1, 2, 3)), 1e-13)

    def test_a_second_derivative_just_works_when_compiled(self) -> None:
        (q, k, v), _ = tensors()

        def twice(x: Tensor) -> Tensor:
            # A mask of NumPy arrays is no argument: torch's compiler guards it wrongly under torch.func.
            once = torch.func.grad(lambda y: torch_impl.dot_product_attention(y, k, v, mask=spec.Causal()).sin().sum())
            return torch.func.grad(lambda y: (once(y) ** 2).sum())(x)

        torch.compiler.reset()
        close(torch.compile(twice, fullgraph=True, backend="aot_eager")(q).numpy(), twice(q).numpy(), 1e-13)

    @pytest.mark.parametrize("implementation", ["xla", "reference"])
    def test_each_kernel_of_jax_in_float32(self, implementation: str) -> None:
        given, step = (tuple(x.astype(np.float32) for x in part) for part in (small()[:3], small()[3:]))
        value = partial(jax_impl.dot_product_attention, mask=MASK, implementation=implementation)
        out, ahead = jax.jvp(value, given, step)
        along = numbers(9, *out.shape, dtype="float32")
        pulled = jax.vjp(value, *given)[1](jnp.asarray(along))
        # A thousand times the spacing of float32 numbers near 1; a wrong term is off by tenths.
        np.testing.assert_allclose((ahead * along).sum(), dotted(pulled, step), rtol=1e-4)
        second = jax.jvp(partial(jax_slope, implementation), given, step)[1]
        for one, wanted in zip(second, oracle(), strict=True):
            np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


Derive = Callable[[Callable[[Tensor], Tensor], Tensor], Any]
SECOND: dict[str, Derive] = {
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "grad of grad": lambda f, x: torch.func.grad(lambda y: torch.func.grad(f)(y).sum())(x),
    "jvp of grad": lambda f, x: torch.func.jvp(torch.func.grad(f), (x,), (x,)),
    "autograd of grad": lambda f, x: torch.func.grad(f)(x.clone().requires_grad_()),
}


class TestRefusals:
    @forward_mode
    @pytest.mark.parametrize("name", SECOND)
    @pytest.mark.parametrize("kernel", ["sdpa", "flex"])
    def test_a_fused_kernel_refuses_two_levels_before_it_runs(self, kernel: str, name: str) -> None:
        (q, k, v), _ = tensors()
        with pytest.raises(KernelRefused, match=f"^kernel '{kernel}' refuses: has no second derivative$"):
            _ = SECOND[name](lambda x: torch_scalar(kernel, x, k, v), q)

    @pytest.mark.parametrize("which", [0, 1, 2, 3])
    def test_a_backward_pass_through_the_backward_pass_is_refused_in_our_words(self, which: int) -> None:
        given, _ = tensors()
        given.append(torch.zeros(3, 3, dtype=torch.float64))
        inputs = [x.requires_grad_(i == which) for i, x in enumerate(given)]
        q, k, v, bias = inputs
        out = torch_impl.dot_product_attention(q, k, v, bias=bias, implementation="sdpa")
        (slope,) = torch.autograd.grad(out.sin().sum(), inputs[which], create_graph=True)
        text = "kernel 'sdpa' refuses: has no second derivative; implementation='reference' has"
        with pytest.raises(KernelRefused, match=f"^{re.escape(text)}$", check=lambda caught: type(caught) is KernelRefused):
            _ = torch.autograd.grad(slope.square().sum(), inputs[which])

    def test_one_backward_pass_is_what_it_was(self) -> None:
        given, _ = tensors()
        leaves = [x.clone().requires_grad_() for x in given]
        recorded, plain = (
            torch.autograd.grad(torch_scalar("sdpa", *leaves), leaves, create_graph=flag) for flag in (True, False)
        )
        for one, other, func in zip(recorded, plain, torch_slope("sdpa", *given), strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=0, atol=0)
            torch.testing.assert_close(func, other, rtol=0, atol=1e-14)
            assert other.grad_fn is None

    def test_a_gradient_that_is_not_there_is_no_second_one(self) -> None:
        # gradcheck passes undefined gradients too.
        q, k, v = (x.requires_grad_() for x in tensors()[0])
        assert torch.autograd.gradcheck(lambda *x: torch_scalar("sdpa", *x), (q, k, v))

    @forward_mode
    @pytest.mark.parametrize("kernel", ["sdpa", "flex"])
    @pytest.mark.parametrize("which", [0, 1, 2, 3])
    def test_a_tangent_of_any_input_is_refused(self, kernel: str, which: int) -> None:
        given, step = tensors()
        given, step = [*given, torch.zeros(3, 3, dtype=torch.float64)], [*step, torch.ones(3, 3, dtype=torch.float64)]

        def call(x: Tensor) -> Tensor:
            q, k, v, bias = [x if i == which else other for i, other in enumerate(given)]
            return torch_impl.dot_product_attention(q, k, v, bias=bias, implementation=kernel)

        with pytest.raises(KernelRefused, match=f"^kernel '{kernel}' refuses: has no forward-mode derivative$"):
            _ = torch.func.jvp(call, (given[which],), (step[which],))
