"""Layers under the transforms of PyTorch: compile, func, export, autocast, copy, pickle.

transformed(layer)(x) = layer(x)        to rounding, and bit for bit where nothing is recomputed
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vjp, vmap

from attention import spec, torch_impl
from attention.spec.masks.algebra import Mask
from attention.torch_impl import MultiHeadAttention, dot_product_attention
from parity_tests.support.backends import KERNELS, TORCH

B, T, M, H, K, D = 3, 5, 12, 4, 2, 6
CONTRACT = spec.MultiHeadAttention(
    M, H, K, head_dim=D, mask=spec.Causal(), positions=spec.Rotary(), softcap=20.0, dropout_rate=0.0
)
PLAIN = spec.MultiHeadAttention(M, H, K, head_dim=D, mask=spec.Causal())

# torch.func's forward mode loads decompositions that torch itself still writes as TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
# flex has no gradient on a CPU and no torch.func; its own file asks it what it can.
each_kernel = pytest.mark.parametrize("kernel", [x.name for x in KERNELS if x.backend is TORCH and x.name != "flex"])


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(contract: spec.MultiHeadAttention = CONTRACT, seed: int = 0) -> MultiHeadAttention:
    return MultiHeadAttention(contract, seed=seed, dtype="float64")


def lengths(*kv: int) -> spec.Lengths:
    return spec.Lengths(kv=torch.tensor(kv))


def qkv(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(numbers(i, B, T, heads, 4).to(dtype) for i, heads in enumerate((H, K, K)))


def same(got: Any, wanted: Any, within: float = 1e-14) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=within * max(1.0, float(wanted.detach().abs().max())))


class Counter:
    """A backend that runs the graph as it is and counts how often it is asked to compile."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        self.compiled += 1
        return graph.forward


def compiled(function: Callable[..., Any]) -> tuple[Callable[..., Any], Counter]:
    torch.compiler.reset()
    counter = Counter()
    return torch.compile(function, fullgraph=True, backend=counter), counter


class TestCompile:
    def test_a_mask_is_an_argument_and_new_lengths_do_not_recompile(self) -> None:
        module, x = layer(), numbers(0, B, T, M)
        fast, counter = compiled(module)
        for mask in (lengths(5, 2, 1), lengths(1, 4, 0), lengths(0, 0, 5)):
            torch.testing.assert_close(fast(x, mask=mask), module(x, mask=mask), rtol=0, atol=0)
        assert counter.compiled == 1

    @pytest.mark.parametrize(
        "mask",
        [
            lengths(5, 2, 1) & ~spec.Prefix(1) | spec.Window(before=1, after=0),
            spec.Segments(kv=torch.tensor([[0, 0, 1, 1, -1]] * B)),
            spec.DenseMask(numbers(1, T, T) > 0),
            spec.Chunked(size=2),
        ],
        ids=["algebra", "segments", "dense", "chunked"],
    )
    def test_every_kind_of_mask_compiles(self, mask: Mask) -> None:
        module, x = layer(PLAIN), numbers(0, B, T, M)
        torch.testing.assert_close(compiled(module)[0](x, mask=mask), module(x, mask=mask), rtol=0, atol=0)

    def test_intermediates_and_a_bias_compile(self) -> None:
        module, x, bias = layer(), numbers(0, B, T, M), numbers(1, H, T, T)
        fast, counter = compiled(module)
        got, intermediates = fast(x, bias=bias, return_intermediates=("weights", "logsumexp"))
        wanted, every_intermediate = module(x, bias=bias, return_intermediates=("weights", "logsumexp"))
        torch.testing.assert_close((got, intermediates), (wanted, every_intermediate), rtol=0, atol=0)
        assert counter.compiled == 1

    def test_a_seed_in_a_tensor_does_not_recompile(self) -> None:
        q, k, v = qkv()

        def drop(seed: Tensor) -> Tensor:
            return dot_product_attention(q, k, v, dropout_rate=0.5, dropout_seed=seed)

        fast, counter = compiled(drop)
        for seed in (0, 7, 2**31):
            wanted = dot_product_attention(q, k, v, dropout_rate=0.5, dropout_seed=seed)
            torch.testing.assert_close(fast(torch.tensor(seed)), wanted, rtol=0, atol=0)
        assert counter.compiled == 1

    def test_training_with_dropout_draws_anew_inside_the_graph(self) -> None:
        module = layer(spec.MultiHeadAttention(M, H, dropout_rate=0.5))
        fast, counter = compiled(module)
        x = numbers(0, B, T, M)
        first, second = fast(x), fast(x)
        assert not torch.equal(first, second)
        assert counter.compiled == 1

    # Inductor starts a C++ compiler. Its own imports still write TorchScript.
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
    def test_inductor_gives_the_outputs_and_gradients_of_eager(self) -> None:
        torch.compiler.reset()
        module, x, mask = layer(), numbers(0, B, T, M), lengths(5, 2, 0)
        fast = torch.compile(module, fullgraph=True)
        found: list[list[Tensor]] = []
        for run in (fast, module):
            leaf = x.clone().requires_grad_()
            output = run(leaf, mask=mask)
            grads = torch.autograd.grad(output.cos().sum(), [leaf, *module.parameters()])
            found.append([output.detach(), *grads])
        for got, wanted in zip(*found, strict=True):
            same(got, wanted, 1e-13)


