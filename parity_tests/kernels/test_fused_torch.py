"""Masks lowered for torch's fused kernels: as small as possible, and always sufficient.

SDPA(told(mask)) = reference(mask)        outputs and gradients, and nothing read that the mask hides
varlen(cu_seqlens(mask)) = reference(mask)        by a stand-in that loops over documents, as FlashAttention's kernel does
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention import spec, torch_impl
from attention.spec.errors import KernelRefused
from attention.torch_impl.attend import make_request
from attention.torch_impl.kernels import lowering
from attention.torch_impl.kernels import sdpa as sdpa_file
from attention.torch_impl.kernels.experimental import varlen
from attention.torch_impl.kernels.experimental.varlen import Packing, Varlen, packing
from attention.torch_impl.kernels.mask_bounds import Box, bounding
from attention.torch_impl.kernels.mask_regions import RECTANGLE, TRIANGLE, shape
from parity_tests.support.drawn_masks import Drawn, of, sized, table

B, H, K, D, E = 2, 4, 2, 6, 6
Seen = list[dict[str, Any]]


def tensors(T: int, S: int, *, batch: tuple[int, ...] = (B,), D: int = D, E: int = E) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((T, H, D), (S, K, D), (S, K, E))
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*batch, *shape, generator=random, dtype=torch.float64) for shape in shapes)
    return q, k, v


def run(name: str, given: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    """Return the context and the gradients of q, k, v and a bias."""
    leaves = [x.clone().requires_grad_() for x in given]
    bias = options.pop("bias", None)
    if bias is not None:
        leaves.append(bias.clone().requires_grad_())
        options["bias"] = leaves[-1]
    out = torch_impl.dot_product_attention(*leaves[:3], implementation=name, **options)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)]


def same(got: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What SDPA was given, call by call."""
    calls: Seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append({"q": q, "k": k, "v": v, **options})
        return scaled_dot_product_attention(q, k, v, **options)

    monkeypatch.setattr(sdpa_file, "scaled_dot_product_attention", spy)
    return calls


@dataclass(frozen=True)
class Told:
    """What SDPA is expected to be told: queries, keys, whether the diagonal, and the shape of a mask."""

    T: int
    S: int
    causal: bool = False
    mask: tuple[int, ...] | None = None


