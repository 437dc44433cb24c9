"""Multi-head attention as an `nnx.Module`: four `nnx.LinearGeneral` around `dot_product_attention`.

output = W_o attend(W_q query, W_k key, W_v value)        see attention/spec/layers/multi_head/
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import params
from attention.jax_impl.attend import check_arrays, dot_product_attention
from attention.jax_impl.layers.layer import Layer
from attention.jax_impl.masks import allowed, native, read, zero_masked_inputs
from attention.jax_impl.norms import Norm
from attention.jax_impl.positions import bias as score_bias
from attention.jax_impl.positions import rotate, shared_length
from attention.spec import MultiHeadAttention as Contract
from attention.spec.axes import COMPUTE, Array, Sizes, check_broadcast, check_float, dtype_name
from attention.spec.cache import Cache
from attention.spec.call_types import MultiHeadCall, joined, split
from attention.spec.kernels import intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers.multi_head import cache_checks, heads
from attention.spec.masks import DenseMask, Placed
from attention.spec.masks.algebra import Mask, both, check_mask
from attention.spec.positions import check_positions
from attention.spec.scores import Cosine


class MultiHeadAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    q_proj: nnx.LinearGeneral
    k_proj: nnx.LinearGeneral
    v_proj: nnx.LinearGeneral
    out_proj: nnx.LinearGeneral
    gate_proj: nnx.LinearGeneral
    q_norm: Norm
    k_norm: Norm

    def __call__(  # pyright: ignore[reportRedeclaration]  # the declaration below has the overloads
        self,
        query: jax.Array,
        key: jax.Array | None = None,
        value: jax.Array | None = None,
        *,
        mask: Mask | None = None,
        bias: jax.Array | None = None,
        query_positions: Array = None,
        key_positions: Array = None,
        dropout_seed: Any = None,
        cache: Cache | None = None,
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
        c = self.contract
        return_intermediates = intermediate_names(return_intermediates)
        key = query if key is None else key
        x_q, x_k, x_v = check_arrays(query=query, key=key, value=key if value is None else value)
        sizes, nan_rows = self._check(x_q, x_k, x_v), None
        if cache is None:
            mask = self._mask(mask, sizes, query_positions, key_positions)
            (x_q, x_k, x_v), nan_rows = zero_masked_inputs(mask, sizes, x_q, x_k, x_v, appended=bool(c.extra_keys))
            q, k, v = self._heads(x_q, x_k, x_v, query_positions, key_positions, sizes)
        else:
            cache_checks.check_continues(c, cache, key_positions, sizes)
            query_positions = cache.upcoming(sizes.T, query_positions)
            # An absent token is stored as zeros, and what it holds reaches nothing.
            x_q, x_k, x_v = (jnp.where(query_positions[..., None] >= 0, x, jnp.zeros_like(x)) for x in (x_q, x_k, x_v))
            q, k, v = self._heads(x_q, x_k, x_v, query_positions, query_positions, sizes)
            new = cache.append(k, v, query_positions)
            cache, k, v, key_positions = new.cache, new.key, new.value, new.key_positions
            sizes = replace(sizes, S=k.shape[-3])
            mask = check_mask(both(Placed(c.mask, query_positions, key_positions), native(mask)))
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
            dropout_rate=0.0 if self.deterministic else c.dropout_rate,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=return_intermediates,
            implementation=implementation,
        )
        context, intermediates = split(out)
        return joined(set_nan(jnp, nan_rows, self._merge(x_q, context)), intermediates, cache)

    if TYPE_CHECKING:
        __call__: MultiHeadCall[jax.Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def _check(self, query: jax.Array, key: jax.Array, value: jax.Array) -> Sizes:
        _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.kernel)
        return self.contract.sizes(query, key, value)

    def _mask(self, mask: Mask | None, sizes: Sizes, query_positions: Array, key_positions: Array) -> Mask | None:
        """Return the contract's mask and the call's as one, checked, the positions beside them."""
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes, self.contract.positions)
        mask = both(self.contract.mask, native(mask))
        if mask is not None:
            mask.check(sizes, read)
        return mask

    def _appended(
        self, k: jax.Array, v: jax.Array, mask: Mask | None, bias: jax.Array | None, sizes: Sizes
    ) -> tuple[jax.Array, jax.Array, Mask | None, jax.Array | None]:
        """Return keys, values, mask and bias with what the contract appends, which every query may attend to."""
        c = self.contract
        k, v = heads.append(c, jnp, params.loose(self, c.own_params, k.dtype), k, v)
        bias = heads.append_columns(jnp, bias, sizes.S, c.extra_keys, 0.0)
        if mask is not None:
            mask = DenseMask(heads.append_columns(jnp, allowed(mask, sizes), sizes.S, c.extra_keys, True))
        return k, v, mask, bias

    def _heads(
        self, query: jax.Array, key: jax.Array, value: jax.Array, query_positions: Array, key_positions: Array, n: Sizes
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads as the kernel takes them: projected, normed, rotated, prepared for the score."""
        c = self.contract
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if c.qk_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if not isinstance(c.positions, heads.BIASES):
            length = shared_length(c.positions, query_positions, key_positions)
            q = rotate(c.positions, q, query_positions, length=length)
            k = rotate(c.positions, k, key_positions, length=length)
        if isinstance(c.score, Cosine):
            compute = COMPUTE[dtype_name(q)]
            weights = params.loose(self, c.own_params, compute)
            prepared = c.score.prepare(jnp, weights, q.astype(compute), k.astype(compute))
            q, k = (x.astype(q.dtype) for x in prepared)
        return q, k, v

    def _bias(
        self, q: jax.Array, bias: jax.Array | None, query_positions: Array, key_positions: Array, sizes: Sizes
    ) -> jax.Array | None:
        """Return the bias of the scores; in the compute dtype if the contract's positions add to it."""
        c = self.contract
        if bias is not None:
            (bias,) = check_arrays(bias=bias)
            check_broadcast("bias", bias, sizes.scores, "(*batch, H, T, S)")
        if not isinstance(c.positions, heads.BIASES):
            return bias
        learned = params.loose(self, c.positions.params(c.num_heads, c.width), q.dtype)
        own = score_bias(c.positions, learned, q, query_positions, key_positions, scale=c.score.factor(c.width), sizes=sizes)
        return own if bias is None or own is None else own + bias

    def _sinks(self, dtype: Any) -> jax.Array | None:
        c = self.contract
        if c.softmax == "off_by_one":
            return jnp.zeros(c.num_heads, dtype)
        return params.loose(self, {"sinks": c.own_params["sinks"]}, dtype)["sinks"] if c.sinks else None

    def _merge(self, query: jax.Array, context: jax.Array) -> jax.Array:
        """Return the output of the heads' contexts, through the gate if there is one."""
        if self.contract.gate is not None:
            compute = COMPUTE[dtype_name(context)]
            gate = self.gate_proj(query)
            context = heads.gated(jnp, gate.astype(compute), context.astype(compute)).astype(context.dtype)
        return self.out_proj(context)
