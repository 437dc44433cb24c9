"""The contracts: what attention is, in NumPy and the array API, with no framework.

>>> from attention import spec
>>> contract = spec.MultiHeadAttention(embed_dim=8, num_heads=2, mask=spec.Causal())
>>> sorted(contract.init(seed=0))[:2]
['k_proj.bias', 'k_proj.kernel']
"""

from attention.spec import optimizers
from attention.spec.attend import INTERMEDIATES
from attention.spec.checked_attend import attend
from attention.spec.files import load, save
from attention.spec.kernels import Choice, Kernel, Request, choose
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
from attention.spec.masks import Causal, Chunked, DenseMask, Lengths, PerHead, PerRow, Placed, Prefix, Segments, Window
from attention.spec.masks.algebra import And, Mask, Not, Or
from attention.spec.masks.tile_schedule import Schedule, schedule
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.params import Param, Weights, cast, nest
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
    "And",
    "Architecture",
    "AxialRotary",
    "Causal",
    "Choice",
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
    "Kernel",
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
    "Not",
    "Or",
    "Param",
    "PerHead",
    "PerRow",
    "Placed",
    "Prefix",
    "RMSNorm",
    "RelativeBias",
    "RelativeKeys",
    "Request",
    "Rotary",
    "ScaledDot",
    "Schedule",
    "Segments",
    "Weights",
    "Window",
    "YarnScaling",
    "attend",
    "cast",
    "choose",
    "load",
    "nest",
    "optimizers",
    "save",
    "schedule",
]
