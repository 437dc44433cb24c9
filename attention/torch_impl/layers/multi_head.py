"""Multi-head attention as an `nn.Module`: four `nn.Linear` around `dot_product_attention`.

output = W_o attend(W_q query, W_k key, W_v value)        see attention/spec/layers/multi_head/
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from attention.spec import MultiHeadAttention as Contract
from attention.spec.axes import COMPUTE, Array, Sizes, check_broadcast, check_float, dtype_name
from attention.spec.cache import Cache
from attention.spec.call_types import MultiHeadCall, joined, split
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.kernels.plan_cache import LayerCall, Plans
from attention.spec.layers.multi_head import cache_checks, heads
from attention.spec.masks import DenseMask, Placed
from attention.spec.masks.algebra import Mask, both, check_mask
from attention.spec.positions import check_positions
from attention.spec.scores import Cosine
from attention.torch_impl import params
from attention.torch_impl.attend import autocasts, check_devices, check_tensors, dot_product_attention, plan, signature
from attention.torch_impl.layers.layer import Layer
from attention.torch_impl.masks import allowed, native, read, zero_masked_inputs
from attention.torch_impl.norms import Norm
from attention.torch_impl.positions import bias as score_bias
from attention.torch_impl.positions import rotate, shared_length

PLANS: Plans[LayerCall] = Plans()
"""Of self-attention without options."""


class MultiHeadAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    gate_proj: nn.Linear
    q_norm: Norm
    k_norm: Norm

    if TYPE_CHECKING:
        __call__: MultiHeadCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

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
        cache: Cache | None = None,
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]] | tuple[Tensor, Cache] | tuple[Tensor, dict[str, Tensor], Cache]:
        """Return the layer's output.

        Args:
            query: `(*batch, T, M)`.
            key: `(*batch, S, kdim)`; None means `query`.
            value: `(*batch, S, vdim)`; None means `key`.
            mask: further mask, which the contract's own is combined with by `&`.
            bias: added to the scores, broadcastable to `(*batch, H, T, S)`.
            query_positions: integers `(*batch, T)` for the contract's positions; needed where T != S.
            key_positions: integers `(*batch, S)`, likewise.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            cache: keys and values of earlier tokens; those of this call are appended, at `query_positions` if given. S is
                then what `cache.append` returns, for `mask` and `bias` too.
            return_intermediates: names among `spec.INTERMEDIATES`.
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; with `return_intermediates`, that and a dict of intermediates; with `cache`, that and the new
            cache.

        Raises:
            AttentionError: as `dot_product_attention`; PositionError where positions are missing; OptionError where the
                cache forgets keys that the mask shows.
        """
        return_intermediates = intermediate_names(return_intermediates)
        if key is value is mask is bias is query_positions is key_positions is cache is None and not return_intermediates:
            again = self._again(query, implementation)
            if again is not None:
                return again
        c = self.contract
        x_k = query if key is None else key
        x_q, x_v = query, x_k if value is None else value
        sizes, nan_rows = self._check(x_q, x_k, x_v), None
        if cache is None:
            mask = self._mask(mask, sizes, query_positions, key_positions, query.device)
            (x_q, x_k, x_v), nan_rows = zero_masked_inputs(mask, sizes, x_q, x_k, x_v, appended=bool(c.extra_keys))
            q, k, v = self._heads(x_q, x_k, x_v, query_positions, key_positions, sizes)
        else:
            cache_checks.check_continues(c, cache, key_positions, sizes)
            query_positions = cache.upcoming(sizes.T, query_positions)
            # An absent token is stored as zeros, and what it holds reaches nothing.
            x_q, x_k, x_v = (torch.where(query_positions[..., None] >= 0, x, torch.zeros_like(x)) for x in (x_q, x_k, x_v))
            q, k, v = self._heads(x_q, x_k, x_v, query_positions, query_positions, sizes)
            new = cache.append(k, v, query_positions)
            cache, k, v, key_positions = new.cache, new.key, new.value, new.key_positions
            sizes = replace(sizes, S=k.shape[-3])
            mask = check_mask(both(Placed(c.mask, query_positions, key_positions), native(mask, query.device)))
            mask.check(sizes, read)
        bias = self._bias(q, bias, query_positions, key_positions, sizes)
        if c.extra_keys:
            k, v, mask, bias = self._appended(k, v, mask, bias, sizes)
        out = dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            bias=bias,
            scale=c.score.factor(sizes.D),
            softcap=c.softcap,
            sinks=self._sinks(q.dtype),
            dropout_rate=c.dropout_rate if self.training else 0.0,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=return_intermediates,
            implementation=implementation,
        )
        context, intermediates = split(out)
        return joined(set_nan(xp, nan_rows, self._merge(x_q, context)), intermediates, cache)

    def _again(self, query: Tensor, implementation: str) -> Tensor | None:
        """Return the output of self-attention without options by a cached plan.

        None if the call must be checked: inside a compiler, under autocast, or with dropout.
        """
        c, found = self.contract, signature(query)
        if found is None or type(implementation) is not str or (self.training and c.dropout_rate):
            return None
        found = (found, self.q_proj.weight.dtype, id(c))
        known = PLANS.get(found) or PLANS.keep(found, self._plan(query))
        if not known.plain:
            return None
        n = known.sizes
        q, k, v = self._heads(query, query, query, None, None, n)
        found = (type(q), q.requires_grad, k.requires_grad, v.requires_grad, implementation)
        call = known.calls.get(found)
        if call is None:
            call = plan(known.calls, found, q, k, v, known.mask, c.score.factor(n.D), c.softcap, implementation)
        return None if call is None else self._merge(query, call.run(q, k, v))

    def _plan(self, query: Tensor) -> LayerCall:
        """Return the plan of self-attention without options, checked."""
        c, sizes = self.contract, self._check(query, query, query)
        mask = self._mask(None, sizes, None, None, query.device)
        whole = mask is None or (mask.keeps_self and not mask.confines_nan)
        return LayerCall(sizes, mask, whole and heads.is_plain(c), (c,))

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> Sizes:
        check_tensors(query=query, key=key, value=value)
        check_devices(query=query, parameters=self.q_proj.weight)
        if not autocasts(query.device):
            _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.weight)
        return self.contract.sizes(query, key, value)

    def _mask(
        self, mask: Mask | None, sizes: Sizes, query_positions: Array, key_positions: Array, device: torch.device
    ) -> Mask | None:
        """Return the contract's mask and the call's as one, checked, the positions beside them."""
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes, self.contract.positions)
        mask = both(self.contract.mask, native(mask, device))
        if mask is not None:
            mask.check(sizes, read)
        return mask

    def _appended(
        self, k: Tensor, v: Tensor, mask: Mask | None, bias: Tensor | None, sizes: Sizes
    ) -> tuple[Tensor, Tensor, Mask | None, Tensor | None]:
        """Return keys, values, mask and bias with what the contract appends, which every query may attend to."""
        c = self.contract
        k, v = heads.append(c, xp, params.loose(self, c.own_params, k.dtype), k, v)
        bias = heads.append_columns(xp, bias, sizes.S, c.extra_keys, 0.0)
        if mask is not None:
            mask = DenseMask(heads.append_columns(xp, allowed(mask, sizes, k.device), sizes.S, c.extra_keys, True))
        return k, v, mask, bias

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, query_positions: Array, key_positions: Array, n: Sizes
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heads as the kernel takes them: projected, normed, rotated, prepared for the score."""
        c = self.contract
        q = self.q_proj(query).reshape(*n.batch, n.T, n.H, n.D)
        k = self.k_proj(key).reshape(*n.batch, n.S, n.K, n.D)
        v = self.v_proj(value).reshape(*n.batch, n.S, n.K, n.E)
        if c.qk_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if not isinstance(c.positions, heads.BIASES):
            length = shared_length(c.positions, query_positions, key_positions)
            q = rotate(c.positions, q, query_positions, length=length)
            k = rotate(c.positions, k, key_positions, length=length)
        if isinstance(c.score, Cosine):
            compute = getattr(torch, COMPUTE[dtype_name(q)])
            weights = params.loose(self, c.own_params, compute)
            prepared = c.score.prepare(xp, weights, q.to(compute), k.to(compute))
            q, k = (x.to(q.dtype) for x in prepared)
        return q, k, v

    def _bias(
        self, q: Tensor, bias: Tensor | None, query_positions: Array, key_positions: Array, sizes: Sizes
    ) -> Tensor | None:
        """Return the bias of the scores; in the compute dtype if the contract's positions add to it."""
        c = self.contract
        if bias is not None:
            check_tensors(bias=bias)
            check_broadcast("bias", bias, sizes.scores, "(*batch, H, T, S)")
        if not isinstance(c.positions, heads.BIASES):
            return bias
        learned = params.loose(self, c.positions.params(c.num_heads, c.width), q.dtype)
        own = score_bias(c.positions, learned, q, query_positions, key_positions, scale=c.score.factor(c.width), sizes=sizes)
        return own if bias is None or own is None else own + bias

    def _sinks(self, dtype: Any) -> Tensor | None:
        c = self.contract
        if c.softmax == "off_by_one":
            return self.q_proj.weight.new_zeros(c.num_heads, dtype=dtype)
        return params.loose(self, {"sinks": c.own_params["sinks"]}, dtype)["sinks"] if c.sinks else None

    def _merge(self, query: Tensor, context: Tensor) -> Tensor:
        """Return the output of the heads' contexts, through the gate if there is one."""
        if self.contract.gate is not None:
            compute = getattr(torch, COMPUTE[dtype_name(context)])
            gate = self.gate_proj(query)
            gate = gate.unflatten(-1, context.shape[-2:]) if self.contract.gate == "elementwise" else gate
            context = heads.gated(xp, gate.to(compute), context.to(compute)).to(context.dtype)
        return self.out_proj(context.flatten(-2))
