"""`jax.random` in NumPy: the same numbers from the same keys.

    child i of a key = threefry2x32(key; hi32(i), lo32(i))                 split;  fold_in(d) is child d
    bits[i]          = b1 ^ b2, its low 8 or 16 bits, or b1 << 32 | b2     (b1, b2) = threefry2x32(key; hi32(i), lo32(i))
    uniform[i]       = max(low, f (high - low) + low)                      f: the mantissa of [1, 2) filled with bits, - 1
    bernoulli[i]     = uniform[i] < p                                      normal[i] = sqrt(2) erf_inverse(uniform[i])

The names and the order of arguments are `jax.random`'s. Keys are pairs of words, those of JAX's default generator. Bits,
uniform numbers in [0, 1) and [-1, 1), Bernoulli draws, integers and permutations are JAX's bit for bit. Other bounds are so
where its compiler rounds a product and a sum as one, as it does on processors by default, for float32 and float64. Normal
numbers are within 3 units of the last place in float32 and 32 in float64: JAX's own last bits depend on its version and on
the machine.

>>> from attention.spec.random import jax_random
>>> key = jax_random.key(0)
>>> jax_random.bernoulli(key, 0.5, (3,)).tolist()        # as jax.random
[False, False, True]
"""

# NumPy leaves the types of its numbers open.
# pyright: reportUnknownMemberType=false

# NumPy leaves the type of its integers open.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attention.spec.axes import Array, dtype_name
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import DTypeError, OptionError, ShapeError, shown
from attention.spec.numbers import is_count, is_finite
from attention.spec.random import counter_bits as random
from attention.spec.random.counter_bits import WORD, Key
from attention.spec.random.erf_inverse import erf_inverse

Shape = tuple[int, ...]

DRAWN = {"float64": (64, 52), "float32": (32, 23), "float16": (16, 10), "bfloat16": (8, 7)}
"""Bits that JAX draws for a number of each dtype, and bits of its mantissa."""


def key(seed: Array, wide: bool = False) -> Key:
    """Return `jax.random.key(seed)`.

    Args:
        seed: an int; JAX keeps its low 32 bits, or 64 in its 64-bit mode.
        wide: whether JAX is in its 64-bit mode.

    >>> key(7), key(-1), key(2**32 + 5), key(2**32 + 5, wide=True)
    ((0, 7), (0, 4294967295), (0, 5), (1, 5))
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise OptionError(f"seed {shown(seed)} must be an int")
    return (int(seed) >> 32 & WORD if wide else 0), int(seed) & WORD


def from_key_data(data: Array) -> Key:
    """Return the key of its two words, as `jax.random.key_data(key)` or a raw `jax.random.PRNGKey` gives them.

    Raises:
        OptionError: not two words; another generator's key has four.
    """
    data = _as_array(data)
    if not hasattr(data, "dtype") or "int" not in dtype_name(data) or tuple(data.shape) != (2,):
        got = f"{dtype_name(data)} {tuple(data.shape)}" if hasattr(data, "dtype") else repr(data)
        raise OptionError(f"key data {got} must be two 32-bit words, such as jax.random.key_data(key) of a threefry2x32 key")
    return int(data[0]) & WORD, int(data[1]) & WORD


def _as_array(data: Any) -> Any:
    """Return two words as an array, and anything else as it is."""
    return np.asarray(data, np.uint64) if isinstance(data, tuple) and len(data) == 2 else data


def key_data(of: Key) -> np.ndarray:
    """Return the two words of a key, uint32 `(2,)`: `jax.random.wrap_key_data` makes it JAX's."""
    return np.asarray(of, np.uint32)


def seed_of(of: Key) -> int:
    """Return the seed whose key this is, for `dropout_seed`: what drops is then what JAX's `bernoulli` of the key drops.

    >>> random.key(seed_of((1, 5)))
    (1, 5)
    """
    return int(of[0]) << 32 | int(of[1])


def split(of: Key, num: int = 2) -> tuple[Key, ...]:
    """Return this many children of a key."""
    if not is_count(num, 0):
        raise OptionError(f"num {shown(num)} must be an int of at least 0")
    return tuple((int(a), int(b)) for a, b in zip(*_words(of, num), strict=True))


def fold_in(of: Key, data: int) -> Key:
    """Return the child of a key with this number (mod 2^32)."""
    return random.fold_in(of, int(data) & WORD)


def bits(of: Key, shape: Shape = (), width: int = 32) -> np.ndarray:
    """Return random unsigned integers of 8, 16, 32 or 64 bits.

    Raises:
        OptionError: another width.
    """
    if width not in (8, 16, 32, 64):
        raise OptionError(f"width {shown(width)} must be 8, 16, 32 or 64")
    high, low = _words(of, random.count(shape))
    made = high.astype(np.uint64) << np.uint64(32) | low if width == 64 else high ^ low
    return made.astype(f"uint{width}").reshape(shape)


def uniform(of: Key, shape: Shape = (), dtype: str = "float32", minval: float = 0.0, maxval: float = 1.0) -> np.ndarray:
    """Return uniform numbers in [minval, maxval).

    Raises:
        UnknownName: not a floating dtype of ours.
    """
    kind = numpy_dtype(dtype)
    width, mantissa = DRAWN[dtype]
    units = (bits(of, shape, width) >> (width - mantissa)).astype(np.float64) * 2.0**-mantissa
    low, high = kind.type(minval), kind.type(maxval)
    return np.maximum(low, _fma(units, kind.type(high - low), low, kind))


