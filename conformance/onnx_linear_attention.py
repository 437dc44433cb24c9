"""ONNX's LinearAttention, of which the contracts know the rule "linear": attention without softmax, over a state.

    output_t = scale * q_t (past_state + sum_{s <= t} k_s^T v_s)  =  scale * (mix(q, past_state) + mix(causal q k^T, v))
    present_state = past_state + sum_s k_s^T v_s                   =  past_state + mix(k^T, v)

by `spec.scores.products` and `spec.scores.mix`, heads grouped as everywhere. The other rules forget and correct: "gated"
scales the state by exp(decay) at every token, "delta" writes beta * (v - k state) instead of v, "gated_delta" (the default)
does both. No contract says either, so those cases are not answered.

References:
    https://onnx.ai/onnx/operators/onnx__LinearAttention.html, opset 27; Katharopoulos et al., arXiv:2006.16236 (linear);
    Yang et al., arXiv:2312.06635 (gated), arXiv:2406.06484 (delta), arXiv:2412.06464 (both)
"""

from __future__ import annotations

import numpy as np

from attention.spec.scores import mix, products
from conformance.backends import Backend
from conformance.onnx_attention import split
from conformance.onnx_cases import Case


def lacks(case: Case) -> str | None:
    """Return why no contract says what the node says, or None."""
    rule = case.attributes.get("update_rule", "gated_delta")
    return None if rule == "linear" else f"no contract has the update rule {rule!r}"


def answer(backend: Backend, case: Case) -> dict[str, np.ndarray]:
    """Return the output `(B, T, H * E)` and the state `(B, K, D, E)`; sums run in float32, as ONNX has it."""
    inputs, attributes, xp = case.inputs, case.attributes, backend.xp
    counts = (attributes["q_num_heads"], attributes["kv_num_heads"], attributes["kv_num_heads"])
    q, k, v = (
        backend.array(split(inputs[name], count).astype(np.float32))
        for name, count in zip(("query", "key", "value"), counts, strict=True)
    )
    # ONNX writes 0 where it means 1 / sqrt(D).
    scale = attributes.get("scale") or q.shape[-1] ** -0.5
    causal = backend.array(np.tri(q.shape[1], k.shape[1], dtype=bool))
    scores = products(xp, q, k)  # (B, H, T, S)
    output = mix(xp, xp.where(causal, scores, xp.zeros_like(scores)), v)  # (B, T, H, E)
    state = mix(xp, xp.permute_dims(k, (0, 2, 3, 1)), v)  # (B, D, K, E)
    if "past_state" in inputs:
        past = backend.array(np.swapaxes(inputs["past_state"], 1, 2).astype(np.float32))
        output, state = output + mix(xp, xp.permute_dims(q, (0, 2, 1, 3)), past), state + past
    y = backend.numpy(output * scale).reshape(*inputs["query"].shape[:2], -1)
    made = {"output": y, "present_state": np.swapaxes(backend.numpy(state), 1, 2)}
    kinds = {"output": inputs["query"].dtype, "present_state": inputs.get("past_state", inputs["query"]).dtype}
    return {name: made[name].astype(kinds[name]) for name in case.outputs}
