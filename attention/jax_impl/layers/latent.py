"""Multi-head latent attention as an `nnx.Module`: `nnx.LinearGeneral` down to the latents and up from them.

expanded(x) = absorbed(x)        see attention/spec/layers/latent.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl.attend import check_arrays, dot_product_attention
from attention.jax_impl.layers.layer import Layer
from attention.jax_impl.masks import native, read, zero_masked_inputs
from attention.jax_impl.norms import Norm
from attention.jax_impl.positions import rotate
from attention.spec.axes import Array, Sizes, check_float
from attention.spec.cache import Cache
from attention.spec.call_types import LatentCall, joined, split
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import latent as spec
from attention.spec.layers import latent_forms
from attention.spec.masks import Placed
from attention.spec.masks.algebra import Mask, both


class LatentAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.LatentAttention
    q_proj: nnx.LinearGeneral
    q_down: nnx.LinearGeneral
    q_norm: Norm
    q_up: nnx.LinearGeneral
    kv_down: nnx.LinearGeneral
    kv_norm: Norm
    kv_up: nnx.LinearGeneral
    out_proj: nnx.LinearGeneral

    def __call__(  # pyright: ignore[reportRedeclaration]  # the declaration below has the overloads
        self,
        x: jax.Array,
        *,
        mask: Mask | None = None,
        positions: Array = None,
        dropout_seed: Any = None,
        cache: Any = None,
        form: str = "auto",
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> (
        jax.Array
        | tuple[jax.Array, dict[str, jax.Array]]
        | tuple[jax.Array, Cache]
        | tuple[jax.Array, dict[str, jax.Array], Cache]
    ):
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
        (x,) = check_arrays(x=x)
        form, sizes = self._check(x, positions, cache, form)
        mask = native(mask)
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
            dropout_rate=0.0 if self.deterministic else c.dropout_rate,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=return_intermediates,
            implementation=implementation,
        )
        context, intermediates = split(out)
        if form == "absorbed":
            with jax.default_matmul_precision(c.precision):
                context = latent_forms.expand(jnp, self.kv_up.kernel.get_value(), context, c.nope_dim)
            if intermediates and "context" in intermediates:
                intermediates["context"] = context
        return joined(set_nan(jnp, nan_rows, self.out_proj(context)), intermediates, cache)

    if TYPE_CHECKING:
        __call__: LatentCall[jax.Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def _check(self, x: jax.Array, positions: Array, cache: Any, form: str) -> tuple[str, Sizes]:
        _ = check_float(x=x, parameters=self.kv_down.kernel)
        sizes = self.contract.sizes(x)
        spec.check_places(positions, sizes)
        return self.contract.chosen(form, cache, x), sizes

    def _zero_masked(
        self, x: jax.Array, mask: Mask | None, where: Array, sizes: Sizes, cache: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Return the tokens as queries and as keys, zeros where absent, masked or not finite, and the NaN output rows."""
        if cache is not None:
            present = jnp.where((where >= 0)[..., None], x, jnp.zeros_like(x))
            return present, present, None
        mask = both(self.contract.mask, mask)
        if mask is not None:
            mask.check(sizes, read)
        (asking, asked, _), nan_rows = zero_masked_inputs(mask, sizes, x, x, x)
        return asking, asked, nan_rows

    def _queries(self, x: jax.Array, where: Array) -> tuple[jax.Array, jax.Array]:
        """Return the two parts of the query heads: as they are, and rotated."""
        c = self.contract
        q = self.q_proj(x) if c.q_rank is None else self.q_up(self.q_norm(self.q_down(x)))
        return q[..., : c.nope_dim], rotate(c.positions, q[..., c.nope_dim :], where)

    def _latents(self, x: jax.Array, where: Array) -> tuple[jax.Array, jax.Array]:
        """Return the latent `(*batch, T, 1, R)` and the rotated key `(*batch, T, 1, P)`."""
        c = self.contract
        made = self.kv_down(x)[..., None, :]
        return self.kv_norm(made[..., : c.kv_rank]), rotate(c.positions, made[..., c.kv_rank :], where)

    def _expanded(
        self, nope: jax.Array, rotated: jax.Array, latent: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        return latent_forms.many_heads(jnp, nope, rotated, self.kv_up(latent[..., 0, :]), key)

    def _absorbed(
        self, nope: jax.Array, rotated: jax.Array, latent: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        with jax.default_matmul_precision(self.contract.precision):
            moved = latent_forms.absorb(jnp, self.kv_up.kernel.get_value(), nope)
        return latent_forms.one_head(jnp, moved, rotated, latent, key)
