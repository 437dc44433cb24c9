"""ONNX's RMSNormalization as `spec.RMSNorm`: over the last axis here, over all axes from `axis` on there.

    mean over (axis ... rank - 1) of x^2        =  mean over the last axis of x, those axes flattened
    Scale, of the shape of those axes           =  its flattened self

References:
    https://onnx.ai/onnx/operators/onnx__RMSNormalization.html, opset 23
"""

from __future__ import annotations

import numpy as np

from attention import spec
from conformance.backends import Backend
from conformance.onnx_cases import Case


def answer(backend: Backend, case: Case) -> dict[str, np.ndarray]:
    """Return the normalised input, in its own shape."""
    x, scale = case.inputs["X"], case.inputs["scale"]
    axis = case.attributes.get("axis", -1) % x.ndim
    norm = spec.RMSNorm(eps=case.attributes.get("epsilon", 1e-5))
    flat = backend.array(x.reshape(*x.shape[:axis], -1))
    weights = {"scale": backend.array(np.broadcast_to(scale, x.shape[axis:]).reshape(-1))}
    return {"Y": backend.numpy(norm.normalise(backend.xp, weights, flat)).reshape(x.shape)}
