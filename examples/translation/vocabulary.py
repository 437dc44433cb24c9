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

END, START, UNKNOWN = 0, 1, 2
"""The first three numbers of every vocabulary: what ends a text and pads it, what stands before it, what has no number."""
SPECIAL = ("", "<", "?")


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of one language.

    Args:
        symbols: by number; the first three are `SPECIAL`.

    >>> letters = Vocabulary.of("abba cab", most=5)
    >>> letters.symbols, letters.encode("back").tolist()
    (('', '<', '?', 'a', 'b'), [4, 3, 2, 2])
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
        target: `(N, T)` int32, each ended and padded with `END`.
    """

    source: np.ndarray
    lengths: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], longest: tuple[int, int]) -> Pairs:
        """Return pairs of numbered texts, padded to the lengths `(S, T)` that the longest may have, the end included in T."""
        s, t = longest
        return cls(_padded(sources, s), np.array([len(x) for x in sources], np.int32), _padded(targets, t))

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
        epoch, place = divmod(step, len(self) // size)
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        return self.batch(order[place * size : (place + 1) * size])


def _padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    padded = np.full((len(rows), width), END, np.int32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded
