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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from babel.dates import format_date

from attention import spec
from attention.parity.training import Recipe
from examples import experiment
from examples.translation import bahdanau, bahdanau_jax, bahdanau_torch, writing
from examples.translation.corpus import Corpus

LOCALES = ("cs", "da", "de", "en_GB", "en_US", "es", "fi", "fr", "hu", "it", "nb", "nl", "pl", "pt", "ro", "sv", "tr")
FORMATS = ("full", "long", "medium")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
WRITTEN = 10
"""Characters of a date in ISO 8601."""
HELD_OUT = 20
"""One day in so many is held out."""
DAY, SHOWN = date(2026, 9, 21), ("en_US", "fr", "tr")
"""What the figure shows: a day that is held out, and in which locales."""


@dataclass(frozen=True)
class Sizes:
    """How much is learned from how much. The defaults are those of the full run."""

    pairs: int = 25_600
    held_out: int = 1_000
    embed_dim: int = 32
    reader_dim: int = 48
    writer_dim: int = 64
    batch: int = 64
    steps: int = 400
    learning_rate: float = 4e-3
    replicas: int = 2


TINY = Sizes(pairs=64, held_out=16, embed_dim=8, reader_dim=5, writer_dim=7, batch=8, steps=6, replicas=1)


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
    ['Wednesday', ',', '3', 'Sept', '2', '0', '2', '6']
    """
    return re.findall(r"\d|[^\W\d]+|[^\w\s]", text)


def corpus(sizes: Sizes) -> Corpus:
    """Return the data of an example, the same every time."""
    taught, asked = (sentences(n, k, held_out=n == 1) for n, k in enumerate((sizes.pairs, sizes.held_out)))
    words = [(tokens(text), list(iso)) for text, iso in taught]
    longest = max(len(tokens(text)) for text, _ in taught + asked)
    return Corpus.of(words, asked, longest=(longest, WRITTEN + 1), vocabulary=(1_000, 100))


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
    exact = [w == y for w, y in zip(written, wanted, strict=True)]
    return {"exact %": 100.0 * float(np.mean(exact)), "characters %": 100.0 * float(np.mean(right))}


def dates(sizes: Sizes) -> experiment.Experiment:
    """Return the example."""
    given = corpus(sizes)
    recipe = Recipe(
        architecture=bahdanau.Translator(len(given.read), len(given.said), sizes.embed_dim, sizes.reader_dim, sizes.writer_dim),
        models={"torch": bahdanau_torch.Translator, "jax": bahdanau_jax.Translator},
        losses=writing.LOSSES,
        # With the usual eps of 1e-8, a gradient of rounding's own size would move a rare word's embedding by a whole step.
        optimizer=spec.optimizers.Adam(
            experiment.rates(sizes.learning_rate, sizes.steps), eps=1e-6, clip=spec.optimizers.Clip(1.0)
        ),
        batches=lambda step: given.taught.shuffled(step, sizes.batch),
        steps=sizes.steps,
    )
    texts, wanted = [text for text, _ in given.asked], [iso for _, iso in given.asked]
    shown = [tokens(format_date(DAY, "full", locale)) for locale in SHOWN]

    def scored(backend: str, model: Any) -> dict[str, float]:
        maps = writing.write(backend, model, given, [tokens(text) for text in texts])
        return score(["".join(one.written) for one in maps], wanted)

    return experiment.Experiment(
        name="dates",
        title=f"Dates in words of {len(LOCALES)} locales to ISO 8601, by Bahdanau's alignment",
        recipe=recipe,
        score=scored,
        baseline={"copy the digits": score([copied(text) for text in texts], wanted)},
        figure=lambda models, folder: writing.draw(given, shown, models, folder),
        replicas=sizes.replicas,
    )


if __name__ == "__main__":
    experiment.run(lambda: experiment.run_experiment(dates(Sizes())))
