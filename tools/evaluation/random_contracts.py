"""Random contracts: every layer, every option, sizes from a short list.

contract(pick, frame)        options that exclude each other are refused by the contract itself, and drawn again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import Additive, Concat, General
from attention.spec.layers.contract import Contract
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Encoder
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import Causal, Chunked, Prefix, Window
from attention.spec.masks.algebra import Mask
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.positions import (
    Alibi,
    AxialRotary,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    RelativeBias,
    RelativeKeys,
    Rotary,
    YarnScaling,
)
from attention.spec.scores import Cosine, Dot, ScaledDot

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Frame:
    """The sizes of a draw, by axis letter; M'' is the width of a memory, A that of a feed-forward or alignment model."""

    B: int
    T: int
    S: int
    M: int
    H: int
    K: int
    D: int
    E: int
    memory: int
    A: int


FRAMES = (
    Frame(3, 13, 13, 22, 6, 3, 10, 7, 13, 17),
    Frame(2, 7, 7, 12, 4, 2, 6, 6, 12, 24),
    Frame(2, 5, 13, 12, 4, 2, 6, 5, 9, 16),
    Frame(3, 13, 5, 10, 3, 1, 8, 4, 10, 11),
    Frame(1, 1, 19, 12, 4, 4, 6, 6, 12, 24),
    Frame(1, 37, 37, 16, 2, 1, 8, 8, 16, 32),
)


@dataclass(frozen=True)
class Pick:
    """Chances, all from one generator."""

    rng: np.random.Generator

    def one(self, choices: Sequence[Choice]) -> Choice:
        """Return one of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """Return True as often as that."""
        return bool(self.rng.random() < probability)

    def maybe(self, value: Choice, probability: float = 0.3) -> Choice | None:
        """Return the value as often as that, and else None."""
        return value if self.chance(probability) else None

    def between(self, low: float, high: float) -> float:
        """Return a number whose logarithm is evenly drawn, short enough to be read."""
        return float(f"{math.exp(self.rng.uniform(math.log(low), math.log(high))):.3g}")


def structure(pick: Pick, frame: Frame) -> Mask | None:
    """Return a mask of structure alone, or None."""
    align = None if frame.T == frame.S else pick.one(("start", "end"))
    causal, few = Causal(align=align), int(pick.rng.integers(0, 6))
    return pick.one(
        (
            None,
            None,
            causal,
            causal,
            causal & Window(before=few, after=0, align=align),
            Window(before=few, after=int(pick.rng.integers(0, 4)), align=align),
            causal & Chunked(few + 1, align=align),
            causal | Prefix(min(few, frame.S)),
        )
    )


def _norm(pick: Pick) -> RMSNorm | LayerNorm:
    eps = pick.one((1e-6, 1e-5, 1e-3))
    return pick.one((RMSNorm(eps=eps), RMSNorm(eps=eps, offset=True), LayerNorm(eps=eps), LayerNorm(eps=eps, bias=False)))


