"""Benchmark cases: one attention call by sizes, mask, dtype and program.

flops = 2 (D + D) pairs          forward: scores, context              pairs = number of (b, h, t, s) that are allowed
      + 2 (5 D) pairs            backward: scores again, d weights, d value, d query, d key
bytes = every input, output and gradient once
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache

import numpy as np

from attention.spec.axes import COMPUTE, Sizes
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import OptionError, UnknownName
from attention.spec.masks import Causal, Lengths, Mask, Prefix, Segments, Window
from attention.spec.masks.tile import Tile
from attention.spec.masks.tile_schedule import FULL, PARTIAL, schedule

FORWARD, BACKWARD = "forward", "forward+backward"
PROGRAMS = (FORWARD, BACKWARD)
WINDOW, DOCUMENTS, SEED = 256, 8, 0


def offsets(size: int) -> list[int]:
    """Return where each of `DOCUMENTS` begins, and at last where all end: of uneven length, and on the edges of no tile.

    >>> offsets(4096)
    [0, 435, 1011, 1523, 2163, 2547, 3123, 3571, 4096]
    """
    parts = (7, 9, 8, 10, 6, 9, 7, 8)
    inner = [sum(parts[:i]) * size // sum(parts) - min(13, size // 64) for i in range(1, DOCUMENTS)]
    return [0, *inner, size]


MASKS: dict[str, Callable[[Case], Mask | None]] = {
    "dense": lambda _: None,
    "causal": lambda _: Causal(),
    "window": lambda _: Window(before=WINDOW - 1, after=0),
    "segments": lambda case: Segments.from_cu_seqlens(offsets(case.S)).map(lambda x: np.tile(x, (case.B, 1))),
    "padding": lambda case: Lengths(kv=np.full(case.B, case.S // 2)),
    "quarter": lambda case: Lengths(kv=np.full(case.B, case.S // 4)),
    "prefix": lambda case: Causal() | Prefix(case.S // 2),
}
"""The masks by name. "padding" leaves half of the keys, "quarter" a quarter; "prefix" is open over the first half."""


@dataclass(frozen=True)
class Case:
    """One call.

    Args:
        mask: a name of `MASKS`.
        S: keys.
        T: queries; None: as many as keys.
        B: batch rows.
        H: query heads.
        K: key/value heads; None: as many.
        D: width of a head, of values too.
        dtype: float32, float64, bfloat16 or float16.
        program: one of `PROGRAMS`.

    Raises:
        UnknownName: no such mask, dtype or program.
        OptionError: a size below 1, or H no multiple of K.
    """

    mask: str = "dense"
    S: int = 1024
    T: int | None = None
    B: int = 1
    H: int = 8
    K: int | None = None
    D: int = 64
    dtype: str = "float32"
    program: str = FORWARD

    def __post_init__(self) -> None:
        object.__setattr__(self, "T", self.S if self.T is None else self.T)
        object.__setattr__(self, "K", self.H if self.K is None else self.K)
        for what, name, known in (("mask", self.mask, MASKS), ("program", self.program, PROGRAMS)):
            if name not in known:
                raise UnknownName(f"{what} {name!r} must be one of {', '.join(known)}")
        _ = numpy_dtype(self.dtype)
        for letter, size in asdict(self).items():
            if letter.isupper() and (not isinstance(size, int) or size < 1):
                raise OptionError(f"{letter} {size!r} must be an int >= 1")
        if self.H % self.sizes.K:
            raise OptionError(f"H {self.H} must be a multiple of K = {self.K}")

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        assert self.T is not None  # noqa: S101 - `__post_init__` has filled both in
        assert self.K is not None  # noqa: S101
        return Sizes((self.B,), self.T, self.S, self.H, self.K, self.D, self.D)

    @property
    def spec_mask(self) -> Mask | None:
        """The mask as the contract says it."""
        return MASKS[self.mask](self)

    @property
    def name(self) -> str:
        """What tables and comparisons know the case by."""
        heads = f"H{self.H}" if self.H == self.K else f"H{self.H}/{self.K}"
        queries = "" if self.T == self.S else f" T{self.T}"
        batch = "" if self.B == 1 else f" B{self.B}"
        return f"{self.mask}{batch}{queries} S{self.S} {heads} D{self.D} {self.dtype} {self.program}"

    @property
    def pairs(self) -> int:
        """How many (b, h, t, s) the mask allows, counted."""
        return _pairs(replace(self, H=1, K=1, D=1, dtype="float32", program=FORWARD)) * self.H

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products that the mask asks for."""
        return (4 if self.program == FORWARD else 14) * self.D * self.pairs

    @property
    def bytes(self) -> int:
        """What must be read and written at least, in bytes; keys that nobody may see are not read."""
        of, width = self.sizes, numpy_dtype(self.dtype).itemsize
        keys = {"padding": of.S // 2, "quarter": of.S // 4}.get(self.mask, of.S)
        once = self.B * self.D * width * (2 * of.T * of.H + 2 * keys * of.K)
        return once if self.program == FORWARD else 3 * once

    @property
    def dense_bytes(self) -> int:
        """What all scores take in the compute dtype, in bytes."""
        return self.B * self.H * self.sizes.T * self.S * numpy_dtype(COMPUTE[self.dtype]).itemsize

    def allowed(self) -> np.ndarray:
        """Return the dense mask, bool `(B or 1, 1, T, S)`."""
        mask, of = self.spec_mask, self.sizes
        if mask is None:
            return np.ones((1, 1, of.T, of.S), bool)
        found = mask.allowed(Tile.at(np, of, (0, of.T), (0, of.S)))
        found = found[(None,) * (4 - found.ndim) + (...,)]
        return np.broadcast_to(found, (found.shape[0], 1, of.T, of.S))

    def rows(self, queries: list[int]) -> np.ndarray:
        """Return bool `(B, 1, len(queries), S)`: the keys that these queries may attend to."""
        mask, of = self.spec_mask, self.sizes
        if mask is None:
            return np.ones((self.B, 1, len(queries), self.S), bool)
        found = [mask.allowed(Tile.at(np, of, (t, t + 1), (0, of.S))) for t in queries]
        return np.concatenate([np.broadcast_to(row, (self.B, 1, 1, self.S)) for row in found], axis=-2)


@cache
def _pairs(case: Case) -> int:
    """Count the allowed scores of one head: full tiles by their size, partial ones by looking."""
    mask, of = case.spec_mask, case.sizes
    if mask is None:
        return case.B * of.T * of.S
    found = schedule(mask, of, (128, 128))
    q, k = found.extents()
    kinds = np.broadcast_to(found.kinds, (case.B, 1, len(q), len(k)))
    total = int(np.sum(q @ (kinds == FULL) @ k))
    for i, j in zip(*np.nonzero(np.any(kinds == PARTIAL, axis=(0, 1))), strict=True):
        spans = [(n * 128, min(n * 128 + 128, size)) for n, size in ((int(i), of.T), (int(j), of.S))]
        inside = mask.allowed(Tile.at(np, of, *spans))
        inside = np.broadcast_to(inside, (case.B, 1, q[i], k[j]))
        total += int(np.sum(inside[(kinds[:, :, i, j] == PARTIAL)]))
    return total


@lru_cache(maxsize=2)
def drawn(case: Case, copies: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Return query, key, value `(B, T or S, H or K, D)` and the output's cotangent, standard normal, `copies` times."""
    of, kind = case.sizes, numpy_dtype(case.dtype)
    shapes = [(case.B, n, h, case.D) for n, h in ((of.T, of.H), (of.S, of.K), (of.S, of.K), (of.T, of.H))]
    draw = np.random.Generator(np.random.SFC64(SEED))
    return tuple(tuple(draw.standard_normal(shape, np.float32).astype(kind) for shape in shapes) for _ in range(copies))
