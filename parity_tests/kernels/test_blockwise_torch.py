"""The blockwise kernel in torch equals the formula for any mask, and never reads masked values.

union of blocks = what is allowed, each score once        attention(blocks) = attention(mask)        for every tile
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # the documented way to watch operators has no public name
from torch.utils._pytree import tree_map_only

from attention import spec
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused
from attention.spec.masks.algebra import Mask, evaluate
from attention.spec.masks.tile_schedule import FULL, PARTIAL
from attention.torch_impl import dot_product_attention
from attention.torch_impl.attend import make_request
from attention.torch_impl.kernels.blockwise import Blockwise, compiled, flash, passes
from attention.torch_impl.kernels.blockwise.call import Limits
from attention.torch_impl.kernels.blockwise.plan import Part, plan
from attention.torch_impl.kernels.blockwise.tile_grid import TRIANGLE
from attention.torch_impl.kernels.reference import Reference
from parity_tests.support.drawn_masks import Drawn, of, sized, table

B, N, H, K, D = 2, 23, 4, 2, 4
IDS = np.sort(np.random.default_rng(0).integers(0, 4, (B, N)), -1)
SHUFFLED = np.random.default_rng(1).permutation(N)[None]

MASKS: dict[str, Mask | None] = {
    "none": None,
    "causal": spec.Causal(),
    "window": spec.Window(before=5, after=0),
    "both sides": spec.Window(before=3, after=4),
    "window with holes": spec.Window(before=5, after=0) & spec.DenseMask(np.random.default_rng(3).random((N, N)) > 0.3),
    "wide window": spec.Window(before=14, after=0),
    "documents": spec.Segments(kv=IDS),
    "causal documents": spec.Segments(kv=IDS) & spec.Causal(),
    "lengths": spec.Lengths(kv=[N, 9], q=[20, N]),
    "left padding": spec.Lengths(kv=[17, 0], padding="left") & spec.Causal(),
    "prefix": spec.Causal() | spec.Prefix(9),
    "chunks": spec.Chunked(size=8) & spec.Causal(),
    "dense": spec.DenseMask(np.random.default_rng(2).random((B, H, N, N)) > 0.5),
    "heads": spec.PerHead((spec.Causal(), spec.Causal(), spec.Window(before=3, after=0), spec.Prefix(5))),
    "heads of one group": spec.PerHead((spec.Causal(), spec.Prefix(3), spec.Window(before=3, after=0), spec.Prefix(5))),
    "rows": spec.PerRow((spec.Causal(), spec.Prefix(5))),
    "placed": spec.Placed(spec.Causal(), np.arange(N)[None], SHUFFLED),
    "not": ~spec.Causal(),
}
each_mask = pytest.mark.parametrize("name", MASKS)
# Fused blocks, and plain products in squares of at most 7 x 7 and some two hundred scores at once.
KERNELS = {"fused": Blockwise(tile=4), "products": Blockwise(tile=4, fused=False, most=200, side=7)}


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def qkv(t: int = N, s: int = N, width: int = D) -> list[Tensor]:
    return [numbers(0, B, t, H, D), numbers(1, B, s, K, D), numbers(2, B, s, K, width)]


def answer(kernel: Any, given: list[Tensor], mask: Mask | None, **options: Any) -> list[Tensor]:
    """Return context, logsumexp, and the gradients of a scalar of both with respect to every tensor."""
    leaves = [x.clone().requires_grad_() for x in given]
    named = {
        n: x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for n, x in options.items()
    }
    request = make_request(*leaves[:3], mask=mask, intermediates=("logsumexp",), **named)
    assert kernel.refuses(request) is None
    made = kernel.run(request)
    context, lse = made["context"], made["logsumexp"]
    scalar = context.sin().sum() + torch.where(lse == -torch.inf, 0.0, lse).cos().sum()
    leaves += [x for x in named.values() if isinstance(x, Tensor) and x.requires_grad]
    return [context.detach(), lse.detach(), *torch.autograd.grad(scalar, leaves)]


def same(kernel: Any, given: list[Tensor], mask: Mask | None, **options: Any) -> None:
    """Raise unless the kernel answers as the formula does, up to the rounding of float64."""
    wanted = answer(Reference(), given, mask, **options)
    for one, other in zip(answer(kernel, given, mask, **options), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * max(1.0, float(other[other.isfinite()].abs().max())))


def sums(blocks: tuple[Part, ...], mask: Mask | None, sizes: Sizes) -> np.ndarray:
    """Return how many blocks compute each score as one that is allowed."""
    counted = np.zeros((int(np.prod(sizes.batch)), *sizes.scores[-3:]), int)
    seen = evaluate(mask, sizes)
    exact = np.broadcast_to(np.ones((), bool) if seen is None else seen, sizes.scores).reshape(counted.shape)
    for part in blocks:
        heads = slice(part.heads[0] * sizes.group, part.heads[1] * sizes.group)
        for block in part.blocks:
            for i in range(block.count):
                t, s = block.t + i * block.step[0], block.s + i * block.step[1]
                at = (slice(*part.rows), heads, slice(t, t + block.queries), slice(s, s + block.keys))
                shown = np.tri(block.queries, block.keys, dtype=int) if block.kind == TRIANGLE else np.ones((), int)
                counted[at] += exact[at] if block.kind == PARTIAL else shown
    return counted


class TestLaws:
    @pytest.mark.parametrize("tile", [1, 2, 5])
    def test_blocks_are_what_is_allowed_each_score_once(self, tile: int) -> None:
        @settings(max_examples=80)
        @given(sized)
        def holds(drawn: Drawn) -> None:
            (t, s), (mask, _) = drawn
            sizes = of(t, s, heads=2)
            blocks = plan(mask.map(np.asarray), sizes, tile)
            allowed = table(mask, sizes)
            np.testing.assert_array_equal(sums(blocks, mask, sizes), allowed.reshape(-1, 2, t, s))
            # Of masks whose arrays are not known, no fewer scores are computed.
            unknown = plan(mask.map(np.asarray), sizes, tile, known=False)
            np.testing.assert_array_equal(sums(unknown, mask, sizes), allowed.reshape(-1, 2, t, s))

        holds()

    @each_mask
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_any_mask_is_the_formula_with_every_gradient(self, kernel: str, name: str) -> None:
        same(KERNELS[kernel], qkv(), MASKS[name])

    @each_mask
    def test_with_every_option_at_once_too(self, name: str) -> None:
        options = {"softcap": 2.0, "dropout_rate": 0.3, "dropout_seed": 5, "bias": numbers(3, H, N, N), "sinks": numbers(4, H)}
        same(KERNELS["products"], qkv(width=5), MASKS[name], **options)

    @pytest.mark.parametrize("shape", [(), (N,), (N, 1), (H, 1, N), (B, 1, N, N), (B, H, N, N)], ids=str)
    def test_a_bias_is_added_where_it_is_and_gets_its_gradient(self, shape: tuple[int, ...]) -> None:
        same(KERNELS["fused"], qkv(), MASKS["causal documents"], bias=numbers(3, *shape), sinks=numbers(4, H))

    @pytest.mark.parametrize(
        ("t", "s", "mask"),
        [
            (9, N, spec.Causal(align="end")),
            (N, 9, spec.Causal(align="end")),
            (N, 9, spec.Causal(align="start")),
            (9, N, spec.Window(before=4, after=1, align="end")),
            (9, N, spec.Causal(query_positions=np.arange(9) + 7)),
            (9, N, spec.Chunked(size=4, align="end") & spec.Causal(align="end")),
            (0, N, spec.Prefix(3)),
            (9, 0, spec.Prefix(0)),
        ],
        ids=str,
    )
    def test_queries_and_keys_may_differ_in_number(self, t: int, s: int, mask: Mask) -> None:
        given = qkv(t, s)
        (got, _), (wanted, _) = (
            (x[0], x[1]) for x in (answer(kernel, given, mask) for kernel in (KERNELS["fused"], Reference()))
        )
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)
        if t and s:
            same(KERNELS["fused"], given, mask)
            same(KERNELS["products"], given, mask)

    def test_dropout_drops_the_same_weights_whatever_the_blocks(self) -> None:
        given, mask = qkv(), MASKS["wide window"]
        kernels = [Blockwise(tile=tile, most=most, side=side) for tile, most, side in ((3, 100, 3), (8, 10**6, 64))]
        one, other = (answer(kernel, given, mask, dropout_rate=0.5, dropout_seed=1)[0] for kernel in kernels)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
        whole = answer(kernels[0], given, mask)[0]
        assert (one - whole).abs().max() > 0.1

    @pytest.mark.parametrize("name", ["lengths", "left padding", "documents", "dense"])
    def test_nan_where_nobody_looks_reaches_nothing(self, name: str) -> None:
        mask = MASKS[name]
        assert mask is not None
        mask = mask & spec.DenseMask((np.arange(N) != 6) & (np.arange(N) != 5)[:, None])
        q, k, v = qkv()
        allowed = np.broadcast_to(np.asarray(evaluate(mask, Sizes((B,), N, N, H, K, D, D))), (B, H, N, N))
        rows: Any = allowed.any(-1)
        seen: Any = allowed.reshape(B, K, -1, N).any(-2)
        lost = [torch.as_tensor(~x.swapaxes(1, 2))[..., None] for x in (rows, seen)]
        sick = [torch.where(lost[0], torch.nan, q), torch.where(lost[1], torch.inf, k), torch.where(lost[1], torch.nan, v)]
        for kernel in KERNELS.values():
            for one, other in zip(answer(kernel, sick, mask), answer(kernel, [q, k, v], mask), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_strides_of_any_kind_are_read(self) -> None:
        q, k, v = qkv()
        odd = [
            q.mT.contiguous().mT,
            k.flip(1).flip(1)[:, :, :1].expand(B, N, K, D),
            v.transpose(1, 2).contiguous().transpose(1, 2),
        ]
        same(KERNELS["fused"], odd, MASKS["window"])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_sums_of_halves_run_in_float32(self, dtype: torch.dtype) -> None:
        # 4,096 keys in nine blocks: a sum in bfloat16 would stay at 256.
        ones = torch.ones(4096, 1, 1, dtype=dtype).requires_grad_()
        zeros = torch.zeros(4096, 1, 1, dtype=dtype)
        for kernel in (Blockwise(tile=512), Blockwise(tile=512, fused=False, side=512)):
            out = kernel.run(make_request(zeros, zeros, ones, spec.Causal()))["context"]
            torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=0)
            (slope,) = torch.autograd.grad(out[-1:].expand(512, 1, 1).sum(), ones)
            torch.testing.assert_close(slope, torch.full_like(slope, 512 / 4096), rtol=0, atol=0)


class TestValues:
    S: Any = Sizes((1,), 64, 64, 1, 1, 1, 1)

    def blocks(self, mask: Mask, sizes: Sizes | None = None, tile: int = 8) -> list[tuple[int, ...]]:
        (part,) = plan(mask, sizes or self.S, tile)
        return [(p.kind, p.t, p.queries, p.s, p.keys, p.count) for p in part.blocks]

    def test_structured_masks_are_few_large_blocks(self) -> None:
        assert self.blocks(spec.Causal()) == [(TRIANGLE, 0, 64, 0, 64, 1)]
        assert self.blocks(spec.Lengths(kv=np.array([21]))) == [(FULL, 0, 64, 0, 21, 1)]
        assert self.blocks(spec.Causal() | spec.Prefix(21)) == [(FULL, 0, 64, 0, 21, 1), (TRIANGLE, 21, 43, 21, 43, 1)]
        ends = Sizes((1,), 24, 64, 1, 1, 1, 1)
        assert self.blocks(spec.Causal(align="end"), ends) == [(FULL, 0, 24, 0, 40, 1), (TRIANGLE, 0, 24, 40, 24, 1)]
        assert self.blocks(spec.Chunked(size=16)) == [(FULL, 0, 16, 0, 16, 4)]
        assert self.blocks(spec.Chunked(size=16) & spec.Causal()) == [(TRIANGLE, 0, 16, 0, 16, 4)]

    def test_documents_are_a_square_each(self) -> None:
        ids = np.repeat([0, 1, 2], [11, 30, 23])[None]
        assert sorted(self.blocks(spec.Segments(kv=ids))) == [(FULL, t, n, t, n, 1) for t, n in ((0, 11), (11, 30), (41, 23))]

    def test_a_window_is_one_block_many_times(self) -> None:
        window = spec.Window(before=8, after=0)
        assert self.blocks(window) == [(PARTIAL, 8, 8, 0, 16, 7), (TRIANGLE, 0, 8, 0, 8, 1)]

    def test_no_call_makes_more_scores_than_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []
        forward = passes.products.forward

        def watched(rule: Any, q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            made.append(q.shape[:-1].numel() * k.shape[-2])
            return forward(rule, q, k, *rest)

        monkeypatch.setattr(passes.products, "forward", watched)
        for mask in (None, spec.Causal(), spec.Window(before=30, after=0)):
            kernel = Blockwise(tile=16, fused=False, most=8 * 16 * 16, side=16)
            given = [numbers(i, 1, 128, 2, 4) for i in range(3)]
            _ = kernel.run(make_request(*given, mask=mask))
        assert max(made) <= 8 * 16 * 16
        assert len(made) > 20


class TestGradients:
    def scalar(self, *given: Tensor, mask: Mask | None = None, **options: Any) -> Tensor:
        return dot_product_attention(*given, mask=mask, implementation="blockwise", **options).sin().sum()

    def test_torch_func_gives_autograds_gradients(self) -> None:
        given, mask = qkv(), MASKS["causal documents"]
        leaves = [x.clone().requires_grad_() for x in given]
        wanted = torch.autograd.grad(self.scalar(*leaves, mask=mask), leaves)
        for got, one in zip(torch.func.grad(partial(self.scalar, mask=mask), (0, 1, 2))(*given), wanted, strict=True):
            torch.testing.assert_close(got, one, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("name", ["documents", "window", "rows", "lengths"])
    def test_vmap_is_a_loop_with_its_gradients(self, name: str) -> None:
        given = [torch.stack([x, 2 * x, -x]) for x in qkv()]
        bias, sinks = numbers(5, 3, N, N), numbers(6, H)

        def one(*x: Tensor) -> Tensor:
            return self.scalar(*x[:3], mask=MASKS[name], bias=x[3], sinks=x[4], dropout_rate=0.2, dropout_seed=3)

        slopes = torch.func.grad(one, (0, 1, 2, 3, 4))
        got = torch.func.vmap(slopes, (0, 0, 0, 0, None))(*given, bias, sinks)
        loops = [slopes(*(x[i] for x in (*given, bias)), sinks) for i in range(3)]
        for together, apart in zip(got, zip(*loops, strict=True), strict=True):
            torch.testing.assert_close(together, torch.stack(apart), rtol=0, atol=1e-13)

    def test_what_wants_no_gradient_gets_none(self) -> None:
        q, k, v = qkv()
        out = dot_product_attention(q, k.requires_grad_(), v, bias=numbers(3, N, N), implementation="blockwise")
        _ = out.sum().backward()
        assert (q.grad, v.grad) == (None, None)
        assert k.grad is not None

    @pytest.mark.parametrize(
        "mask", [spec.Lengths(kv=[6, 4], q=[N, 3]), spec.Segments(kv=[[0] * 9 + [-1] * (N - 9)] * 2)], ids=repr
    )
    def test_what_is_said_of_an_empty_row_reaches_nothing(self, mask: Mask) -> None:
        leaves = [x.requires_grad_() for x in qkv()]
        out = dot_product_attention(*leaves, mask=mask, implementation="blockwise")
        said = torch.ones_like(out)
        said[1, 9:] = torch.nan
        assert all(x.isfinite().all() for x in torch.autograd.grad(out, leaves, said))

    def test_a_sink_of_nothing_beside_an_empty_row_has_no_slope(self) -> None:
        sinks = torch.tensor([0.0, -torch.inf, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
        out = dot_product_attention(*qkv(), mask=spec.Lengths(kv=[6, 0]), sinks=sinks, implementation="blockwise")
        (slope,) = torch.autograd.grad(out.sum(), sinks)
        assert slope.isfinite().all()
        assert slope[1] == 0

    def test_vmap_has_axes_of_size_0(self) -> None:
        for shape in ((3, 0, 5, 4, 8), (3, 2, 0, 4, 8)):
            scalar = torch.func.grad(lambda x: self.scalar(x, x, x))
            assert torch.func.vmap(scalar)(torch.zeros(shape)).shape == shape


class TestCompile:
    """A graph holds the kernel as one operator, whose blocks follow the mask that comes in."""

    def call(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, sinks: Tensor, *, mask: Mask | None) -> Tensor:
        return dot_product_attention(q, k, v, mask=mask, bias=bias, sinks=sinks, implementation="blockwise")

    def test_new_lengths_are_no_new_compilation_and_gradients_are_eagers(self) -> None:
        torch.compiler.reset()
        compiled = torch.compile(self.call, fullgraph=True, backend="aot_eager")
        leaves = [x.requires_grad_() for x in (*qkv(), numbers(3, N, N), numbers(4, H))]
        for lengths in ([5, 9], [N, 0], [1, 20]):
            mask = spec.Lengths(kv=torch.tensor(lengths)) & spec.Causal()
            with torch.compiler.set_stance("default" if lengths == [5, 9] else "fail_on_recompile"):
                got, wanted = (call(*leaves, mask=mask) for call in (compiled, self.call))
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)
            slopes = (torch.autograd.grad(out.sin().sum(), leaves) for out in (got, wanted))
            for one, other in zip(*slopes, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-14)

    def test_a_graph_knows_the_shape_and_dtype_of_all_that_the_operator_makes(self) -> None:
        called: list[Any] = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = func(*args, **(kwargs or {}))
                if "attention" in func.name():
                    called.append((func, args, made))
                return made

        leaves = [
            x.requires_grad_() for x in (*(x.bfloat16() for x in qkv()), numbers(3, N, N).bfloat16(), numbers(4, H).float())
        ]
        q, k, v, bias, sinks = leaves
        request = make_request(q, k, v, spec.Causal(), bias, sinks=sinks)
        folded = q.reshape(B, N, K, H // K, D), k, v, bias.reshape(1, N, 1, 1, N), sinks.reshape(1, 1, K, H // K)
        with Watch():
            out, _ = compiled.attention(Limits(None, 2**21, 512, True), request, False, *folded)
            _ = torch.autograd.grad(out.sum(), leaves)
        assert [func.name() for func, *_ in called] == ["attention::blockwise", "attention::blockwise_backward"]
        for func, args, made in called:
            said = func(*tree_map_only(Tensor, lambda x: x.to("meta"), args))
            assert [(x.shape, x.dtype) for x in said] == [(x.shape, x.dtype) for x in made]

    def test_every_kind_of_mask_goes_into_a_graph_in_words(self) -> None:
        given = [*qkv(), numbers(3, N, N), numbers(4, H)]
        for name in ("none", "prefix", "heads of one group", "placed", "rows", "documents"):
            mask = MASKS[name] if MASKS[name] is None or MASKS[name].is_static else MASKS[name].map(torch.as_tensor)  # pyright: ignore[reportOptionalMemberAccess]
            torch.compiler.reset()
            compiled = torch.compile(self.call, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(*given, mask=mask), self.call(*given, mask=mask), rtol=0, atol=0)


class TestRefusals:
    @pytest.mark.parametrize("which", range(4))
    def test_a_second_derivative_is_refused_in_our_words(self, which: int) -> None:
        given = [*qkv(), numbers(3, N, N)]
        inputs = [x.requires_grad_(i == which) for i, x in enumerate(given)]
        out = dot_product_attention(*inputs[:3], bias=inputs[3], implementation="blockwise")
        (slope,) = torch.autograd.grad(out.sin().sum(), inputs[which], create_graph=True)
        text = "kernel 'blockwise' refuses: has no second derivative; implementation='reference' has"
        with pytest.raises(KernelRefused, match=f"^{re.escape(text)}$"):
            _ = torch.autograd.grad(slope.square().sum(), inputs[which])

    def test_two_levels_of_torch_func_are_refused(self) -> None:
        q, k, v = qkv()

        def slope(x: Tensor) -> Tensor:
            return torch.func.grad(lambda y: dot_product_attention(y, k, v, implementation="blockwise").sin().sum())(x)

        with pytest.raises(KernelRefused, match=r"^kernel 'blockwise' refuses: has no second derivative$"):
            _ = torch.func.grad(lambda x: slope(x).sum())(q)

    def test_a_function_of_the_scores_is_refused(self) -> None:
        with pytest.raises(KernelRefused, match=r"^kernel 'blockwise' refuses: has no score_mod$"):
            _ = dot_product_attention(*qkv(), score_mod=lambda x, *_: x, implementation="blockwise")

    def test_a_mask_that_vmap_holds_is_refused(self) -> None:
        q, k, v = qkv()

        def one(q: Tensor, k: Tensor, v: Tensor, kv: Tensor) -> Tensor:
            return dot_product_attention(q, k, v, mask=spec.Lengths(kv=kv), implementation="blockwise")

        with pytest.raises(KernelRefused, match="does not support a mask under vmap"):
            _ = torch.func.vmap(one)(q, k, v, torch.tensor([3, 4]))


class TestFlash:
    @pytest.mark.parametrize("scale", [0.7, -0.7, 0.0])
    def test_a_triangle_is_its_mask_whatever_the_sign_of_the_scale(self, scale: float) -> None:
        q, k, v, g = torch.randn(4, 1, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        added = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
        masks = ((added.expand(1, 2, 5, 5), False), (None, True))
        (out, lse), got = (flash.forward(q, k, v, scale, *mask) for mask in masks)
        torch.testing.assert_close(got, (out, lse))
        wanted, found = (flash.backward(g, q, k, v, out, lse, scale, *mask) for mask in masks)
        torch.testing.assert_close(found, wanted)
