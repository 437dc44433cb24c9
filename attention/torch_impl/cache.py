"""Key/value caches in PyTorch: immutable values, for eager code, `torch.compile` and `torch.export`.

decode(x[:n]) ++ decode(x[n:]) = full(x)        see attention/spec/cache/cache.py
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from attention.spec import cache as spec
from attention.spec.axes import Array
from attention.spec.cache import paged as pages
from attention.spec.cache import slotted as slots
from attention.spec.cache import unallocated
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import CacheError, OptionError, shown


class TorchMemory:
    """torch's tensors: integers of 64 bits, which index; a write makes a new tensor, so that gradients pass."""

    xp: Any = xp

    def known(self, x: Array) -> np.ndarray | None:
        if torch.compiler.is_compiling() or type(x) is not Tensor:
            return None
        # Torch has no public test for a tensor under vmap.
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
        return None if wrapped else x.cpu().numpy()

    def is_native(self, x: object) -> bool:
        return isinstance(x, Tensor)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: Any) -> Tensor:
        kind = getattr(torch, numpy_dtype(dtype).name)
        _check_device(device)
        try:
            return torch.zeros(shape, dtype=kind, device=device)
        # Out-of-memory errors of torch; only that of CUDA has a class of its own.
        except (RuntimeError, MemoryError):
            raise CacheError(unallocated(shape, kind.itemsize)) from None

    def integers(self, values: Any, *, like: Array = None, device: Any = None) -> Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=device if like is None else like.device)

    def count(self, n: int, like: Array) -> Tensor:
        return torch.arange(n, device=like.device)

    def write(self, storage: Array, start: Array, new: Array, axis: int) -> Tensor:
        return storage.index_copy(axis, start + self.count(new.shape[axis], new), new)

    def write_pages(self, pool: Array, block: Array, offset: Array, new: Array) -> Tensor:
        return pool.index_put((block, offset), new)


def _check_device(device: Any) -> None:
    """Raise OptionError unless torch has a device of this name."""
    try:
        # An int is the number of an accelerator, or a mistake.
        known = device is None or isinstance(torch.device(device), torch.device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        known = False
    if not known or isinstance(device, int):
        raise OptionError(f"device {shown(device)} must be a torch.device, or its name, or None")


@final
class StaticCache(slots.StaticCache):
    """All of at most `capacity` tokens; see `attention.spec.cache.slotted.StaticCache`."""

    memory: ClassVar[spec.Memory] = TorchMemory()


@final
class RollingCache(slots.RollingCache):
    """The last `window` tokens of each row; see `attention.spec.cache.slotted.RollingCache`."""

    memory: ClassVar[spec.Memory] = TorchMemory()


@final
class PagedCache(pages.PagedCache):
    """Rows of different lengths in blocks of one pool; see `attention.spec.cache.paged.PagedCache`."""

    memory: ClassVar[spec.Memory] = TorchMemory()


for _kind in (StaticCache, RollingCache, PagedCache, spec.Appended):
    torch.export.register_dataclass(_kind, serialized_type_name=f"attention.{_kind.__name__}")
