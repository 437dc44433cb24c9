"""Multi-head attention as an `nnx.Module`: four `nnx.LinearGeneral` around `dot_product_attention`.

output = W_o attend(W_q query, W_k key, W_v value)        see attention/spec/layers/multi_head.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attention.jax_impl import params, random
from attention.jax_impl.attend import check_arrays, check_x64, dot_product_attention
from attention.jax_impl.masks import allowed, native, read
from attention.jax_impl.positions import rotate
from attention.spec import MultiHeadAttention as Contract
from attention.spec.algebra import Mask, both
from attention.spec.axes import Array, Sizes, check_float
from attention.spec.layers.multi_head import shield_inputs
from attention.spec.params import Weights, numpy_dtype
from attention.spec.positions import check_positions


class MultiHeadAttention(nnx.Module):
    """The layer of a contract.

    Args:
        contract: what the layer is.
        seed: of the first weights: the same bits in every framework.
        dtype: of the parameters.

    Raises:
        UnknownName: no such dtype.
        DTypeError: float64 while JAX's 64-bit mode is off.
    """

    q_proj: nnx.LinearGeneral
    k_proj: nnx.LinearGeneral
    v_proj: nnx.LinearGeneral
    out_proj: nnx.LinearGeneral

    def __init__(self, contract: Contract, *, seed: int = 0, dtype: str = "float32") -> None:
        self.contract = contract
        kind = numpy_dtype(dtype)
        check_x64("dtype", dtype)
        for name, param in contract.params.items():
            if param.inputs:
                linear = nnx.LinearGeneral(
                    param.shape[: param.inputs],
                    param.shape[param.inputs :],
                    axis=tuple(range(-param.inputs, 0)),
                    use_bias=contract.has_bias(name),
                    dtype=kind,
                    param_dtype=kind,
                    kernel_init=nnx.initializers.zeros,
                    precision=contract.precision,
                    rngs=nnx.Rngs(0),
                    kernel_metadata=_sharding(param.axes),
                    bias_metadata=_sharding(param.axes[param.inputs :]),
                )
                setattr(self, name.removesuffix(".kernel"), linear)
        first = params.init(contract.params, seed)
        self.load_weights({name: value.astype(kind) for name, value in first.items()})
        self.deterministic = False
        # A key of our own making: nnx would take neither a traced seed nor one of 64 bits.
        stream = jax.random.wrap_key_data(jnp.stack(random.key(seed)), impl="threefry2x32")
        self.rngs = nnx.Rngs(dropout=stream) if contract.dropout_rate else None

    def __call__(
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
        x_q, x_k, x_v = check_arrays(query=query, key=key, value=key if value is None else value)
        mask, sizes = self._check(x_q, x_k, x_v, mask, query_positions, key_positions)
        if mask is not None and not (sizes.T == sizes.S and mask.keeps_self):
            x_q, x_k, x_v = shield_inputs(jnp, allowed(mask, sizes), x_q, x_k, x_v)
        q = rotate(c.positions, self.q_proj(x_q), query_positions)
        k = rotate(c.positions, self.k_proj(x_k), key_positions)
        v = self.v_proj(x_v)
        out = dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            bias=bias,
            scale=c.score.factor(sizes.D),
            softcap=c.softcap,
            dropout_rate=0.0 if self.deterministic else c.dropout_rate,
            dropout_seed=self._seed(dropout_seed),
            precision=c.precision,
            return_stages=return_stages,
            implementation=implementation,
        )
        context, stages = out if return_stages else (out, None)
        output = self.out_proj(context)
        return (output, stages) if return_stages else output

    def set_view(self, deterministic: bool | None = None) -> None:
        """Switch dropout off or on, as `nnx.view(layer, deterministic=True)` asks of every module it finds."""
        if deterministic is not None:
            self.deterministic = deterministic

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
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: Mask | None,
        query_positions: Array,
        key_positions: Array,
    ) -> tuple[Mask | None, Sizes]:
        _ = check_float(query=query, key=key, value=value, parameters=self.q_proj.kernel)
        sizes = self.contract.sizes(query, key, value)
        if self.contract.positions is not None:
            check_positions(query_positions, key_positions, sizes)
        mask = both(self.contract.mask, native(mask))
        if mask is not None:
            mask.check(sizes, read)
        return mask, sizes

    def _seed(self, given: Any) -> Any:
        """Return the dropout seed of this call: drawn from the layer's own stream while training, unless given."""
        if given is not None or self.deterministic or self.rngs is None:
            return given
        return jax.random.bits(self.rngs.dropout())


def _sharding(axes: str) -> dict[str, Any]:
    """Return the metadata that names a parameter's axes for `nnx.get_partition_spec`, by their letters in `spec.axes`."""
    # Eager sharding would ask for a mesh before the first parameter is made.
    return {"out_sharding": tuple(axes), "eager_sharding": False}
