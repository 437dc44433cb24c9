"""Generators of option values, one for each field of each contract.

    make(pick, frame, kind) = kind(field=VALUES[kind][field](pick, frame) for every field of the dataclass)

The fields are those of the dataclass itself: an option without a generator is an error, and a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from attention.spec.kernels import PRECISIONS
from attention.spec.layers.activations import GATED, PLAIN
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import Additive, Concat, General
from attention.spec.layers.block import ORDERS
from attention.spec.layers.contract import Contract
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import FEATURES, LinearAttention
from attention.spec.layers.multi_head import GATES, SOFTMAX, MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.positions import (
    Alibi,
    AxialRotary,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RelativeBias,
    RelativeKeys,
    Rotary,
    YarnScaling,
)
from attention.spec.positions.rotation import STYLES
from attention.spec.scores import Cosine, Dot, ScaledDot
from tools.evaluation.option_fuzzing.generators import VALUES, Value, each, either, make, number, size, switch
from tools.evaluation.option_fuzzing.masks import structural
from tools.evaluation.random_contracts import Frame, Pick

FRAMES = (
    Frame(2, 3, 3, 8, 2, 1, 4, 3, 6, 5),
    Frame(2, 3, 5, 8, 4, 2, 4, 3, 6, 5),
    Frame(2, 5, 3, 8, 2, 2, 4, 3, 6, 5),
    Frame(1, 1, 5, 8, 4, 2, 4, 3, 6, 5),
    Frame(2, 5, 5, 8, 4, 2, 4, 3, 6, 5),
    Frame(2, 3, 3, 8, 1, 1, 4, 3, 6, 5),
)
"""Few and small, so that what JAX traces for one draw serves others. The widths differ, so that a swapped axis shows."""


def _head_dim(pick: Pick, frame: Frame, parts: int = 1) -> int | None:
    """Return D, or None where it is what the widths make of it anyway."""
    return pick.maybe(frame.D, 0.5) if parts * frame.H * frame.D == frame.M else frame.D


def _biases(pick: Pick, _: Frame) -> bool | tuple[bool, bool, bool]:
    return pick.one((True, False, (pick.chance(0.5), pick.chance(0.5), pick.chance(0.5))))


def _long_rope(name: str) -> Value:
    return lambda pick, frame: tuple(pick.between(0.5 if name == "short" else 1.0, 4.0) for _ in range(frame.D // 2))


def _slopes(pick: Pick, frame: Frame) -> tuple[float, ...] | None:
    return pick.maybe(tuple(pick.between(0.1, 2.0) for _ in range(frame.H)), 0.5)


def _self(pick: Pick, frame: Frame) -> MultiHeadAttention:
    """Return the attention of a block to its own tokens."""
    square = replace(frame, S=frame.T)
    return make(pick, square, MultiHeadAttention, kdim=None, vdim=None, out_dim=None)


def _cross(pick: Pick, frame: Frame) -> MultiHeadAttention:
    """Return the attention of a block to a memory."""
    memory = pick.one((None, frame.memory))
    return make(pick, frame, MultiHeadAttention, kdim=memory, vdim=None, out_dim=None, positions=None)


NO_MASK: Value = lambda pick, frame: pick.one((None, structural(pick, frame)))  # noqa: E731 - a row of the tables below
DROPS = either(0.0, 0.0, 0.3)
PRECISION = either(*PRECISIONS)
NORMS: Mapping[str, Value] = {
    "norm": each(LayerNorm, RMSNorm),
    "order": either(*ORDERS),
    "dropout_rate": DROPS,
}
EPS = either(1e-6, 1e-5, 1e-2)
ROTARY: Mapping[str, Value] = {"base": either(10_000.0, 100.0), "style": either(*STYLES)}
HEADS: Mapping[str, Value] = {
    "embed_dim": size("M", none=False),
    "num_heads": size("H", none=False),
    "num_kv_heads": size("K"),
    "head_dim": _head_dim,
}

TABLES: Mapping[type, Mapping[str, Value]] = {
    MultiHeadAttention: {
        **HEADS,
        "value_dim": size("E"),
        "kdim": size("memory"),
        "vdim": size("A"),
        "qkv_bias": _biases,
        "out_bias": switch(),
        "mask": NO_MASK,
        "positions": each(None, None, Rotary, Rotary, AxialRotary, Alibi, RelativeBias, RelativeKeys),
        "score": each(ScaledDot, ScaledDot, Dot, Cosine),
        "softcap": number(0.5, 20.0, None),
        "dropout_rate": DROPS,
        "precision": PRECISION,
        "out_dim": size("A"),
        "qk_norm": each(None, None, None, RMSNorm, LayerNorm, L2Norm),
        "sinks": switch(0.3),
        "softmax": either(*SOFTMAX),
        "gate": either(*GATES),
        "add_bias_kv": switch(0.3),
        "add_zero_attn": switch(0.3),
    },
    LatentAttention: {
        **{name: HEADS[name] for name in ("embed_dim", "num_heads")},
        "kv_rank": size("A", none=False),
        "nope_dim": size("E", none=False),
        "rope_dim": size("D", none=False),
        "value_dim": size("E", "A", none=False),
        "q_rank": size("memory"),
        "down_bias": switch(),
        "q_bias": switch(),
        "out_bias": switch(),
        "norm": each(RMSNorm),
        "positions": each(Rotary),
        "score": each(ScaledDot, Dot),
        "mask": NO_MASK,
        "dropout_rate": DROPS,
        "precision": PRECISION,
    },
    DifferentialAttention: {
        **HEADS,
        "head_dim": partial(_head_dim, parts=2),
        "depth": either(0, 1, 7),
        "qkv_bias": switch(),
        "out_bias": switch(),
        "norm": each(RMSNorm),
        "mask": NO_MASK,
        "positions": each(None, Rotary, AxialRotary),
        "score": each(ScaledDot, Dot),
        "dropout_rate": DROPS,
        "precision": PRECISION,
    },
    LinearAttention: {
        **HEADS,
        "value_dim": size("E"),
        "causal": lambda pick, frame: frame.T == frame.S and pick.chance(0.5),
        "feature_map": either(*FEATURES),
        "eps": either(1e-6, 1e-2, 0.0),
        "qkv_bias": switch(),
        "out_bias": switch(),
        "precision": PRECISION,
    },
    AlignmentAttention: {
        "query_dim": size("M", none=False),
        "key_dim": size("memory", "M"),
        "value_dim": size("E"),
        "score": each(Additive, Concat, General, ScaledDot, Dot, Cosine),
        "attn_dim": size("A"),
        "mask": NO_MASK,
        "softcap": number(0.5, 20.0, None),
        "dropout_rate": DROPS,
        "precision": PRECISION,
    },
    FeedForward: {
        "embed_dim": size("M", none=False),
        "hidden_dim": size("A", none=False),
        "activation": either(*PLAIN, *GATED),
        "bias": switch(),
        "dropout_rate": DROPS,
        "precision": PRECISION,
    },
    EncoderBlock: {**NORMS, "attention": _self, "feed_forward": each(FeedForward)},
    DecoderBlock: {**NORMS, "self_attention": _self, "cross_attention": _cross, "feed_forward": each(FeedForward)},
    Encoder: {"block": each(EncoderBlock), "depth": either(1, 2), "final_norm": each(None, LayerNorm, RMSNorm)},
    Decoder: {"block": each(DecoderBlock), "depth": either(1, 2), "final_norm": each(None, LayerNorm, RMSNorm)},
    RMSNorm: {"eps": EPS, "offset": switch()},
    LayerNorm: {"eps": EPS, "bias": switch()},
    L2Norm: {"eps": EPS},
    Dot: {},
    ScaledDot: {"scale": number(0.1, 2.0, None, None, 0.0, -0.3)},
    Cosine: {"initial": number(0.5, 10.0), "most": number(0.5, 20.0, None), "eps": EPS},
    General: {},
    Additive: {"hidden": size("A"), "bias": switch(), "chunk_size": either(None, 1, 2)},
    Concat: {"hidden": size("A"), "bias": switch(), "chunk_size": either(None, 1, 2)},
    Alibi: {"slopes": _slopes},
    RelativeBias: {"num_buckets": either(4, 8), "max_distance": either(5, 20), "bidirectional": switch()},
    RelativeKeys: {"max_distance": either(1, 3)},
    AxialRotary: {**ROTARY, "rotary_dim": either(None, 4)},
    Rotary: {
        **ROTARY,
        "rotary_dim": either(None, None, 2),
        "scaling": each(None, None, LinearScaling, DynamicNTKScaling, YarnScaling, Llama3Scaling, LongRopeScaling),
    },
    LinearScaling: {"factor": number(1.0, 8.0)},
    DynamicNTKScaling: {"factor": number(1.0, 4.0), "max_positions": either(3, 8)},
    YarnScaling: {
        "factor": number(1.0, 8.0),
        "original_max_positions": either(4, 32),
        "beta_fast": either(32, 8),
        "beta_slow": either(1, 0.5),
        "attention_factor": number(0.5, 2.0, None),
        "mscale": either(None, 0.7),
        "mscale_all_dim": either(None, 1.3),
        "truncate": switch(),
    },
    Llama3Scaling: {
        "factor": number(1.0, 8.0),
        "low_freq_factor": either(1.0, 0.5),
        "high_freq_factor": either(4.0, 2.0),
        "original_max_positions": either(8, 64),
    },
    LongRopeScaling: {
        "short_factor": _long_rope("short"),
        "long_factor": _long_rope("long"),
        "original_max_positions": either(2, 8),
        "factor": number(1.0, 4.0, None),
        "max_positions": either(None, 16),
        "attention_factor": number(0.5, 2.0, None),
    },
}
VALUES.update(TABLES)

KINDS: Sequence[type[Contract]] = (
    *(MultiHeadAttention,) * 8,
    *(AlignmentAttention, LatentAttention, DifferentialAttention, LinearAttention) * 2,
    *(FeedForward, EncoderBlock, DecoderBlock, Encoder, Decoder),
)
"""Every contract, as often as it is drawn."""
