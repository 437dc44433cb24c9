"""Score biases by distance: ALiBi, T5's relative bias, and Shaw's relative keys.

    Alibi         bias[h, t, s] = -slope_h |t - s|                                        nothing learned
    RelativeBias  bias[h, t, s] = b[bucket(s - t), h]                                     T5
    RelativeKeys  bias[h, t, s] = scale * q[t, h] . a[clip(s - t, -k, k) + k]             Shaw et al.

t and s are positions; the bias is added to the scaled scores.

References:
    Press et al., arXiv:2108.12409, section 3; Raffel et al., arXiv:1910.10683, section 2.1;
    Shaw et al., arXiv:1803.02155, equation 4.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attention.spec.axes import Array
from attention.spec.errors import OptionError
from attention.spec.numbers import is_count, is_finite
from attention.spec.options import MOST, Option, check_options, checked, size
from attention.spec.params import Param
from attention.spec.scores import heads_first

HEADS = size(1, 2**16)
MOST_BUCKETS = 1024
"""The most buckets: their bounds are roots of integers that have more digits the more buckets there are."""


def _distance(least: int, most: int = MOST) -> Option:
    """Return the option of a distance or a count of buckets. JAX counts to 2**31 while its 64-bit mode is off."""
    wanted = f"an int of at least {least}, below {'2**31' if most == MOST else most + 1}"
    return Option(wanted, lambda value: is_count(value, least) and value <= most)


SLOPES = Option(
    "a tuple of finite numbers, or None", lambda value: isinstance(value, (list, tuple)) and all(map(is_finite, value))
)


def apart(xp: Any, query_positions: Array, key_positions: Array) -> Array:
    """Return s - t for every pair: the distance of the key after the query.

    Args:
        xp: the array namespace.
        query_positions: integers `(..., T)`.
        key_positions: integers `(..., S)`.

    Returns:
        `(..., T, S)`, in the namespace's own integers.
    """
    # Narrow or unsigned integers would wrap around below zero; Python's int means the default integer of the namespace.
    return xp.astype(key_positions, int)[..., None, :] - xp.astype(query_positions, int)[..., :, None]


@dataclass(frozen=True)
class Alibi:
    """Linear biases: scores decrease with distance, at a rate per head.

    Under a causal mask |t - s| is the paper's t - s; without one, it is the symmetric form for encoders.

    Args:
        slopes: one for each query head; None: the paper's, 2^(-8h/H) for h = 1 .. H where H is a power of two, and
            otherwise those of the power below, then every other one of the power above.
    """

    slopes: tuple[float, ...] | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {"slopes": SLOPES}

    def __post_init__(self) -> None:
        if self.slopes is None:
            return
        check_options(self, "Alibi ")
        object.__setattr__(self, "slopes", tuple(float(x) for x in self.slopes))

    @checked(heads=HEADS)
    def rates(self, heads: int) -> tuple[float, ...]:
        """Return the slope of each head.

        Raises:
            OptionError: slopes were given, and not one for each head.

        >>> Alibi().rates(4), Alibi().rates(3)
        ((0.25, 0.0625, 0.015625, 0.00390625), (0.0625, 0.00390625, 0.25))
        """
        if self.slopes is not None:
            if len(self.slopes) != heads:
                raise OptionError(f"Alibi slopes has {len(self.slopes)} numbers but must have H = {heads}")
            return self.slopes
        below = 2 ** int(math.log2(heads))
        between = _geometric(2 * below)[0::2]
        return (_geometric(below) + between)[:heads]

    @checked(heads=HEADS, head_dim=HEADS)
    def params(self, heads: int, head_dim: int) -> dict[str, Param]:
        """Return the parameters: none."""
        del head_dim
        _ = self.rates(heads)
        return {}

    def bias(
        self, xp: Any, weights: Mapping[str, Array], q: Array, query_positions: Array, key_positions: Array, scale: float
    ) -> Array:
        """Return the bias, which broadcasts to `(*batch, H, T, S)`, in the dtype of `q`.

        Args:
            xp: the array namespace.
            weights: by the names of `params`, in the dtype of `q`.
            q: `(*batch, T, H, D)`, in the compute dtype.
            query_positions: integers that broadcast to `(*batch, T)`.
            key_positions: integers that broadcast to `(*batch, S)`.
            scale: of the scores.
        """
        del weights, scale
        # A number beside q, wherever that is: a constant made from a list would lie on the host.
        zero = xp.sum(q[..., :0])
        slopes = xp.stack([xp.full_like(zero, rate) for rate in self.rates(q.shape[-2])])
        distance = xp.astype(xp.abs(apart(xp, query_positions, key_positions)), q.dtype)
        return distance[..., None, :, :] * -slopes[:, None, None]


def _geometric(count: int) -> tuple[float, ...]:
    return tuple(2.0 ** (-8.0 * h / count) for h in range(1, count + 1))


@dataclass(frozen=True)
class RelativeBias:
    """T5's learned bias of each head and bucket of distances: near ones have their own, far ones share by logarithm.

    Args:
        num_buckets: how many.
        max_distance: from here on, all share the last bucket.
        bidirectional: whether keys after the query have half of the buckets; without it, they are all at distance 0.
    """

    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "num_buckets": _distance(2, MOST_BUCKETS),
        "max_distance": _distance(1),
    }

    def __post_init__(self) -> None:
        check_options(self, "RelativeBias ")
        if self.bidirectional:
            _distance(4, MOST_BUCKETS).check("RelativeBias num_buckets", self.num_buckets)
        if self.bidirectional and self.num_buckets % 2:
            raise OptionError(f"RelativeBias num_buckets {self.num_buckets} must be even where bidirectional")
        _distance(self._exact + 1).check("RelativeBias max_distance", self.max_distance)

    @property
    def _side(self) -> int:
        """Buckets of one direction."""
        return self.num_buckets // 2 if self.bidirectional else self.num_buckets

    @property
    def _exact(self) -> int:
        """Distances that have a bucket of their own, from 0 on."""
        return self._side // 2

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The least distance of each bucket that distances share, but for the first.

        The bucket e + floor(ln(d / e) / ln(m / e) n) is reached from e + j on where d^n >= e^(n - j) m^j: in integers, as
        the logarithms of two frameworks differ in their last digit.
        """
        e, m = self._exact, self.max_distance
        n = self._side - e
        return tuple(_root(n, e ** (n - j) * m**j) for j in range(1, n))

    def buckets(self, xp: Any, distance: Array) -> Array:
        """Return the bucket of each s - t, in the dtype of `distance`.

        >>> import numpy as np
        >>> RelativeBias().buckets(np, np.array([-200, -7, 0, 1, 8, 9, 64])).tolist()
        [15, 7, 0, 17, 24, 24, 30]
        """
        zero = xp.zeros_like(distance)
        d = xp.abs(distance) if self.bidirectional else xp.where(distance < 0, -distance, zero)
        bucket = xp.where(d < self._exact, d, zero + self._exact)
        for threshold in self.thresholds:
            bucket = bucket + xp.astype(d >= threshold, d.dtype)
        return xp.where(distance > 0, bucket + self._side, bucket) if self.bidirectional else bucket

    @checked(heads=HEADS, head_dim=HEADS)
    def params(self, heads: int, head_dim: int) -> dict[str, Param]:
        """Return the parameters: a number for each bucket and head, first of variance 1 / (H D) as in T5."""
        return {"relative_bias": Param((self.num_buckets, heads), "PH", spread=math.sqrt(3.0 / (heads * head_dim)))}

    def bias(
        self, xp: Any, weights: Mapping[str, Array], q: Array, query_positions: Array, key_positions: Array, scale: float
    ) -> Array:
        """Return the bias; arguments as `Alibi.bias`."""
        del scale
        bucket = self.buckets(xp, apart(xp, query_positions, key_positions))  # (..., T, S)
        table = xp.matrix_transpose(weights["relative_bias"])  # (H, P)
        picked = xp.take(table, xp.reshape(bucket, (-1,)), axis=1)
        picked = xp.reshape(picked, (table.shape[0], *bucket.shape))  # (H, ..., T, S)
        n = picked.ndim
        return xp.astype(xp.permute_dims(picked, (*range(1, n - 2), 0, n - 2, n - 1)), q.dtype)


