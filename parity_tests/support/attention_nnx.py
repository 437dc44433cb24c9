"""An attention in Flax NNX, written for the tests as somebody would port transformers' decoders; options plant mistakes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Norm(nnx.Module):
    """An RMS norm whose scale is stored as its difference from `first`."""

    def __init__(self, width: int, first: float, eps: float) -> None:
        self.scale = nnx.Param(jnp.full((width,), 1.0 - first))
        self.first, self.eps = first, eps

    def __call__(self, x: Any) -> Any:
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * (self.first + self.scale[...])


class Attention(nnx.Module):
    """Grouped heads, rotary halves, causal; `norm_heads` False norms queries over the heads and not within each."""

    def __init__(
        self,
        config: Any,
        *,
        base: float = 10_000.0,
        window: int | None = None,
        cap: float | None = None,
        scale: float | None = None,
        biases: tuple[bool, bool] = (False, False),
        norm: float | None = None,
        eps: float = 1e-6,
        norm_heads: bool = True,
        sinks: bool = False,
        use_sinks: bool = True,
    ) -> None:
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_dim
        self.base, self.window, self.cap, self.scale = base, window, cap, scale or self.width**-0.5
        self.norm_heads, self.use_sinks = norm_heads, use_sinks
        rngs = nnx.Rngs(0)

        def linear(inputs: int, outputs: int, bias: bool) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=bias, rngs=rngs)

        self.q_proj = linear(config.hidden_size, self.heads * self.width, biases[0])
        self.k_proj = linear(config.hidden_size, self.kv_heads * self.width, biases[0])
        self.v_proj = linear(config.hidden_size, self.kv_heads * self.width, biases[0])
        self.o_proj = linear(self.heads * self.width, config.hidden_size, biases[1])
        self.q_norm = Norm(self.width, norm, eps) if norm is not None else None
        self.k_norm = Norm(self.width, norm, eps) if norm is not None else None
        self.sinks = nnx.Param(jnp.zeros(self.heads)) if sinks else None

    def __call__(self, x: Any) -> Any:
        B, T, _ = x.shape
        q = self.q_proj(x).reshape(B, T, self.heads, -1)
        k = self.k_proj(x).reshape(B, T, self.kv_heads, -1)
        v = self.v_proj(x).reshape(B, T, self.kv_heads, -1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.normed(self.q_norm, q), self.normed(self.k_norm, k)
        q, k = self.rotated(q), self.rotated(k)
        q = q.reshape(B, T, self.kv_heads, -1, self.width)
        scores = jnp.einsum("btkgd,bskd->bkgts", q, k) * self.scale
        if self.cap is not None:
            scores = self.cap * jnp.tanh(scores / self.cap)
        t, s = jnp.arange(T)[:, None], jnp.arange(T)
        allowed = s <= t
        if self.window is not None:
            allowed &= t - s < self.window
        scores = jnp.where(allowed, scores, -jnp.inf)
        if self.sinks is not None and self.use_sinks:
            sinks = self.sinks[...].reshape(self.kv_heads, -1)[None, :, :, None, None]
            scores = jnp.concatenate([scores, jnp.broadcast_to(sinks, (*scores.shape[:-1], 1))], -1)
        weights = jax.nn.softmax(scores, axis=-1)[..., :T]
        return self.o_proj(jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(B, T, -1))

    def normed(self, norm: Norm, x: Any) -> Any:
        if self.norm_heads:
            return norm(x)
        flat = x.reshape(*x.shape[:2], -1)
        size = jnp.sqrt(jnp.mean(flat * flat, -1) + norm.eps)[..., None, None]
        return x / size * (norm.first + norm.scale[...])

    def rotated(self, x: Any) -> Any:
        rates = 1.0 / self.base ** (np.arange(0, self.width, 2) / self.width)
        angles = (np.arange(x.shape[1])[:, None] * rates)[:, None].astype(np.float32)
        first, second = jnp.split(x, 2, axis=-1)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Bert(nnx.Module):
    """BERT's attention with its residual sum and norm; `scale` is that of the scores."""

    def __init__(self, width: int, heads: int, scale: float | None = None) -> None:
        rngs = nnx.Rngs(0)
        self.attention = Heads(width, heads, scale)
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(x + self.attention(x))


class Heads(nnx.Module):
    """BERT's attention alone."""

    def __init__(self, width: int, heads: int, scale: float | None) -> None:
        rngs = nnx.Rngs(0)
        self.heads, self.scale = heads, scale or (width // heads) ** -0.5
        self.query, self.key, self.value, self.dense = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))

    def __call__(self, x: Any) -> Any:
        q, k, v = (f(x).reshape(*x.shape[:2], self.heads, -1) for f in (self.query, self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * self.scale, axis=-1)
        return self.dense(jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape))


class Gpt2(nnx.Module):
    """GPT-2's attention, with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int, scale: float | None = None) -> None:
        rngs = nnx.Rngs(0)
        self.heads, self.scale = heads, scale or (width // heads) ** -0.5
        self.c_attn, self.c_proj = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        q, k, v = (part.reshape(*x.shape[:2], self.heads, -1) for part in jnp.split(self.c_attn(x), 3, axis=-1))
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * self.scale
        weights = jax.nn.softmax(jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -jnp.inf), axis=-1)
        return self.c_proj(jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape))
