"""The six novels of Jane Austen, character by character, and what a trivial model makes of them.

    five novels to learn from, Persuasion to be scored on        4.0 million characters
    unigram:  p(c)        n-gram:  p(c | the n - 1 before it), each order leaning on the next lower one (Witten and Bell)

They come as the R package `janeaustenr` in Debian: a lazy-load database, which is an index and compressed R objects one after
another. Lines are joined to paragraphs, for where the printer broke them is nothing to learn.

References:
    Silge, janeaustenr 1.0.0 (texts of Project Gutenberg, in the public domain); Witten and Bell, IEEE Transactions on
    Information Theory 37, 1991.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rdata

from examples.debian import fetch

PACKAGE, DATABASE = "r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/Rdata"
HELD_OUT = "persuasion"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What a character is read as that was not learned."""


def novels(folder: Path | None = None) -> dict[str, str]:
    """Return the text of each novel by its name, a paragraph a line.

    Args:
        folder: of all that comes from Debian; None means the usual one.

    Raises:
        MissingData: there is no apt, or it cannot reach its mirror.
    """
    database = fetch(PACKAGE, folder) / DATABASE
    index, objects = rdata.read_rds(database.with_suffix(".rdx")), database.with_suffix(".rdb").read_bytes()
    return {str(name): paragraphs(_lines(objects[start : start + size])) for name, (start, size) in index["variables"].items()}


def _lines(packed: bytes) -> list[str]:
    """Return the strings of one R object: its size in four bytes, then itself, compressed."""
    with warnings.catch_warnings():
        # A file would say what it is; an object in a database does not.
        warnings.filterwarnings("ignore", "Unknown file type")
        return [str(line) for line in rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed[4:])))]


def paragraphs(lines: Iterable[str]) -> str:
    r"""Return the paragraphs of a text, which empty lines part, each as one line.

    >>> paragraphs(["Chapter 1", "", "", "It is a truth", "universally acknowledged,"])
    'Chapter 1\nIt is a truth universally acknowledged,\n'
    """
    blocks = "\n".join(line.strip() for line in lines).split("\n\n")
    return "".join(f"{' '.join(block.split())}\n" for block in blocks if block.strip())


@dataclass(frozen=True)
class Alphabet:
    """The characters that are learned, by number; the first stands for every other.

    >>> letters = Alphabet.of("abba, baba")
    >>> letters.read(letters.numbers("abc"))
    'ab\N{REPLACEMENT CHARACTER}'
    """

    characters: str

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """Return the characters of a text, in the order of their codes."""
        return cls(UNKNOWN + "".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def numbers(self, text: str) -> np.ndarray:
        """Return the numbers `(T,)` int32 of a text."""
        known = {character: number for number, character in enumerate(self.characters)}
        return np.fromiter((known.get(character, 0) for character in text), np.int32, len(text))

    def read(self, numbers: Iterable[int]) -> str:
        """Return the text of numbers."""
        return "".join(self.characters[int(number)] for number in numbers)


def windows(text: np.ndarray, count: int, length: int, step: int) -> np.ndarray:
    """Return the windows `(count, length)` of a text that a step learns from, at random places: the same ones for one step."""
    starts = np.random.default_rng(step).integers(0, len(text) - length, count)
    return text[starts[:, None] + np.arange(length)]


def n_gram_bits(learn: np.ndarray, held: np.ndarray, order: int, size: int) -> np.ndarray:
    """Return what each character of a text held out costs an n-gram model, in bits: `(T,)`.

    p_n(c | h) = (count(h c) + kinds(h) p_{n-1}(c | h')) / (count(h) + kinds(h)),  kinds(h) the characters ever seen after h.

    Args:
        learn: `(N,)` numbers, counted.
        held: `(T,)` numbers, scored.
        order: n; 1 is the unigram model.
        size: of the alphabet.

    >>> n_gram_bits(np.array([0, 1] * 50), np.array([0, 1]), 1, 2)
    array([1., 1.])
    """
    chance = np.full(len(held), 1.0 / size)
    for n in range(1, order + 1):
        # The n-grams of each text as numbers in base `size`, an unfinished one at its beginning aside.
        (seen, times), asked = np.unique(_grams(learn, n, size), return_counts=True), _grams(held, n, size)
        contexts, first, kinds = np.unique(seen // size, return_index=True, return_counts=True)
        totals = np.add.reduceat(times, first)
        count, (total, kind) = _looked_up(asked, seen, times)[0], _looked_up(asked // size, contexts, totals, kinds)
        lower = chance[n - 1 :]
        chance[n - 1 :] = np.where(total > 0, (count + kind * lower) / np.maximum(total + kind, 1), lower)
    return -np.log2(chance)


def _grams(text: np.ndarray, n: int, size: int) -> np.ndarray:
    whole = np.zeros(len(text) - n + 1, np.int64)
    for i in range(n):
        whole = whole * size + text[i : len(text) - n + 1 + i]
    return whole


def _looked_up(asked: np.ndarray, keys: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Return what stands beside each key in each column, 0 where there is no such key; `keys` rise."""
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return [np.where(keys[at] == asked, column[at], 0) for column in columns]
