"""Encoder and decoder blocks: attention and feed-forward with residual connections and norms; contract and formula.

    post    x = norm(x + drop(branch(x)))                 one after another: self_attn, cross_attn in a decoder, ffn
    pre     x = x + drop(branch(norm(x)))
    stack   x = final_norm(layers[depth - 1](... layers[0](x)))

A token that attends to nothing and that no token attends to, such as padding under `Lengths(kv, q)`, is set to 0 at the
input and at the output, so that no gradient passes through it, for any content and any cotangent. Only the mask of the
self-attention decides which tokens these are; a decoder's padded targets may attend to the memory.

One dropout seed serves a call: every place drops by a child of it, drawn by the place's name.

References:
    Vaswani et al., arXiv:1706.03762, figure 1 (post); Xiong et al., arXiv:2002.04745 (pre). Names and places of dropout
    as in torch.nn.TransformerEncoderLayer and TransformerDecoderLayer.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attention.spec.errors import OptionError, shown
from attention.spec.layers.block import Block, check_part
from attention.spec.layers.contract import Contract
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks.algebra import Mask


@dataclass(frozen=True)
class EncoderBlock(Block):
    """Self-attention, then the feed-forward layer. Called with `x` `(*batch, T, M)`.

    Args:
        attention: of T tokens to themselves; its mask holds in every call.
        feed_forward: of the same width.
        norm: see `Block`; so are the others, all by keyword.

    >>> block = EncoderBlock(MultiHeadAttention(8, 2), FeedForward(8, 32))
    >>> [name for name in block.params if name.startswith("norm")]
    ['norm1.scale', 'norm1.bias', 'norm2.scale', 'norm2.bias']
    """

    attention: MultiHeadAttention
    feed_forward: FeedForward

    call_kwargs: ClassVar[frozenset[str]] = frozenset({"mask", "positions", "dropout_seed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part("attention", self.attention, MultiHeadAttention)
        check_part("feed_forward", self.feed_forward, FeedForward)
        _check_widths("attention", self.attention)
        _check_fed(self.feed_forward, self.width)

    @property
    def own_attention(self) -> MultiHeadAttention:
        return self.attention

    @property
    def parts(self) -> dict[str, Contract]:
        return {"self_attn": self.attention, "ffn": self.feed_forward}

    @property
    def inputs(self) -> dict[str, int]:
        return {"x": self.width}

    def calls(self, call: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"self_attn": _own_call(**call), "ffn": {}}


@dataclass(frozen=True)
class DecoderBlock(Block):
    """Self-attention, attention to a memory, then the feed-forward layer. Called with `x` and `memory` `(*batch, S, M')`.

    Args:
        self_attention: of T tokens to themselves; give it `Causal()` where the block generates.
        cross_attention: of the tokens to the memory, whose width is its `kdim`; it has no positions.
        feed_forward: of the same width as the tokens.
        norm: see `Block`; so are the others, all by keyword.
    """

    self_attention: MultiHeadAttention
    cross_attention: MultiHeadAttention
    feed_forward: FeedForward

    call_kwargs: ClassVar[frozenset[str]] = frozenset({"mask", "memory_mask", "positions", "dropout_seed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("self_attention", "cross_attention"):
            check_part(name, getattr(self, name), MultiHeadAttention)
        check_part("feed_forward", self.feed_forward, FeedForward)
        _check_widths("self_attention", self.self_attention)
        cross = self.cross_attention
        widths = cross.inputs
        if (cross.embed_dim, cross.out_width) != (self.width, self.width) or widths["key"] != widths["value"]:
            wanted = f"({self.width}, M', M', {self.width}) as self_attention has"
            raise OptionError(f"cross_attention widths {(*widths.values(), cross.out_width)} must be {wanted}")
        if cross.positions is not None:
            raise OptionError(
                f"cross_attention positions {shown(cross.positions)} must be None: a memory has places of its own"
            )
        _check_fed(self.feed_forward, self.width)

    @property
    def own_attention(self) -> MultiHeadAttention:
        return self.self_attention

    @property
    def parts(self) -> dict[str, Contract]:
        return {"self_attn": self.self_attention, "cross_attn": self.cross_attention, "ffn": self.feed_forward}

    @property
    def inputs(self) -> dict[str, int]:
        return {"x": self.width, "memory": self.cross_attention.inputs["key"]}

    @property
    def attends_self(self) -> bool:
        return False

    def calls(self, call: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        own = {name: value for name, value in call.items() if name != "memory_mask"}
        return {"self_attn": _own_call(**own), "cross_attn": {"mask": call.get("memory_mask")}, "ffn": {}}


def _check_widths(name: str, attention: MultiHeadAttention) -> None:
    widths = (*attention.inputs.values(), attention.out_width)
    if len(set(widths)) > 1:
        raise OptionError(f"{name} widths {widths} of query, key, value and output must be one: they are the same tokens")


def _check_fed(feed_forward: FeedForward, width: int) -> None:
    if feed_forward.embed_dim != width:
        raise OptionError(f"feed_forward embed_dim {feed_forward.embed_dim} must be {width} as the attention has")


def _own_call(mask: Mask | None = None, positions: Any = None) -> dict[str, Any]:
    """Return the keywords of a self-attention."""
    return {"mask": mask, "query_positions": positions, "key_positions": positions}
