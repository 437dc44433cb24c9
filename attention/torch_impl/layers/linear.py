"""Linear attention as an `nn.Module`: four `nn.Linear` around sums over keys, chunked if causal.

scan(q, k, v) = quadratic(q, k, v)        see attention/spec/layers/linear.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention.spec.axes import COMPUTE, Sizes, check_float, dtype_name
from attention.spec.call_types import LinearCall, joined
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import linear as spec
from attention.spec.layers import linear_forms as forms
from attention.spec.masks import Causal, Lengths
from attention.spec.masks.algebra import Mask, both
from attention.spec.options import SWITCH
from attention.spec.scores import heads_first
from attention.torch_impl.attend import autocasts, check_devices, check_tensors
from attention.torch_impl.layers.layer import Layer
from attention.torch_impl.masks import allowed, native, read, zero_masked_inputs


class LinearAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.LinearAttention
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

    if TYPE_CHECKING:
        __call__: LinearCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Mask | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
        implementation: str = "auto",
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the layer's output.

        Args:
            query: `(*batch, T, M)`.
            key: `(*batch, S, M)`; None means `query`.
            value: `(*batch, S, M)`; None means `key`.
            mask: beside the contract's `causal`; the scan takes `Lengths` alone.
            state: `(*batch, K, D, E + 1)`, what earlier tokens left; causal layers only.
            return_state: whether to return the state; it is returned as well where one is given.
            implementation: "auto", "scan" or "quadratic".

        Returns:
            `(*batch, T, M)`; with a state, that and the new state, in the compute dtype.

        Raises:
            ShapeError: a rank or a size does not fit.
            DTypeError: not a tensor, or another dtype than the layer's.
            MaskError: the mask does not fit; T != S though the layer is causal.
            KernelRefused: the scan does not support the call.
        """
        asked = query if key is None else key
        given = (query, asked, asked if value is None else value)
        SWITCH.check("return_state", return_state)
        carries = return_state or state is not None
        mask, form, sizes = self._check(*given, mask, state, implementation, carries=carries)
        seen, there = self._seen(mask, form, sizes, query.device, carried=state is not None, leaves=carries)
        nan_rows = None
        if there is not None:
            given = tuple(torch.where(rows.unsqueeze(-1), x, 0.0) for rows, x in zip((*there, there[1]), given, strict=True))
        else:
            given, nan_rows = zero_masked_inputs(mask, sizes, *given)
        q, k, v = self._heads(given, sizes)
        with torch.autocast(query.device.type, enabled=False):
            if form == "quadratic":
                sums, left = forms.quadratic(xp, q, k, v, seen), None
            else:
                sums, left = self._scan(q, k, v, there, state)
            context = forms.ratio(xp, sums, self.contract.eps).to(query.dtype)
        output = set_nan(xp, nan_rows, self.out_proj(context.flatten(-2)))
        return joined(output, left if carries else None)

    def _check(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, state: Any, implementation: str, *, carries: bool
    ) -> tuple[Mask | None, str, Sizes]:
        """Return the remaining mask, the form, and the sizes."""
        check_tensors(query=query, key=key, value=value, state=state)
        check_devices(query=query, parameters=self.q_proj.weight)
        if not autocasts(query.device):
            _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.weight)
        c = self.contract
        sizes = c.attention.sizes(query, key, value)
        c.check_state(state, sizes, check_float(query=query), carries=carries)
        mask = native(mask, query.device)
        form = forms.choose(implementation, mask, carries=carries)
        whole = both(Causal() if c.causal else None, mask)
        if whole is not None:
            whole.check(sizes, read)
        return whole if form == "quadratic" else mask, form, sizes

    def _seen(
        self, mask: Mask | None, form: str, sizes: Sizes, device: torch.device, *, carried: bool, leaves: bool
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Return what the quadratic form masks, and which queries and keys the scan takes."""
        if form == "quadratic" or not isinstance(mask, Lengths):
            return allowed(mask, sizes, device), None
        causal = self.contract.causal
        there = forms.present(
            xp, mask, lambda m, n: allowed(m, n, device), sizes, causal=causal, carried=carried, leaves=leaves
        )
        return None, there

    def _heads(self, given: Sequence[Tensor], n: Sizes) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of queries and keys, and values with a column of ones, in the compute dtype."""
        query, key, value = given
        compute = getattr(torch, COMPUTE[dtype_name(query)])
        q = self.q_proj(query).unflatten(-1, (n.H, n.D)).to(compute)
        k = self.k_proj(key).unflatten(-1, (n.K, n.D)).to(compute)
        v = self.v_proj(value).unflatten(-1, (n.K, n.E)).to(compute)
        q, k = (forms.features(xp, self.contract.feature_map, x) for x in (q, k))
        return q, k, forms.with_ones(xp, v)

    def _scan(
        self, q: Tensor, k: Tensor, v: Tensor, there: tuple[Tensor, Tensor] | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the sums `(*batch, T, H, E + 1)` and the state that all tokens leave."""
        heads = k.shape[-2]
        if there is not None:
            q, k = (torch.where(rows[..., None, None], x, 0.0) for rows, x in zip(there, (q, k), strict=True))
        k, v = heads_first(xp, k), heads_first(xp, v)  # (*batch, K, S, D), (*batch, K, S, E + 1)
        q = heads_first(xp, q).unflatten(-3, (heads, -1))  # (*batch, K, H / K, T, D)
        sums, left = chunked(q, k, v, state) if self.contract.causal else whole(q, k, v)
        return heads_first(xp, sums.flatten(-4, -3)), left


def whole(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over all keys for each query, and for none in particular."""
    left = k.transpose(-2, -1) @ v
    return q @ left.unsqueeze(-3), left


def chunked(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sums over the keys up to each query, and over all: within a chunk as products, before it as one sum.

    Args:
        q: features `(*batch, K, G, T, D)`.
        k: features `(*batch, K, T, D)`.
        v: `(*batch, K, T, E + 1)`.
        state: `(*batch, K, D, E + 1)`, or None.
    """
    t = k.shape[-2]
    size = max(1, min(forms.CHUNK, t))
    count = max(1, -(-t // size))
    # Features of zero add nothing, so that the last chunk may be filled with them.
    q, k, v = (F.pad(x, (0, 0, 0, count * size - t)).unflatten(-2, (count, size)) for x in (q, k, v))
    sums = k.transpose(-2, -1) @ v  # (*batch, K, count, D, E + 1)
    first = torch.zeros_like(sums[..., :1, :, :]) if state is None else state.unsqueeze(-3)
    before = torch.cat([first, sums], dim=-3).cumsum(-3)
    k, v = k.unsqueeze(-4), v.unsqueeze(-4)
    inside = torch.tril(q @ k.transpose(-2, -1)) @ v
    made = inside + q @ before[..., :-1, :, :].unsqueeze(-4)
    return made.flatten(-3, -2)[..., :t, :], before[..., -1, :, :]
