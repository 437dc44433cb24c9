"""Encoder and decoder stacks: blocks of one kind in sequence and a final norm; contract and formula.

    output = final_norm(layers[depth - 1](... layers[0](x)))

A token that is not there (see transformer.py) is 0 after the final norm too, which would make it that norm's bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array
from attention.spec.layers.block import Block, check_norm, check_part
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.projection import normed
from attention.spec.layers.tokens import only, seed_at
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.norms import LayerNorm, Norm, RMSNorm
from attention.spec.options import Option, arrays_by_name, check_options, checked, whole
from attention.spec.params import Param, inner, nest

MOST_BLOCKS = 4096
"""Blocks of a stack. A contract may come from a file, and its parameters are listed block by block."""

INPUTS = arrays_by_name("x")


@dataclass(frozen=True)
class Stack(Contract):
    """Blocks of one kind, one after another. Abstract.

    Args:
        block: what each of them is; their weights differ.
        depth: how many.
        final_norm: a norm of the last block's output, which "pre" order leaves without one, or None.

    Raises:
        OptionError: an option outside its range.
    """

    block: Block
    depth: int
    final_norm: LayerNorm | RMSNorm | None = None

    kind: ClassVar[type[Block]] = Block

    OPTIONS: ClassVar[Mapping[str, Option]] = {"depth": whole(1, MOST_BLOCKS)}

    def __post_init__(self) -> None:
        check_part("block", self.block, self.kind)
        check_options(self)
        if self.final_norm is not None:
            check_norm("final_norm", self.final_norm)

    @property
    def inputs(self) -> dict[str, int]:
        return self.block.inputs

    @property
    def attends_self(self) -> bool:
        return self.block.attends_self

    @property
    def parts(self) -> dict[str, Contract]:
        return {f"layers.{i}": self.block for i in range(self.depth)}

    @property
    def norms(self) -> dict[str, Norm]:
        return {} if self.final_norm is None else {"final_norm": self.final_norm}

    @property
    def params(self) -> dict[str, Param]:
        tree: dict[str, Param] = {}
        each = self.block.params
        for name in self.parts:
            tree |= nest(name, each)
        return tree if self.final_norm is None else tree | nest("final_norm", self.final_norm.params(self.block.width))

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        return self.block.results(arrays)

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return the resolved of each block by its name, and "present" `(*batch, T, 1)`."""
        seed = call.pop("dropout_seed", None)
        made = {name: part.resolve(arrays, **call, dropout_seed=seed_at(seed, name)) for name, part in self.parts.items()}
        # What is there is the same for every block, and so for the last norm.
        return {**made, "present": made["layers.0"]["present"]}

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
        x = arrays["x"]
        for name, part in self.parts.items():
            given = {**arrays, "x": x}
            x = part.formula(xp, inner(name, weights), given, resolved[name], constant=constant, observe=observe)["output"]
        x = normed(xp, self.norms, weights, "final_norm", x, observe)
        return {"output": only(xp, x, xp.asarray(resolved["present"]))}

    def pinned(self) -> Self:
        return replace(self, block=self.block.pinned())

    def unresolved(self) -> Self:
        return replace(self, block=self.block.unresolved())


@dataclass(frozen=True)
class Encoder(Stack):
    """Encoder blocks, one after another; arguments as `Stack`.

    >>> from attention import spec
    >>> block = spec.EncoderBlock(spec.MultiHeadAttention(8, 2), spec.FeedForward(8, 32), order="pre")
    >>> encoder = Encoder(block, depth=2, final_norm=LayerNorm())
    >>> [name for name in encoder.params if name.endswith("k_proj.kernel")]
    ['layers.0.self_attn.k_proj.kernel', 'layers.1.self_attn.k_proj.kernel']
    """

    kind: ClassVar[type[Block]] = EncoderBlock
    call_kwargs: ClassVar[frozenset[str]] = EncoderBlock.call_kwargs


@dataclass(frozen=True)
class Decoder(Stack):
    """Decoder blocks in sequence, all with the same memory; arguments as `Stack`."""

    kind: ClassVar[type[Block]] = DecoderBlock
    call_kwargs: ClassVar[frozenset[str]] = DecoderBlock.call_kwargs
