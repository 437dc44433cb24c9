"""Random bits in PyTorch: the spec's threefry, on int32 in place when eager and on int64 when traced.

    keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)        the same bits as NumPy's and JAX's
    rotate(x, r) = x * 2^r + ((x >> (32 - r)) & (2^r - 1))           int32 wraps, and shifts its sign to the right

Twenty rounds of five operations write the numbers a hundred times, so what runs step by step goes through them in pieces
that a core's cache holds: 20 ns a number on one core instead of 360. A compiler makes one loop of the plain formula.

A key of `jax.random` is a seed here, and `dropout_mask` is what `nnx.Dropout` keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Torch has no public way to detect an active transform.
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]

from attention.spec import random as spec
from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.options import is_array
from attention.spec.random import jax_random, nnx_random

PIECE = 2**16
"""Numbers that each thread of a CPU works on at a time: three arrays of them are 768 KiB, and fill a core's second cache."""


def check_seed(seed: Any) -> None:
    """Raise OptionError unless a seed is an int, or integers of this framework or of NumPy."""
    if not isinstance(seed, (int, np.integer, np.ndarray, Tensor)):
        of = ": a torch.Tensor or numpy.ndarray" if is_array(seed) else ""
        raise OptionError(f"seed {shown(seed)} must be an int in [0, 2**64), or an integer scalar{of}")


def key(seed: Array, device: torch.device | None = None) -> spec.Key:
    """Return the generator key of a seed: ints, or 0-d tensors where the seed is a tensor.

    Args:
        seed: an int in [0, 2^64), an integer tensor, whose low 32 bits count and which `torch.compile` does not specialise on,
            or the two words of a key, such as `spec.jax_random.key_data(key)`.
        device: of the tensors.

    Raises:
        OptionError: an int outside the range, or no integer.
    """
    high, low = spec.key(seed)
    if isinstance(seed, Tensor):
        high, low = (word.to(device=device, dtype=torch.int64) & spec.WORD for word in (high, low))
    return high, low


def seed_of(of: Array) -> int:
    """Return the seed whose key this is, for `dropout_seed` in any backend: the two words of a key as one int.

    Args:
        of: a key, two words, such as one of `spec.jax_random`.
    """
    return jax_random.seed_of(jax_random.from_key_data(of))