N = 6
GRID = Told(N, N, mask=(1, 1, N, N))
WHOLE, DIAGONAL = Told(N, N), Told(N, N, causal=True)
LOWERINGS: dict[str, tuple[spec.Mask | None, int, Told]] = {
    "nothing": (None, N, WHOLE),
    "causal": (spec.Causal(), N, DIAGONAL),
    "causal, aligned": (spec.Causal(align="end"), N, DIAGONAL),
    "an open window": (spec.Window(before=None, after=0), N, DIAGONAL),
    "a window as long as the keys": (spec.Window(before=N - 1, after=0), N, DIAGONAL),
    "a window too short": (spec.Window(before=N - 2, after=0), N, GRID),
    "a window over everything": (spec.Window(before=N - 1, after=N - 1), N, WHOLE),
    "one chunk": (spec.Chunked(size=N), N, WHOLE),
    "causal in one chunk": (spec.Causal() & spec.Chunked(size=N), N, DIAGONAL),
    "not the future": (~spec.Window(before=None, after=0), N, GRID),
    "the past and itself": (~(~spec.Causal()), N, DIAGONAL),
    "a prefix of one": (spec.Causal() | spec.Prefix(1), N, DIAGONAL),
    "a prefix of two": (spec.Causal() | spec.Prefix(2), N, GRID),
    "every length": (spec.Lengths(kv=[N, N]), N, WHOLE),
    "one document": (spec.Segments([[3] * N] * B), N, WHOLE),
    "one document, causal": (spec.Causal() & spec.Segments([0] * N), N, DIAGONAL),
    "two documents": (spec.Segments([0] * 3 + [1] * 3), N, GRID),
    "one document and padding": (spec.Causal() & spec.Segments([0] * 4 + [-1] * 2), N, Told(4, 4, causal=True)),
    "equal lengths": (spec.Lengths(kv=[4, 4]), N, Told(N, 4)),
    "equal lengths, left": (spec.Lengths(kv=[4, 4], padding="left"), N, Told(N, 4)),
    "equal lengths, both": (spec.Lengths(kv=[4, 4], q=[4, 4]) & spec.Causal(), N, Told(4, 4, causal=True)),
    "equal lengths, both, left": (
        spec.Causal() & spec.Lengths(kv=[4, 4], q=[4, 4], padding="left"),
        N,
        Told(4, 4, causal=True),
    ),
    "lengths": (spec.Lengths(kv=[4, 5]), N, Told(N, 5, mask=(B, 1, 1, 5))),
    "lengths of both": (spec.Lengths(kv=[4, 5], q=[2, 6]), N, Told(N, 5, mask=(B, 1, 1, 5))),
    "lengths, one row empty": (spec.Lengths(kv=[0, 5]), N, Told(N, 5, mask=(B, 1, 1, 5))),
    "causal, queries as long as their keys": (spec.Causal() & spec.Lengths(kv=[3, 5], q=[3, 5]), N, Told(5, 5, causal=True)),
    "causal, queries beyond their keys": (spec.Causal() & spec.Lengths(kv=[3, 5], q=[4, 5]), N, Told(5, 5, mask=(B, 1, 5, 5))),
    "causal, padded on the left": (
        spec.Causal() & spec.Lengths(kv=[3, 5], q=[3, 5], padding="left"),
        N,
        Told(5, 5, mask=(B, 1, 5, 5)),
    ),
    "a step": (spec.Causal(align="end"), 1, Told(1, N)),
    "a step in a window": (spec.Window(before=3, after=0, align="end"), 1, Told(1, 4)),
    "a step in a cache": (spec.Causal(query_positions=[[3], [3]]), 1, Told(1, 4)),
    "few queries at the start": (spec.Causal(align="start"), 4, Told(4, 4, causal=True)),
    "few queries at the end": (spec.Causal(align="end"), 4, Told(4, N, mask=(1, 1, 4, N))),
    "more queries than keys": (spec.Causal(align="end"), 9, Told(N, N, causal=True)),
    "nothing at all": (spec.Prefix(0), N, Told(N, N, mask=(1, 1, 1, N))),
}


