"""Differential attention as an `nn.Module`: four `nn.Linear` around two calls of `dot_product_attention`.

output = W_o (1 - initial) norm(attend(q1, k1, v) - strength attend(q2, k2, v))        see attention/spec/layers/differential.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from attention.spec.axes import COMPUTE, Array, Sizes, check_float, dtype_name
from attention.spec.call_types import DifferentialCall
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import differential as spec
from attention.spec.masks.algebra import Mask, both
from attention.spec.positions import check_positions
from attention.torch_impl import params
from attention.torch_impl.attend import autocasts, check_devices, check_tensors, dot_product_attention
from attention.torch_impl.layers.layer import Layer, seed_at
from attention.torch_impl.masks import native, read, zero_masked_inputs
from attention.torch_impl.norms import Norm
from attention.torch_impl.positions import rotate, shared_length


class DifferentialAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.DifferentialAttention
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    norm: Norm
    out_proj: nn.Linear

    if TYPE_CHECKING:
        __call__: DifferentialCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Mask | None = None,
        query_positions: Array = None,
        key_positions: Array = None,
        dropout_seed: Any = None,
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
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
        given = (query, asked, asked if value is None else value)
        mask, sizes = self._check(*given, mask, query_positions, key_positions)
        given, nan_rows = zero_masked_inputs(mask, sizes, *given)
        q, k, v = self._heads(*given, query_positions, key_positions, sizes)
        seed, made = self._seed(dropout_seed), []
        for i, place in enumerate(spec.PLACES):
            out = dot_product_attention(
                q[..., i::2, :],
                k[..., i::2, :],
                v,
                mask=mask,
                scale=c.score.factor(c.width),
                dropout_rate=c.dropout_rate if self.training else 0.0,
                dropout_seed=seed_at(seed, place),
                precision=c.precision,
                return_intermediates=return_intermediates,
                implementation=implementation,
            )
            made.append(out if return_intermediates else (out, {}))
        (first, intermediates), (second, others) = made
        output = set_nan(xp, nan_rows, self._merge(first, second))
        return (output, spec.together(xp, intermediates, others, axis=len(sizes.batch))) if return_intermediates else output

    def _check(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, query_positions: Array, key_positions: Array
    ) -> tuple[Mask | None, Sizes]:
        check_tensors(query=query, key=key, value=value)
        check_devices(query=query, parameters=self.q_proj.weight)
        if not autocasts(query.device):
            _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.weight)
        sizes = self.contract.attention.sizes(query, key, value)
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes, self.contract.positions)
        mask = both(self.contract.mask, native(mask, query.device))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, query_positions: Array, key_positions: Array, n: Sizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heads: pairs of queries and of keys, rotated, and values."""
        rotary = self.contract.positions
        q = self.q_proj(query).unflatten(-1, (2 * n.H, n.D))
        k = self.k_proj(key).unflatten(-1, (2 * n.K, n.D))
        v = self.v_proj(value).unflatten(-1, (n.K, n.E))
        length = shared_length(rotary, query_positions, key_positions)
        return rotate(rotary, q, query_positions, length=length), rotate(rotary, k, key_positions, length=length), v

    def _merge(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the output of both contexts, which are subtracted and normed in the compute dtype."""
        c, compute = self.contract, getattr(torch, COMPUTE[dtype_name(first)])
        of = spec.strength(xp, c, params.loose(self, c.own_params, compute))
        context = self.norm(first.to(compute) - of * second.to(compute)) * (1.0 - c.initial)
        return self.out_proj(context.to(first.dtype).flatten(-2))
