"""Baselines: what the frameworks' own attention makes of the same cases, alone.

    torch.nn.functional.scaled_dot_product_attention        jax.nn.dot_product_attention

Alone means that every attribute and input of the node goes, as it is, into the argument that the function has for it: no
mask is computed from lengths, frontiers or windows, none is padded, none is merged into another. Layout is no matter of
attention: heads are split, axes exchanged, absent leading axes added and a past is concatenated, as for the backends.

torch: attn_mask bool or floating, is_causal, scale, enable_gqa.
jax: bias, mask bool, is_causal, scale, key_value_seq_lengths, local_window_size.

They are judged twice: as the backends are, and more kindly, not on the scores, which 18 cases ask for and neither returns,
and with two ulps where the output is float16, as ONNX's own judge grants bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attention.torch_impl.params import to_numpy, to_tensor
from conformance.onnx_attention import heads, keys
from conformance.onnx_cases import Case


@dataclass(frozen=True)
class Baseline:
    """One function.

    Attributes:
        name: what the table calls it.
        missing: what of a node has no argument; see `asked`.
        call: returns the context `(B, T, H, E)` of query, key and value `(B, N, heads, width)`.
        kindly: whether the scores are not asked for, and float16 is granted two ulps.
        operators: those that it is asked for.
    """

    name: str
    missing: frozenset[str]
    call: Callable[..., np.ndarray]
    kindly: bool = True
    operators: tuple[str, ...] = ("Attention",)

    def ask(self, case: Case) -> Case:
        """Return the case as it is judged."""
        if not self.kindly:
            return case
        kinder = case.without("qk_matmul_output")
        return kinder.within(2**-9) if kinder.outputs["Y"].dtype == np.float16 else kinder

    def lacks(self, case: Case) -> str | None:
        """Return what of the node no argument says, or None."""
        missing = [what for what in asked(case) if what in self.missing]
        return f"has no argument for {', '.join(missing)}" if missing else None

    def answer(self, case: Case) -> dict[str, np.ndarray]:
        """Return every output that the node asks for but the scores; whatever the function raises passes through."""
        query, key, value = heads(case)
        y = self.call(case, query, key, value)
        return {
            "Y": np.swapaxes(y, 1, 2) if case.inputs["Q"].ndim == 4 else y.reshape(*y.shape[:2], -1),
            "present_key": np.swapaxes(key, 1, 2),
            "present_value": np.swapaxes(value, 1, 2),
        }


def asked(case: Case) -> list[str]:
    """Return what the node asks for, of what not every function has."""
    inputs, attributes = case.inputs, case.attributes
    asks = {
        "a soft cap": bool(attributes.get("softcap")),
        "a precision of the softmax": "softmax_precision" in attributes,
        "scores": "qk_matmul_output" in case.outputs,
        "lengths": "nonpad_kv_seqlen" in inputs,
        "a window": max(windows(case)) >= 0,
        "a mask shorter than S": "attn_mask" in inputs and inputs["attn_mask"].shape[-1] != keys(case),
    }
    return [name for name, wanted in asks.items() if wanted]


def windows(case: Case) -> tuple[int, int]:
    """Return how far a query sees to the left and to the right, -1 for no bound."""
    return case.attributes.get("left_window_size", -1), case.attributes.get("right_window_size", -1)


def _torch(case: Case, *arrays: np.ndarray) -> np.ndarray:
    query, key, value = (to_tensor(x).transpose(1, 2) for x in arrays)
    mask = case.inputs.get("attn_mask")
    y = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        # Torch asks for two axes at least.
        attn_mask=None if mask is None else torch.atleast_2d(to_tensor(mask)),
        is_causal=bool(case.attributes.get("is_causal")),
        scale=case.attributes.get("scale"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return to_numpy(y.transpose(1, 2))


def _jax(case: Case, *arrays: np.ndarray) -> np.ndarray:
    mask, lengths = case.inputs.get("attn_mask"), case.inputs.get("nonpad_kv_seqlen")
    if mask is not None:
        # JAX asks for four axes.
        mask = jnp.asarray(mask.reshape((1,) * (4 - mask.ndim) + mask.shape))
    boolean = mask is not None and mask.dtype == jnp.bool_
    # JAX has no word for a side without a bound; S keys is as far as there are any.
    left, right = (keys(case) if bound < 0 else bound for bound in windows(case))
    y = jax.nn.dot_product_attention(
        *(jnp.asarray(x) for x in arrays),
        bias=None if boolean else mask,
        mask=mask if boolean else None,
        is_causal=bool(case.attributes.get("is_causal")),
        scale=case.attributes.get("scale"),
        key_value_seq_lengths=None if lengths is None else jnp.asarray(lengths, jnp.int32),
        local_window_size=(left, right) if max(windows(case)) >= 0 else None,
    )
    return np.asarray(y)


COMMON = frozenset({"a soft cap", "a precision of the softmax", "scores", "a mask shorter than S"})
KINDLY = (
    Baseline("torch SDPA alone", COMMON | {"lengths", "a window"}, _torch),
    Baseline("jax.nn alone", COMMON, _jax),
)
BASELINES = (*KINDLY, *(replace(x, name=f"{x.name.removesuffix(' alone')}, strictly", kindly=False) for x in KINDLY))
