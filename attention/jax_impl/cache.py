"""Key/value caches in JAX, as pytrees that work under `jit`, `scan`, `vmap` and `grad`.

decode(x[:n]) ++ decode(x[n:]) = full(x)        see attention/spec/cache/cache.py
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from attention.spec import cache as spec
from attention.spec.axes import Array
from attention.spec.cache import paged as pages
from attention.spec.cache import slotted as slots
from attention.spec.cache import unallocated
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import CacheError, DTypeError, OptionError, shown


class JaxMemory:
    """JAX's arrays: integers of 32 bits regardless of jax_enable_x64, so that a loop carry keeps its dtype."""

    xp: Any = jnp

    def known(self, x: Array) -> np.ndarray | None:
        return None if isinstance(x, Tracer) else np.asarray(x)

    def is_native(self, x: object) -> bool:
        return isinstance(x, jax.Array)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: Any) -> jax.Array:
        kind = numpy_dtype(dtype)
        if device is not None and not isinstance(device, (jax.Device, jax.sharding.Sharding)):
            raise OptionError(f"device {shown(device)} must be a jax.Device, a sharding, or None")
        if kind.name == "float64" and jnp.result_type(float) != jnp.float64:
            raise DTypeError("dtype float64 must wait for JAX's 64-bit mode: jax.config.update('jax_enable_x64', True)")
        try:
            return jnp.zeros(shape, kind, device=device)
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise CacheError(unallocated(shape, kind.itemsize)) from None

    def integers(self, values: Any, *, like: Array = None, device: Any = None) -> jax.Array:
        return jnp.asarray(values, jnp.int32, device=device)

    def count(self, n: int, like: Array) -> jax.Array:
        return jnp.arange(n, dtype=jnp.int32)

    def write(self, storage: Array, start: Array, new: Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(storage, new, start, axis)

    def write_pages(self, pool: Array, block: Array, offset: Array, new: Array) -> jax.Array:
        return pool.at[block, offset].set(new)


@final
class StaticCache(slots.StaticCache):
    """All of at most `capacity` tokens; see `attention.spec.cache.slotted.StaticCache`."""

    memory: ClassVar[spec.Memory] = JaxMemory()


@final
class RollingCache(slots.RollingCache):
    """The last `window` tokens of each row; see `attention.spec.cache.slotted.RollingCache`."""

    memory: ClassVar[spec.Memory] = JaxMemory()


@final
class PagedCache(pages.PagedCache):
    """Rows of different lengths in blocks of one pool; see `attention.spec.cache.paged.PagedCache`."""

    memory: ClassVar[spec.Memory] = JaxMemory()


def _register(kind: type[Any]) -> None:
    names = [field.name for field in fields(kind)]

    def flatten_with_keys(held: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(held, name)) for name in names], None

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, lambda _, leaves: kind(*leaves))


for _kind in (StaticCache, RollingCache, PagedCache, spec.Appended):
    _register(_kind)
