"""Differential attention as an `nnx.Module`: four `nnx.LinearGeneral` around two calls of `dot_product_attention`.

output = W_o (1 - initial) norm(attend(q1, k1, v) - strength attend(q2, k2, v))        see attention/spec/layers/differential.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import params
from attention.jax_impl.attend import check_arrays, dot_product_attention
from attention.jax_impl.layers.layer import Layer, seed_at
from attention.jax_impl.masks import native, read, zero_masked_inputs
from attention.jax_impl.norms import Norm
from attention.jax_impl.positions import rotate, shared_length
from attention.spec.axes import COMPUTE, Array, Sizes, check_float, dtype_name
from attention.spec.call_types import DifferentialCall
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import differential as spec
from attention.spec.masks.algebra import Mask, both
from attention.spec.positions import check_positions


class DifferentialAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.DifferentialAttention
    q_proj: nnx.LinearGeneral
    k_proj: nnx.LinearGeneral
    v_proj: nnx.LinearGeneral
    norm: Norm
    out_proj: nnx.LinearGeneral

    def __call__(  # pyright: ignore[reportRedeclaration]  # the declaration below has the overloads
        self,
        query: jax.Array,
        key: jax.Array | None = None,
        value: jax.Array | None = None,
        *,
        mask: Mask | None = None,
        query_positions: Array = None,
        key_positions: Array = None,
        dropout_seed: Any = None,
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Return the layer's output.

        Args:
            query: `(*batch, T, M)`.
            key: `(*batch, S, M)`; None means `query`.
            value: `(*batch, S, M)`; None means `key`.
            mask: further mask, which the contract's own is combined with by `&`.
            query_positions: integers `(*batch, T)` for the contract's positions; needed where T != S.
            key_positions: integers `(*batch, S)`, likewise.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            return_intermediates: names among `spec.INTERMEDIATES`; those of both attentions, stacked behind the batch axes.
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; with `return_intermediates`, that and a dict of intermediates.

        Raises:
            AttentionError: as `dot_product_attention`; PositionError where positions are missing.
        """
        c = self.contract
        return_intermediates = intermediate_names(return_intermediates)
        asked = query if key is None else key
        given: Sequence[jax.Array] = check_arrays(query=query, key=asked, value=asked if value is None else value)
        mask, sizes = self._check(given, mask, query_positions, key_positions)
        given, nan_rows = zero_masked_inputs(mask, sizes, *given)
        q, k, v = self._heads(given, query_positions, key_positions)
        seed, made = self._seed(dropout_seed), []
        for i, place in enumerate(spec.PLACES):
            out = dot_product_attention(
                q[..., i::2, :],
                k[..., i::2, :],
                v,
                mask=mask,
                scale=c.score.factor(c.width),
                dropout_rate=0.0 if self.deterministic else c.dropout_rate,
                dropout_seed=seed_at(seed, place),
                precision=c.precision,
                return_intermediates=return_intermediates,
                implementation=implementation,
            )
            made.append(out if return_intermediates else (out, {}))
        (first, intermediates), (second, others) = made
        output = set_nan(jnp, nan_rows, self._merge(first, second))
        return (output, spec.together(jnp, intermediates, others, axis=len(sizes.batch))) if return_intermediates else output

    if TYPE_CHECKING:
        __call__: DifferentialCall[jax.Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def _check(
        self, given: Sequence[jax.Array], mask: Mask | None, query_positions: Array, key_positions: Array
    ) -> tuple[Mask | None, Sizes]:
        query, key, value = given
        _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.kernel)
        sizes = self.contract.attention.sizes(query, key, value)
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes, self.contract.positions)
        mask = both(self.contract.mask, native(mask))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _heads(
        self, given: Sequence[jax.Array], query_positions: Array, key_positions: Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads: pairs of queries and of keys, rotated, and values."""
        query, key, value = given
        rotary, length = self.contract.positions, shared_length(self.contract.positions, query_positions, key_positions)
        q = rotate(rotary, self.q_proj(query), query_positions, length=length)
        return q, rotate(rotary, self.k_proj(key), key_positions, length=length), self.v_proj(value)

    def _merge(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Return the output of both contexts, which are subtracted and normed in the compute dtype."""
        c, compute = self.contract, COMPUTE[dtype_name(first)]
        of = spec.strength(jnp, c, params.loose(self, c.own_params, compute))
        context = self.norm(first.astype(compute) - of * second.astype(compute)) * (1.0 - c.initial)
        return self.out_proj(context.astype(first.dtype))
