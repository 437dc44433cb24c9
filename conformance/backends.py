"""Backends as an adapter sees them: a namespace, the public face, and the way from NumPy and back.

adapter(backend, case) = outputs as NumPy        the same text for both backends
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat.torch
import jax
import jax.numpy as jnp
import numpy as np

from attention import jax_impl, torch_impl
from attention.torch_impl.params import to_numpy, to_tensor


@dataclass(frozen=True)
class Backend:
    """One backend.

    Attributes:
        name: what the table calls it.
        module: its public face.
        xp: the namespace of its arrays.
        array: makes its array of a NumPy one, in the same dtype.
        numpy: the way back.
        wide: a context in which float64 stays float64.
        whole: makes one program of a function of arrays, where a backend would else compile it operation by operation.
    """

    name: str
    module: ModuleType
    xp: Any
    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    wide: Callable[[], AbstractContextManager[Any]]
    whole: Callable[[Callable[..., Any]], Callable[..., Any]]


BACKENDS = (
    Backend("torch", torch_impl, array_api_compat.torch, to_tensor, to_numpy, nullcontext, lambda function: function),
    Backend("jax", jax_impl, jnp, jnp.asarray, np.asarray, lambda: jax.enable_x64(True), jax.jit),
)
