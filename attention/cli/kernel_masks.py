"""Parser of mask expressions on the command line.

"causal & window:256"      "causal | prefix:512"      "documents:8"      "lengths:half"      "~(causal & chunked:64)"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attention.spec.axes import Sizes
from attention.spec.errors import OptionError
from attention.spec.masks import Causal, Chunked, DenseMask, Lengths, Prefix, Segments, Window
from attention.spec.masks.algebra import Mask

WORD = re.compile(r"\s*([a-z]+(?::[\w.,]+)?|[&|~()])")
CHOICES = "causal, window:256, window:128,128, chunked:64, documents:8, prefix:512, lengths:half, lengths:ragged, dense:0.5"


def parse(text: str, sizes: Sizes) -> Mask:
    """Return the mask of an expression; `&` binds more tightly than `|`, `~` than both.

    Args:
        text: names with numbers behind a colon, joined by `&`, `|`, `~` and parentheses.
        sizes: of the call; where T != S, the last query stands at the last key.

    Raises:
        OptionError: the text is no expression, or a name or number does not fit.

    >>> parse("causal & window:256 | prefix:2", Sizes((), 8, 8, 1, 1, 4, 4))
    Or(left=And(left=Causal(...), right=Window(..., before=255, after=0)), right=Prefix(length=2))
    """
    words, at = [], 0
    while text[at:].strip():
        found = WORD.match(text, at)
        if found is None:
            raise _wrong(text)
        words.append(found[1])
        at = found.end()
    reader = _Reader(text, iter([*words, ""]), sizes)
    mask = reader.either()
    if reader.word:
        raise _wrong(text)
    return mask


class _Reader:
    """Reads an expression from left to right, one word ahead."""

    def __init__(self, text: str, words: Iterator[str], sizes: Sizes) -> None:
        self.text, self.words, self.sizes = text, words, sizes
        self.word = next(words)

    def take(self) -> str:
        word, self.word = self.word, next(self.words, "")
        return word

    def either(self) -> Mask:
        mask = self.both()
        while self.word == "|":
            _ = self.take()
            mask = mask | self.both()
        return mask

    def both(self) -> Mask:
        mask = self.one()
        while self.word == "&":
            _ = self.take()
            mask = mask & self.one()
        return mask

    def one(self) -> Mask:
        word = self.take()
        if word == "~":
            return ~self.one()
        if word == "(":
            mask = self.either()
            if self.take() != ")":
                raise _wrong(self.text)
            return mask
        name, _, numbers = word.partition(":")
        if name not in NAMED:
            raise _wrong(self.text)
        try:
            return NAMED[name](self.sizes, *(numbers.split(",") if numbers else ()))
        except (TypeError, ValueError) as error:
            raise _wrong(self.text, f"; {word!r}: {error}") from error


def _wrong(text: str, why: str = "") -> OptionError:
    return OptionError(f"--mask {text!r} must be made of {CHOICES}, joined by & | ~ and parentheses{why}")


def _align(sizes: Sizes) -> dict[str, Any]:
    return {} if sizes.T == sizes.S else {"align": "end"}


def _window(sizes: Sizes, before: str, after: str | None = None) -> Mask:
    """One number counts all keys that a query sees, its own the last; two count those beside its own."""
    if after is None:
        return Window(before=int(before) - 1, after=0, **_align(sizes))
    return Window(before=int(before), after=int(after), **_align(sizes))


def _documents(sizes: Sizes, count: str) -> Mask:
    """As many documents of one length as `count` says, in every row."""
    ids = np.broadcast_to(np.arange(sizes.S) * int(count) // max(1, sizes.S), (*sizes.batch, sizes.S))
    return Segments(ids) if sizes.T == sizes.S else Segments(ids, ids[..., sizes.S - min(sizes.T, sizes.S) :])


def _lengths(sizes: Sizes, kv: str) -> Mask:
    """One length for all rows; "ragged" gives each row of the last batch axis its own, the last one all keys."""
    if kv == "ragged":
        rows = sizes.batch[-1]
        return Lengths(np.broadcast_to(sizes.S * np.arange(1, rows + 1) // rows, sizes.batch))
    return Lengths(np.full(sizes.batch, sizes.S // 2 if kv == "half" else int(kv)))


def _dense(sizes: Sizes, share: str = "0.5") -> Mask:
    return DenseMask(np.random.default_rng(0).random((sizes.T, sizes.S)) < float(share))


NAMED: dict[str, Callable[..., Mask]] = {
    "causal": lambda sizes: Causal(**_align(sizes)),
    "window": _window,
    "chunked": lambda sizes, size: Chunked(int(size), **_align(sizes)),
    "documents": _documents,
    "prefix": lambda sizes, length: Prefix(sizes.S // 4 if length == "quarter" else int(length)),
    "lengths": _lengths,
    "dense": _dense,
}
