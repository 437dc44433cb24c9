"""Dates in words, in sixteen languages, to ISO 8601, by Bahdanau's alignment: the smallest translation whose order crosses.

    "mercredi 23 septembre 2026"    ->    "2026-09-23"

The source is read by words and digits, the target written by characters: the year, which stands last, comes first, and a name
becomes two digits. Days are held out, so no date of the test was seen in any language.

    python -m examples.translation.dates                                               build/examples/dates

References:
    Unicode CLDR, by way of babel, for how dates are written; `bahdanau.py` for the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from babel.dates import format_date

from attention import spec
from attention.parity.training import Recipe
from examples import heatmap, lesson
from examples.translation import bahdanau, bahdanau_jax, bahdanau_torch, writing_jax, writing_torch
from examples.translation.vocabulary import Pairs, Vocabulary

LOCALES = ("cs", "da", "de", "en_GB", "en_US", "es", "fi", "fr", "hu", "it", "nb", "nl", "pl", "pt", "ro", "sv", "tr")
FORMATS = ("full", "long", "medium")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
WRITTEN = 10
"""Characters of a date in ISO 8601."""
HELD_OUT = 20
"""One day in so many is held out."""
WRITE = {"torch": writing_torch.write, "jax": writing_jax.write}
DAY, SHOWN = date(2026, 9, 10), ("en_US", "fr", "tr")
"""What the figure shows: a day that is held out, and in which locales."""


@dataclass(frozen=True)
class Sizes:
    """How much is learned from how much. The defaults are those of the numbers in the README."""

    pairs: int = 25_600
    held_out: int = 1_000
    embed_dim: int = 32
    reader_dim: int = 48
    writer_dim: int = 64
    batch: int = 64
    steps: int = 400
    learning_rate: float = 5e-3
    twins: int = 2


TINY = Sizes(pairs=64, held_out=16, embed_dim=8, reader_dim=5, writer_dim=7, batch=8, steps=6, twins=1)


def is_held_out(day: date) -> bool:
    """Return whether a day is kept for the test, in every language."""
    return day.toordinal() % HELD_OUT == 0


def sentences(seed: int, count: int, *, held_out: bool) -> list[tuple[str, str]]:
    """Return dates in words, and in ISO 8601."""
    rng = np.random.default_rng(seed)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        day = FIRST + timedelta(days=int(rng.integers((LAST - FIRST).days + 1)))
        text = format_date(day, FORMATS[rng.integers(len(FORMATS))], LOCALES[rng.integers(len(LOCALES))])
        # What names no month is no date in words, and 3/4 means two days.
        if is_held_out(day) == held_out and re.search(r"[^\W\d]{3}", text):
            found.append((text, day.isoformat()))
    return found


def tokens(text: str) -> list[str]:
    """Return the words and digits of a date, as they are read.

    >>> tokens("Wednesday, 3 Sept 2026")
    ['wednesday', ',', '3', 'sept', '2', '0', '2', '6']
    """
    return re.findall(r"\d|[^\W\d]+|[^\w\s]", text.lower())


@dataclass(frozen=True, eq=False)
class Data:
    """What is taught, and what is asked.

    Attributes:
        read: the vocabulary of the source.
        said: that of the target.
        taught: pairs to learn from.
        asked: pairs whose days were held out.
        texts: those in words and in ISO 8601.
    """

    read: Vocabulary
    said: Vocabulary
    taught: Pairs
    asked: Pairs
    texts: Sequence[tuple[str, str]]


def data(sizes: Sizes) -> Data:
    """Return the data of a lesson, the same every time."""
    taught, asked = (sentences(n, k, held_out=n == 1) for n, k in enumerate((sizes.pairs, sizes.held_out)))
    read = Vocabulary.of((token for text, _ in taught for token in tokens(text)), most=1_000)
    said = Vocabulary.of("0123456789-", most=14)
    longest = max(len(tokens(text)) for text, _ in taught + asked)
    pairs = [
        Pairs.of([read.encode(tokens(a)) for a, _ in some], [said.encode(b) for _, b in some], (longest, WRITTEN))
        for some in (taught, asked)
    ]
    return Data(read, said, *pairs, asked)


def copied(text: str) -> str:
    """Return the digits of a date as they stand, and July for every month: the baseline.

    >>> copied("Wednesday, 3 Sept 2026")
    '2026-07-03'
    """
    year = re.findall(r"\d{4}", text)[0]
    return f"{year}-07-{int(re.findall(r'[0-9]+', text.replace(year, ''))[0]):02}"


def score(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return how many dates are right as a whole, and how many of their characters are, in percent."""
    right = [[a == b for a, b in zip(w.ljust(WRITTEN), y, strict=False)] for w, y in zip(written, wanted, strict=True)]
    return {"exact %": 100.0 * float(np.mean([all(r) for r in right])), "characters %": 100.0 * float(np.mean(right))}


def write(backend: str, model: Any, given: Data, asked: Pairs) -> tuple[list[str], np.ndarray]:
    """Return what a trained model writes, and where it looked, `(N, T, S)`."""
    numbers, looks = WRITE[backend](model, asked.source, asked.lengths, WRITTEN)
    return ["".join(given.said.decode(row)) for row in numbers], looks


def draw(given: Data, models: Mapping[str, Any], folder: Path) -> None:
    """Draw where both backends looked: a day that was held out, in the locales of `SHOWN`."""
    texts = [tokens(format_date(DAY, "full", locale)) for locale in SHOWN]
    longest = (given.taught.source.shape[1], WRITTEN)
    asked = Pairs.of([given.read.encode(text) for text in texts], [given.said.encode("")] * len(texts), longest)
    maps = [
        [
            heatmap.HeatMap(look[: len(iso), : len(text)], text, list(iso), backend)
            for text, iso, look in zip(texts, *write(backend, model, given, asked), strict=True)
        ]
        for backend, model in models.items()
    ]
    heatmap.draw(maps, folder / "alignment.png", heatmap.apart(*maps))


def dates(sizes: Sizes) -> lesson.Lesson:
    """Return the lesson."""
    given = data(sizes)
    model = bahdanau.Translator(len(given.read), len(given.said), sizes.embed_dim, sizes.reader_dim, sizes.writer_dim)
    recipe = Recipe(
        architecture=model,
        models={"torch": bahdanau_torch.Translator, "jax": bahdanau_jax.Translator},
        losses={"torch": writing_torch.loss, "jax": writing_jax.loss},
        # With torch's and optax's 1e-8 a gradient of rounding's own size would move a rare word's embedding by a whole step.
        optimizer=spec.Adam(spec.CosineRate(sizes.learning_rate, sizes.steps), eps=1e-6, clip=spec.Clip(1.0)),
        batches=lambda step: given.taught.shuffled(step, sizes.batch),
        steps=sizes.steps,
    )
    wanted = [iso for _, iso in given.texts]
    return lesson.Lesson(
        name="dates",
        title=f"Dates in words of {len(LOCALES)} locales to ISO 8601, by Bahdanau's alignment",
        recipe=recipe,
        score=lambda backend, model: score(write(backend, model, given, given.asked)[0], wanted),
        baseline={"copy the digits": score([copied(text) for text, _ in given.texts], wanted)},
        figure=lambda models, folder: draw(given, models, folder),
        twins=sizes.twins,
    )


if __name__ == "__main__":
    _ = lesson.teach(dates(Sizes()))
