"""Other PyTorch libraries as implementations, in the layout and with the arguments that their users would pass.

adapter(case) -> function(q, k, v, *extras)        masks are made once, outside of what is timed
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.adapters import Attention, Implementation
from benchmarks.cases import BACKWARD, WINDOW, Case, offsets
from benchmarks.machine import torch_device


def _bool_mask(case: Case, *, causal: bool = False) -> Any:
    """Return the dense mask on the device, or None where an argument says it: no mask, and causal if the peer has a flag."""
    import torch  # noqa: PLC0415 - the implementations of a framework import it

    if case.mask == "dense" or (causal and case.mask == "causal"):
        return None
    return torch.from_numpy(case.allowed().copy()).to(torch_device())


def _sdpa(case: Case, backend: str = "") -> Attention:
    from torch.nn import attention as torch_attention  # noqa: PLC0415
    from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415

    options = {"is_causal": case.mask == "causal", "enable_gqa": case.sizes.group > 1}

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)

    def forced(q: Any, k: Any, v: Any, mask: Any) -> Any:
        with torch_attention.sdpa_kernel(getattr(torch_attention.SDPBackend, backend)):
            return function(q, k, v, mask)

    return Attention(forced if backend else function, (_bool_mask(case, causal=True),))


def _strided(case: Case) -> Attention:
    """Return SDPA on what a projection makes, (B, T, H, D) seen as (B, H, T, D), without a copy."""
    inner = _sdpa(case)

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return inner.function(*(x.transpose(1, 2) for x in (q, k, v)), mask).transpose(1, 2)

    return Attention(function, inner.extras)


def _on_gpu(_: Case) -> str | None:
    return "on a CPU, SDPA has no choice but this or the mathematics" if torch_device() == "cpu" else None


def _mask_mods(case: Case) -> dict[str, Callable[..., Any]]:
    """Return FlexAttention's predicates, as its own documentation writes them."""
    import torch  # noqa: PLC0415

    starts = torch.tensor(offsets(case.S)[1:-1], device=torch_device())
    ids = torch.bucketize(torch.arange(case.S, device=torch_device()), starts, right=True)
    return {
        "causal": lambda b, h, q, kv: q >= kv,  # noqa: ARG005 - FlexAttention gives all four
        "window": lambda b, h, q, kv: (q >= kv) & (q - kv < WINDOW),  # noqa: ARG005
        "segments": lambda b, h, q, kv: ids[q] == ids[kv],  # noqa: ARG005
        "padding": lambda b, h, q, kv: kv < case.S // 2,  # noqa: ARG005
        "quarter": lambda b, h, q, kv: kv < case.S // 4,  # noqa: ARG005
        "prefix": lambda b, h, q, kv: (q >= kv) | (kv < case.S // 2),  # noqa: ARG005
    }


def _flex(case: Case) -> Attention:
    import torch  # noqa: PLC0415
    from torch.nn.attention import flex_attention as flex  # noqa: PLC0415

    compiled = torch.compile(flex.flex_attention, dynamic=False, fullgraph=True)
    blocks = None
    if case.mask != "dense":
        of = case.sizes
        blocks = flex.create_block_mask(_mask_mods(case)[case.mask], None, None, of.T, of.S, device=torch_device())

    def function(q: Any, k: Any, v: Any) -> Any:
        return compiled(q, k, v, block_mask=blocks, enable_gqa=case.sizes.group > 1)

    return Attention(function)


def _flex_lacks(case: Case) -> str | None:
    backward = torch_device() == "cpu" and case.program == BACKWARD
    return "has no backward pass on a CPU" if backward else None


def _eager(case: Case) -> Attention:
    """Return what transformers runs where nothing faster was asked for, with the additive mask that its models make."""
    import torch  # noqa: PLC0415

    llama = importlib.import_module("transformers.models.llama.modeling_llama")
    module = SimpleNamespace(num_key_value_groups=case.sizes.group, training=False)
    allowed, additive = _bool_mask(case), None
    if allowed is not None:
        kind = getattr(torch, case.dtype)
        additive = torch.zeros(allowed.shape, dtype=kind, device=allowed.device)
        additive = additive.masked_fill_(~allowed, torch.finfo(kind).min)

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return llama.eager_attention_forward(module, q, k, v, mask, case.D**-0.5)[0].transpose(1, 2)

    return Attention(function, (additive,))


def _x_transformers(case: Case) -> Attention:
    """Return x-transformers' core, by SDPA ("flash") as its users would ask for."""
    attend = importlib.import_module("x_transformers.attend").Attend(
        causal=case.mask == "causal", flash=True, heads=case.H, dropout=0.0
    )
    attend = attend.to(torch_device()).eval()

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return attend(q, k, v, mask=mask)[0]

    return Attention(function, (_bool_mask(case, causal=True),))


PEERS = (
    Implementation("SDPA", "torch", _sdpa, layout="BHTD"),
    Implementation("SDPA strided", "torch", _strided),
    Implementation("SDPA math", "torch", partial(_sdpa, backend="MATH"), layout="BHTD", dense=True),
    Implementation("SDPA flash", "torch", partial(_sdpa, backend="FLASH_ATTENTION"), _on_gpu, "BHTD"),
    Implementation("SDPA efficient", "torch", partial(_sdpa, backend="EFFICIENT_ATTENTION"), _on_gpu, "BHTD"),
    Implementation("SDPA cudnn", "torch", partial(_sdpa, backend="CUDNN_ATTENTION"), _on_gpu, "BHTD"),
    Implementation("FlexAttention", "torch", _flex, _flex_lacks, "BHTD", slow=True),
    Implementation("transformers eager", "torch", _eager, layout="BHTD", packages=("transformers",), dense=True),
    Implementation("x-transformers", "torch", _x_transformers, layout="BHTD", packages=("x_transformers",)),
)
