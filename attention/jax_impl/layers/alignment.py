"""Alignment attention (Bahdanau, Luong) as an `nnx.Module`.

context, weights = softmax(score(query, key)) value        see attention/spec/layers/alignment.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import params, scores
from attention.jax_impl.attend import check_arrays, dot_product_attention
from attention.jax_impl.kernels import precision
from attention.jax_impl.layers.layer import Layer
from attention.jax_impl.masks import native, read, zero_masked_inputs
from attention.spec.axes import COMPUTE, Sizes, check_float, dtype_name
from attention.spec.call_types import AlignmentCall
from attention.spec.kernels import REFERENCE, intermediate_names
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers.alignment import AlignmentAttention as Contract
from attention.spec.layers.alignment import bare, is_state
from attention.spec.layers.alignment_scores import Concat, General, TanhScore
from attention.spec.masks.algebra import Mask, both
from attention.spec.scores import Cosine, soft_cap


class AlignmentAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    q_proj: nnx.LinearGeneral
    k_proj: nnx.LinearGeneral
    v_proj: nnx.LinearGeneral
    score_proj: nnx.LinearGeneral
    score_q_proj: nnx.LinearGeneral
    score_k_proj: nnx.LinearGeneral

    def __call__(  # pyright: ignore[reportRedeclaration]  # the declaration below has the overloads
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array | None = None,
        *,
        mask: Mask | None = None,
        dropout_seed: Any = None,
        return_intermediates: tuple[str, ...] = (),
        implementation: str = "auto",
    ) -> tuple[jax.Array, jax.Array] | tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
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
        q, k, v = check_arrays(query=query, key=key, value=key if value is None else value)
        mask, sizes = self._check(q, k, v, mask)
        state = is_state(q, k)
        q = q[..., None, :] if state else q
        (q, k, v), nan_rows = zero_masked_inputs(mask, sizes, q, k, v)
        if c.attn_dim is not None:
            q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, found = self._scored(q, k)
        context, intermediates = dot_product_attention(
            q,
            k,
            v[..., None, :],
            mask=mask,
            bias=None if found is None else soft_cap(jnp, found, c.softcap)[..., None, :, :],
            scale=c.score.factor(c.score_widths[1]),
            softcap=c.softcap,
            dropout_rate=0.0 if self.deterministic else c.dropout_rate,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_intermediates=("weights", *return_intermediates),
            implementation=REFERENCE if type(implementation) is str and implementation == "auto" else implementation,
        )
        made = bare({**intermediates, "context": context}, found, c.softcap, state=state, xp=jnp)
        rows = nan_rows[..., 0, :] if state and nan_rows is not None else nan_rows
        output = tuple(set_nan(jnp, rows, made[name]) for name in ("context", "weights"))
        return (*output, {name: made[name] for name in return_intermediates}) if return_intermediates else output

    if TYPE_CHECKING:
        __call__: AlignmentCall[jax.Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def _check(self, query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask | None) -> tuple[Mask | None, Sizes]:
        first = next(iter(self.contract.params), None)
        learned = None if first is None else params.parameter(self, first)
        _ = check_float(query=query, key=key, value=value, parameters=learned)
        sizes = self.contract.sizes(query, key, value)
        mask = both(self.contract.mask, native(mask))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _scored(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Return queries and keys, one head each, whose products are the scores; or nothing to multiply, and the scores."""
        score = self.contract.score
        if isinstance(score, TanhScore):
            nothing = (jnp.zeros((*x.shape[:-1], 1, 1), x.dtype) for x in (query, key))
            return next(nothing), next(nothing), self._added(query, key, score)
        if isinstance(score, General):
            query = self.score_proj(query)
        q, k = query[..., None, :], key[..., None, :]
        if isinstance(score, Cosine):
            compute = COMPUTE[dtype_name(q)]
            weights = params.loose(self, self.contract.own_params, compute)
            prepared = score.prepare(jnp, weights, q.astype(compute), k.astype(compute))
            q, k = (x.astype(q.dtype) for x in prepared)
        return q, k, None

    def _added(self, query: jax.Array, key: jax.Array, score: TanhScore) -> jax.Array:
        """Return the scores `(*batch, T, S)` of a hidden layer, in the compute dtype."""
        compute = COMPUTE[dtype_name(query)]
        v = params.loose(self, self.contract.own_params, compute)["score_v"]
        with precision.scope(self.contract.precision):
            if isinstance(score, Concat):
                # One kernel, whose rows are shared out, so that no query is laid beside every key.
                rows, kernel = self.contract.score_widths[0], self.score_proj.kernel.get_value()
                q, k = query @ kernel[:rows], key @ kernel[rows:]
                q = q if self.score_proj.bias is None else q + self.score_proj.bias.get_value()
            else:
                q, k = self.score_q_proj(query), self.score_k_proj(key)
            return scores.additive(q.astype(compute), k.astype(compute), v, chunk_size=score.chunk_size)
