"""Alignment attention (Bahdanau, Luong) as an `nn.Module`.

context, weights = softmax(score(query, key)) value        see attention/spec/layers/alignment.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from attention.spec.axes import COMPUTE, Sizes, check_float, dtype_name
from attention.spec.call_types import AlignmentCall
from attention.spec.kernels import REFERENCE, intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers.alignment import AlignmentAttention as Contract
from attention.spec.layers.alignment import bare, is_state
from attention.spec.layers.alignment_scores import Concat, General, TanhScore
from attention.spec.masks.algebra import Mask, both
from attention.spec.scores import Cosine, soft_cap
from attention.torch_impl import params, scores
from attention.torch_impl.attend import autocasts, check_devices, check_tensors, dot_product_attention
from attention.torch_impl.layers.layer import Layer
from attention.torch_impl.masks import native, read, zero_masked_inputs


class AlignmentAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    score_proj: nn.Linear
    score_q_proj: nn.Linear
    score_k_proj: nn.Linear

    if TYPE_CHECKING:
        __call__: AlignmentCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        mask: Mask | None = None,
        dropout_seed: Any = None,
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the context and the weights.

        Args:
            query: decoder states `(*batch, T, M)`, or a single one `(*batch, M)`.
            key: encoder states `(*batch, S, key_dim)`.
            value: `(*batch, S, value_dim)`; None means `key`.
            mask: further mask, which the contract's own is combined with by `&`; a single state is T = 1.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            return_intermediates: names among `spec.INTERMEDIATES`; they have no axis H, and those of a single state no axis T.
            implementation: the name of a kernel. "auto" is "reference", which makes context and weights in one pass.

        Returns:
            Context `(*batch, T, E)` in the dtype of `query` and weights `(*batch, T, S)` in the compute dtype, before dropout,
            each row summing to 1, or to 0 where no key is allowed; both without T for a single state. With
            `return_intermediates`, these two and a dict of intermediates.

        Raises:
            AttentionError: as `dot_product_attention`.
        """
        c = self.contract
        return_intermediates = intermediate_names(return_intermediates)
        v = key if value is None else value
        mask, sizes = self._check(query, key, v, mask)
        state = is_state(query, key)
        q, k = query.unsqueeze(-2) if state else query, key
        (q, k, v), nan_rows = zero_masked_inputs(mask, sizes, q, k, v)
        if c.attn_dim is not None:
            q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, found = self._scored(q, k, v)
        context, intermediates = dot_product_attention(
            q,
            k,
            v.unsqueeze(-2),
            mask=mask,
            bias=None if found is None else soft_cap(xp, found, c.softcap).unsqueeze(-3),
            scale=c.score.factor(c.score_widths[1]),
            softcap=c.softcap,
            dropout_rate=c.dropout_rate if self.training else 0.0,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=("weights", *return_intermediates),
            implementation=REFERENCE if type(implementation) is str and implementation == "auto" else implementation,
        )
        made = bare({**intermediates, "context": context}, found, c.softcap, state=state, xp=xp)
        rows = nan_rows[..., 0, :] if state and nan_rows is not None else nan_rows
        output = tuple(set_nan(xp, rows, made[name]) for name in ("context", "weights"))
        return (*output, {name: made[name] for name in return_intermediates}) if return_intermediates else output

    def _check(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> tuple[Mask | None, Sizes]:
        check_tensors(query=query, key=key, value=value)
        check_devices(query=query, parameters=next(self.parameters(), None))
        if not autocasts(query.device):
            _ = check_float(query=query, key=key, value=value, parameters=next(self.parameters(), None))
        sizes = self.contract.sizes(query, key, value)
        mask = both(self.contract.mask, native(mask, query.device))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _scored(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return queries and keys, one head each, whose products are the scores; or nothing to multiply, and the scores."""
        score = self.contract.score
        if isinstance(score, TanhScore):
            nothing = (value.new_zeros((*x.shape[:-1], 1, 1)) for x in (query, key))
            return next(nothing), next(nothing), self._added(query, key, score)
        if isinstance(score, General):
            # Autocast narrows what a projection returns, and nothing else.
            query = self.score_proj(query).to(key.dtype)
        q, k = query.unsqueeze(-2), key.unsqueeze(-2)
        if isinstance(score, Cosine):
            compute = getattr(torch, COMPUTE[dtype_name(q)])
            weights = params.loose(self, self.contract.own_params, compute)
            prepared = score.prepare(xp, weights, q.to(compute), k.to(compute))
            q, k = (x.to(q.dtype) for x in prepared)
        return q, k, None

    def _added(self, query: Tensor, key: Tensor, score: TanhScore) -> Tensor:
        """Return the scores `(*batch, T, S)` of a hidden layer, in the compute dtype."""
        if isinstance(score, Concat):
            # One kernel, whose rows are shared out, so that no query is laid beside every key.
            rows, kernel = self.contract.score_widths[0], self.score_proj.weight
            q, k = linear(query, kernel[:, :rows], self.score_proj.bias), linear(key, kernel[:, rows:])
        else:
            q, k = self.score_q_proj(query), self.score_k_proj(key)
        compute = getattr(torch, COMPUTE[dtype_name(q)])
        v = params.loose(self, self.contract.own_params, compute)["score_v"]
        with torch.autocast(q.device.type, enabled=False):
            return scores.additive(q.to(compute), k.to(compute), v, chunk_size=score.chunk_size)
