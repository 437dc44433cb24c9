"""Error maps: the histogram and the picture of z that a report keeps of each array, small enough to keep for all.

    histogram[i] = how many z lie in [2^(i-6), 2^(i-5))          the first bin is open below, the last one above
    picture[r, c] = max of z over all axes but two                errors over (query, key), (head, query), (position, feature)

An attention map is the weights themselves, of the oracle and of the program, a head at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attention.spec.axes import AXES

BINS = 16
"""Of a histogram: bin i begins at z = 2^(i - 6)."""
MOST = 48
"""Rows and columns of a picture; a larger array is shown by the worst of each block."""
HEADS = 4
"""The number of heads of an attention map."""
LETTERS = {
    **dict.fromkeys(("scaled", "capped", "scores", "masked", "weights", "d bias"), "HTS"),
    "mean_weights": "TS",
    "logsumexp": "HT",
    "context": "THE",
    "output": "TM",
    "d query": "TM",
    "d key": "SM",
    "d value": "SM",
}
"""The last axes of the results that attention names; those of other arrays are only counted."""
PAIRS = ("TS", "HT", "HS", "TM", "SM")
"""The pairs of axes that are worth a picture, where an array has them."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A small matrix for display.

    Attributes:
        title: its caption.
        rows: the name of its first axis, such as "queries".
        columns: the name of its second.
        values: `(rows, columns)`, float32, at most `MOST` each way; inf where an element had to be equal and is not.
        kind: "z" for errors, "weights" for an attention map.
    """

    title: str
    rows: str
    columns: str
    values: np.ndarray
    kind: str = "z"


def histogram(z: np.ndarray) -> tuple[int, ...]:
    """Return the number of elements of z (not negative) in each bin.

    >>> histogram(np.asarray([0.0, 1.0, 1.5, np.inf]))[5:8]
    (0, 2, 0)
    """
    with np.errstate(divide="ignore"):
        which = np.clip(np.floor(np.log2(z)) + BINS * 3 // 8, 0, BINS - 1)
    return tuple(int(n) for n in np.bincount(which.astype(np.int64).ravel(), minlength=BINS))


def of(name: str, z: np.ndarray, got: np.ndarray, wanted: np.ndarray) -> tuple[Picture, ...]:
    """Return the pictures of one result: its errors over each pair of axes, and its attention maps if it is the weights."""
    return (*_errors(name, z), *(_maps(got, wanted) if name == "weights" and z.ndim > 2 else ()))


def _errors(name: str, z: np.ndarray) -> Iterator[Picture]:
    letters = LETTERS.get(name, "")
    if z.ndim < 2 or not z.size:
        return
    if len(letters) > z.ndim:
        letters = ""
    pairs = [pair for pair in PAIRS if set(pair) <= set(letters)]
    if not pairs:
        worst = z.max(axis=tuple(range(z.ndim - 2)))
        yield Picture(f"|z| of {name}", f"axis {z.ndim - 2}", f"axis {z.ndim - 1}", _shrunk(worst))
    for pair in pairs:
        places = [z.ndim - len(letters) + letters.index(letter) for letter in pair]
        rest = tuple(axis for axis in range(z.ndim) if axis not in places)
        worst = z.max(axis=rest)
        shown = worst if places[0] < places[1] else worst.T
        yield Picture(f"|z| of {name}", AXES[pair[0]], AXES[pair[1]], _shrunk(shown))


def _maps(got: np.ndarray, wanted: np.ndarray) -> Iterator[Picture]:
    for title, weights in (("oracle", wanted), ("program", got)):
        heads = weights.reshape(-1, *weights.shape[-3:])[0].astype(np.float32)
        for h, values in enumerate(heads[:HEADS]):
            yield Picture(f"weights of head {h}, {title}", AXES["T"], AXES["S"], _shrunk(values), "weights")


def _shrunk(values: np.ndarray) -> np.ndarray:
    """Return a matrix of at most `MOST` each way: the largest of each block."""
    for axis in (0, 1):
        count = values.shape[axis]
        if count > MOST:
            starts = np.arange(MOST) * count // MOST
            values = np.maximum.reduceat(values, starts, axis=axis)
    # What float32 does not hold is drawn as infinite.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
