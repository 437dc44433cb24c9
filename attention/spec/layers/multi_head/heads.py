"""Head-level steps of multi-head attention: appended keys and the output gate.

    q, k = norm(q), norm(k)                               qk-norm, before any rotation
    k, v = [k; bias_k; 0], [v; bias_v; 0]                 add_bias_kv, add_zero_attn: keys that every query may attend to
    context[t, h] = context[t, h] * sigmoid(query[t] W_g)[h]        output gate

Each piece runs on NumPy as the oracle, and on tensors and JAX arrays inside the backends' layers.

References:
    Dehghani et al., arXiv:2302.05442 (qk-norm); torch.nn.MultiheadAttention (the appended keys); Qiu et al.,
    arXiv:2505.06708 (output gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.spec.axes import Array
from attention.spec.layers.multi_head.configuration import BIASES, MultiHeadConfiguration


def is_plain(contract: MultiHeadConfiguration) -> bool:
    """Return whether attention proper gets nothing but heads and a mask: no sinks, no further keys, nothing on the scores."""
    adds = contract.sinks or contract.extra_keys or contract.precision or isinstance(contract.positions, BIASES)
    return not adds and contract.softmax == "standard"


def append(contract: MultiHeadConfiguration, xp: Any, weights: Mapping[str, Array], k: Array, v: Array) -> tuple[Array, Array]:
    """Return keys and values with those that the contract appends: the learned one, then the zeros."""
    extra_k, extra_v = [], []
    if contract.add_bias_kv:
        extra_k, extra_v = [weights["bias_k"]], [weights["bias_v"]]
    if contract.add_zero_attn:
        extra_k, extra_v = [*extra_k, xp.zeros_like(k[..., :1, :, :])], [*extra_v, xp.zeros_like(v[..., :1, :, :])]
    rows = [[xp.broadcast_to(x, (*of.shape[:-3], 1, *of.shape[-2:])) for x in xs] for of, xs in ((k, extra_k), (v, extra_v))]
    return xp.concat([k, *rows[0]], axis=-3), xp.concat([v, *rows[1]], axis=-3)


def append_columns(xp: Any, x: Array, keys: int, count: int, fill: float) -> Array:
    """Return an array that broadcasts to `(*batch, H, T, keys)` with `count` more keys of value `fill`; None stays None."""
    if x is None or not count:
        return x
    # A single column means all keys, but not the appended ones.
    x = xp.broadcast_to(x, (*x.shape[:-1], keys))
    return xp.concat([x, *[xp.full_like(x[..., :1], fill)] * count], axis=-1)


def gated(xp: Any, gate: Array, context: Array) -> Array:
    """Return the context `(*batch, T, H, E)` times the sigmoid of its gate, `(*batch, T, H, E)` or `(*batch, T, H)`."""
    # Not 1 / (1 + exp(-x)), whose gradient is inf * 0 where the gate is shut.
    opened = 0.5 * (1.0 + xp.tanh(0.5 * gate))
    return context * (opened[..., None] if opened.ndim < context.ndim else opened)
