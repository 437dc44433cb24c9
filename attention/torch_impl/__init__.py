"""The PyTorch backend: layers, caches, functional attention, optimizers.

>>> import torch
>>> from attention import spec, torch_impl
>>> layer = torch_impl.MultiHeadAttention(spec.MultiHeadAttention(embed_dim=8, num_heads=2, mask=spec.Causal()))
>>> layer(torch.zeros(3, 5, 8)).shape
torch.Size([3, 5, 8])
"""

from attention._extras import require

require("torch", extra="torch", wanted_by="torch_impl")

from attention.torch_impl import kernels  # noqa: E402 - the check above names the missing extra
from attention.torch_impl.attend import dot_product_attention, explain  # noqa: E402
from attention.torch_impl.cache import PagedCache, RollingCache, StaticCache  # noqa: E402
from attention.torch_impl.compiled import compiled  # noqa: E402
from attention.torch_impl.layers.alignment import AlignmentAttention  # noqa: E402
from attention.torch_impl.layers.differential import DifferentialAttention  # noqa: E402
from attention.torch_impl.layers.feed_forward import FeedForward  # noqa: E402
from attention.torch_impl.layers.latent import LatentAttention  # noqa: E402
from attention.torch_impl.layers.layer import Layer, seed_at  # noqa: E402
from attention.torch_impl.layers.linear import LinearAttention  # noqa: E402
from attention.torch_impl.layers.multi_head import MultiHeadAttention  # noqa: E402
from attention.torch_impl.layers.transformer import Decoder, DecoderBlock, Encoder, EncoderBlock  # noqa: E402
from attention.torch_impl.optimizers import optimizer  # noqa: E402

__all__ = [
    "AlignmentAttention",
    "Decoder",
    "DecoderBlock",
    "DifferentialAttention",
    "Encoder",
    "EncoderBlock",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "LinearAttention",
    "MultiHeadAttention",
    "PagedCache",
    "RollingCache",
    "StaticCache",
    "compiled",
    "dot_product_attention",
    "explain",
    "kernels",
    "optimizer",
    "seed_at",
]
