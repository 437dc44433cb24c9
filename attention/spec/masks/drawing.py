"""Draw masks: as text for a terminal, or as a figure.

    ■ at (t, s) = query t may attend to key s        the first batch row and head by default

Only the part that is drawn is evaluated, so that drawing the mask of a long sequence is fast.
"""

# matplotlib leaves the types of its keywords unsaid.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attention.spec.axes import Array, Sizes
from attention.spec.errors import MaskError, MissingExtra, shown
from attention.spec.masks.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 16
"""The most queries, and keys, that a picture of text shows."""

FINEST = 1024
"""The most queries, and keys, that a figure shows: more than its dots."""

SIZE = 8
"""Queries, and keys, to draw if the sizes are unknown."""

SEEN, HIDDEN = "■", "·"


class Drawable(Protocol):
    """The part of a mask that a drawing needs; see `algebra.Mask`."""

    @property
    def inside(self) -> tuple[Drawable, ...]: ...

    @property
    def several(self) -> tuple[tuple[str, Any], ...]: ...

    def arrays(self) -> Iterator[tuple[str, Array, tuple[str, ...], str]]: ...

    def check(self, sizes: Sizes, read: Callable[[Array], np.ndarray | None]) -> None: ...

    def allowed(self, at: Grid) -> Array: ...


@dataclass(frozen=True)
class View(Grid):
    """The first queries and keys of one batch row and head: t `(T', 1)`, s `(S',)`."""

    row: tuple[int, ...]
    head: int

    def per_row(self, x: Array) -> Array:
        return _at(_wide(x), self.row)

    def per_query(self, x: Array) -> Array:
        return _at(np.moveaxis(_wide(x), -1, 0), self.row, 1)[: self.t.size, None]

    def per_key(self, x: Array) -> Array:
        return _at(np.moveaxis(_wide(x), -1, 0), self.row, 1)[: self.s.size]

    def per_score(self, x: Array) -> Array:
        x = np.atleast_2d(_wide(x))
        return _at(np.moveaxis(x, (-2, -1), (0, 1)), (*self.row, self.head), 2)[: self.t.size, : self.s.size]

    def by_head(self, allowed: Sequence[Array]) -> Array:
        return allowed[self.head]

    def by_row(self, allowed: Sequence[Array]) -> Array:
        return allowed[self.row[-1]]


def _wide(x: Array) -> np.ndarray:
    """Return integers in 64 bits, for a narrow type of lengths or ids would overflow in the predicates' sums."""
    x = np.asarray(x)
    return x if x.dtype == bool else x.astype(np.int64)


def _at(x: np.ndarray, place: tuple[int, ...], inner: int = 0) -> np.ndarray:
    """Return one batch row of an array whose first `inner` axes are not batch, and whose others broadcast to it."""
    batch = x.shape[inner:]
    index = (0 if size == 1 else i for size, i in zip(reversed(batch), reversed(place), strict=False))
    return x[(..., *reversed(list(index)))]


def view(mask: Drawable, T: int | None, S: int | None, row: int, head: int, most: int) -> tuple[np.ndarray, Sizes]:
    """Return what one batch row and head allows, bool `(T', S')` with at most `most` of each, and the sizes of the whole.

    Raises:
        MaskError: the mask does not fit the sizes, or has no such row or head.
    """
    sizes = known_sizes(mask, T, S)
    mask.check(sizes, np.asarray)
    rows = int(np.prod(sizes.batch))
    if not (0 <= row < rows and 0 <= head < sizes.H):
        raise MaskError(f"row {row} and head {head} must be in 0..{rows - 1} and 0..{sizes.H - 1}, which the mask has")
    t, s = (np.arange(min(size, most)) for size in (sizes.T, sizes.S))
    place = tuple(int(i) for i in np.unravel_index(row, sizes.batch)) if sizes.batch else ()
    allowed = mask.allowed(View(t[:, None], s, sizes.T, sizes.S, place, head))
    return np.broadcast_to(allowed, (t.size, s.size)), sizes


