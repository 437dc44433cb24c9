"""The JAX and Flax NNX backend: layers, caches, functional attention, optimizers.

>>> import jax.numpy as jnp
>>> from attention import jax_impl, spec
>>> layer = jax_impl.MultiHeadAttention(spec.MultiHeadAttention(embed_dim=8, num_heads=2, mask=spec.Causal()))
>>> layer(jnp.zeros((3, 5, 8))).shape
(3, 5, 8)
"""

from attention._extras import require

require("jax", extra="jax", wanted_by="jax_impl")
require("flax", extra="jax", wanted_by="jax_impl")

from attention.jax_impl import kernels  # noqa: E402 - the check above names the missing extra
from attention.jax_impl.attend import dot_product_attention, explain  # noqa: E402
from attention.jax_impl.cache import PagedCache, RollingCache, StaticCache  # noqa: E402
from attention.jax_impl.compiled import compiled  # noqa: E402
from attention.jax_impl.layers.alignment import AlignmentAttention  # noqa: E402
from attention.jax_impl.layers.differential import DifferentialAttention  # noqa: E402
from attention.jax_impl.layers.feed_forward import FeedForward  # noqa: E402
from attention.jax_impl.layers.latent import LatentAttention  # noqa: E402
from attention.jax_impl.layers.layer import Layer, seed_at  # noqa: E402
from attention.jax_impl.layers.linear import LinearAttention  # noqa: E402
from attention.jax_impl.layers.multi_head import MultiHeadAttention  # noqa: E402
from attention.jax_impl.layers.transformer import Decoder, DecoderBlock, Encoder, EncoderBlock  # noqa: E402
from attention.jax_impl.optimizers import optimizer  # noqa: E402

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