def _rotary(pick: Pick, width: int) -> Rotary:
    scaling = pick.one((LinearScaling(4.0), DynamicNTKScaling(2.0, 8), YarnScaling(4.0, 32), Llama3Scaling(8.0, 1.0, 4.0, 64)))
    style, base = pick.one(("half", "interleaved")), pick.one((10_000.0, 500_000.0, 100.0))
    return Rotary(base, style, pick.maybe(width // 4 * 2), pick.maybe(scaling))


def _multi_head(pick: Pick, f: Frame, **fixed: Any) -> MultiHeadAttention:
    places: Sequence[Callable[[], Any]] = (
        lambda: None,
        lambda: None,
        lambda: _rotary(pick, f.D),
        lambda: _rotary(pick, f.D),
        lambda: AxialRotary(rotary_dim=4),
        Alibi,
        lambda: RelativeBias(8, 20, pick.chance(0.5)),
        lambda: RelativeKeys(4),
    )
    most = pick.maybe(pick.between(2.0, 100.0), 0.5)
    options: dict[str, Any] = {
        "num_kv_heads": pick.one((None, f.K, 1)),
        "head_dim": f.D,
        "value_dim": pick.maybe(f.E),
        "kdim": pick.maybe(f.memory, 0.2),
        "qkv_bias": pick.one((True, False, (True, False, True))),
        "out_bias": pick.chance(0.5),
        "mask": structure(pick, f),
        "positions": pick.one(places)(),
        "score": pick.one((ScaledDot(), ScaledDot(), ScaledDot(pick.between(0.05, 2.0)), Dot(), Cosine(10.0, most))),
        "softcap": pick.maybe(pick.between(1.0, 100.0)),
        "dropout_rate": pick.one((0.0, 0.0, 0.1, 0.5)),
        "qk_norm": pick.maybe(pick.one((_norm(pick), L2Norm()))),
        "gate": pick.one((None, None, None, "headwise", "elementwise")),
    }
    rare: dict[str, Any] = {"sinks": pick.chance(0.2), "softmax": "off_by_one" if pick.chance(0.1) else "standard"}
    more: dict[str, Any] = {"add_bias_kv": pick.chance(0.1), "add_zero_attn": pick.chance(0.1), "out_dim": pick.maybe(f.A, 0.1)}
    return MultiHeadAttention(f.M, f.H, **{**options, **rare, **more, **fixed})


def _same(pick: Pick, f: Frame) -> MultiHeadAttention:
    """Return the attention of a block: of tokens to themselves, with tables that a block can place."""
    positions = pick.one((None, _rotary(pick, f.D), Alibi()))
    return _multi_head(pick, f, kdim=None, out_dim=None, positions=positions, mask=pick.one((None, Causal())))


def _feed_forward(pick: Pick, f: Frame) -> FeedForward:
    activation = pick.one(("relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu", "geglu_tanh"))
    return FeedForward(f.M, f.A, activation, pick.chance(0.5), pick.one((0.0, 0.2)))


def _encoder_block(pick: Pick, f: Frame) -> EncoderBlock:
    order, rate = pick.one(("pre", "post")), pick.one((0.0, 0.2))
    return EncoderBlock(_same(pick, f), _feed_forward(pick, f), norm=_norm(pick), order=order, dropout_rate=rate)


def _encoder(pick: Pick, f: Frame) -> Encoder:
    return Encoder(_encoder_block(pick, f), 2, pick.maybe(_norm(pick)))


def _decoder(pick: Pick, f: Frame) -> DecoderBlock:
    cross = _multi_head(pick, f, kdim=f.memory, out_dim=None, positions=None, mask=None)
    return DecoderBlock(_same(pick, f), cross, _feed_forward(pick, f), norm=_norm(pick), order=pick.one(("pre", "post")))


def _latent(pick: Pick, f: Frame) -> LatentAttention:
    widths = {"kv_rank": f.E, "nope_dim": f.D - 2, "rope_dim": 4, "value_dim": f.E, "q_rank": pick.maybe(f.A, 0.5)}
    mask, rotary = pick.one((None, Causal())), _rotary(pick, 4)
    switches: dict[str, Any] = {name: pick.chance(0.3) for name in ("down_bias", "q_bias", "out_bias")}
    return LatentAttention(f.M, f.H, **widths, **switches, positions=rotary, mask=mask, dropout_rate=pick.one((0.0, 0.2)))


def _differential(pick: Pick, f: Frame) -> DifferentialAttention:
    options: dict[str, Any] = {"num_kv_heads": pick.one((None, f.K)), "head_dim": f.D, "mask": structure(pick, f)}
    options |= {"positions": pick.maybe(_rotary(pick, f.D), 0.5), "qkv_bias": pick.chance(0.5), "out_bias": pick.chance(0.5)}
    return DifferentialAttention(f.M, f.H, int(pick.rng.integers(0, 12)), **options, dropout_rate=pick.one((0.0, 0.2)))


def _linear(pick: Pick, f: Frame) -> LinearAttention:
    options: dict[str, Any] = {"num_kv_heads": pick.one((None, f.K)), "head_dim": f.D, "value_dim": f.E}
    causal = f.T == f.S and pick.chance(0.5)
    return LinearAttention(
        f.M, f.H, **options, causal=causal, feature_map=pick.one(("elu+1", "relu")), eps=pick.one((1e-6, 0.01))
    )


def _alignment(pick: Pick, f: Frame) -> AlignmentAttention:
    bent: dict[str, Any] = {"hidden": f.D, "bias": pick.chance(0.5), "chunk_size": pick.maybe(3)}
    score = pick.one((Additive(**bent), Concat(**bent), General(), ScaledDot(), Dot(), Cosine(10.0, 20.0)))
    options: dict[str, Any] = {"mask": structure(pick, f), "softcap": pick.maybe(pick.between(1.0, 100.0))}
    return AlignmentAttention(f.M, f.memory, f.E, score, pick.maybe(f.A, 0.4), **options, dropout_rate=pick.one((0.0, 0.2)))


KINDS: Sequence[Callable[[Pick, Frame], Contract]] = (
    *(_multi_head,) * 10,
    *(_alignment,) * 3,
    *(_latent, _differential, _linear) * 2,
    _feed_forward,
    _encoder_block,
    _encoder,
    _decoder,
)
