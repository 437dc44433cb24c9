"""What a package is, in English and in French, by Luong's alignment: short real sentences that volunteers translated.

    "example files for ALTree"    ->    "fichiers d'exemple pour ALTree"

A word that is not in the vocabulary is written as the source's own word at which the model looked: the alignment is also a
pointer, and the names of programs come through unharmed. Sources are held out; but descriptions are made from templates
("development files for ..."), so near-duplicates remain between what is learned and what is asked.

    python -m examples.translation.descriptions                                 build/examples/descriptions

References:
    The Debian Description Translation Project, by way of apt; `luong.py` for the model; Luong et al., arXiv:1410.8206 (unknown
    words); Post, arXiv:1804.08771 (sacrebleu), Popovic, W15-3049 (chrF).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from attention import spec
from attention.parity.training import Recipe
from examples import debian, heatmap, lesson
from examples.translation import luong, luong_jax, luong_torch, writing_jax, writing_torch
from examples.translation.vocabulary import END, UNKNOWN, Pairs, Vocabulary

HELD_OUT = 20
"""One source in so many is held out."""
WRITE = {"torch": writing_torch.write, "jax": writing_jax.write}
SHOWN = (
    "Emacs Lisp interface for PostgreSQL",
    "Fast Light Window Manager",
    "GNU Fortran 95 compiler for the armhf architecture",
)
"""Held-out sources that the figure shows."""

Texts = list[tuple[str, str]]


@dataclass(frozen=True)
class Sizes:
    """How much is learned from how much. The defaults are those of the numbers in the README.

    `longest` and `vocabulary` are of source and target: words, the end of the target included, and symbols.
    """

    longest: tuple[int, int] = (12, 14)
    vocabulary: tuple[int, int] = (4_000, 3_000)
    embed_dim: int = 96
    reader_dim: int = 96
    writer_dim: int = 192
    batch: int = 32
    steps: int = 1_600
    learning_rate: float = 4e-3
    twins: int = 1


TINY = Sizes((8, 9), (40, 30), embed_dim=8, reader_dim=5, writer_dim=7, batch=4, steps=6)


TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\N{DOT OPERATOR}\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}", " "),
        **dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}", "'"),
        **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{NON-BREAKING HYPHEN}", "-"),
    }
)
"""What translators write in several ways, as a keyboard has it; they write a dot operator for a space that may not break."""


def cleaned(text: str) -> str:
    r"""Return a text in the typography of a keyboard.

    >>> cleaned("bibliothèque\u22c5C \u2013 d\u2019essai")
    "bibliothèque C - d'essai"
    """
    return " ".join(text.translate(TYPOGRAPHY).split())


def synopses() -> Texts:
    """Return the synopses of Debian's packages in English and in French, one translation each.

    Raises:
        MissingData: no apt, or no mirror.
    """
    english = {md5: cleaned(text.partition("\n")[0]) for md5, text in debian.translations("en")}
    french = {md5: cleaned(text.partition("\n")[0]) for md5, text in debian.translations("fr")}
    return sorted({english[md5]: french[md5] for md5 in sorted(english.keys() & french.keys())}.items())


def is_held_out(source: str) -> bool:
    """Return whether a source is kept for the test, however it is capitalised."""
    return zlib.crc32(source.lower().encode()) % HELD_OUT == 0


def tokens(text: str) -> list[str]:
    """Return the words and marks of a text; an elided word ends with its apostrophe.

    >>> tokens("fichiers d'exemple (X.Org)")
    ['fichiers', "d'", 'exemple', '(', 'X.Org', ')']
    """
    return re.findall(r"\w+(?:[-.+/:]+\w+)*(?:'|[+#]+)?|[^\w\s]", text)


def text(words: Sequence[str]) -> str:
    """Return words as a text, with the spaces that French would have.

    >>> text(["fichiers", "d'", "exemple", "(", "X.Org", ")"])
    "fichiers d'exemple (X.Org)"
    """
    return re.sub(r"(?<=[('\[]) | (?=[,.)\]])", "", " ".join(words))


@dataclass(frozen=True, eq=False)
class Data:
    """What is taught, and what is asked.

    Attributes:
        read: the vocabulary of the source, in small letters.
        said: that of the target.
        taught: pairs to learn from.
        asked: texts whose sources were held out.
    """

    read: Vocabulary
    said: Vocabulary
    taught: Pairs
    asked: Texts


@dataclass(frozen=True, eq=False)
class Written:
    """What a model wrote of one source.

    Attributes:
        read: the source's words, S of them.
        words: those written, T of them.
        looks: `(T, S)`, where it looked.
    """

    read: Sequence[str]
    words: Sequence[str]
    looks: np.ndarray


def data(sizes: Sizes, texts: Texts) -> Data:
    """Return the data of a lesson. What is longer than `sizes.longest` is not learned from; of what is asked, sources are."""
    s, t = sizes.longest
    words = [(tokens(a), tokens(b)) for a, b in texts]
    asked = [is_held_out(a) and len(one[0]) <= s for (a, _), one in zip(texts, words, strict=True)]
    # One place of the target is for its end.
    fits = [not is_held_out(a) and len(x) <= s and len(y) < t for (a, _), (x, y) in zip(texts, words, strict=True)]
    taught = [pair for pair, fit in zip(words, fits, strict=True) if fit]
    read = Vocabulary.of((word.lower() for a, _ in taught for word in a), most=sizes.vocabulary[0])
    said = Vocabulary.of((word for _, b in taught for word in b), most=sizes.vocabulary[1])
    return Data(
        read,
        said,
        Pairs.of([encode(read, a) for a, _ in taught], [said.encode(b) for _, b in taught], sizes.longest),
        [pair for pair, ask in zip(texts, asked, strict=True) if ask],
    )


def encode(read: Vocabulary, words: Sequence[str]) -> np.ndarray:
    """Return the numbers of a source's words, whatever their capitals."""
    return read.encode(word.lower() for word in words)