def index(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the row-major index of every element, int32 if that can hold it."""
    n = spec.count(shape)
    return torch.arange(n, dtype=torch.int32 if n <= 2**31 else torch.int64, device=device).reshape(shape)


def keep(seed: Array, rate: float, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the dropout mask of `shape`, True where a weight is kept.

    Args:
        seed: as in `key`.
        rate: probability of dropping, in [0, 1).
        shape: `(*batch, H, T, S)`.
        device: of the tensor.
    """
    return below(key(seed, device), spec.keep_threshold(rate), index(shape, device))


def uniform(of: spec.Key, shape: tuple[int, ...]) -> Tensor:
    """Return float32 numbers in [-1, 1), multiples of 2^-22."""
    numbers = index(shape)
    if _is_traced(of, numbers):
        return spec.mantissa(of, numbers.long()).to(torch.float32) * 2.0**-22 - 1.0
    made = torch.empty(shape, dtype=torch.float32)
    for bits, out in _mantissas(of, numbers, made):
        _ = torch.mul(bits, 2.0**-22, out=out).sub_(1.0)
    return made


def below(of: spec.Key, threshold: int, index: Tensor) -> Tensor:
    """Return whether 23 random bits of each index are less than a threshold.

    Args:
        of: two words.
        threshold: an int in [0, 2^23].
        index: integers modulo 2^32, of any shape. What is int32 may be overwritten.
    """
    if _is_traced(of, index):
        return spec.mantissa(of, index.long() & spec.WORD) < threshold
    made = torch.empty(index.shape, dtype=torch.bool, device=index.device)
    for bits, out in _mantissas(of, index, made):
        _ = out.copy_(bits.lt_(threshold))
    return made


def _is_traced(of: spec.Key, index: Tensor) -> bool:
    """Return whether a compiler or a tensor subclass is active, for which in-place operations are not allowed."""
    if torch.compiler.is_compiling() or type(index) is not Tensor:
        return True
    return any(isinstance(word, Tensor) and _is_transformed(word) for word in of)


@torch.no_grad()
def _mantissas(of: spec.Key, index: Tensor, made: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield 23 random bits of each index, int32, piece by piece, and the piece of the flat result `made` that they are for."""
    words = _words(of)
    size = PIECE * torch.get_num_threads() if index.device.type == "cpu" else max(1, index.numel())
    spare = torch.empty((2, min(size, index.numel())), dtype=torch.int32, device=index.device)
    for x, out in zip(index.to(torch.int32).contiguous().view(-1).split(size), made.view(-1).split(size), strict=True):
        _mix(words, x, *spare[:, : len(x)])
        yield x.bitwise_right_shift_(9).bitwise_and_(2**23 - 1), out


def bernoulli(of: Array, p: float = 0.5, shape: tuple[int, ...] = (), device: torch.device | None = None) -> Tensor:
    """Return True with probability `p`: the bits of `jax.random.bernoulli(of, p, shape)` where its 64-bit mode is off.

    Args:
        of: as `seed` in `key`, or a key of `spec.jax_random`.
        p: in [0, 1].
        shape: of the answer.
        device: of the result.
    """
    return below(_key(of, device), jax_random.chance(p), index(shape, device))


def dropout_mask(
    rngs: nnx_random.Drawn,
    rate: float,
    shape: tuple[int, ...],
    broadcast_dims: Sequence[int] = (),
    device: torch.device | None = None,
) -> Tensor:
    """Return what `nnx.Dropout(rate, broadcast_dims)` keeps of an input: True where it is kept, and then over 1 - rate.

    Args:
        rngs: where the key comes from: `spec.nnx_random.Rngs`, a stream of it, or a key.
        rate: probability of dropping, in [0, 1]; at 0 and 1 no key is drawn.
        shape: of the input.
        broadcast_dims: axes along which one mask holds.
        device: of the tensor.
    """
    drawn = nnx_random.mask_shape(rate, shape, broadcast_dims)
    if rate in (0.0, 1.0):
        return torch.full(shape, rate == 0.0, device=device)
    return bernoulli(nnx_random.next_key(rngs, "dropout"), 1.0 - rate, drawn, device).expand(shape)


def _key(of: Array, device: torch.device | None) -> spec.Key:
    """Return the words of a key of either kind; an int is a seed."""
    return of if isinstance(of, tuple) else key(of, device)


def _mix(words: list[Tensor], low: Tensor, high: Tensor, spare: Tensor) -> None:
    """Turn each number of `low`, a counter, into its 32 random bits; see `spec.threefry2x32`."""
    _ = torch.add(low.add_(words[1]), words[0], out=high)
    for i in range(5):
        for j, (left, right, mask) in enumerate(_TURNS[i % 2]):
            if i or j:
                _ = high.add_(low)
            _ = torch.bitwise_right_shift(low, right, out=spare).bitwise_and_(mask)
            _ = torch.add(spare, low, alpha=left, out=low).bitwise_xor_(high)
        _ = high.add_(words[(i + 1) % 3]), low.add_(words[(i + 2) % 3]).add_(i + 1)
    _ = low.bitwise_xor_(high)


def _words(of: spec.Key) -> list[Tensor]:
    """Return the three words that threefry adds, int32."""
    return [_word(word) for word in (*of, of[0] ^ of[1] ^ spec.PARITY)]


def _word(number: Array) -> Tensor:
    """Return the low 32 bits of a number as an int32 of the same bits; operations take a tensor quicker than an int."""
    if isinstance(number, Tensor):
        return number.to(torch.int32)
    return torch.tensor(((int(number) + 2**31) & spec.WORD) - 2**31, dtype=torch.int32, device="cpu")


def _is_transformed(x: Tensor) -> bool:
    return functorch.is_functorch_wrapped_tensor(x)


_TURNS = [[(2**r, _word(32 - r), _word(2**r - 1)) for r in rotations] for rotations in spec.ROTATIONS]
