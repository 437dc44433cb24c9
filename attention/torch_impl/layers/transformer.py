"""Encoder and decoder blocks and stacks as `nn.Module`s.

x = norm(x + drop(branch(x)))    or    x = x + drop(branch(norm(x)))        see attention/spec/layers/transformer.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
from torch import Tensor, nn

from attention.spec.axes import Array
from attention.spec.call_types import DecoderCall, EncoderCall
from attention.spec.layers import stack, tokens, transformer
from attention.spec.layers.residual import run_blocks, run_branches
from attention.spec.masks.algebra import Mask, both
from attention.torch_impl.layers.feed_forward import FeedForward, check_input
from attention.torch_impl.layers.layer import Layer, seed_at
from attention.torch_impl.layers.multi_head import MultiHeadAttention
from attention.torch_impl.masks import native, reach, read


class Block(Layer):
    """The base class of encoder and decoder blocks. Abstract."""

    ffn: FeedForward


class EncoderBlock(Block):
    """The block of a contract; arguments as `Layer`."""

    contract: transformer.EncoderBlock
    self_attn: MultiHeadAttention

    if TYPE_CHECKING:
        __call__: EncoderCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> Tensor:
        """Return the block's output.

        Args:
            x: `(*batch, T, M)`.
            mask: further mask, which the attention's own is combined with by `&`.
            positions: integers `(*batch, T)` for the attention's positions; None means 0, 1, 2 and so on.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; 0 for a token that neither attends nor is attended to.

        Raises:
            AttentionError: as `MultiHeadAttention`.
        """
        check_input(x, self.ffn.up.weight)
        arrays = {"x": x}
        self.contract.check(arrays)
        call, seed = {"mask": mask, "positions": positions}, self._seed(dropout_seed)
        there = present(self.contract, x, mask)
        return run_branches(self, xp, arrays, there, call, seed, seed_at, implementation=implementation)


class DecoderBlock(Block):
    """The block of a contract; arguments as `Layer`."""

    contract: transformer.DecoderBlock
    self_attn: MultiHeadAttention
    cross_attn: MultiHeadAttention

    if TYPE_CHECKING:
        __call__: DecoderCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> Tensor:
        """Return the block's output.

        Args:
            x: `(*batch, T, M)`.
            memory: `(*batch, S, M')`.
            mask: further mask of the self-attention, which its own is combined with by `&`.
            memory_mask: the same for the attention to the memory.
            positions: integers `(*batch, T)` for the self-attention's positions; None means 0, 1, 2 and so on.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; 0 for a token that in self-attention neither attends nor is attended to.

        Raises:
            AttentionError: as `MultiHeadAttention`.
        """
        check_input(x, self.ffn.up.weight, memory=memory)
        arrays = {"x": x, "memory": memory}
        self.contract.check(arrays)
        call, seed = {"mask": mask, "memory_mask": memory_mask, "positions": positions}, self._seed(dropout_seed)
        there = present(self.contract, x, mask)
        return run_branches(self, xp, arrays, there, call, seed, seed_at, implementation=implementation)


class Stack(Layer):
    """Blocks of one kind in sequence. Abstract."""

    layers: nn.ModuleList

    def _walk(self, x: Tensor, mask: Mask | None, seed: Any, call: Callable[[nn.Module, Tensor, Any], Tensor]) -> Tensor:
        """Return the tokens after all blocks and the final norm."""
        x = run_blocks(self.layers, x, self._seed(seed), call, seed_at)
        if self.contract.final_norm is None:
            return x
        return tokens.only(xp, self.get_submodule("final_norm")(x), present(self.contract.block, x, mask))


class Encoder(Stack):
    """The stack of a contract; arguments as `Layer`."""

    contract: stack.Encoder

    def build_parts(self, dtype: str) -> None:
        blocks = (EncoderBlock(part, seed=None, dtype=dtype) for part in self.contract.parts.values())
        self.layers = nn.ModuleList(blocks)

    if TYPE_CHECKING:
        __call__: EncoderCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> Tensor:
        """Return the output of all blocks; arguments as `EncoderBlock`."""

        def call(layer: nn.Module, x: Tensor, seed: Any) -> Tensor:
            return layer(x, mask=mask, positions=positions, dropout_seed=seed, implementation=implementation)

        return self._walk(x, mask, dropout_seed, call)


class Decoder(Stack):
    """The stack of a contract; arguments as `Layer`."""

    contract: stack.Decoder

    def build_parts(self, dtype: str) -> None:
        blocks = (DecoderBlock(part, seed=None, dtype=dtype) for part in self.contract.parts.values())
        self.layers = nn.ModuleList(blocks)

    if TYPE_CHECKING:
        __call__: DecoderCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> Tensor:
        """Return the output of all blocks; arguments as `DecoderBlock`."""

        def call(layer: nn.Module, x: Tensor, seed: Any) -> Tensor:
            return layer(
                x,
                memory,
                mask=mask,
                memory_mask=memory_mask,
                positions=positions,
                dropout_seed=seed,
                implementation=implementation,
            )

        return self._walk(x, mask, dropout_seed, call)


def present(contract: transformer.Block, x: Tensor, mask: Mask | None) -> Tensor | None:
    """Return which tokens attend or are attended to, bool `(*batch, T, 1)`; None if all do by structure.

    Raises:
        MaskError: the mask does not fit.
    """
    mask = both(contract.own_attention.mask, native(mask, x.device))
    if mask is None or mask.keeps_self:
        return None
    sizes = contract.own_attention.sizes(x, x, x)
    mask.check(sizes, read)
    return tokens.present(xp, *reach(mask, sizes, x.device)[:2])