def _root(n: int, value: int) -> int:
    """Return the least d with d^n >= value, by bisection."""
    low, high = 0, 1 << -(-value.bit_length() // n)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**n >= value else (middle + 1, high)
    return low


@dataclass(frozen=True)
class RelativeKeys:
    """A learned vector of each distance, added to the keys.

    Args:
        max_distance: k; further apart is as far as this.
    """

    max_distance: int

    OPTIONS: ClassVar[Mapping[str, Option]] = {"max_distance": _distance(1, 2**24)}

    def __post_init__(self) -> None:
        check_options(self, "RelativeKeys ")

    @checked(heads=HEADS, head_dim=HEADS)
    def params(self, heads: int, head_dim: int) -> dict[str, Param]:
        """Return the parameters: a vector for each distance from -k to k, shared by the heads, with Glorot initialisation."""
        del heads
        count = 2 * self.max_distance + 1
        return {"relative_keys": Param((count, head_dim), "PD", spread=math.sqrt(6.0 / (count + head_dim)))}

    def bias(
        self, xp: Any, weights: Mapping[str, Array], q: Array, query_positions: Array, key_positions: Array, scale: float
    ) -> Array:
        """Return the bias; arguments as `Alibi.bias`."""
        table, k = weights["relative_keys"], self.max_distance
        # Every query meets 2k + 1 vectors rather than S of them, and then picks.
        products = xp.matmul(heads_first(xp, q), xp.matrix_transpose(table)) * scale  # (*batch, H, T, P)
        index = xp.clip(apart(xp, query_positions, key_positions), -k, k) + k
        index = xp.broadcast_to(index[..., None, :, :], (*products.shape[:-1], index.shape[-1]))
        return xp.take_along_axis(products, index, axis=-1)
