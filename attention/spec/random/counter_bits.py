"""Counter-based random bits (threefry): a number depends on (key, index) alone; the dropout mask of every backend.

    bits[i] = b1 ^ b2,  (b1, b2) = threefry2x32(key, hi32(i), lo32(i))        i the row-major index
    keep[i] = (bits[i] >> 9) < ceil(float32(1 - rate) * 2^23)                 integers only
    unit[i] = (bits[i] >> 9) * 2^-23                                          exact in float32, in [0, 1)

Every line is operators on integers, so the same text serves NumPy and JAX (uint32) and torch (int64). The bits are those
of `jax.random.bits(jax.random.key(seed), shape)` with JAX's default generator.

References:
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (threefry).
"""

# NumPy leaves the type of its integers open.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from attention.spec.axes import Array, dtype_name
from attention.spec.errors import OptionError, ShapeError, shown
from attention.spec.options import is_array, number

WORD = 0xFFFFFFFF
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA

Key = tuple[Array, Array]

DROPOUT_RATE = number(0, below=1, wanted="in [0, 1)")


def key(seed: Array) -> Key:
    """Return the generator key of a seed: its high and low 32-bit words.

    Args:
        seed: an int in [0, 2^64); a framework's integer scalar, which is taken as the low word; or an array of both words,
            such as `jax.random.key_data(key)`.

    Raises:
        OptionError: an int outside the range, or no integer.

    >>> key(7), key(2**32 + 5)
    ((0, 7), (1, 5))
    """
    seed = _unwrapped(seed)
    if isinstance(seed, (int, np.integer)):
        if not 0 <= int(seed) < 2**64:
            raise OptionError(f"seed {shown(int(seed))} must be in [0, 2**64)")
        return int(seed) >> 32, int(seed) & WORD
    if not is_array(seed) or "int" not in dtype_name(seed) or tuple(seed.shape) not in ((), (2,)):
        got = f"{dtype_name(seed)} {tuple(seed.shape)}" if is_array(seed) else shown(seed)
        raise OptionError(f"seed {got} must be an int in [0, 2**64), or an integer scalar")
    if isinstance(seed, np.ndarray) and seed.shape:
        return int(seed[0]) & WORD, int(seed[1]) & WORD
    return (seed[0], seed[1]) if seed.shape else (seed * 0, seed)


def _unwrapped(seed: Any) -> Any:
    """Return a zero-dimensional NumPy array as a Python number, which may exceed 32 bits; other values unchanged."""
    return seed.item() if isinstance(seed, np.ndarray) and not seed.shape and seed.dtype.kind in "iu" else seed


def threefry2x32(of: Key, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Return the two 32-bit words that `of` maps the counter `(x0, x1)` to.

    Args:
        of: two words. Python ints, or arrays that broadcast against the counter.
        x0: high words, any integer type that holds 32 bits unsigned: uint32, or a 64-bit type.
        x1: low words.
    """
    words = (of[0], of[1], of[0] ^ of[1] ^ PARITY)
    x0, x1 = _wrap(x0 + words[0]), _wrap(x1 + words[1])
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x0 = _wrap(x0 + x1)
            x1 = (_wrap(x1 << r) | (x1 >> (32 - r))) ^ x0
        x0, x1 = _wrap(x0 + words[(i + 1) % 3]), _wrap(x1 + words[(i + 2) % 3] + (i + 1))
    return x0, x1


def _wrap(x: Array) -> Array:
    """Keep the low 32 bits. uint32 does so by itself, and JAX without 64-bit types could not hold the mask."""
    return x if getattr(x, "dtype", None) == "uint32" else x & WORD


def label(name: str) -> int:
    """Return the number of a name, its CRC-32: children of a key that are named do not move when one is added."""
    return zlib.crc32(name.encode())


def fold_in(of: Key, number: Array) -> Key:
    """Return the child key with this number, a 32-bit word."""
    return threefry2x32(of, number * 0, number)


def count(shape: tuple[int, ...]) -> int:
    """Return how many numbers `shape` holds.

    Raises:
        ShapeError: 2^32 or more, which the 32-bit low word of the counter cannot index.
    """
    n = math.prod(shape)
    if n >= 2**32:
        raise ShapeError(f"shape {shape} must hold fewer than 2**32 random numbers, not {n}")
    return n


def bits(of: Key, index: Array) -> Array:
    """Return 32 random bits for each row-major `index`, in the index's own integer type."""
    b1, b2 = threefry2x32(of, index * 0, index)
    return b1 ^ b2


def mantissa(of: Key, index: Array) -> Array:
    """Return 23 random bits for each row-major `index`: the mantissa of a float32 in [0, 1)."""
    return bits(of, index) >> 9


def keep_threshold(rate: float) -> int:
    """Return the integer below which 23 random bits mean "keep", for a dropout `rate` in [0, 1).

    Raises:
        OptionError: `rate` lies outside [0, 1).
    """
    DROPOUT_RATE.check("dropout_rate", rate)
    return math.ceil(float(np.float32(1.0 - rate)) * 2**23)


def mantissas(of: Key, shape: tuple[int, ...]) -> np.ndarray:
    """Return 23 random bits for every place of an array, uint32."""
    # Arrays of one word, for NumPy warns of a scalar that overflows.
    words = tuple(np.asarray([int(word) & WORD], np.uint32) for word in of)
    return mantissa((words[0], words[1]), np.arange(count(shape), dtype=np.uint32)).reshape(shape)


def keep(seed: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Return the dropout mask: True where a weight is kept.

    Args:
        seed: an int in [0, 2^64).
        rate: probability of dropping, in [0, 1).
        shape: `(*batch, H, T, S)`; the bit of a weight depends on its index here, not on the kernel or its tiles.

    >>> keep(0, 0.5, (2, 3)).tolist()
    [[False, False, True], [True, False, True]]
    """
    return mantissas(key(seed), shape) < np.uint32(keep_threshold(rate))


def uniform(of: Key, shape: tuple[int, ...]) -> Array:
    """Return float32 numbers in [-1, 1), multiples of 2^-22: exact, hence equal in every framework."""
    return mantissas(of, shape).astype(np.float32) * np.float32(2.0**-22) - np.float32(1.0)
