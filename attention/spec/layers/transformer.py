"""Encoder and decoder blocks: attention and feed-forward with residual connections and norms; contract and formula.

    post    x = norm(x + drop(branch(x)))                 one after another: self_attn, cross_attn in a decoder, ffn
    pre     x = x + drop(branch(norm(x)))
    stack   x = final_norm(layers[depth - 1](... layers[0](x)))

A token that attends to nothing and that no token attends to, as `Lengths(kv, q)` says of padding, is no token: it enters
as 0, its output is 0, and so no gradient passes through it, whatever it holds and whatever cotangent it is given. The
self-attention's mask alone decides, so a decoder's padded targets may be let see the memory.

One dropout seed serves a call: every place drops by a child of it, drawn by the place's name.

References:
    Vaswani et al., arXiv:1706.03762, figure 1 (post); Xiong et al., arXiv:2002.04745 (pre). Names and places of dropout
    as in torch.nn.TransformerEncoderLayer and TransformerDecoderLayer.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.projection import normed
from attention.spec.layers.tokens import check_tokens, dropped, existing, kept, only, seed_at
from attention.spec.masks.algebra import Mask
from attention.spec.norms import LayerNorm, Norm, RMSNorm
from attention.spec.options import Option, arrays_by_name, check_options, checked, one_of
from attention.spec.params import Param, inner, nest
from attention.spec.random import DROPOUT_RATE

ORDERS = ("post", "pre")

INPUTS = arrays_by_name("x")


@dataclass(frozen=True, kw_only=True)
class Block(Contract):
    """What encoder and decoder blocks share. Abstract.

    Args:
        norm: `LayerNorm()` or `RMSNorm()`; one for each branch.
        order: "post", after each sum, or "pre", before each branch.
        dropout_rate: probability of dropping a feature of a branch's output while training.

    Raises:
        OptionError: an option outside its range, or parts whose widths do not fit.
    """

    norm: LayerNorm | RMSNorm = LayerNorm(eps=1e-5)
    order: str = "post"
    dropout_rate: float = 0.0

    @property
    @abstractmethod
    def own_attention(self) -> MultiHeadAttention:
        """The self-attention."""

    @abstractmethod
    def calls(self, call: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what each part is called with beside arrays and seed, by name."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {"order": one_of(*ORDERS), "dropout_rate": DROPOUT_RATE}

    def __post_init__(self) -> None:
        check_norm("norm", self.norm)
        check_options(self)

    @property
    def width(self) -> int:
        """M."""
        return self.own_attention.embed_dim

    @property
    def norms(self) -> dict[str, Norm]:
        return {f"norm{i}": self.norm for i, _ in enumerate(self.parts, 1)}

    @property
    def params(self) -> dict[str, Param]:
        tree: dict[str, Param] = {}
        for i, (name, part) in enumerate(self.parts.items(), 1):
            tree |= nest(name, part.params) | nest(f"norm{i}", self.norm.params(self.width))
        return tree

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        self.check(arrays)
        return {"output": tuple(arrays["x"].shape)}

    @checked(arrays=INPUTS)
    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raise ShapeError unless the inputs fit the block and each other."""
        check_tokens("x", arrays["x"], self.width)
        if "memory" in self.inputs:
            arrays_by_name("x", "memory").check("arrays", arrays)
            batch = tuple(arrays["x"].shape[:-2])
            check_tokens("memory", arrays["memory"], self.inputs["memory"], "S", batch)

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return the resolved of each part by its name, "present" `(*batch, T, 1)`, and "dropout1" and so on."""
        self.check(arrays)
        seed = call.pop("dropout_seed", None)
        made: ResolvedCall = {"present": existing(self.own_attention, arrays["x"], call.get("mask"))}
        for i, (name, given) in enumerate(self.calls(call).items(), 1):
            taken = _taken(arrays, name)
            made[name] = self.parts[name].resolve(taken, **given, dropout_seed=seed_at(seed, name))
            made[f"dropout{i}"] = kept(self.dropout_rate, arrays["x"].shape, seed_at(seed, f"dropout{i}"))
        return made

    def formula(
        self,
        xp: Any,
        weights: Mapping[str, Array],
        arrays: Mapping[str, Array],
        resolved: ResolvedCall,
        *,
        constant: Callable[[Array], Array] = unchanged,
        observe: Observer = UNOBSERVED,
    ) -> dict[str, Array]:
        def branch(name: str, x: Array) -> Array:
            taken = _taken({**arrays, "x": x}, name)
            own = inner(name, weights)
            return self.parts[name].formula(xp, own, taken, resolved[name], constant=constant, observe=observe)["output"]

        there = xp.asarray(resolved["present"])
        x = only(xp, arrays["x"], there)
        for i, name in enumerate(self.parts, 1):
            norm = f"norm{i}"
            y = branch(name, normed(xp, self.norms, weights, norm, x, observe) if self.order == "pre" else x)
            x = observe("sum", x + dropped(xp, y, resolved[f"dropout{i}"], self.dropout_rate, observe))
            x = normed(xp, self.norms, weights, norm, x, observe) if self.order == "post" else x
        return {"output": only(xp, x, there)}

    def pinned(self) -> Self:
        return replace(self, **{name: part.pinned() for name, part in self._fields().items()})

    def _fields(self) -> dict[str, Contract]:
        """Return the parts by the names of the fields that hold them."""
        return {f.name: part for f in fields(self) if isinstance(part := getattr(self, f.name), Contract)}

    def unresolved(self) -> Self:
        return replace(self, **{name: part.unresolved() for name, part in self._fields().items()})


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


def check_part(name: str, part: Any, kind: type[Contract]) -> None:
    """Raise OptionError unless a part is of its kind."""
    if not isinstance(part, kind):
        raise OptionError(f"{name} {shown(part)} must be {kind.__name__}(...)")


def check_norm(name: str, norm: Any) -> None:
    """Raise OptionError unless this is a norm under which a padded token, which is a row of zeros, has a gradient."""
    if not isinstance(norm, (LayerNorm, RMSNorm)):
        raise OptionError(f"{name} {shown(norm)} must be LayerNorm(...) or RMSNorm(...)")
    if norm.eps == 0:
        raise OptionError(f"{name} eps 0 must be positive: a padded token is a row of zeros")


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


def _taken(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Return the arrays that the part called `name` takes."""
    if name == "ffn":
        return {"x": arrays["x"]}
    return {"query": arrays["x"], **({"key": arrays["memory"]} if name == "cross_attn" else {})}
