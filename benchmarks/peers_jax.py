"""Other JAX libraries as implementations, with the arguments that their users would pass.

adapter(case) -> function(q, k, v, *extras)        a dense mask is an argument, made once, outside of what is timed
"""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import Any

from benchmarks.adapters import Attention, Implementation
from benchmarks.cases import WINDOW, Case


def _bool_mask(case: Case) -> Any:
    return None if case.mask == "dense" else case.allowed().copy()


def _said(case: Case) -> dict[str, Any] | None:
    """Return the arguments of jax.nn that say a mask without a dense one, or None where there are none."""
    import jax.numpy as jnp  # noqa: PLC0415 - the implementations of a framework import it

    def lengths(keys: int) -> dict[str, Any]:
        return {"key_value_seq_lengths": jnp.full(case.B, keys, jnp.int32)}

    known = {
        "dense": {},
        "causal": {"is_causal": True},
        "window": {"local_window_size": (WINDOW - 1, 0)},
        "padding": lengths(case.S // 2),
        "quarter": lengths(case.S // 4),
    }
    return known.get(case.mask)


def _jax_nn(case: Case, implementation: str, module: str = "jax.nn") -> Attention:
    attend = importlib.import_module(module).dot_product_attention
    said = _said(case)
    mask = case.allowed().copy() if said is None else None

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return attend(q, k, v, mask=mask, implementation=implementation or None, **(said or {}))

    return Attention(function, (mask,))


def _cudnn_lacks(_: Case) -> str | None:
    import jax  # noqa: PLC0415

    return None if jax.default_backend() == "gpu" else "has no cuDNN here"


def _nnx(case: Case) -> Attention:
    attend = importlib.import_module("flax.nnx").dot_product_attention
    causal = case.mask == "causal"

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return attend(q, k, v, mask=mask, is_causal=causal, deterministic=True)

    return Attention(function, (None if causal else _bool_mask(case),))


def _linen(case: Case) -> Attention:
    """Return linen's function; it has no grouped heads, so that its users repeat keys and values."""
    attend = importlib.import_module("flax.linen").dot_product_attention
    group = case.sizes.group

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        import jax.numpy as jnp  # noqa: PLC0415

        k, v = (jnp.repeat(x, group, axis=2) if group > 1 else x for x in (k, v))
        return attend(q, k, v, mask=mask, deterministic=True)

    return Attention(function, (_bool_mask(case),))


def _keras(case: Case) -> Attention:
    # Keras asks once, when it is imported.
    _ = os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = importlib.import_module("keras")
    causal = case.mask == "causal"

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return keras.ops.dot_product_attention(q, k, v, mask=mask, is_causal=causal)

    return Attention(function, (None if causal else _bool_mask(case),))


def _equinox(case: Case) -> Attention:
    """Return Equinox' function of one head, mapped over rows and heads as its own layer maps it."""
    import jax  # noqa: PLC0415

    attend = importlib.import_module("equinox.nn._attention").dot_product_attention
    group = case.sizes.group

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        import jax.numpy as jnp  # noqa: PLC0415

        k, v = (jnp.repeat(x, group, axis=2) if group > 1 else x for x in (k, v))
        heads = jax.vmap(attend, in_axes=(1, 1, 1, None), out_axes=1)
        rows = None if mask is None else jnp.broadcast_to(mask, (case.B, 1, *mask.shape[-2:]))[:, 0]
        return jax.vmap(heads, in_axes=(0, 0, 0, None if mask is None else 0))(q, k, v, rows)

    return Attention(function, (_bool_mask(case),))


PEERS = (
    Implementation("jax.nn", "jax", partial(_jax_nn, implementation="xla")),
    Implementation("jax.nn cudnn", "jax", partial(_jax_nn, implementation="cudnn"), _cudnn_lacks),
    Implementation("flax nnx", "jax", _nnx, packages=("flax",)),
    Implementation("flax linen", "jax", _linen, packages=("flax",)),
    Implementation("Keras on JAX", "jax", _keras, packages=("keras",)),
    Implementation("Equinox", "jax", _equinox, packages=("equinox",)),
    Implementation("tokamax", "jax", partial(_jax_nn, implementation="", module="tokamax"), packages=("tokamax",)),
)