class TestFunc:
    def test_vmap_over_rows_and_their_lengths_is_the_batch(self) -> None:
        module, x, mask = layer(), numbers(0, B, T, M), lengths(5, 2, 0)
        got = vmap(lambda row, m: module(row, mask=m))(x, mask)
        same(got, module(x, mask=mask))

    @pytest.mark.parametrize("kernel", ["sdpa", "reference"])
    def test_vmap_over_the_batch_is_the_batch(self, kernel: str) -> None:
        q, k, v = qkv()
        one = vmap(lambda a, b, c: dot_product_attention(a, b, c, mask=spec.Causal(), implementation=kernel))
        same(one(q, k, v), dot_product_attention(q, k, v, mask=spec.Causal()))

    @each_kernel
    def test_grad_is_autograds(self, kernel: str) -> None:
        q, k, v = qkv()

        def scalar(*given: Tensor) -> Tensor:
            return dot_product_attention(*given, mask=lengths(5, 2, 0), implementation=kernel).cos().sum()

        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        wanted = torch.autograd.grad(scalar(*leaves), leaves)
        for got, one in zip(grad(scalar, argnums=(0, 1, 2))(q, k, v), wanted, strict=True):
            same(got, one)

    @forward_mode
    def test_jvp_is_the_transpose_of_vjp(self) -> None:
        given, steps = qkv(), [numbers(10 + i, *x.shape) for i, x in enumerate(qkv())]

        def call(*inputs: Tensor) -> Tensor:
            return dot_product_attention(*inputs, mask=spec.Causal() & lengths(5, 2, 0))

        ahead = jvp(call, given, tuple(steps))[1]
        along = numbers(20, *ahead.shape)
        back = vjp(call, *given)[1](along)
        pulled = sum((g * step).sum() for g, step in zip(back, steps, strict=True))
        assert ahead.abs().max() > 0.1
        same((ahead * along).sum(), pulled)

    @forward_mode
    def test_forward_mode_leaves_the_fused_kernel_and_says_why(self) -> None:
        refusals: list[tuple[tuple[str, str], ...]] = []

        def call(*given: Tensor) -> Tensor:
            refusals.append(torch_impl.explain(*given).refusals)
            return given[0]

        _ = jvp(call, qkv(), qkv())
        assert refusals == [(("sdpa", "has no forward-mode derivative"),)]

    def test_stacked_weights_are_the_layers_in_turn(self) -> None:
        layers = [layer(seed=seed) for seed in range(3)]
        stacked, buffers = stack_module_state(layers)  # pyright: ignore[reportArgumentType]  # it wants a list of Module
        x, bare = numbers(0, B, T, M), layer(seed=9)
        got = vmap(lambda p, b: functional_call(bare, (p, b), (x,)))(stacked, buffers)
        same(got, torch.stack([one(x) for one in layers]))

    def test_per_example_gradients_are_those_of_each_example(self) -> None:
        module, x = layer(), numbers(0, B, T, M)
        parameters = {name: p.detach() for name, p in module.named_parameters()}

        def loss(p: dict[str, Tensor], row: Tensor, mask: Mask) -> Tensor:
            return functional_call(module, p, (row,), {"mask": mask}).cos().sum()

        got = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, lengths(5, 2, 1))
        for i, kv in enumerate((5, 2, 1)):
            for name, one in grad(loss)(parameters, x[i], spec.Lengths(kv=torch.tensor(kv))).items():
                same(got[name][i], one, 1e-13)


class TestSecondDerivatives:
    def small(self) -> tuple[Tensor, ...]:
        return tuple(numbers(i, 2, 3, heads, 2).requires_grad_() for i, heads in enumerate((2, 1, 1)))

    @forward_mode
    @pytest.mark.parametrize("rate", [0.0, 0.5])
    def test_the_references_first_and_second_derivatives_are_finite_differences(self, rate: float) -> None:
        seen = torch.ones(2, 1, 3, 3, dtype=torch.bool)
        seen[1, :, 1] = False
        mask = spec.Lengths(kv=[3, 2]) & spec.DenseMask(seen)

        def call(*given: Tensor) -> Tensor:
            q, k, v, bias, sinks = given
            options: dict[str, Any] = {"dropout_rate": rate, "dropout_seed": 3, "softcap": 2.0}
            return dot_product_attention(q, k, v, mask=mask, bias=bias, sinks=sinks, implementation="reference", **options)

        given = (*self.small(), numbers(8, 2, 3, 3).requires_grad_(), numbers(9, 2).requires_grad_())
        assert torch.autograd.gradcheck(call, given, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, given)

    @forward_mode
    def test_jvp_of_grad_is_grad_of_grad(self) -> None:
        q, k, v = (x.detach() for x in self.small())
        step = numbers(7, *q.shape)

        def slope(x: Tensor) -> Tensor:
            return grad(lambda y: dot_product_attention(y, k, v, mask=spec.Causal(), implementation="reference").cos().sum())(x)

        ahead = jvp(slope, (q,), (step,))[1]
        same(ahead, grad(lambda x: (slope(x) * step).sum())(q))
        assert ahead.abs().max() > 1e-3