class TestLaws:
    @pytest.mark.parametrize("name", LOWERINGS)
    def test_sdpa_is_told_no_more_than_it_needs(self, name: str, seen: Seen) -> None:
        mask, T, told = LOWERINGS[name]
        arrays = tensors(T, N)
        got, wanted = (run(kernel, arrays, mask=mask) for kernel in ("sdpa", "reference"))
        same(got, wanted)
        (call,) = seen
        given, options = call["attn_mask"], call["is_causal"]
        assert Told(call["q"].shape[2], call["k"].shape[2], options, None if given is None else tuple(given.shape)) == told
        assert call["enable_gqa"]
        assert [call[name].shape[1] for name in "qkv"] == [H, K, K]

    @pytest.mark.parametrize("name", LOWERINGS)
    def test_what_the_mask_hides_is_not_read(self, name: str) -> None:
        mask, T, _ = LOWERINGS[name]
        arrays = tensors(T, N)
        allowed = torch.as_tensor(np.array(np.broadcast_to(mask is None or table(mask, of(T, N)), (B, 1, T, N))))
        rows, keys = allowed.any(-1).squeeze(1), allowed.any(-2).squeeze(1)
        q, k, v = (torch.where(x[..., None, None], y, torch.nan) for x, y in zip((rows, keys, keys), arrays, strict=True))
        same(run("sdpa", (q, k, v), mask=mask), run("sdpa", arrays, mask=mask))

    @given(sized)
    def test_a_shape_is_that_of_the_table(self, drawn: Drawn) -> None:
        (T, S), (mask, _) = drawn
        allowed = table(mask, of(T, S))
        for rectangle in (bounding(mask, T, S, np.asarray), Box(0, T, 0, S), Box(T // 2, T, S // 3, S)):
            box = rectangle & Box(0, T, 0, S)
            if rectangle == bounding(mask, T, S, np.asarray):
                outside = allowed.copy()
                outside[..., box.t0 : box.t1, box.s0 : box.s1] = False
                assert not outside.any()
            if box.is_empty:
                continue
            found, inside = shape(mask, T, S, box, np.asarray), allowed[..., box.t0 : box.t1, box.s0 : box.s1]
            below = np.tri(*inside.shape[-2:], k=inside.shape[-1] - inside.shape[-2], dtype=bool)
            assert found is None or (inside == (True if found == RECTANGLE else below)).all()
            # What cannot be looked at may be anything, so it can only make an answer less sure.
            unsure = shape(mask, T, S, box, lambda _: None)
            assert unsure in (None, found)

    @given(sized)
    def test_any_mask_is_what_it_is_to_the_formula(self, drawn: Drawn) -> None:
        (T, S), (mask, _) = drawn
        q, k, v = (x[:, :, :2, :2] for x in tensors(T, S))
        got, wanted = (torch_impl.dot_product_attention(q, k, v, mask=mask, implementation=n) for n in ("sdpa", "reference"))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
    @pytest.mark.parametrize("width", [6, 3, 9])
    def test_a_fused_kernel_takes_every_rank_and_width(self, batch: tuple[int, ...], width: int, seen: Seen) -> None:
        arrays = tensors(N, N, batch=batch, E=width)
        mask = spec.Lengths(kv=np.minimum(np.arange(1, 1 + int(np.prod(batch, dtype=int))).reshape(batch), N))
        for chosen in (spec.Causal(), mask, spec.DenseMask(torch.ones(*batch[-1:], 1, N, N, dtype=torch.bool).tril())):
            same(run("sdpa", arrays, mask=chosen), run("reference", arrays, mask=chosen))
            call = seen.pop()
            options = {name: call[name] for name in ("attn_mask", "is_causal", "enable_gqa")}
            backend = getattr(torch, "_fused_sdp_choice")(*(call[name] for name in "qkv"), **options)  # noqa: B009 - private
            assert backend == torch.nn.attention.SDPBackend.FLASH_ATTENTION.value

    @pytest.mark.parametrize("width", [D, 3, 9])
    def test_one_backward_pass_and_no_more(self, width: int) -> None:
        leaves = [x.requires_grad_() for x in tensors(N, N, E=width)]
        out = torch_impl.dot_product_attention(*leaves, mask=spec.Causal(), implementation="sdpa")
        slopes = torch.autograd.grad(out.sin().sum(), leaves, create_graph=True)
        for slope in slopes:
            with pytest.raises(KernelRefused, match=r"^kernel 'sdpa' refuses: has no second derivative; implementation='ref"):
                _ = torch.autograd.grad(slope.square().sum(), leaves, retain_graph=True)

    @pytest.mark.parametrize("shape", [(), (N,), (N, 1), (H, 1, N), (1, H, N, N), (2, 1, 1, N)], ids=str)
    def test_a_bias_is_not_made_larger(self, shape: tuple[int, ...], seen: Seen) -> None:
        bias = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for mask, size in ((None, bias.numel()), (spec.Lengths(kv=[N, N]), bias.numel()), (spec.Causal(), None)):
            arrays = tensors(N, N)
            same(run("sdpa", arrays, mask=mask, bias=bias), run("reference", arrays, mask=mask, bias=bias))
            call = seen.pop()
            assert not call["is_causal"]
            assert size is None or call["attn_mask"].numel() == size
            assert call["attn_mask"].ndim == 4

    def test_a_bias_goes_with_its_box(self) -> None:
        bias = torch.randn(B, H, N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        mask = spec.Lengths(kv=[4, 3], q=[5, 2], padding="left") & spec.Window(before=3, after=1)
        same(*(run(name, tensors(N, N), mask=mask, bias=bias) for name in ("sdpa", "reference")))

    def test_a_compiler_is_told_by_structure_and_not_by_numbers(self, seen: Seen) -> None:
        arrays = tensors(N, N)
        for mask, causal in ((spec.Causal() & spec.Causal(align="start"), True), (spec.Causal() & spec.Chunked(size=N), False)):
            torch.compiler.reset()

            def call(*given: Tensor, mask: spec.Mask = mask) -> Tensor:
                return torch_impl.dot_product_attention(*given, mask=mask, implementation="sdpa")

            fast = torch.compile(call, backend="eager", fullgraph=True)
            torch.testing.assert_close(fast(*arrays), call(*arrays), rtol=0, atol=1e-14)
            assert [one["is_causal"] for one in seen] == [causal, True]
            seen.clear()

    def test_a_mask_on_an_accelerator_is_lowered_by_what_needs_no_look(self) -> None:
        q, k, v = (x.to("meta") for x in tensors(N, N))
        for mask, told in ((spec.Causal() & spec.Window(before=None, after=N), TRIANGLE), (spec.Lengths(kv=[N, N]), None)):
            made = lowering.lower(make_request(q, k, v, mask), (TRIANGLE,))
            assert (made.diagonal, made.mask is None) == (told, told is not None)


def looped(*arrays: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:
    """Return what FlashAttention's varlen function does: each document alone, the last query at the last key."""
    q, k, v, cu_q, cu_kv, max_q, max_kv = arrays
    assert (cu_q.dtype, cu_kv.dtype) == (torch.int32, torch.int32)
    assert (int(cu_q[-1]), int(cu_kv[-1])) == (len(q), len(k))
    assert q.shape[-1] % 8 == 0
    # What no document writes is anything at all, as where memory is not cleared.
    out = torch.full((*q.shape[:-1], v.shape[-1]), torch.nan, dtype=q.dtype)
    parts: list[Tensor] = []
    for (t0, t1), (s0, s1) in zip(
        *(list(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)) for cu in (cu_q, cu_kv)), strict=True
    ):
        assert 0 <= t1 - t0 <= max_q
        assert 0 <= s1 - s0 <= max_kv
        if t1 > t0 and s1 > s0:
            offset = torch.arange(s1 - s0) - torch.arange(t1 - t0)[:, None] - (s1 - s0) + (t1 - t0)
            before, after = (10**6 if n < 0 else n for n in window_size)
            mask = (offset >= -before) & (offset <= after)
            given = (x.transpose(0, 1)[None] for x in (q[t0:t1], k[s0:s1], v[s0:s1]))
            one = scaled_dot_product_attention(*given, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1)
        else:
            one = out[t0:t1]
        parts.append(one)
    return torch.cat(parts)


STAND_IN = Varlen(attend=lambda: looped, devices=("cpu",), dtypes=("float64",))
PACKED: dict[str, tuple[spec.Mask | None, int, list[int], list[int], tuple[int, int]]] = {
    "rows": (None, N, [0, 6, 12], [0, 6, 12], (-1, -1)),
    "causal rows": (spec.Causal(), N, [0, 6, 12], [0, 6, 12], (-1, 0)),
    "documents": (spec.Segments([[4, 4, 1, 1, 1, 0], [2] * 6]), N, [0, 2, 5, 6, 12], [0, 2, 5, 6, 12], (-1, -1)),
    "documents in a window": (
        spec.Segments([0, 0, 0, 0, 1, 1]) & spec.Causal() & spec.Window(before=2, after=3),
        N,
        [0, 4, 6, 10, 12],
        [0, 4, 6, 10, 12],
        (2, 0),
    ),
    "documents and padding": (
        spec.Causal(align="end") & spec.Segments([[0, 0, -1, -2, 1, 1], [-1, 0, 0, 0, 0, -1]]),
        N,
        [0, 2, 2, 4, 4, 6, 6, 7, 11, 12],
        [0, 2, 4, 4, 6, 6, 7, 7, 11, 11, 12],
        (-1, 0),
    ),
    "lengths": (spec.Lengths(kv=[4, 6]), N, [0, 6, 6, 12], [0, 4, 6, 12], (-1, -1)),
    "lengths of both": (
        spec.Causal() & spec.Lengths(kv=[4, 0], q=[4, 0]),
        N,
        [0, 4, 6, 6, 12, 12],
        [0, 4, 4, 6, 6, 12],
        (-1, 0),
    ),
    "lengths on the left": (spec.Lengths(kv=[4, 6], q=[2, 3], padding="left"), N, [], [], (-1, -1)),
    "documents across": (spec.Segments(kv=[0, 0, 1, 3, 3, 3], q=[0, 1, 1, 2, 3]), 5, [], [], (-1, -1)),
    "documents of padded rows": (spec.Segments([0, 0, 1, 1, 2, 2]) & spec.Lengths(kv=[5, 2]), N, [], [], (-1, -1)),
}


class TestValues:
    @pytest.mark.parametrize("name", PACKED)
    def test_documents_are_counted_and_answered(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(torch_impl.kernels.KERNELS, "varlen", STAND_IN)
        mask, T, cu_q, cu_kv, window = PACKED[name]
        arrays = tensors(T, N, E=5)
        found = packing(make_request(*arrays, mask=mask))
        assert isinstance(found, Packing)
        assert found.window == window
        if cu_q and name not in ("documents and padding", "lengths of both"):
            assert (found.cu_q.tolist(), found.cu_kv.tolist()) == (cu_q, cu_kv)
        same(*(run(kernel, arrays, mask=mask) for kernel in ("varlen", "reference")))

    def test_documents_through_more_than_one_batch_axis(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(torch_impl.kernels.KERNELS, "varlen", STAND_IN)
        arrays = tensors(N, N, batch=(2, 3))
        mask = spec.Segments([[[0, 0, 1, 1, 1, -1]] * 3, [[7] * 6] * 3]) & spec.Lengths(kv=[6, 4, 0])
        same(*(run(kernel, arrays, mask=mask) for kernel in ("varlen", "reference")))


class TestRefusals:
    REASONS: tuple[tuple[spec.Mask, int, str], ...] = (
        (spec.Segments([0, 1, 0, 1, 1, 1]), N, "does not support documents in several segments"),
        (spec.Segments(kv=[0, 0, 0, 1, 1, 1], q=[1, 0]), 2, "has no documents that keys hold in another order than queries"),
        (spec.Causal() & spec.Lengths(kv=[4, 5]), N, "has no diagonal beside that of the documents themselves"),
        (spec.Causal(align="end"), 4, "has no diagonal beside that of the documents themselves"),
        (spec.Prefix(2) | spec.Causal(), N, "has no Or here: one Segments, Lengths, Causal and Window, joined by &, are all"),
        (spec.Causal(query_positions=[[0] * N]), N, "has no Causal here"),
        (spec.Segments([0] * N) & spec.Segments([1] * N), N, "has no Segments here"),
    )

    @pytest.mark.parametrize(("mask", "T", "reason"), REASONS, ids=range(len(REASONS)))
    def test_a_mask_that_is_no_documents(self, mask: spec.Mask, T: int, reason: str) -> None:
        refused = STAND_IN.refuses(make_request(*tensors(T, N), mask=mask))
        assert refused is not None
        assert refused.startswith(reason)

    def test_where_varlen_does_not_run(self) -> None:
        given = tensors(N, N)
        with pytest.raises(KernelRefused, match=r"^kernel 'varlen' refuses: has no cpu$"):
            _ = torch_impl.dot_product_attention(*given, implementation="varlen")
        request = make_request(*given)
        assert Varlen(devices=("cpu",), attend=lambda: None).refuses(request) == (
            f"torch {torch.__version__} has no varlen_attn with enable_gqa, scale, window_size"
        )
        assert Varlen(devices=("cpu",), attend=lambda: looped).refuses(request) == "has no float64"
        q, k, v = (x.repeat(1, 1, 1, 50) for x in given)
        assert STAND_IN.refuses(make_request(q, k, v)) == "has no head wider than 256: D or E is 300"
        assert STAND_IN.refuses(make_request(*given, sinks=torch.zeros(H, dtype=torch.float64))) == "has no sinks"
        assert STAND_IN.refuses(make_request(given[0][:, :0], *given[1:])) == "does not support axes of size 0"
        reasons: list[str | None] = []

        def asked(x: Tensor) -> Tensor:
            reasons.append(STAND_IN.refuses(make_request(x, *given[1:])))
            return x

        _ = torch.func.vmap(asked, in_dims=2, out_dims=2)(given[0][:, :, None].expand(-1, -1, 1, -1, -1))
        assert reasons == ["has no transform of torch.func"]

    def test_the_function_of_this_torch_has_the_arguments_that_are_used(self) -> None:
        attend: Callable[..., Tensor] | None = varlen.torch_varlen()
        assert attend is not None