def write(backend: str, model: Any, given: Data, sources: Sequence[str]) -> list[Written]:
    """Return what a trained model writes of each source."""
    read = [tokens(source) for source in sources]
    longest = (given.taught.source.shape[1], given.taught.target.shape[1])
    asked = Pairs.of([encode(given.read, words) for words in read], [np.array([END])] * len(read), longest)
    numbers, looks = WRITE[backend](model, asked.source, asked.lengths, longest[1])
    return [pointed(given.said, *one) for one in zip(read, numbers, looks, strict=True)]


def pointed(said: Vocabulary, read: Sequence[str], numbers: np.ndarray, looks: np.ndarray) -> Written:
    """Return what was written, an unknown word being the one of the source at which the model looked."""
    words = said.decode(numbers)
    looks = looks[: len(words), : len(read)]
    chosen = [read[look.argmax()] if n == UNKNOWN else word for word, n, look in zip(words, numbers, looks, strict=False)]
    return Written(read, chosen, looks)


def score(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF, both up to 100."""
    bleu, chrf = sacrebleu.corpus_bleu(written, [wanted]), sacrebleu.corpus_chrf(written, [wanted])
    return {"BLEU": bleu.score, "chrF": chrf.score}


def draw(given: Data, models: Mapping[str, Any], folder: Path) -> None:
    """Draw where both backends looked in the sentences of `SHOWN`."""
    found = {backend: write(backend, model, given, SHOWN) for backend, model in models.items()}
    maps = [[heatmap.HeatMap(one.looks, one.read, one.words, backend) for one in some] for backend, some in found.items()]
    heatmap.draw(maps, folder / "alignment.png", heatmap.apart(*maps))


def descriptions(sizes: Sizes, texts: Texts) -> lesson.Lesson:
    """Return the lesson."""
    given = data(sizes, texts)
    model = luong.Translator(len(given.read), len(given.said), sizes.embed_dim, sizes.reader_dim, sizes.writer_dim)
    recipe = Recipe(
        architecture=model,
        models={"torch": luong_torch.Translator, "jax": luong_jax.Translator},
        losses={"torch": writing_torch.loss, "jax": writing_jax.loss},
        # With torch's and optax's 1e-8 a gradient of rounding's own size would move a rare word's embedding by a whole step.
        optimizer=spec.Adam(rates(sizes), eps=1e-6, clip=spec.Clip(1.0)),
        batches=lambda step: given.taught.shuffled(step, sizes.batch),
        steps=sizes.steps,
    )
    sources, wanted = [a for a, _ in given.asked], [b for _, b in given.asked]
    return lesson.Lesson(
        name="descriptions",
        title="Debian package descriptions, English to French, by Luong's alignment",
        recipe=recipe,
        score=lambda backend, model: score([text(one.words) for one in write(backend, model, given, sources)], wanted),
        baseline={"copy the source": score(sources, wanted)},
        figure=lambda models, folder: draw(given, models, folder),
        twins=sizes.twins,
        watch=50,
    )


def rates(sizes: Sizes) -> spec.WarmUp:
    """Return the learning rates: up within a thirtieth of the steps, then half a cosine down."""
    warm = max(sizes.steps // 30, 1)
    return spec.WarmUp(warm, spec.CosineRate(sizes.learning_rate, sizes.steps - warm))


if __name__ == "__main__":
    _ = lesson.teach(descriptions(Sizes(), synopses()))
