"""Linear attention as an `nnx.Module`: four `nnx.LinearGeneral` around sums over keys, a `lax.scan` if causal.

scan(q, k, v) = quadratic(q, k, v)        see attention/spec/layers/linear.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl.attend import check_arrays
from attention.jax_impl.layers.layer import Layer
from attention.jax_impl.masks import allowed, native, read, zero_masked_inputs
from attention.spec.axes import COMPUTE, Sizes, check_float, dtype_name
from attention.spec.call_types import LinearCall, joined
from attention.spec.kernels.nan_safety import set_nan
from attention.spec.layers import linear as spec
from attention.spec.layers import linear_forms as forms
from attention.spec.masks import Causal, Lengths
from attention.spec.masks.algebra import Mask, both
from attention.spec.options import SWITCH
from attention.spec.scores import heads_first


class LinearAttention(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: spec.LinearAttention
    q_proj: nnx.LinearGeneral
    k_proj: nnx.LinearGeneral
    v_proj: nnx.LinearGeneral
    out_proj: nnx.LinearGeneral

    def __call__(  # pyright: ignore[reportRedeclaration]  # the declaration below has the overloads
        self,
        query: jax.Array,
        key: jax.Array | None = None,
        value: jax.Array | None = None,
        *,
        mask: Mask | None = None,
        state: jax.Array | None = None,
        return_state: bool = False,
        implementation: str = "auto",
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
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
            DTypeError: not an array, or another dtype than the layer's.
            MaskError: the mask does not fit; T != S though the layer is causal.
            KernelRefused: the scan does not support the call.
        """
        asked = query if key is None else key
        *given, state = check_arrays(query=query, key=asked, value=asked if value is None else value, state=state)
        SWITCH.check("return_state", return_state)
        carries = return_state or state is not None
        mask, form, sizes = self._check(given, mask, state, implementation, carries=carries)
        seen, there = self._seen(mask, form, sizes, carried=state is not None, leaves=carries)
        nan_rows = None
        if there is not None:
            given = [jnp.where(rows[..., None], x, 0.0) for rows, x in zip((*there, there[1]), given, strict=True)]
        elif seen is not None:
            given, nan_rows = zero_masked_inputs(mask, sizes, *given)
        with jax.default_matmul_precision(self.contract.precision):
            q, k, v = self._heads(given)
            if form == "quadratic":
                sums, left = forms.quadratic(jnp, q, k, v, seen), None
            else:
                sums, left = self._scan(q, k, v, there, state)
        output = set_nan(jnp, nan_rows, self.out_proj(forms.ratio(jnp, sums, self.contract.eps).astype(given[0].dtype)))
        return joined(output, left if carries else None)

    if TYPE_CHECKING:
        __call__: LinearCall[jax.Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def _check(
        self, given: list[Any], mask: Mask | None, state: Any, implementation: str, *, carries: bool
    ) -> tuple[Mask | None, str, Sizes]:
        """Return the remaining mask, the form, and the sizes."""
        query, key, value = given
        dtype = check_float(query=query, key=key, value=value, parameters=self.q_proj.kernel)
        c = self.contract
        sizes = c.attention.sizes(query, key, value)
        c.check_state(state, sizes, dtype, carries=carries)
        mask = native(mask)
        form = forms.choose(implementation, mask, carries=carries)
        whole = both(Causal() if c.causal else None, mask)
        if whole is not None:
            whole.check(sizes, read)
        return whole if form == "quadratic" else mask, form, sizes

    def _seen(
        self, mask: Mask | None, form: str, sizes: Sizes, *, carried: bool, leaves: bool
    ) -> tuple[jax.Array | None, tuple[jax.Array, jax.Array] | None]:
        """Return what the quadratic form masks, and which queries and keys the scan takes."""
        if form == "quadratic" or not isinstance(mask, Lengths):
            return allowed(mask, sizes), None
        return None, forms.present(jnp, mask, allowed, sizes, causal=self.contract.causal, carried=carried, leaves=leaves)

    def _heads(self, given: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return features of queries and keys, and values with a column of ones, in the compute dtype."""
        query, key, value = given
        compute = COMPUTE[dtype_name(query)]
        q, k, v = (x.astype(compute) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        q, k = (forms.features(jnp, self.contract.feature_map, x) for x in (q, k))
        return q, k, forms.with_ones(jnp, v)

    def _scan(
        self, q: jax.Array, k: jax.Array, v: jax.Array, there: tuple[jax.Array, jax.Array] | None, state: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the sums `(*batch, T, H, E + 1)` and the state that all tokens leave."""
        *batch, t, h, d = q.shape
        heads = k.shape[-2]
        if there is not None:
            q, k = (jnp.where(rows[..., None, None], x, 0.0) for rows, x in zip(there, (q, k), strict=True))
        k, v = heads_first(jnp, k), heads_first(jnp, v)  # (*batch, K, S, D), (*batch, K, S, E + 1)
        q = heads_first(jnp, q).reshape(*batch, heads, h // heads, t, d)
        sums, left = chunked(q, k, v, state) if self.contract.causal else whole(q, k, v)
        return heads_first(jnp, sums.reshape(*batch, h, t, sums.shape[-1])), left


def whole(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sums over all keys for each query, and for none in particular."""
    left = jnp.matrix_transpose(k) @ v
    return q @ left[..., None, :, :], left


def chunked(q: jax.Array, k: jax.Array, v: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
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

    def chunks(x: jax.Array) -> jax.Array:
        # Features of zero add nothing, so that the last chunk may be filled with them.
        filled = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, count * size - t), (0, 0)])
        return jnp.moveaxis(filled.reshape(*x.shape[:-2], count, size, x.shape[-1]), -3, 0)

    def step(before: jax.Array, chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, k, v = chunk
        inside = jnp.tril(q @ jnp.matrix_transpose(k)[..., None, :, :]) @ v[..., None, :, :]
        return before + jnp.matrix_transpose(k) @ v, inside + q @ before[..., None, :, :]

    first = jnp.zeros((*k.shape[:-2], k.shape[-1], v.shape[-1]), v.dtype) if state is None else state
    left, made = jax.lax.scan(step, first, (chunks(q), chunks(k), chunks(v)))
    made = jnp.moveaxis(made, 0, -3)
    return made.reshape(*q.shape[:-2], count * size, v.shape[-1])[..., :t, :], left
