"""Vocabulary: symbols and their numbers, and the batches that a translator is taught with.

numbers = encode("23", ...)        decode(numbers) = up to END
said = START y_0 y_1 ...           target = y_0 y_1 ... END           after the end, both are END, and count for nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from examples.experiment import epoch

END, START, UNKNOWN = 0, 1, 2
"""The first three numbers of every vocabulary: what ends a text and pads it, what stands before it, what has no number."""
SPECIAL = ("<end>", "<start>", "<unknown>")

Tokens = Sequence[str]


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of one language.

    Args:
        symbols: by number; the first three are `SPECIAL`.

    >>> letters = Vocabulary.of("abba cab", most=5)
    >>> letters.symbols, letters.encode("back").tolist()
    (('<end>', '<start>', '<unknown>', 'a', 'b'), [4, 3, 2, 2])
    """

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, tokens: Iterable[str], most: int) -> Vocabulary:
        """Return the vocabulary of the commonest tokens, `most` symbols in all; of equally common ones the alphabet's first."""
        counts = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
        return cls((*SPECIAL, *(token for token, _ in counts[: most - len(SPECIAL)])))

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the numbers of tokens, `UNKNOWN` where there is none."""
        return np.array([self._numbers.get(token, UNKNOWN) for token in tokens], np.int32)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the symbols of numbers, up to the first `END`."""
        found: list[str] = []
        for number in numbers:
            if number == END:
                break
            found.append(self.symbols[int(number)])
        return found


@dataclass(frozen=True, eq=False)
class Pairs:
    """Texts in two languages, as numbers.

    Attributes:
        source: `(N, S)` int32, padded with `END`.
        lengths: `(N,)` int32, tokens of each source.
        target: `(N, T)` int32, each shorter than T, ended and padded with `END`.
    """

    source: np.ndarray
    lengths: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what one step is taught with.

        Returns:
            `source` `(B, S)`; `lengths` `(B,)`; `said` and `target` `(B, T)`; `counts` `(B, T)` float32, 1 for each token of
            the target, its end included, and 0 after it.
        """
        target = self.target[rows]
        said = np.concatenate([np.full((len(rows), 1), START, np.int32), target[:, :-1]], axis=1)
        # The end itself follows a token that is no end.
        counts = (said != END).astype(np.float32)
        return {"source": self.source[rows], "lengths": self.lengths[rows], "said": said, "target": target, "counts": counts}

    def shuffled(self, step: int, size: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Return the batch of a step: all pairs in a new order every epoch, the last few that fill no batch left out."""
        return self.batch(epoch(len(self), size, step, seed))


@dataclass(frozen=True, eq=False)
class Corpus:
    """What is taught, and what is asked.

    Attributes:
        read: the vocabulary of the source, in small letters.
        said: that of the target.
        taught: pairs to learn from.
        asked: texts that were held out, in both languages.
    """

    read: Vocabulary
    said: Vocabulary
    taught: Pairs
    asked: Sequence[tuple[str, str]]

    @classmethod
    def of(
        cls,
        taught: Sequence[tuple[Tokens, Tokens]],
        asked: Sequence[tuple[str, str]],
        longest: tuple[int, int],
        vocabulary: tuple[int, int],
    ) -> Corpus:
        """Return a corpus.

        Args:
            taught: tokens of source and target.
            asked: texts.
            longest: tokens that a source may have, S, and that a target may have with its end, T.
            vocabulary: symbols that each language may have, `SPECIAL` included.
        """
        read = Vocabulary.of((token.lower() for source, _ in taught for token in source), vocabulary[0])
        said = Vocabulary.of((token for _, target in taught for token in target), vocabulary[1])
        sources, lengths = _source(read, [source for source, _ in taught], longest[0])
        targets = padded([said.encode(target) for _, target in taught], longest[1])
        return cls(read, said, Pairs(sources, lengths, targets), asked)

    def source(self, texts: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
        """Return texts as a translator reads them, `(N, S)`, and their lengths `(N,)`."""
        return _source(self.read, texts, self.taught.source.shape[1])


def _source(read: Vocabulary, texts: Sequence[Tokens], longest: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = [read.encode(token.lower() for token in text) for text in texts]
    return padded(numbers, longest), np.array([len(x) for x in numbers], np.int32)


def padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Return rows of numbers in one array `(N, width)` int32, `END` after each."""
    found = np.full((len(rows), width), END, np.int32)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return found
