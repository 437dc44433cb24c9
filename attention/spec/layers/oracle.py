"""The oracle: a multi-head layer by the formula alone, and the judge of both rooms.

    output = sum_h attend(rotate(query W_q + b_q), rotate(key W_k + b_k), value W_v + b_v)[h] W_o[h] + b_o

On NumPy float64 it gives the values, on `jax.numpy` in float64 also the gradients. What a call fixes beside its numbers (which
key is allowed, which angle, which weight is dropped) is settled first, in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.spec.algebra import Mask, both, evaluate
from attention.spec.attend import Mark, attend, unchanged, unmarked
from attention.spec.axes import Array, Sizes
from attention.spec.layers.multi_head import MultiHeadAttention, shield_inputs
from attention.spec.positions import Rotary, check_positions
from attention.spec.random import keep

Table = tuple[np.ndarray, np.ndarray]
"""Cosines and sines."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a call fixes beside its numbers, as NumPy arrays.

    Attributes:
        allowed: bool `(*batch, H, T, S)`, or None where all is allowed.
        query_table: cosines and sines `(*batch, T, R / 2)` float64, or None without rotary.
        key_table: the same for the keys.
        keep: bool `(*batch, H, T, S)`, or None without dropout.
    """

    allowed: np.ndarray | None = None
    query_table: Table | None = None
    key_table: Table | None = None
    keep: np.ndarray | None = None


def settle(
    contract: MultiHeadAttention,
    sizes: Sizes,
    mask: Mask | None = None,
    query_positions: Any = None,
    key_positions: Any = None,
    dropout_seed: int | None = None,
) -> Setting:
    """Return the setting of a call.

    Args:
        contract: the layer.
        sizes: of the call.
        mask: further mask, combined with the contract's by `&`; NumPy data.
        query_positions: integers for rotary, or None.
        key_positions: the same for the keys.
        dropout_seed: an int to drop weights at the contract's rate, or None.

    Raises:
        MaskError: the mask does not fit the sizes.
        PositionError: positions are missing or do not fit.
    """
    allowed = evaluate(both(contract.mask, mask), sizes)
    query_table = key_table = None
    if contract.positions is not None:
        check_positions(query_positions, key_positions, sizes)
        query_table = contract.positions.tables(np.arange(sizes.T) if query_positions is None else query_positions, sizes.D)
        key_table = contract.positions.tables(np.arange(sizes.S) if key_positions is None else key_positions, sizes.D)
    drops = contract.dropout_rate and dropout_seed is not None
    return Setting(
        None if allowed is None else np.broadcast_to(allowed, sizes.scores),
        query_table,
        key_table,
        keep(dropout_seed, contract.dropout_rate, sizes.scores) if drops else None,
    )


def oracle(
    contract: MultiHeadAttention,
    xp: Any,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    setting: Setting,
    *,
    constant: Callable[[Array], Array] = unchanged,
    mark: Mark = unmarked,
) -> dict[str, Array]:
    """Return the layer's stages and its "output".

    Args:
        contract: the layer; its mask is in `setting`.
        xp: the array namespace.
        weights: canonical, float64.
        inputs: "query" `(*batch, T, M)`; "key", which defaults to it; "value", which defaults to "key"; "bias", added to
            the scores. All float64.
        setting: what `settle` returned.
        constant: the framework's stop-gradient.
        mark: told of every value that a real program writes down, by name.
    """
    query = inputs["query"]
    key = inputs.get("key", query)
    value = inputs.get("value", key)
    given = shield_inputs(xp, setting.allowed, mark("input", query), mark("input", key), mark("input", value))
    names = ("q_proj", "k_proj", "v_proj")
    q, k, v = (_project(xp, weights, name, x, mark) for name, x in zip(names, given, strict=True))
    stages = attend(
        xp,
        _rotate(xp, contract.positions, q, setting.query_table, mark),
        _rotate(xp, contract.positions, k, setting.key_table, mark),
        v,
        scale=contract.score.factor(contract.width),
        allowed=setting.allowed,
        bias=inputs.get("bias"),
        softcap=contract.softcap,
        keep=setting.keep,
        dropout_rate=contract.dropout_rate,
        constant=constant,
        mark=mark,
    )
    return {**stages, "output": _project(xp, weights, "out_proj", stages["context"], mark)}


def _project(xp: Any, weights: Mapping[str, Array], name: str, x: Array, mark: Mark) -> Array:
    """Return `x W + b`: heads split from the model width on the way in, merged into it on the way out."""
    kernel, bias = weights[f"{name}.kernel"], weights.get(f"{name}.bias")
    summed = 2 if name == "out_proj" else 1
    rows, columns = kernel.shape[:summed], kernel.shape[summed:]
    flat = xp.reshape(x, (*x.shape[: x.ndim - summed], math.prod(rows)))
    matrix = xp.reshape(kernel, (flat.shape[-1], -1))
    y = mark(name, xp.reshape(xp.matmul(flat, matrix), (*flat.shape[:-1], *columns)))
    return y if bias is None else mark(name, y + bias)


def _rotate(xp: Any, rotary: Rotary | None, x: Array, table: Table | None, mark: Mark) -> Array:
    if rotary is None or table is None:
        return x
    return mark("rotated", rotary.rotate(xp, x, xp.asarray(table[0]), xp.asarray(table[1])))
