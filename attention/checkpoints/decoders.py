"""Llama-like decoders (Mistral, Gemma, Qwen, GPT-OSS): weight map and attention contract for each "model_type".

    self_attn.q_proj.weight (HD, M)    k_proj (KD, M)    v_proj (KE, M)    o_proj (M, HE)        grouped heads, rotary halves
    self_attn.q_norm.weight (D,)       Qwen3, Gemma 3    self_attn.sinks (H,)        GPT-OSS

The families differ in the contract: biases, window, soft cap, scale, norms, sinks.
Their `sliding_window` counts the query's own key: 4096 is `Window(before=4095, after=0)`.

References:
    Touvron et al., arXiv:2302.13971; Jiang et al., arXiv:2310.06825; Gemma, arXiv:2403.08295; Gemma 2, arXiv:2408.00118;
    Gemma 3, arXiv:2503.19786; Qwen2, arXiv:2407.10671; Qwen3, arXiv:2505.09388; GPT-OSS, arXiv:2508.10925; names and defaults
    as in transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from attention.checkpoints.config import Config, any_count, any_number, count, divided, get, inner, number_or, switch, word
from attention.checkpoints.rope import parameters, rotary
from attention.checkpoints.weight_map import Row, WeightMap, projections
from attention.spec.errors import OptionError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal, Window
from attention.spec.masks.algebra import Mask
from attention.spec.norms import RMSNorm
from attention.spec.scores import ScaledDot
from attention.spec.storage.disk import brief

_PROJECTIONS = projections("q_proj", "k_proj", "v_proj", "o_proj")

_NORMS = (Row("q_norm.scale", "q_norm.weight", ("D",)), Row("k_norm.scale", "k_norm.weight", ("D",)))

LLAMA = WeightMap("Llama", _PROJECTIONS)
MISTRAL = WeightMap("Mistral", _PROJECTIONS)
GEMMA = WeightMap("Gemma", _PROJECTIONS)
GEMMA2 = WeightMap("Gemma2", _PROJECTIONS)
GEMMA3 = WeightMap("Gemma3", (*_PROJECTIONS, *_NORMS))
QWEN2 = WeightMap("Qwen2", _PROJECTIONS)
QWEN3 = WeightMap("Qwen3", (*_PROJECTIONS, *_NORMS))
GPT_OSS = WeightMap("GPT-OSS", (*_PROJECTIONS, Row("sinks", "sinks", ("H",))))

GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
"""Default values of a GPT-OSS config."""


def _llama(config: Config, layer: int) -> MultiHeadAttention:
    del layer
    return _common(config, bias=switch(config, "attention_bias", absent=False))


def _mistral(config: Config, layer: int) -> MultiHeadAttention:
    del layer
    return _common(config, bias=False, window=any_count(config, "sliding_window", 4096))


def _gemma2(config: Config, layer: int) -> MultiHeadAttention:
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=False),
        window=any_count(config, "sliding_window", 4096) if _slides(config, layer, default=layer % 2 == 0) else None,
        score=ScaledDot(_inverse_root(number_or(config, "query_pre_attn_scalar", 256.0))),
        softcap=any_number(config, "attn_logit_softcapping", 50.0),
    )


def _gemma3(config: Config, layer: int) -> MultiHeadAttention:
    slides = _slides(
        config, layer, default=bool((layer + 1) % count({"sliding_window_pattern": 6, **config}, "sliding_window_pattern"))
    )
    return _common(
        _of_layer_type(config, LAYER_TYPES[slides]),
        bias=switch(config, "attention_bias", absent=False),
        window=any_count(config, "sliding_window", 4096) if slides else None,
        base=10_000.0 if slides else 1_000_000.0,
        score=ScaledDot(_inverse_root(number_or(config, "query_pre_attn_scalar", 256.0))),
        qk_norm=RMSNorm(eps=number_or(config, "rms_norm_eps", 1e-6), offset=True),
    )


def _qwen2(config: Config, layer: int) -> MultiHeadAttention:
    return replace(_common(config, bias=True, window=_qwen_window(config, layer)), out_bias=False)


def _qwen3(config: Config, layer: int) -> MultiHeadAttention:
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=False),
        window=_qwen_window(config, layer),
        qk_norm=RMSNorm(eps=number_or(config, "rms_norm_eps", 1e-6)),
    )


def _qwen_window(config: Config, layer: int) -> int | None:
    width = any_count(config, "sliding_window", 4096) if switch(config, "use_sliding_window", absent=False) else None
    return width if _slides(config, layer, default=layer >= number_or(config, "max_window_layers", 28)) else None


def _gpt_oss(config: Config, layer: int) -> MultiHeadAttention:
    if not parameters(config):
        config = {**config, "rope_parameters": GPT_OSS_ROPE}
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=True),
        window=any_count(config, "sliding_window", 128) if _slides(config, layer, default=layer % 2 == 0) else None,
        base=150_000.0,
        sinks=True,
    )


FAMILIES: dict[str, tuple[WeightMap, Callable[[Config, int], MultiHeadAttention]]] = {
    "llama": (LLAMA, _llama),
    "mistral": (MISTRAL, _mistral),
    "gemma": (GEMMA, _llama),
    "gemma2": (GEMMA2, _gemma2),
    "gemma3_text": (GEMMA3, _gemma3),
    "qwen2": (QWEN2, _qwen2),
    "qwen3": (QWEN3, _qwen3),
    "gpt_oss": (GPT_OSS, _gpt_oss),
}
"""The table and the contract of each "model_type"."""

LAYER_TYPES = ("full_attention", "sliding_attention")


def _slides(config: Config, layer: int, *, default: bool) -> bool:
    """Return whether a layer has a window; older configs leave it to a rule of the family."""
    kinds = get(config, "layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, (list, tuple)) or layer >= len(kinds):
        raise OptionError(f"layer_types {brief(repr(kinds))} must be a list with a type for layer {layer}")
    return word({"layer_types": kinds[layer]}, "layer_types", LAYER_TYPES) == "sliding_attention"


def _of_layer_type(config: Config, kind: str) -> Config:
    """Return a config with the rotary positions of one layer type, from values by type or from older names."""
    given = inner(config, "rope_parameters")
    if isinstance(given.get(kind), Mapping):
        return {**config, "rope_parameters": given[kind]}
    if kind == "sliding_attention" and not given:
        # Older files give scaling and base of the layers without a window.
        return {**config, "rope_scaling": None, "rope_theta": get(config, "rope_local_base_freq")}
    return config


def _inverse_root(x: float) -> float:
    if x <= 0:
        raise OptionError(f"config query_pre_attn_scalar {x} must be above 0")
    return x**-0.5


def _common(
    config: Config, *, bias: bool, window: int | None = None, base: float = 10_000.0, **options: Any
) -> MultiHeadAttention:
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    head_dim = any_count(config, "head_dim") or divided(width, heads, ("hidden_size", "num_attention_heads"))
    mask: Mask = Causal()
    if window is not None:
        mask = mask & Window(before=window - 1, after=0)
    return MultiHeadAttention(
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=any_count(config, "num_key_value_heads"),
        head_dim=head_dim,
        qkv_bias=bias,
        out_bias=bias,
        mask=mask,
        positions=rotary(config, head_dim, base=base),
        **options,
    )
