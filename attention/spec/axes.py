"""Axis letters (B, T, S, H, K, D, E, M), sizes and dtypes of an attention call, and the shape checks of every backend.

query (*batch, T, H, D)    key (*batch, S, K, D)    value (*batch, S, K, E)    ->    context (*batch, T, H, E)
scores, weights, bias, allowed (*batch, H, T, S)    query head h reads key/value head h // (H // K)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention.spec.errors import DTypeError, ShapeError

Array = Any
"""An array of any framework: NumPy, torch or JAX. The array API defines no static type."""

AXES = {
    "B": "batch",
    "T": "queries",
    "S": "keys and values",
    "H": "query heads",
    "K": "key/value heads",
    "D": "width of a query or key head",
    "E": "width of a value head",
    "M": "model width",
    "A": "width of an alignment model, or of a feed-forward layer",
    "R": "rank of a latent",
    "P": "relative positions",
    "V": "vocabulary",
}

COMPUTE = {"float64": "float64", "float32": "float32", "bfloat16": "float32", "float16": "float32"}
"""The dtype in which softmax and sums run, by the dtype of the inputs."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one attention call, by axis letter."""

    batch: tuple[int, ...]
    T: int
    S: int
    H: int
    K: int
    D: int
    E: int

    @property
    def scores(self) -> tuple[int, ...]:
        """The shape `(*batch, H, T, S)`."""
        return (*self.batch, self.H, self.T, self.S)

    @property
    def group(self) -> int:
        """Query heads that read one key/value head."""
        return self.H // self.K


def dtype_name(array: Array) -> str:
    """Return the dtype's bare name, the same for every framework.

    >>> import numpy as np
    >>> dtype_name(np.zeros(2, np.float16))
    'float16'
    """
    return str(array.dtype).removeprefix("torch.")


def check_float(**arrays: Array) -> str:
    """Return the one floating dtype that all `arrays` share; absent ones (None) are skipped.

    Raises:
        DTypeError: one is not floating, or two differ.
    """
    first, wanted = "", ""
    for name, array in arrays.items():
        if array is None:
            continue
        got = dtype_name(array)
        if got not in COMPUTE:
            raise DTypeError(f"{name} {got} must be one of {', '.join(COMPUTE)}")
        if wanted and got != wanted:
            raise DTypeError(f"{name} {got} must be {wanted} as {first} is")
        first, wanted = first or name, wanted or got
    return wanted


def check_beside(dtype: str, **arrays: Array) -> None:
    """Raise DTypeError unless each array that is given has `dtype`, that of the inputs, or the one they compute in."""
    for name, array in arrays.items():
        if array is not None and dtype_name(array) not in (dtype, COMPUTE[dtype]):
            wanted = " or ".join(dict.fromkeys((dtype, COMPUTE[dtype])))
            raise DTypeError(f"{name} {dtype_name(array)} must be {wanted} as query is, or computes in")


def sizes(query: Array, key: Array, value: Array) -> Sizes:
    """Return the sizes of a call, having checked that the three arrays fit.

    Args:
        query: `(*batch, T, H, D)`.
        key: `(*batch, S, K, D)`, H a multiple of K.
        value: `(*batch, S, K, E)`.

    Raises:
        ShapeError: a rank or a size does not fit.
    """
    letters = {"query": "(*batch, T, H, D)", "key": "(*batch, S, K, D)", "value": "(*batch, S, K, E)"}
    for (name, wanted), array in zip(letters.items(), (query, key, value), strict=True):
        if len(array.shape) < 3:
            raise ShapeError(f"{name} {tuple(array.shape)} must be {wanted}: at least three axes")
    *batch, t, h, d = query.shape
    *_, s, k, _ = key.shape
    e = value.shape[-1]
    _demand("key", key.shape, (*batch, s, k, d), letters["key"], f"batch = {tuple(batch)}, D = {d} as query has")
    _demand("value", value.shape, (*batch, s, k, e), letters["value"], f"batch = {tuple(batch)}, S = {s}, K = {k}")
    if k == 0 or h % k:
        raise ShapeError(f"query {tuple(query.shape)} must have H = {h} a multiple of K = {k} as key has")
    return Sizes(tuple(batch), t, s, h, k, d, e)


def _demand(name: str, got: Any, wanted: tuple[int, ...], letters: str, given: str) -> None:
    if tuple(got) != wanted:
        raise ShapeError(f"{name} {tuple(got)} must be {letters} with {given}")


def broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether `shape` broadcasts to exactly `wanted`.

    >>> broadcasts((3, 1), (2, 3, 5)), broadcasts((2, 3), (3,))
    (True, False)
    """
    if len(shape) > len(wanted):
        return False
    # An absent leading axis broadcasts, so the shorter shape is compared from the right.
    # No `a in (1, b)`: torch.compile does not find a size that it takes for a variable in a tuple.
    return all(a == 1 or a == b for a, b in zip(reversed(shape), reversed(wanted), strict=False))  # noqa: PLR1714 - see above


def check_shape(name: str, array: Array, wanted: tuple[int, ...], letters: str) -> None:
    """Raise ShapeError unless `array` has exactly the shape `wanted`, whose axes are `letters`."""
    if tuple(array.shape) != wanted:
        raise ShapeError(f"{name} {tuple(array.shape)} must be {letters} = {wanted}")


def check_broadcast(name: str, array: Array, wanted: tuple[int, ...], letters: str) -> None:
    """Raise ShapeError unless `array` broadcasts to `wanted`, whose axes are `letters`."""
    if not broadcasts(tuple(array.shape), wanted):
        raise ShapeError(f"{name} {tuple(array.shape)} must broadcast to {letters} = {wanted}")
