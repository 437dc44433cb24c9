"""Encoder and decoder blocks and stacks as `nnx.Module`s.

x = norm(x + drop(branch(x)))    or    x = x + drop(branch(norm(x)))        see attention/spec/layers/transformer.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl.layers.feed_forward import FeedForward, check_input
from attention.jax_impl.layers.layer import Layer, seed_at
from attention.jax_impl.layers.multi_head import MultiHeadAttention
from attention.jax_impl.masks import native, reach, read
from attention.jax_impl.norms import Norm
from attention.spec.axes import Array
from attention.spec.layers import stack, tokens, transformer
from attention.spec.layers.residual import run_blocks, run_branches
from attention.spec.masks.algebra import Mask, both


class Block(Layer):
    """The base class of encoder and decoder blocks. Abstract."""

    ffn: FeedForward


class EncoderBlock(Block):
    """The block of a contract; arguments as `Layer`."""

    contract: transformer.EncoderBlock
    self_attn: MultiHeadAttention

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> jax.Array:
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
        (x,) = check_input(x, self.ffn.up.kernel)
        arrays = {"x": x}
        self.contract.check(arrays)
        call, seed = {"mask": mask, "positions": positions}, self._seed(dropout_seed)
        there = present(self.contract, x, mask)
        return run_branches(self, jnp, arrays, there, call, seed, seed_at, implementation=implementation)


class DecoderBlock(Block):
    """The block of a contract; arguments as `Layer`."""

    contract: transformer.DecoderBlock
    self_attn: MultiHeadAttention
    cross_attn: MultiHeadAttention

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> jax.Array:
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
        x, memory = check_input(x, self.ffn.up.kernel, memory=memory)
        arrays = {"x": x, "memory": memory}
        self.contract.check(arrays)
        call, seed = {"mask": mask, "memory_mask": memory_mask, "positions": positions}, self._seed(dropout_seed)
        there = present(self.contract, x, mask)
        return run_branches(self, jnp, arrays, there, call, seed, seed_at, implementation=implementation)


class Stack(Layer):
    """Blocks of one kind in sequence. Abstract."""

    layers: nnx.List
    final_norm: Norm

    def _walk(
        self, x: jax.Array, mask: Mask | None, seed: Any, call: Callable[[nnx.Module, jax.Array, Any], jax.Array]
    ) -> jax.Array:
        """Return the tokens after all blocks and the final norm."""
        x = run_blocks(self.layers, x, self._seed(seed), call, seed_at)
        if self.contract.final_norm is None:
            return x
        return tokens.only(jnp, self.final_norm(x), present(self.contract.block, x, mask))


class Encoder(Stack):
    """The stack of a contract; arguments as `Layer`."""

    contract: stack.Encoder

    def build_parts(self, dtype: str) -> None:
        blocks = (EncoderBlock(part, seed=None, dtype=dtype) for part in self.contract.parts.values())
        self.layers = nnx.List(blocks)

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> jax.Array:
        """Return the output of all blocks; arguments as `EncoderBlock`."""

        def call(layer: nnx.Module, x: jax.Array, seed: Any) -> jax.Array:
            return layer(x, mask=mask, positions=positions, dropout_seed=seed, implementation=implementation)

        return self._walk(x, mask, dropout_seed, call)


class Decoder(Stack):
    """The stack of a contract; arguments as `Layer`."""

    contract: stack.Decoder

    def build_parts(self, dtype: str) -> None:
        blocks = (DecoderBlock(part, seed=None, dtype=dtype) for part in self.contract.parts.values())
        self.layers = nnx.List(blocks)

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        implementation: str = "auto",
    ) -> jax.Array:
        """Return the output of all blocks; arguments as `DecoderBlock`."""

        def call(layer: nnx.Module, x: jax.Array, seed: Any) -> jax.Array:
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


def present(contract: transformer.Block, x: jax.Array, mask: Mask | None) -> jax.Array | None:
    """Return which tokens attend or are attended to, bool `(*batch, T, 1)`; None if all do by structure.

    Raises:
        MaskError: the mask does not fit.
    """
    mask = both(contract.own_attention.mask, native(mask))
    if mask is None or mask.keeps_self:
        return None
    sizes = contract.own_attention.sizes(x, x, x)
    mask.check(sizes, read)
    return tokens.present(jnp, *reach(mask, sizes)[:2])
