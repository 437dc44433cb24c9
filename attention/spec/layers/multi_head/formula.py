"""The formula of a multi-head layer over the array API: the oracle that both backends are compared with.

    output = sum_h attend(rotate(query W_q + b_q), rotate(key W_k + b_k), value W_v + b_v)[h] W_o[h] + b_o

On NumPy float64 it gives the values, on `jax.numpy` in float64 also the gradients. What a call fixes beside its numbers (which
key is allowed, which angle, which weight is dropped) is resolved first, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attention.spec.attend import UNOBSERVED, Observer, attend, unchanged
from attention.spec.axes import Array, Sizes
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.multi_head import heads
from attention.spec.layers.multi_head.configuration import BIASES, MultiHeadConfiguration
from attention.spec.layers.multi_head.heads import append_columns
from attention.spec.layers.projection import normed, project
from attention.spec.masks.algebra import Mask, both, evaluate
from attention.spec.positions import check_positions, shared_length
from attention.spec.random import keep
from attention.spec.scores import Cosine


def resolve(
    contract: MultiHeadConfiguration,
    sizes: Sizes,
    mask: Mask | None = None,
    query_positions: Any = None,
    key_positions: Any = None,
    dropout_seed: int | None = None,
) -> ResolvedCall:
    """Return what a call fixes beside its arrays: allowed keys, rotary tables, dropout masks.

    Args:
        contract: the layer.
        sizes: of the call.
        mask: further mask, combined with the contract's by `&`; NumPy data.
        query_positions: integers, or None.
        key_positions: the same for the keys.
        dropout_seed: an int to drop weights at the contract's rate, or None.

    Returns:
        "allowed": bool `(*batch, H, T, S)`. "query_table", "key_table": cosines and sines `(*batch, T, R / 2)` float64, or
        None without rotary. "query_positions", "key_positions": integers, or None where the scores have no bias of them.
        "keep": bool like `allowed`, of the appended keys too, or None without dropout.

    Raises:
        MaskError: the mask does not fit the sizes.
        PositionError: positions are missing or do not fit.
    """
    allowed = evaluate(both(contract.mask, mask), sizes)
    made: ResolvedCall = dict.fromkeys(("query_table", "key_table", "query_positions", "key_positions", "keep"))
    made["allowed"] = np.ones(sizes.scores, bool) if allowed is None else np.broadcast_to(allowed, sizes.scores)
    if contract.positions is not None:
        check_positions(query_positions, key_positions, sizes, contract.positions)
        for name, given, count in (("query", query_positions, sizes.T), ("key", key_positions, sizes.S)):
            where = np.arange(count) if given is None else np.asarray(given)
            if isinstance(contract.positions, BIASES):
                made[f"{name}_positions"] = where
            else:
                length = shared_length(np, contract.positions, query_positions, key_positions)
                made[f"{name}_table"] = contract.positions.tables(where, sizes.D, length)
    if contract.dropout_rate and dropout_seed is not None:
        shape = (*sizes.scores[:-1], sizes.S + contract.extra_keys)
        made["keep"] = keep(dropout_seed, contract.dropout_rate, shape)
    return made


def formula(
    contract: MultiHeadConfiguration,
    xp: Any,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    resolved: ResolvedCall,
    *,
    constant: Callable[[Array], Array] = unchanged,
    observe: Observer = UNOBSERVED,
) -> dict[str, Array]:
    """Return the layer's intermediates and its "output".

    Args:
        contract: the layer; its mask is in `resolved`.
        xp: the array namespace.
        weights: canonical, float64.
        inputs: "query" `(*batch, T, M)`; "key", which defaults to it; "value", which defaults to "key"; "bias", added to
            the scores. All float64.
        resolved: what `resolve` returned.
        constant: the framework's stop-gradient.
        observe: called with every value that a layer stores, by name; see `Observer`.
    """
    query = inputs["query"]
    key = inputs.get("key", query)
    value = inputs.get("value", key)
    given = tuple(observe("input", x) for x in (query, key, value))
    given = zero_masked_inputs_dense(xp, resolved["allowed"], *given, appended=bool(contract.extra_keys))
    names = ("q_proj", "k_proj", "v_proj")
    q, k, v = (project(xp, weights, name, x, observe) for name, x in zip(names, given, strict=True))
    q = rotate(contract, xp, normed(xp, contract.norms, weights, "q_norm", q, observe), resolved["query_table"], observe)
    k = rotate(contract, xp, normed(xp, contract.norms, weights, "k_norm", k, observe), resolved["key_table"], observe)
    if isinstance(contract.score, Cosine):
        q, k = (observe("prepared", x) for x in contract.score.prepare(xp, weights, q, k))
    bias = inputs.get("bias")
    if isinstance(contract.positions, BIASES):
        at_q, at_k = (xp.asarray(resolved[f"{name}_positions"]) for name in ("query", "key"))
        own: Array = contract.positions.bias(xp, weights, q, at_q, at_k, contract.score.factor(contract.width))
        bias = own if bias is None else own + bias
    keys, extra = k.shape[-3], contract.extra_keys
    k, v = heads.append(contract, xp, weights, k, v)
    intermediates = attend(
        xp,
        q,
        k,
        v,
        scale=contract.score.factor(contract.width),
        allowed=append_columns(xp, resolved["allowed"], keys, extra, True),
        bias=append_columns(xp, bias, keys, extra, 0.0),
        softcap=contract.softcap,
        sinks=xp.zeros(contract.num_heads) if contract.softmax == "off_by_one" else weights.get("sinks"),
        keep=resolved["keep"],
        dropout_rate=contract.dropout_rate,
        constant=constant,
        observe=observe,
    )
    context = intermediates["context"]
    if contract.gate is not None:
        context = observe("gated", heads.gated(xp, project(xp, weights, "gate_proj", given[0], observe), context))
    return {**intermediates, "output": project(xp, weights, "out_proj", context, observe, summed=2)}


def rotate(contract: MultiHeadConfiguration, xp: Any, x: Array, table: tuple[Array, Array] | None, observe: Observer) -> Array:
    """Return the heads rotated by the angles of the table."""
    if table is None or contract.positions is None or isinstance(contract.positions, BIASES):
        return x
    return observe("rotated", contract.positions.rotate(xp, x, xp.asarray(table[0]), xp.asarray(table[1])))
