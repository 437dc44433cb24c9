"""Alternative results of torch operations: an option or a kind of pooling as people often write it by mistake.

grid_sampler_2d(..., align_corners=True)    ->    {("align_corners=True", "align_corners=False"): the other result}
max_pool2d(x, 2)                            ->    {("max pooling", "average pooling"): the average}
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Other = tuple[tuple[str, str], Any]

SWITCHES = {
    "avg_pool1d": ("count_include_pad", "ceil_mode"),
    "avg_pool2d": ("count_include_pad", "ceil_mode"),
    "avg_pool3d": ("count_include_pad", "ceil_mode"),
    "grid_sampler_2d": ("align_corners",),
    "grid_sampler_3d": ("align_corners",),
    "upsample_bicubic2d": ("align_corners",),
    "upsample_bilinear2d": ("align_corners",),
    "upsample_linear1d": ("align_corners",),
    "upsample_trilinear3d": ("align_corners",),
}
"""Options of operations that the other side often has the other way."""
POOLS = ("max pooling", "average pooling")


def alternatives(func: Any, args: tuple[Any, ...], kwargs: Any) -> dict[tuple[str, str], np.ndarray]:
    """Return what an operation would have made otherwise, by the text of its own way and of the other; mostly nothing."""
    name = func._schema.name.rpartition("::")[2]  # noqa: SLF001 the name that every op has, and no public way to it
    find = _FOUND.get(name, _switched if name in SWITCHES else None)
    if find is None:
        return {}
    try:
        with torch.no_grad():
            return {words: _plain(made) for words, made in find(name, func, args, kwargs)}
    except RuntimeError:
        return {}


def _plain(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy().copy()


def _switched(name: str, func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[Other]:
    """Yield the operation with each of its switches the other way."""
    arguments = func._schema.arguments  # noqa: SLF001 the names of an op's arguments, and no public way to them
    given = [args[n] if n < len(args) else kwargs.get(a.name, a.default_value) for n, a in enumerate(arguments)]
    for n, argument in enumerate(arguments):
        if argument.name in SWITCHES[name]:
            other = [*given[:n], not given[n], *given[n + 1 :]]
            yield (f"{argument.name}={given[n]}", f"{argument.name}={not given[n]}"), func(*other)


def _averaged(name: str, func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[Other]:
    del name, func, kwargs
    x, size, stride, padding = _pooled(args)
    if x.ndim == 4 and len(args) < 5:
        yield POOLS, functional.avg_pool2d(x, size, stride, padding)


def _largest(name: str, func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[Other]:
    yield from _switched(name, func, args, kwargs)
    x, size, stride, padding = _pooled(args)
    if x.ndim == 4:
        yield (POOLS[1], POOLS[0]), functional.max_pool2d(x, size, stride, padding)


def _pooled(args: Sequence[Any]) -> tuple[Tensor, Any, Any, Any]:
    """Return what is pooled, by windows of what size, at what stride, with what padding."""
    x, size, stride, padding = [*args, None, 0][:4] if len(args) < 4 else args[:4]
    return x, size, stride or None, padding or 0


def _flipped(name: str, func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[Other]:
    """Yield a transposed convolution with its kernel flipped, which is what the other side does if it does not flip it."""
    del name
    if len(args) > 6 and args[6] and args[1].ndim > 2:
        kernel = args[1].flip(tuple(range(2, args[1].ndim)))
        yield ("kernel of a transposed convolution", "its kernel flipped"), func(args[0], kernel, *args[2:], **kwargs)


_FOUND: dict[str, Any] = {"max_pool2d_with_indices": _averaged, "avg_pool2d": _largest, "convolution": _flipped}
