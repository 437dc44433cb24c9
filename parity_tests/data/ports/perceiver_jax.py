"""A Perceiver's reader: kernels of shape (features, heads, channels), so that no axis is ever split."""

import jax
import jax.numpy as jnp


@jax.jit
def read(p, x):
    q = jnp.einsum("lm,mhd->lhd", p["latents"], p["q"])
    k = jnp.einsum("bsf,fhd->bshd", x, p["k"])
    v = jnp.einsum("bsf,fhd->bshd", x, p["v"])  # here
    weights = jax.nn.softmax(jnp.einsum("lhd,bshd->bhls", q, k) / jnp.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bhls,bshd->blhd", weights, v).reshape(x.shape[0], len(q), -1)  # here


def build(checkpoint, heads=2):
    kernels = {n: (w := checkpoint[f"to_{n}.weight"].T).reshape(len(w), heads, -1) for n in "qkv"}
    return read, {"latents": checkpoint["latents"], **kernels}
