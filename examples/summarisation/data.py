"""The data: the first sentence of a Debian package's description, and the one line that its maintainer gave beside it.

    source = words of the first sentence, 8 to 28 of them        target = words of the synopsis, 2 to 12

Who maintains families of packages writes one text many times. A source occurs once, and a pair is held out by the hash of its
source, so that no source is in both parts; sources that differ in a word remain.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

SOURCE_WORDS, TARGET_WORDS = (8, 28), (2, 12)
HELD_OUT = 12
"""One source in this many is held out."""

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")

_WORD = re.compile(r"[a-z0-9]+(?:[-+.'/][a-z0-9]+)*[+#]*|[(),:;]")
_SENTENCE = re.compile(r"\.(?:\s|$)")


@dataclass(frozen=True)
class Pair:
    """A text and its summary, as words."""

    source: tuple[str, ...]
    target: tuple[str, ...]


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text.

    >>> words("The GNU C++ compiler (g++), version 12.2")
    ('the', 'gnu', 'c++', 'compiler', '(', 'g++', ')', ',', 'version', '12.2')
    """
    return tuple(_WORD.findall(text.lower()))


def pair(description: str) -> Pair | None:
    r"""Return the pair of a description, whose first line is the synopsis; None where one of the two is too short or too long.

    >>> made = pair("game of strategy\nA game of war and trade in ancient times. It is free.")
    >>> made.source[-3:], made.target
    (('in', 'ancient', 'times'), ('game', 'of', 'strategy'))
    """
    synopsis, _, rest = description.partition("\n")
    paragraph = " ".join(line.strip() for line in rest.split("\n\n")[0].splitlines())
    source, target = words(_SENTENCE.split(paragraph)[0]), words(synopsis)
    fits = SOURCE_WORDS[0] <= len(source) <= SOURCE_WORDS[1] and TARGET_WORDS[0] <= len(target) <= TARGET_WORDS[1]
    return Pair(source, target) if fits else None


def pairs(descriptions: Iterable[str]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to learn from and those held out, each source once and in the order of its text."""
    found = {made.source: made for made in map(pair, descriptions) if made is not None}
    ordered = [found[source] for source in sorted(found)]
    held = [zlib.crc32(" ".join(made.source).encode()) % HELD_OUT == 0 for made in ordered]
    return [p for p, out in zip(ordered, held, strict=True) if not out], [
        p for p, out in zip(ordered, held, strict=True) if out
    ]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words that the model can say by itself; any other it can only copy.

    A word of the source that is not among them has the number `len(vocabulary) + its first place in the source`.
    """

    names: tuple[str, ...]
    numbers: dict[str, int] = field(repr=False)

    @classmethod
    def of(cls, examples: Sequence[Pair], size: int) -> Vocabulary:
        """Return the most frequent words of both sides."""
        counts = Counter(word for p in examples for word in (*p.source, *p.target))
        # Words of one count in the order of the alphabet, so that the vocabulary is the same wherever it is made.
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        names = (*SPECIAL, *ranked[: size - len(SPECIAL)])
        return cls(names, {name: number for number, name in enumerate(names)})

    def __len__(self) -> int:
        return len(self.names)

    def source(self, source: Sequence[str]) -> list[int]:
        """Return the numbers of a source's words."""
        return [self.numbers.get(word, len(self) + list(source).index(word)) for word in source]

    def target(self, target: Sequence[str], source: Sequence[str]) -> list[int]:
        """Return the numbers of a target's words: its own, those of the source they can be copied from, or UNKNOWN."""
        copied = dict(zip(source, self.source(source), strict=True))
        return [self.numbers.get(word, copied.get(word, UNKNOWN)) for word in target]

    def read(self, numbers: Sequence[int], source: Sequence[str]) -> tuple[str, ...]:
        """Return the words of numbers that were said of a source, up to END."""
        made: list[str] = []
        for number in map(int, numbers):
            if number == END:
                break
            made.append(self.names[number] if number < len(self) else source[number - len(self)])
        return tuple(made)


def batch(examples: Sequence[Pair], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Return examples as arrays of one shape, whatever their lengths.

    Returns:
        "source" `(B, S)` int64 padded on the right, "lengths" `(B,)`, and "target" `(B, T + 1)`, which ends with END.
    """
    source = np.full((len(examples), SOURCE_WORDS[1]), PAD, np.int64)
    target = np.full((len(examples), TARGET_WORDS[1] + 1), PAD, np.int64)
    for row, p in enumerate(examples):
        source[row, : len(p.source)] = vocabulary.source(p.source)
        target[row, : len(p.target) + 1] = [*vocabulary.target(p.target, p.source), END]
    return {"source": source, "lengths": np.array([len(p.source) for p in examples]), "target": target}
