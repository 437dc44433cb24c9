"""Multi-head latent attention as an `nn.Module`: `nn.Linear` down to the latents and up from them.

expanded(x) = absorbed(x)        see attention/spec/layers/latent.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from attention.spec.axes import Array, Sizes, check_float
from attention.spec.cache import Cache
from attention.spec.call_types import LatentCall, joined, split
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import latent as spec
from attention.spec.layers import latent_forms
from attention.spec.masks import Placed
from attention.spec.masks.algebra import Mask, both
from attention.torch_impl import params
from attention.torch_impl.attend import autocasts, check_devices, check_tensors, dot_product_attention
from attention.torch_impl.layers.layer import Layer
from attention.torch_impl.masks import native, read, zero_masked_inputs
from attention.torch_impl.norms import Norm
from attention.torch_impl.positions import rotate


class LatentAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.LatentAttention
    q_proj: nn.Linear
    q_down: nn.Linear
    q_norm: Norm
    q_up: nn.Linear
    kv_down: nn.Linear
    kv_norm: Norm
    kv_up: nn.Linear
    out_proj: nn.Linear

    if TYPE_CHECKING:
        __call__: LatentCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        cache: Any = None,
        form: str = "auto",
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]] | tuple[Tensor, Cache] | tuple[Tensor, dict[str, Tensor], Cache]:
        """Return the layer's output.

        Args:
            x: `(*batch, T, M)`.
            mask: further mask, which the contract's own is combined with by `&`; with a cache, its S is what `append` returns.
            positions: integers `(*batch, T)`; None counts from 0, or goes on where the cache ends. -1, with a cache: an absent
                token.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.
            cache: made with the contract's `cache_sizes`: the tokens so far, to which those of `x` are appended.
            form: "expanded", "absorbed", or "auto": absorbed with a cache, expanded without.
            return_intermediates: names among `spec.INTERMEDIATES`; "context" is that of the value heads in both forms.
            implementation: "auto", or the name of a kernel.

        Returns:
            `(*batch, T, M)`; with `return_intermediates`, that and a dict of intermediates; with `cache`, that and the new
            cache.

        Raises:
            AttentionError: as `dot_product_attention`; PositionError where positions do not fit; OptionError where the
                cache forgets keys that the mask shows.
        """
        c = self.contract
        return_intermediates = intermediate_names(return_intermediates)
        form, sizes = self._check(x, positions, cache, form)
        mask = native(mask, x.device)
        where = positions if cache is None else cache.upcoming(sizes.T, positions)
        asking, asked, nan_rows = self._zero_masked(x, mask, where, sizes, cache)
        queries, (latent, key) = self._queries(asking, where), self._latents(asked, where)
        if cache is not None:
            new = cache.append(key, latent, positions)
            cache, key, latent = new.cache, new.key, new.value
            mask = both(Placed(c.mask, new.query_positions, new.key_positions), mask)
        else:
            mask = both(c.mask, mask)
        q, k, v = self._absorbed(*queries, latent, key) if form == "absorbed" else self._expanded(*queries, latent, key)
        out = dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            scale=c.score.factor(c.width),
            dropout_rate=c.dropout_rate if self.training else 0.0,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=return_intermediates,
            implementation=implementation,
        )
        context, intermediates = split(out)
        if form == "absorbed":
            context = latent_forms.expand(xp, self._kernel(), context, c.nope_dim)
            if intermediates and "context" in intermediates:
                intermediates["context"] = context
        return joined(set_nan(xp, nan_rows, self.out_proj(context.flatten(-2))), intermediates, cache)

    def _check(self, x: Tensor, positions: Array, cache: Any, form: str) -> tuple[str, Sizes]:
        check_tensors(x=x)
        check_devices(x=x, parameters=self.kv_down.weight)
        if not autocasts(x.device):
            _ = check_float(x=x, parameters=self.kv_down.weight)
        sizes = self.contract.sizes(x)
        spec.check_places(positions, sizes)
        return self.contract.chosen(form, cache, x), sizes

    def _zero_masked(
        self, x: Tensor, mask: Mask | None, where: Array, sizes: Sizes, cache: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the tokens as queries and as keys, zeros where absent, masked or not finite, and the NaN output rows."""
        if cache is not None:
            present = torch.where((where >= 0)[..., None], x, torch.zeros_like(x))
            return present, present, None
        mask = both(self.contract.mask, mask)
        if mask is not None:
            mask.check(sizes, read)
        (asking, asked, _), nan_rows = zero_masked_inputs(mask, sizes, x, x, x)
        return asking, asked, nan_rows

    def _queries(self, x: Tensor, where: Array) -> tuple[Tensor, Tensor]:
        """Return the two parts of the query heads: as they are, and rotated."""
        c = self.contract
        q = self.q_proj(x) if c.q_rank is None else self.q_up(self.q_norm(self.q_down(x)))
        q = q.unflatten(-1, (c.num_heads, c.width))
        return q[..., : c.nope_dim], rotate(c.positions, q[..., c.nope_dim :], where)

    def _latents(self, x: Tensor, where: Array) -> tuple[Tensor, Tensor]:
        """Return the latent `(*batch, T, 1, R)` and the rotated key `(*batch, T, 1, P)`."""
        c = self.contract
        made = self.kv_down(x).unsqueeze(-2)
        return self.kv_norm(made[..., : c.kv_rank]), rotate(c.positions, made[..., c.kv_rank :], where)

    def _expanded(self, nope: Tensor, rotated: Tensor, latent: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.contract
        made = self.kv_up(latent.squeeze(-2)).unflatten(-1, (c.num_heads, c.nope_dim + c.value_dim))
        return latent_forms.many_heads(xp, nope, rotated, made, key)

    def _absorbed(self, nope: Tensor, rotated: Tensor, latent: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return latent_forms.one_head(xp, latent_forms.absorb(xp, self._kernel(), nope), rotated, latent, key)

    def _kernel(self) -> Tensor:
        """Return `(R, H, nope_dim + E)`."""
        return params.to_canonical(self.contract.params["kv_up.kernel"], self.kv_up.weight)