def known_sizes(mask: Drawable, T: int | None = None, S: int | None = None) -> Sizes:
    """Return the sizes that are given, else those of the arrays that the mask holds, else `SIZE` queries and keys.

    Raises:
        MaskError: the mask's own arrays disagree about the batch.
    """
    sizes, batches = {"H": 1}, [()]
    for axis, size in _axis_sizes(mask):
        if axis == "batch":
            batches.append(size)
        else:
            sizes[axis] = max(size, sizes.get(axis, 0))
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise MaskError(f"mask {shown(mask)} must hold arrays whose batch axes broadcast") from None
    # Counts give a lower bound, used only if no array has that axis.
    sizes = {axis: max(SIZE, most) for axis, most in _counted(mask)} | sizes
    t = sizes.get("T", sizes.get("S", SIZE)) if T is None else T
    s = sizes.get("S", t) if S is None else S
    return Sizes(batch, t, s, sizes["H"], 1, 1, 1)


def _axis_sizes(mask: Drawable) -> Iterator[tuple[str, Any]]:
    """Yield (axis, size) for each size that an array or a tuple in the mask has."""
    for part in mask.inside:
        yield from _axis_sizes(part)
    yield from mask.several
    for _, value, axes, _ in mask.arrays():
        inner = min(len(axes), len(value.shape))
        yield "batch", tuple(value.shape)[: len(value.shape) - inner]
        own = zip(reversed(axes), reversed(value.shape), strict=False)
        # An axis of 1 among several is there to be broadcast.
        yield from ((axis, size) for axis, size in own if size != 1 or len(axes) == 1)


def _counted(mask: Drawable) -> Iterator[tuple[str, int]]:
    """Yield (axis, the largest count) for each field of the mask that counts along an axis."""
    for part in mask.inside:
        yield from _counted(part)
    for f in fields(mask):  # type: ignore[arg-type]  # every mask is a dataclass
        if f.metadata.get("counts") and getattr(mask, f.name) is not None:
            yield f.metadata["counts"], int(np.max(np.asarray(getattr(mask, f.name)), initial=0))


def picture(title: str, allowed: np.ndarray, sizes: Sizes) -> str:
    """Return a mask as text: a line of title, a line of keys, and a line for each query.

    Args:
        title: first line.
        allowed: bool `(T', S')`.
        sizes: of the whole; `allowed` may be a corner of it.

    >>> print(picture("lower left", np.tri(2, 3, dtype=bool), Sizes((), 2, 3, 1, 1, 1, 1)))
    lower left
    t/s  0 1 2
      0  ■ · ·
      1  ■ ■ ·
    """
    rows, columns = allowed.shape
    lines = [title, "t/s  " + " ".join(str(s % 10) for s in range(columns))]
    lines += [f"{t:3}  " + " ".join(SEEN if seen else HIDDEN for seen in allowed[t]) for t in range(rows)]
    if (rows, columns) != (sizes.T, sizes.S):
        lines.append(f"the first {rows} of T = {sizes.T} queries, {columns} of S = {sizes.S} keys")
    return "\n".join(line.rstrip() for line in lines)


def figure(title: str, allowed: np.ndarray, sizes: Sizes) -> Figure:
    """Return a mask as a matplotlib figure; arguments as in `picture`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtra("Mask.plot needs matplotlib, which is not installed: pip install 'attention-parity[report]'")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - the check above gives the clear line
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawn = Figure(figsize=(4.8, 4.8 * min(2.0, max(0.4, allowed.shape[0] / max(1, allowed.shape[1])))), layout="constrained")
    _ = FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    _ = axes.imshow(allowed, cmap="Greys", vmin=0, vmax=1.4, interpolation="nearest", aspect="auto")
    _ = axes.set_title(title, fontsize="small", wrap=True)
    _ = axes.set_xlabel(f"key s of S = {sizes.S}")
    _ = axes.set_ylabel(f"query t of T = {sizes.T}")
    return drawn
