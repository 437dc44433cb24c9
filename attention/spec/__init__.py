"""Contracts of attention: layers, masks, positions, norms and scores, in NumPy and the array API, without a framework.

>>> from attention import spec
>>> contract = spec.MultiHeadAttention(embed_dim=8, num_heads=2, mask=spec.Causal())
>>> sorted(contract.init(seed=0))[:2]
['k_proj.bias', 'k_proj.kernel']

`spec.optimizers` has optimiser steps, `spec.masks` and `spec.positions` all that masks and positions are built from,
`spec.kernels` the protocol of a kernel and the choice among kernels.
"""

from attention.spec import kernels, masks, optimizers, positions
from attention.spec.attend import INTERMEDIATES
from attention.spec.checked_attend import attend
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import Additive, Concat, General
from attention.spec.layers.architecture import Architecture
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import Causal, Chunked, DenseMask, Lengths, Mask, PerHead, PerRow, Placed, Prefix, Segments, Window
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.params import Param, Weights, cast
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
from attention.spec.scores import Cosine, Dot, ScaledDot

__all__ = [
    "INTERMEDIATES",
    "Additive",
    "Alibi",
    "AlignmentAttention",
    "Architecture",
    "AxialRotary",
    "Causal",
    "Chunked",
    "Concat",
    "Cosine",
    "Decoder",
    "DecoderBlock",
    "DenseMask",
    "DifferentialAttention",
    "Dot",
    "DynamicNTKScaling",
    "Encoder",
    "EncoderBlock",
    "FeedForward",
    "General",
    "L2Norm",
    "LatentAttention",
    "LayerNorm",
    "Lengths",
    "LinearAttention",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Mask",
    "MultiHeadAttention",
    "Param",
    "PerHead",
    "PerRow",
    "Placed",
    "Prefix",
    "RMSNorm",
    "RelativeBias",
    "RelativeKeys",
    "Rotary",
    "ScaledDot",
    "Segments",
    "Weights",
    "Window",
    "YarnScaling",
    "attend",
    "cast",
    "kernels",
    "masks",
    "optimizers",
    "positions",
]
