"""ONNX's RotaryEmbedding as `spec.Rotary.rotate`: the tables of cosines and sines are inputs there.

    interleaved 0, 1                  ->  style "half", "interleaved"
    cos_cache[position_ids]           ->  cos (B, N, R/2); without position_ids the cache has that shape already
    rotary_embedding_dim, 0 for all   ->  the width of the tables

References:
    https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html, opset 23
"""

from __future__ import annotations

import numpy as np

from attention import spec
from conformance.backends import Backend
from conformance.onnx_attention import split
from conformance.onnx_cases import Case


def answer(backend: Backend, case: Case) -> dict[str, np.ndarray]:
    """Return the rotated input, in its own layout."""
    given, attributes = case.inputs["X"], case.attributes
    rotary = spec.Rotary(
        style="interleaved" if attributes.get("interleaved") else "half",
        rotary_dim=attributes.get("rotary_embedding_dim") or None,
    )
    cos, sin = (
        backend.array(case.inputs[name][case.inputs["position_ids"]] if "position_ids" in case.inputs else case.inputs[name])
        for name in ("cos_cache", "sin_cache")
    )
    x = backend.array(split(given, attributes.get("num_heads")))
    turned = backend.numpy(rotary.rotate(backend.xp, x, cos, sin))
    return {"Y": np.swapaxes(turned, 1, 2) if given.ndim == 4 else turned.reshape(given.shape)}