def _fma(x: np.ndarray, times: Array, plus: Array, kind: np.dtype) -> np.ndarray:
    """Return `x * times + plus` rounded once, as a processor does it that JAX compiles for."""
    x, a, b = x.astype(np.float64), np.float64(times), np.float64(plus)
    if kind != np.float64:
        # 24 bits times 24 are exact in float64.
        return (x * a + b).astype(kind)
    # Each product and sum in two parts: what was rounded off comes last (Dekker 1971, Knuth).
    product = x * a
    (x1, x2), (a1, a2) = _halves(x), _halves(a)
    lost = ((x1 * a1 - product) + x1 * a2 + x2 * a1) + x2 * a2
    total = product + b
    part = total - product
    return total + (((product - (total - part)) + (b - part)) + lost)


def _halves(x: Array) -> tuple[Array, Array]:
    """Return the upper 26 bits of a float64 and the rest."""
    scaled = x * (2.0**27 + 1)
    upper = scaled - (scaled - x)
    return upper, x - upper


def bernoulli(of: Key, p: Array = 0.5, shape: Shape | None = None, dtype: str = "float32") -> np.ndarray:
    """Return True with probability `p`: integers are compared, so the answer is the same everywhere.

    Args:
        of: a key.
        p: a probability, or an array of them.
        shape: of the answer; None: that of `p`.
        dtype: what JAX draws: float32, and float64 in its 64-bit mode.

    >>> bernoulli(key(0), 0.5, (5,)).tolist()
    [False, False, True, True, False]
    """
    chances = np.asarray(p, numpy_dtype(dtype)).astype(np.float64)
    shape = chances.shape if shape is None else shape
    width, mantissa = DRAWN[dtype]
    drawn = bits(of, shape, width) >> (width - mantissa)
    return drawn < np.ceil(np.clip(chances, 0, 1) * 2.0**mantissa).astype(np.uint64)


def chance(p: float) -> int:
    """Return the integer below which 23 random bits mean True, for a probability `p` in [0, 1].

    Raises:
        OptionError: `p` lies outside [0, 1].
    """
    if not (is_finite(p) and 0.0 <= p <= 1.0):
        raise OptionError(f"p {p} must be in [0, 1]")
    return math.ceil(float(np.float32(p)) * 2**23)


def randint(of: Key, shape: Shape, minval: int, maxval: int, dtype: str = "int32") -> np.ndarray:
    """Return integers in [minval, maxval), or `minval` where that is empty; JAX draws short ones with 32 bits.

    Raises:
        OptionError: a bound that the dtype does not hold.
    """
    kind = np.iinfo(dtype)
    if not (kind.min <= minval <= kind.max and kind.min <= maxval <= kind.max + 1):
        raise OptionError(f"minval {minval} and maxval {maxval} must fit {dtype}")
    if kind.bits < 32:
        return randint(of, shape, minval, maxval).astype(dtype)
    # Flat, for NumPy warns of a scalar that overflows.
    high, low = (bits(child, (random.count(shape),), kind.bits) for child in split(of))
    whole = 2**kind.bits
    span = maxval - minval if maxval > minval else 1
    if span < whole:
        by = np.asarray(span, low.dtype)
        # JAX multiplies in the drawn width, and what overflows is lost there too.
        root = 2 ** (kind.bits // 2) % span
        low = ((high % by) * np.asarray(root * root % whole % span, low.dtype) + low % by) % by
    return (low + np.asarray(minval % whole, low.dtype)).astype(dtype).reshape(shape)


def permutation(of: Key, x: Array) -> np.ndarray:
    """Return `arange(x)`, or the rows of an array, in random order."""
    rows = np.arange(x) if isinstance(x, (int, np.integer)) else np.asarray(x)
    if rows.ndim == 0:
        raise ShapeError("x () must be an int, or have an axis")
    order = np.arange(len(rows))
    # Numbers may be drawn twice; JAX sorts as often as makes that harmless.
    for _ in range(math.ceil(3 * math.log(max(1, len(rows))) / math.log(WORD))):
        of, child = split(of)
        order = order[np.argsort(bits(child, order.shape), kind="stable")]
    return rows[order]


def normal(of: Key, shape: Shape = (), dtype: str = "float32") -> np.ndarray:
    """Return standard normal numbers, float32 or float64, within 3 or 32 units of the last place of JAX's."""
    kind = _normal_dtype(dtype)
    drawn = uniform(of, shape, dtype, float(np.nextafter(kind.type(-1), kind.type(0))), 1.0)
    return kind.type(math.sqrt(2)) * erf_inverse(drawn)


def truncated_normal(of: Key, lower: float, upper: float, shape: Shape = (), dtype: str = "float32") -> np.ndarray:
    """Return standard normal numbers in (lower, upper), as close to JAX's as `normal`."""
    kind = _normal_dtype(dtype)
    root = kind.type(math.sqrt(2))
    bounds = (math.erf(float(kind.type(bound) / root)) for bound in (lower, upper))
    made = root * erf_inverse(uniform(of, shape, dtype, *bounds))
    inside = np.nextafter(kind.type(lower), kind.type(np.inf)), np.nextafter(kind.type(upper), kind.type(-np.inf))
    return np.clip(made, *inside)


def _normal_dtype(dtype: str) -> np.dtype:
    """Return a dtype that has normal numbers.

    Raises:
        DTypeError: half precision, which XLA rounds at steps of its own.
    """
    if dtype not in ("float32", "float64"):
        raise DTypeError(f"dtype {dtype} must be float32 or float64 where normal numbers are drawn")
    return np.dtype(dtype)


def _words(of: Key, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the words that a key maps the counters 0 to n - 1 to, uint32."""
    words = tuple(np.asarray([word], np.uint32) for word in of)
    counter = np.arange(n, dtype=np.uint32)
    return random.threefry2x32((words[0], words[1]), np.zeros_like(counter), counter)
