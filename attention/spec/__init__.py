"""The contracts: what attention is, in NumPy and the array API, with no framework.

>>> from attention import spec
>>> contract = spec.MultiHeadAttention(embed_dim=8, num_heads=2, mask=spec.Causal())
>>> sorted(contract.init(seed=0))[:2]
['k_proj.bias', 'k_proj.kernel']
"""

from attention.spec.algebra import And, Mask, Not, Or
from attention.spec.attend import STAGES, attend
from attention.spec.files import load, save
from attention.spec.kernels import Choice, Kernel, Request, choose
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal, Chunked, Dense, Lengths, Prefix, Segments, Window
from attention.spec.params import Param, Weights, cast
from attention.spec.positions import Rotary
from attention.spec.scores import Dot, ScaledDot

__all__ = [
    "STAGES",
    "And",
    "Causal",
    "Choice",
    "Chunked",
    "Dense",
    "Dot",
    "Kernel",
    "Lengths",
    "Mask",
    "MultiHeadAttention",
    "Not",
    "Or",
    "Param",
    "Prefix",
    "Request",
    "Rotary",
    "ScaledDot",
    "Segments",
    "Weights",
    "Window",
    "attend",
    "cast",
    "choose",
    "load",
    "save",
]
