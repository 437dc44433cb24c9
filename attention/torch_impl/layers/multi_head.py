"""Multi-head attention as an `nn.Module`: four `nn.Linear` around `dot_product_attention`.

output = W_o attend(W_q query, W_k key, W_v value)        see attention/spec/layers/multi_head.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from attention.spec import MultiHeadAttention as Contract
from attention.spec.algebra import Mask, both
from attention.spec.axes import Array, Sizes, check_float
from attention.spec.layers.multi_head import shield_inputs
from attention.spec.params import Weights, numpy_dtype
from attention.spec.positions import check_positions
from attention.torch_impl import params
from attention.torch_impl.attend import check_tensors, dot_product_attention
from attention.torch_impl.masks import allowed, native, read
from attention.torch_impl.positions import rotate


class MultiHeadAttention(nn.Module):
    """The layer of a contract.

    Args:
        contract: what the layer is.
        seed: of the first weights: the same bits in every framework.
        dtype: of the parameters.

    Raises:
        UnknownName: no such dtype.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, contract: Contract, *, seed: int = 0, dtype: str = "float32") -> None:
        super().__init__()
        self.contract = contract
        _ = numpy_dtype(dtype)
        for name, param in contract.params.items():
            if param.inputs:
                width, out = (torch.Size(axes).numel() for axes in (param.shape[: param.inputs], param.shape[param.inputs :]))
                bias = contract.has_bias(name)
                # torch's own first values would move its global generator for nothing.
                linear = skip_init(nn.Linear, width, out, bias=bias, dtype=getattr(torch, dtype))
                self.add_module(name.removesuffix(".kernel"), linear)
        first = {name: value.to(getattr(torch, dtype)) for name, value in params.init(contract.params, seed).items()}
        self.load_weights(first)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        query_positions: Array = None,
        key_positions: Array = None,
        dropout_seed: Any = None,
        return_stages: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> Any:
        """Return the layer's output.

        Args:
            query: `(*batch, T, M)`.
            key: `(*batch, S, kdim)`; None means `query`.
            value: `(*batch, S, vdim)`; None means `key`.
            mask: further mask, which the contract's own is combined with by `&`.
            bias: added to the scores, broadcastable to `(*batch, H, T, S)`.
            query_positions: integers `(*batch, T)` for rotary; needed where T != S.
            key_positions: integers `(*batch, S)`, likewise.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            return_stages: names among "scores", "weights", "logsumexp", "context".
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; with `return_stages`, that and a dict of stages.

        Raises:
            AttentionError: as `dot_product_attention`; PositionError where rotary positions are missing.
        """
        c = self.contract
        key = query if key is None else key
        value = key if value is None else value
        mask, sizes = self._check(query, key, value, mask, query_positions, key_positions)
        if mask is not None and not (sizes.T == sizes.S and mask.keeps_self):
            query, key, value = shield_inputs(xp, allowed(mask, sizes, query.device), query, key, value)
        q = rotate(c.positions, self.q_proj(query).unflatten(-1, (sizes.H, sizes.D)), query_positions)
        k = rotate(c.positions, self.k_proj(key).unflatten(-1, (sizes.K, sizes.D)), key_positions)
        v = self.v_proj(value).unflatten(-1, (sizes.K, sizes.E))
        out = dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            bias=bias,
            scale=c.score.factor(sizes.D),
            softcap=c.softcap,
            dropout_rate=c.dropout_rate if self.training else 0.0,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_stages=return_stages,
            implementation=implementation,
        )
        context, stages = out if return_stages else (out, None)
        output = self.out_proj(context.flatten(-2))
        return (output, stages) if return_stages else output

    def load_weights(self, weights: Mapping[str, Array]) -> None:
        """Load canonical weights, all or none.

        Raises:
            ParamError: weights are missing, unexpected or misshapen; all are named.
            DTypeError: weights would lose digits in the layer's dtype.
        """
        params.load(self, self.contract.params, weights)

    def weights(self) -> Weights:
        """Return the canonical weights, bit for bit."""
        return params.canonical(self, self.contract.params)

    def _check(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, query_positions: Array, key_positions: Array
    ) -> tuple[Mask | None, Sizes]:
        check_tensors(query=query, key=key, value=value)
        if not torch.is_autocast_enabled(query.device.type):
            _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.weight)
        sizes = self.contract.sizes(query, key, value)
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes)
        mask = both(self.contract.mask, native(mask, query.device))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _seed(self, given: Any) -> Any:
        """Return the dropout seed of this call: drawn from torch's generator while training, unless given."""
        if given is not None or not (self.training and self.contract.dropout_rate):
            return given
        return torch.randint(2**31, ())
