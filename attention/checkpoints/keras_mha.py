"""`keras.layers.MultiHeadAttention`: weight map and contract.

    query.kernel (M, H, D)    key.kernel (M', H, D)    value.kernel (M'', H, E)    attention_output.kernel (H, E, M)
    gate.kernel (M, H, E)     use_gate=True

A call is (query, value, key), in this order. `sliding_window=3` shows 5 keys: its bound counts the query's own, on both sides.

References:
    keras.layers.MultiHeadAttention, version 3.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.checkpoints.config import any_count, count, get, switch
from attention.checkpoints.weight_map import Row, WeightMap
from attention.spec.errors import OptionError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Window
from attention.spec.storage.disk import brief

KERAS = WeightMap(
    "keras.layers.MultiHeadAttention",
    (
        Row("q_proj.kernel", "query.kernel", ("M", "H", "D")),
        Row("q_proj.bias", "query.bias", ("H", "D")),
        Row("k_proj.kernel", "key.kernel", ("M", "K", "D")),
        Row("k_proj.bias", "key.bias", ("K", "D")),
        Row("v_proj.kernel", "value.kernel", ("M", "K", "E")),
        Row("v_proj.bias", "value.bias", ("K", "E")),
        Row("out_proj.kernel", "attention_output.kernel", ("H", "E", "M")),
        Row("out_proj.bias", "attention_output.bias", ("M",)),
        Row("gate_proj.kernel", "gate.kernel", ("M", "H", "E")),
    ),
)


def contract(config: Mapping[str, Any], width: int, kdim: int | None = None, vdim: int | None = None) -> MultiHeadAttention:
    """Return the contract of `keras.layers.MultiHeadAttention(**config)` on inputs of these widths.

    Args:
        config: its arguments. Dropout belongs to training and is not read.
        width: M, of the queries; a Keras layer learns it from its first call.
        kdim: of the keys; None means `width`.
        vdim: of the values; None means `kdim`.

    Raises:
        OptionError: a number is missing, or it attends over several axes, or gives several axes of features, or its gate
            has a bias.
    """
    axes, out = get(config, "attention_axes"), get(config, "output_shape")
    # Compared as text, because == of arrays is not a bool.
    if repr(axes) not in ("None", "1", "(1,)", "[1]"):
        raise OptionError(f"attention_axes {brief(repr(axes))} must be None: one axis is attended over")
    if not isinstance(out, (int, type(None))):
        raise OptionError(f"output_shape {brief(repr(out))} must be an int or None: outputs have one axis of features")
    bias, gated = switch(config, "use_bias", absent=True), switch(config, "use_gate", absent=False)
    window = any_count(config, "sliding_window")
    if bias and gated:
        raise OptionError("use_gate True must be False where use_bias is True: our gate has no bias")
    return MultiHeadAttention(
        embed_dim=width,
        num_heads=count(config, "num_heads"),
        head_dim=count(config, "key_dim"),
        value_dim=any_count(config, "value_dim"),
        kdim=kdim,
        vdim=vdim,
        out_dim=out,
        qkv_bias=bias,
        out_bias=bias,
        mask=None if window is None else Window(before=window - 1, after=window - 1, align="start"),
        gate="elementwise" if gated else None,
    )
