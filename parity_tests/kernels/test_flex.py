"""FlexAttention: masks, biases and score functions are lowered to single elements, and the results equal the formula.

allowed[b0, b1, h, t, s] = mask.allowed(Element(b = b0 B1 + b1, h, t, s))        one number at a time
block_mask(mask)         = schedule(mask, 128 x 128)                             one tile at a time
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention.flex_attention import flex_attention

from attention import spec, torch_impl
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused
from attention.spec.masks.algebra import evaluate
from attention.torch_impl import dot_product_attention
from attention.torch_impl.attend import make_request
from attention.torch_impl.kernels import flex as flex_file
from attention.torch_impl.kernels.flex import TILE, Element, Flex, block_mask
from attention.torch_impl.masks import native
from parity_tests.support.backends import TORCH, Kernel, numbers

BATCH, T, S, H, K, D = (2, 3), 5, 7, 4, 2, 3
SIZES = Sizes(BATCH, T, S, H, K, D, D)


def qkv(dtype: str) -> tuple[np.ndarray, ...]:
    shapes = ((*BATCH, T, H, D), (*BATCH, S, K, D), (*BATCH, S, K, D))
    return tuple(numbers(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes))


def listed(made: Any, prefix: str) -> np.ndarray:
    """Return which tiles a block mask lists, bool `(B, H, tiles of T, tiles of S)`."""
    counts, index = (getattr(made, f"{prefix}_{name}").numpy() for name in ("num_blocks", "indices"))
    assert (counts.dtype, index.dtype) == (np.int32, np.int32)
    meant = np.arange(index.shape[-1]) < counts[..., None]
    tiles = np.zeros(index.shape, bool)
    np.put_along_axis(tiles, index.astype(int), meant, axis=-1)
    return np.broadcast_to(tiles, (6, H, *tiles.shape[-2:]))


class TestLaws:
    KINDS: tuple[Any, ...] = (
        spec.Causal(align="end") & spec.Window(before=2, after=1, align="start"),
        spec.Chunked(size=2, query_positions=np.arange(T)[None, None] + 1),
        spec.Prefix([[1, 2, 3], [4, 5, 0]]) | ~spec.Causal(align="start"),
        spec.Lengths(kv=[[4, 0, 7], [1, 2, 3]], q=[5, 3, 0], padding="left"),
        spec.Segments(kv=[[[0, 0, 1, 1, 1, -1, 2]]], q=[0, 1, 1, -1, 2]),
        spec.DenseMask(numbers(33, 3, 1, T, S) > 0),
        spec.DenseMask(numbers(34, S) > 0),
        spec.PerHead((spec.Prefix(2), spec.Causal(align="end"), spec.Segments(kv=[1] * S, q=[1, 0, 1, 0, 1]), ~spec.Prefix(6))),
        spec.PerRow((spec.Causal(align="end"), spec.Prefix(3), spec.Lengths(kv=[5]))),
        spec.Placed(spec.Causal(), np.arange(T) + 1, [[[3, 4, -1, 5, 0, 1, 2]]]),
    )

    @pytest.mark.parametrize("mask", KINDS, ids=lambda mask: repr(mask)[:40])
    def test_flex_asks_every_kind_of_mask_for_one_element_at_a_time(self, mask: spec.Mask) -> None:
        given = qkv("float32")
        table = torch.from_numpy(numbers(30, H, T + S - 1, dtype="float32"))
        mods: tuple[Any, ...] = (None, lambda x, b, h, t, s: x + table[h, s - t + T - 1] * (b + 1))
        for mod in mods:
            flex, reference = (Kernel(TORCH, name).attend(*given, mask=mask, score_mod=mod) for name in ("flex", "reference"))
            np.testing.assert_allclose(flex, reference, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(flex == 0, reference == 0)

    LONG: tuple[Any, ...] = (
        spec.Causal(align="end"),
        spec.Window(before=100, after=0, align="start") & spec.Prefix(290),
        spec.Lengths(kv=[300, 100, 0], q=[260, 129, 5], padding="left"),
        spec.Segments(kv=[[[0] * 128 + [1] * 150 + [-1] * 22]], q=[0] * 100 + [1] * 160),
        spec.DenseMask(numbers(35, 2, 3, H, 1, 300) > 2.5),
        spec.PerHead((spec.Prefix(256), spec.Prefix(0), spec.Chunked(size=128, align="start"), ~spec.Prefix(300))),
    )

    @pytest.mark.parametrize("mask", LONG, ids=range(len(LONG)))
    def test_tiles_come_from_the_schedule_and_no_element_is_asked_for(
        self, mask: spec.Mask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(flex_file, "create_block_mask")
        sizes, cpu = Sizes(BATCH, 260, 300, H, K, D, D), torch.device("cpu")
        made = block_mask(native(mask, cpu), sizes, cpu)  # pyright: ignore[reportArgumentType]
        assert (made.seq_lengths, made.BLOCK_SIZE) == ((260, 300), (TILE, TILE))
        table = np.broadcast_to(np.asarray(evaluate(mask, sizes)), sizes.scores).reshape(6, H, 260, 300)
        ends = [range(0, n, TILE) for n in (260, 300)]
        tiles = [[table[..., t : t + TILE, s : s + TILE] for s in ends[1]] for t in ends[0]]
        some, every = (
            np.stack([np.stack([reduce(x, axis=(-2, -1)) for x in row], -1) for row in tiles], -2)
            for reduce in (np.any, np.all)
        )
        full, partial_ = (listed(made, prefix) for prefix in ("full_kv", "kv"))
        # A tile that is called partial may in truth be empty or full, but none is called so twice.
        assert not (full & ~every).any()
        assert ((full | partial_) >= some).all()
        assert not (full & partial_).any()
        assert (full | partial_).sum() <= 1.3 * some.sum() + 1

    def test_on_an_accelerator_new_lengths_compile_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled: list[int] = []

        def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
            compiled.append(1)
            return graph.forward

        torch.compiler.reset()
        fast = torch.compile(flex_attention, backend=backend)
        monkeypatch.setattr(flex_file, "_compiled", lambda: fast)
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        for kv in ([[4, 0, 7], [1, 2, 3]], [[1, 2, 3], [4, 5, 6]], [[7] * 3] * 2):
            request = make_request(q, k, v, spec.Lengths(kv=np.array(kv)) & spec.Causal(align="end"), softcap=2.0)
            wanted = dot_product_attention(q, k, v, mask=request.mask, softcap=2.0, implementation="reference")
            # The compiled kernel is CUDA's; what is compiled is the same anywhere.
            got = Flex().run(replace(request, device="cuda"))["context"]
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
        assert compiled == [1]

    def test_an_element_is_that_of_the_whole(self) -> None:
        for mask in self.KINDS:
            native = mask.map(torch.as_tensor)
            whole = np.broadcast_to(np.asarray(evaluate(mask, SIZES)), SIZES.scores)
            assert whole.any()
            assert not whole.all()
            for index in np.ndindex(*SIZES.scores):
                *b, h, t, s = index
                row = np.ravel_multi_index(tuple(b), BATCH)
                rows, heads, queries, keys = map(torch.tensor, (int(row), h, t, s))
                at = Element(queries, keys, T, S, b=rows, h=heads, batch=BATCH)
                assert bool(native.allowed(at)) == whole[index]

    @pytest.mark.parametrize("shape", [(), (S,), (T, 1), (H, 1, S), (3, 1, T, S), (2, 1, H, T, 1)], ids=str)
    def test_a_bias_is_read_where_it_is(self, shape: tuple[int, ...]) -> None:
        given, bias = qkv("float32"), numbers(6, *shape, dtype="float32")
        flex, reference = (Kernel(TORCH, name).attend(*given, bias=bias, softcap=1.5) for name in ("flex", "reference"))
        np.testing.assert_allclose(flex, reference, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        "options", [{}, {"softcap": 2.0, "bias": torch.ones(S), "mask": spec.Causal(align="end")}], ids=str
    )
    def test_compiled_and_exported_it_is_what_it_was(self, options: dict[str, Any]) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))

        class Flex(torch.nn.Module):
            def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return dot_product_attention(q, k, v, implementation="flex", **options)

        torch.compiler.reset()
        wanted = Flex()(q, k, v)
        fast = torch.compile(Flex(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(fast(q, k, v), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(torch.export.export(Flex(), (q, k, v)).module()(q, k, v), wanted, rtol=0, atol=1e-6)

    def test_without_a_gradient_wanted_parameters_are_numbers(self) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        wanted = dot_product_attention(q, k, v, implementation="flex")
        with torch.no_grad():
            got = dot_product_attention(q.requires_grad_(), k, v, implementation="flex")
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
        assert not got.requires_grad

    def test_auto_never_takes_it(self) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        choice = torch_impl.explain(q, k, v, softcap=2.0)
        assert (choice.kernel.name, [name for name, _ in choice.refusals]) == ("reference", ["sdpa"])


class TestRefusals:
    def reason(self, options: dict[str, Any], *given: Tensor) -> str:
        with pytest.raises(
            KernelRefused, match=r"^kernel 'flex' refuses: ", check=lambda e: type(e) is KernelRefused
        ) as caught:
            _ = dot_product_attention(*given, implementation="flex", **options)
        return str(caught.value).removeprefix("kernel 'flex' refuses: ")

    def test_every_reason(self) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        assert self.reason({"sinks": torch.zeros(H)}, q, k, v) == "has no sinks"
        assert self.reason({"dropout_rate": 0.5, "dropout_seed": 0}, q, k, v) == "has no dropout"
        assert self.reason({}, q[..., :0, :, :], k, v) == "does not support axes of size 0"
        leaf = torch.zeros(S, requires_grad=True)
        for options, given in (({}, (q.clone().requires_grad_(), k, v)), ({"bias": leaf}, (q, k, v))):
            assert self.reason(options, *given) == "has no gradient on CPU"
        assert self.reason({"score_mod": lambda x, *at: x + leaf[at[-1]]}, q, k, v) == "has no gradient on CPU"

    def test_transforms(self) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        with pytest.raises(KernelRefused, match=r"^kernel 'flex' refuses: has no transform of torch\.func$"):
            _ = vmap(partial(dot_product_attention, implementation="flex"))(q, k, v)

    def test_a_compiled_mask_of_arrays(self) -> None:
        q, k, v = (torch.from_numpy(x) for x in qkv("float32"))
        mask = spec.Lengths(kv=torch.tensor([1, 2, 3]))
        torch.compiler.reset()
        fast = torch.compile(partial(dot_product_attention, mask=mask, implementation="flex"), backend="eager")
        with pytest.raises(KernelRefused, match="has no compiled mask of arrays on CPU"):
            _ = fast(q, k, v)
