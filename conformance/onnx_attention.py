"""ONNX's Attention as one call of `dot_product_attention`, its conventions turned into a contract by name.

    Y = softmax(cap(q k^T * scale) + attn_mask [- inf where causal, window or padding forbids]) v

What ONNX leaves to its reader and a contract says aloud:

    heads       (B, H, T, D), or (B, T, H * D) and numbers of heads     ->  (B, T, H, D)
    causal      query t stands at key `offset + t`: 0 without a cache,  ->  Causal(align="start"), or
                the length of past_key, or nonpad_kv_seqlen - T             Causal(query_positions=...)
    window      left_window_size, right_window_size, -1 for no bound    ->  Window(before, after), at the same places
    attn_mask   bool: True may attend                                   ->  DenseMask
                float: added; -inf forbids                              ->  bias, and DenseMask where it is -inf
                aligned from the right; shorter than S: -inf follows    ->  padded with what forbids
    padding     nonpad_kv_seqlen keys exist                             ->  Lengths(kv=...)
    softcap     0 is none; before the mask                              ->  softcap, None for none; the same order
    past_key    (B, K, P, D), before the new keys                       ->  concatenated; the present is what was used
    scale       sqrt(scale) on q and on k                               ->  scale on the product: other rounding, same value

A row that may attend to nothing is 0 in both; so are its weights.

References:
    https://onnx.ai/onnx/operators/onnx__Attention.html, opset 25
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from operator import and_
from typing import Any

import numpy as np
from onnx import TensorProto

from attention import spec
from conformance.backends import Backend
from conformance.onnx_cases import Case

MODES = {0: "scaled", 1: "capped", 2: "masked", 3: "weights"}
"""The intermediate of each `qk_matmul_output_mode`. ONNX's bias holds the -inf of every mask, so mode 2 is after the mask."""


def answer(backend: Backend, case: Case, kernel: str | None = None) -> dict[str, np.ndarray]:
    """Return every output that the node asks for.

    Args:
        backend: the backend.
        case: an Attention.
        kernel: "auto" or a kernel's name; None is "auto", and "reference" for float16. There ONNX's tolerance is one ulp and
            its own numbers, rounded after every operation, are up to one ulp from the truth: only the kernel that rounds
            once is always near enough. (torch's fused kernel is nearer the truth than ONNX, and fails a case.)
    """
    query, key, value = heads(case)
    dtype = query.dtype
    kernel = kernel or ("reference" if dtype == np.float16 else "auto")
    made = {"present_key": np.swapaxes(key, 1, 2), "present_value": np.swapaxes(value, 1, 2)}
    if case.attributes.get("softmax_precision") == TensorProto.DOUBLE:
        # Ours is float32 for inputs of 16 and 32 bits; who wants 64 in the softmax gets them throughout.
        with backend.wide():
            made |= _call(backend, case, kernel, *(x.astype(np.float64) for x in (query, key, value)))
    else:
        # Whatever else can be asked for has no more digits than float32.
        made |= _call(backend, case, kernel, query, key, value)
    return {name: made[name].astype(dtype) for name in case.outputs}


def _call(
    backend: Backend, case: Case, kernel: str, query: np.ndarray, key: np.ndarray, value: np.ndarray
) -> dict[str, np.ndarray]:
    """Return "Y" in the layout of the node, and "qk_matmul_output" if it is asked for."""
    allowed, bias = contract(case)
    intermediate = MODES[case.attributes.get("qk_matmul_output_mode", 0)]
    asked = (intermediate,) if "qk_matmul_output" in case.outputs else ()
    attend = partial(
        backend.module.dot_product_attention,
        mask=allowed,
        bias=None if bias is None else backend.array(bias.astype(query.dtype)),
        scale=case.attributes.get("scale"),
        softcap=case.attributes.get("softcap") or None,
        precision="highest",
        implementation=kernel,
        return_intermediates=asked,
    )
    made = backend.whole(attend)(*(backend.array(x) for x in (query, key, value)))
    y, intermediates = made if asked else (made, {})
    scores = {"qk_matmul_output": backend.numpy(intermediates[intermediate])} if asked else {}
    y = backend.numpy(y)
    y = np.swapaxes(y, 1, 2) if case.inputs["Q"].ndim == 4 else y.reshape(*y.shape[:2], -1)
    return {"Y": y, **scores}


def heads(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query `(B, T, H, D)`, and key and value `(B, S, K, D)` and `(B, S, K, E)` with the past in front."""
    inputs, attributes = case.inputs, case.attributes
    query = split(inputs["Q"], attributes.get("q_num_heads"))
    key, value = (split(inputs[name], attributes.get("kv_num_heads")) for name in ("K", "V"))
    if "past_key" in inputs:
        key = np.concatenate([np.swapaxes(inputs["past_key"], 1, 2), key], axis=1)
        value = np.concatenate([np.swapaxes(inputs["past_value"], 1, 2), value], axis=1)
    return query, key, value


def split(x: np.ndarray, count: int | None) -> np.ndarray:
    """Return `(B, N, heads, D)` of ONNX's `(B, heads, N, D)`, or of its `(B, N, heads * D)`."""
    return np.swapaxes(x, 1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], count or 1, -1)


def contract(case: Case) -> tuple[spec.Mask | None, np.ndarray | None]:
    """Return the mask and the bias that say what the node says."""
    inputs, attributes = case.inputs, case.attributes
    dense, bias = split_mask(inputs.get("attn_mask"), keys(case))
    masks: list[spec.Mask] = [] if dense is None else [spec.DenseMask(dense)]
    if attributes.get("is_causal"):
        masks.append(spec.Causal(**place(case)))
    before, after = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if max(before, after) >= 0:
        masks.append(spec.Window(*(None if bound < 0 else bound for bound in (before, after)), **place(case)))
    if "nonpad_kv_seqlen" in inputs:
        masks.append(spec.Lengths(kv=inputs["nonpad_kv_seqlen"]))
    return (reduce(and_, masks) if masks else None), bias


def place(case: Case) -> Mapping[str, Any]:
    """Return where query t stands among the keys, as `Causal` and `Window` want it said."""
    inputs = case.inputs
    queries = split(inputs["Q"], case.attributes.get("q_num_heads")).shape[1]
    if "past_key" in inputs:
        return {"query_positions": inputs["past_key"].shape[2] + np.arange(queries)}
    if "nonpad_kv_seqlen" in inputs:
        # With more queries than keys the first of them stand before the first key, and see nothing.
        return {"query_positions": inputs["nonpad_kv_seqlen"][:, None] - queries + np.arange(queries)}
    return {"align": "start"}


def keys(case: Case) -> int:
    """Return S, the past included."""
    past = case.inputs["past_key"].shape[2] if "past_key" in case.inputs else 0
    return past + case.inputs["K"].shape[-2]


def split_mask(mask: np.ndarray | None, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return which keys `attn_mask` allows and what it adds, each None where it says nothing about it.

    Args:
        mask: bool or floating, of rank 1 to 4, broadcastable to `(B, H, T, S)` but for a last axis that may be shorter.
        count: S.
    """
    if mask is None:
        return None, None
    pad = [(0, 0)] * (mask.ndim - 1) + [(0, count - mask.shape[-1])]
    if mask.dtype == np.bool_:
        return np.pad(mask, pad), None
    mask = np.pad(mask, pad, constant_values=-np.inf)
    allowed = mask != -np.inf
    return (None if allowed.all() else allowed), np.where(allowed, mask, np.zeros_like(mask))
