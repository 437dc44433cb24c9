"""A Llama in plain JAX: the layers are stacked along a leading axis and run by `lax.scan`, with or without a cache.

model(params, input_ids)                               logits of a whole pass, (B, T, V)
model.step(params, cache, tokens, positions)           logits of the next tokens, (B, t, V), and the new cache
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LAYERS, WIDTH, HIDDEN, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 2, 32, 48, 50, 4, 2, 8
THETA, EPS = 10000.0, 1e-5
Params = dict[str, Any]


def convert(state: Mapping[str, Any]) -> Params:
    """Return the parameters of a transformers Llama, given its `state_dict`; each array of `layers` has the layers first."""

    def stack(name: str, *shape: int) -> Array:
        tensors = [np.asarray(state[f"model.layers.{i}.{name}.weight"]).T for i in range(LAYERS)]
        return jnp.stack([x.reshape(shape or x.shape) for x in tensors])

    layers = {
        "norm1": stack("input_layernorm"),
        "wq": stack("self_attn.q_proj", WIDTH, HEADS, HEAD_DIM),
        "wk": stack("self_attn.k_proj", WIDTH, KV_HEADS, HEAD_DIM),
        "wv": stack("self_attn.v_proj", WIDTH, KV_HEADS, HEAD_DIM),
        "wo": stack("self_attn.o_proj", HEADS, HEAD_DIM, WIDTH),
        "norm2": stack("post_attention_layernorm"),
        "gate": stack("mlp.gate_proj"),
        "up": stack("mlp.up_proj"),
        "down": stack("mlp.down_proj"),
    }
    outer = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    head = jnp.asarray(np.asarray(state["lm_head.weight"]).T)
    return {"layers": layers, "head": head, **{name: jnp.asarray(np.asarray(state[key])) for name, key in outer.items()}}


def rms_norm(x: Array, scale: Array) -> Array:
    """Return x over its root mean square, scaled."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * scale


def rotate(x: Array, positions: Array) -> Array:
    """Return queries or keys `(B, T, H, D)` turned by their positions `(B, T)`."""
    angles = positions[..., None, None] * THETA ** (-jnp.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


class Llama:
    """The model; a subclass may change how a method does its part."""

    def __call__(self, params: Params, input_ids: Array) -> Array:
        """Return the logits of a whole pass, `(B, T, V)`."""
        positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
        return self.whole(params, input_ids, positions)

    def whole(self, params: Params, tokens: Array, positions: Array) -> Array:
        """Return the logits of all tokens at once."""
        return self.step(params, self.init_cache(*tokens.shape), tokens, positions)[0]

    def init_cache(self, batch: int, length: int) -> Params:
        """Return an empty cache: keys and values of every layer, and how many tokens it holds."""
        empty = jnp.zeros((LAYERS, batch, length, KV_HEADS, HEAD_DIM))
        return {"k": empty, "v": empty, "filled": jnp.int32(0)}

    def step(self, params: Params, cache: Params, tokens: Array, positions: Array) -> tuple[Array, Params]:
        """Return the logits of the next tokens, and the cache with them."""
        filled = cache["filled"]

        def layer(x: Array, given: tuple[Params, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            p, keys, values = given
            h = rms_norm(x, p["norm1"])
            q, k, v = (jnp.einsum("btm,mhd->bthd", h, p[name]) for name in ("wq", "wk", "wv"))
            q, k = rotate(q, positions), rotate(k, positions)
            keys = jax.lax.dynamic_update_slice_in_dim(keys.astype(k.dtype), k, filled, 1)
            values = jax.lax.dynamic_update_slice_in_dim(values.astype(v.dtype), v, filled, 1)
            x = x + jnp.einsum("bthd,hdm->btm", self.attend(q, keys, values, filled), p["wo"])
            h = rms_norm(x, p["norm2"])
            return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"], (keys, values)

        x, (keys, values) = jax.lax.scan(layer, params["embed"][tokens], (params["layers"], cache["k"], cache["v"]))
        logits = rms_norm(x, params["norm"]) @ params["head"]
        return logits, {"k": keys, "v": values, "filled": filled + tokens.shape[1]}

    def attend(self, q: Array, k: Array, v: Array, filled: Array) -> Array:
        """Return the context `(B, t, H, D)` of queries that follow `filled` tokens."""
        k, v = self.expand(k), self.expand(v)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / HEAD_DIM**0.5
        seen = jnp.arange(k.shape[1]) <= filled + jnp.arange(q.shape[1])[:, None]
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1), v)

    def expand(self, x: Array) -> Array:
        """Return keys or values with a head for each query head: query head h reads key head h // (HEADS // KV_HEADS)."""
        return jnp.repeat(x, HEADS // KV_HEADS, axis=2)
