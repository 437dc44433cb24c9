"""The two forms of latent attention: keys and values expanded to all heads, or absorbed into queries and context.

expanded    k_h = [W_uk_h c; k_rope]    v_h = W_uv_h c                  H heads of width D and E
absorbed    q_h = [W_uk_h^T n_h; q_rope]    k = [c; k_rope]    v = c    one key/value head of width R + P and R
"""

from __future__ import annotations

from typing import Any

from attention.spec.axes import Array
from attention.spec.scores import heads_first


def absorb(xp: Any, kernel: Array, nope: Array) -> Array:
    """Return `W_uk_h^T n_h`: the queries in the space of the latent.

    Args:
        xp: the array namespace.
        kernel: "kv_up.kernel", `(R, H, nope_dim + E)`.
        nope: `(*batch, T, H, nope_dim)`.

    Returns:
        `(*batch, T, H, R)`.
    """
    keys = xp.permute_dims(kernel[..., : nope.shape[-1]], (1, 2, 0))  # (H, nope_dim, R)
    return heads_first(xp, xp.matmul(heads_first(xp, nope), keys))


def expand(xp: Any, kernel: Array, context: Array, nope_dim: int) -> Array:
    """Return `context_h W_uv_h`: `(*batch, T, H, E)` from the weighted latents `(*batch, T, H, R)`."""
    values = xp.permute_dims(kernel[..., nope_dim:], (1, 0, 2))  # (H, R, E)
    return heads_first(xp, xp.matmul(heads_first(xp, context), values))


def one_head(xp: Any, moved: Array, rotated: Array, latent: Array, key: Array) -> tuple[Array, Array, Array]:
    """Return queries `(*batch, T, H, R + P)`, and keys and values of one head, of the absorbed form."""
    return xp.concat([moved, rotated], axis=-1), xp.concat([latent, key], axis=-1), latent


def many_heads(xp: Any, nope: Array, rotated: Array, made: Array, key: Array) -> tuple[Array, Array, Array]:
    """Return queries, keys and values of H heads each, of the expanded form.

    Args:
        xp: the array namespace.
        nope: `(*batch, T, H, nope_dim)`.
        rotated: `(*batch, T, H, P)`.
        made: `(*batch, S, H, nope_dim + E)`, the expanded latent.
        key: `(*batch, S, 1, P)`, the rotated key.
    """
    keys, values = made[..., : nope.shape[-1]], made[..., nope.shape[-1] :]
    shared = xp.broadcast_to(key, (*keys.shape[:-1], key.shape[-1]))
    return xp.concat([nope, rotated], axis=-1), xp.concat([keys, shared], axis=-1), values