class TestExport:
    class Padded(torch.nn.Module):
        def __init__(self, contract: spec.MultiHeadAttention) -> None:
            super().__init__()
            self.attention = layer(contract)

        def forward(self, x: Tensor, mask: Mask) -> Tensor:
            return self.attention(x, mask=mask)

    def test_static_shapes(self) -> None:
        module, x = layer(), numbers(0, B, T, M)
        program = torch.export.export(module, (x,))
        torch.testing.assert_close(program.module()(x), module(x), rtol=0, atol=0)

    # Grouped heads stay out of the formula's kernel here: torch cannot see that its fold of T x T scores is contiguous.
    @pytest.mark.parametrize(
        "contract",
        [PLAIN, spec.MultiHeadAttention(M, H, softcap=20.0, mask=spec.Causal(), positions=spec.Rotary(rotary_dim=2))],
        ids=["fused", "formula"],
    )
    def test_dynamic_shapes_and_lengths_as_an_input(self, contract: spec.MultiHeadAttention) -> None:
        module, mask = self.Padded(contract), lengths(5, 2, 0)
        batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=512)
        shapes = {"x": {0: batch, 1: length}, "mask": [{0: batch}]}
        program = torch.export.export(module, (numbers(0, B, T, M), mask), dynamic_shapes=shapes)
        file = io.BytesIO()
        torch.export.save(program, file)
        _ = file.seek(0)
        loaded = torch.export.load(file)
        for size, t, kv in ((3, 5, (1, 4, 5)), (2, 11, (11, 0)), (4, 3, (1, 2, 3, 0))):
            x, wanted = numbers(size, size, t, M), lengths(*kv)
            for one in (program, loaded):
                torch.testing.assert_close(one.module()(x, wanted), module(x, wanted), rtol=0, atol=1e-14)


class TestAutocast:
    @each_kernel
    def test_autocast_is_the_layer_in_bfloat16(self, kernel: str) -> None:
        module = MultiHeadAttention(PLAIN)
        x, mask = numbers(0, B, T, M).float(), lengths(5, 2, 0)
        low = MultiHeadAttention(PLAIN, dtype="bfloat16")
        low.load_weights(spec.cast(module.weights(), "bfloat16"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = module(x, mask=mask, implementation=kernel)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, low(x.bfloat16(), mask=mask, implementation=kernel), rtol=0, atol=0)

    def test_softmax_stays_in_float32_under_autocast(self) -> None:
        q, k, v = (x.float() for x in qkv())
        wanted = dot_product_attention(q, k, v, implementation="reference")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = dot_product_attention(q, k, v, implementation="reference")
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)

    def test_gradients_come_back_in_the_parameters_dtype(self) -> None:
        module = MultiHeadAttention(CONTRACT)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _ = module(numbers(0, B, T, M).float()).float().sum().backward()
        assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


class TestCopies:
    def equal(self, one: MultiHeadAttention, other: MultiHeadAttention) -> None:
        x = numbers(0, B, T, M)
        assert one.contract == other.contract
        torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)

    def test_state_dict_goes_round(self) -> None:
        one, other = layer(seed=1), layer(seed=2)
        assert set(one.state_dict()) == {name.replace(".kernel", ".weight") for name in CONTRACT.params}
        file = io.BytesIO()
        torch.save(one.state_dict(), file)
        _ = file.seek(0)
        report = other.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert report == ([], [])
        self.equal(one, other)

    def test_a_deep_copy_is_equal_and_apart(self) -> None:
        one = layer()
        other = copy.deepcopy(one)
        self.equal(one, other)
        with torch.no_grad():
            _ = other.q_proj.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]  # a submodule by name
        assert one.weights()["q_proj.kernel"].any()

    def test_a_pickle_comes_back(self) -> None:
        one = layer().eval()
        other = pickle.loads(pickle.dumps(one))  # noqa: S301 - written in the same line
        assert not other.training
        self.equal(one, other)

    def test_parameters_are_real_contiguous_and_trainable(self) -> None:
        for p in layer().parameters():
            assert (p.device.type, p.requires_grad, p.is_contiguous()) == ("cpu", True, True)

    def test_dtype_moves_with_the_module(self) -> None:
        module = MultiHeadAttention(CONTRACT)
        wanted = {name: value.astype("float64") for name, value in module.weights().items()}
        module = module.double()
        assert module(numbers(0, B, T, M)).dtype == torch.float64
        for name, value in module.weights().items():
            assert (value == wanted[name]).all()
