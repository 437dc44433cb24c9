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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sacrebleu

from attention import spec
from attention.parity.training import Recipe
from examples import debian, experiment
from examples.heatmap import HeatMap
from examples.translation import luong, luong_jax, luong_torch, writing
from examples.translation.corpus import SPECIAL, UNKNOWN, Corpus

HELD_OUT = 20
"""One source in so many is held out."""
SHOWN = (
    "Emacs Lisp interface for PostgreSQL",
    "Fast Light Window Manager",
    "GNU Fortran 95 compiler for the armhf architecture",
)
"""Held-out sources that the figure shows."""

Texts = list[tuple[str, str]]


@dataclass(frozen=True)
class Sizes:
    """How much is learned from how much. The defaults are those of the full run.

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
    replicas: int = 1


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


def corpus(sizes: Sizes, texts: Texts) -> Corpus:
    """Return the data of an example: to learn from, what fits into `sizes.longest`; to be asked, whatever source does."""
    s, t = sizes.longest
    read = [(tokens(a), tokens(b)) for a, b in texts]
    asked = [pair for pair, (a, _) in zip(texts, read, strict=True) if is_held_out(pair[0]) and len(a) <= s]
    # One place of the target is for its end.
    taught = [
        (a, b) for pair, (a, b) in zip(texts, read, strict=True) if not is_held_out(pair[0]) and len(a) <= s and len(b) < t
    ]
    return Corpus.of(taught, asked, sizes.longest, sizes.vocabulary)


def pointed(one: HeatMap) -> str:
    """Return what was written as a text, an unknown word being the one of the source at which the model looked."""
    words = list(one.written)
    for place, look in enumerate(one.weights):
        if words[place] == SPECIAL[UNKNOWN]:
            words[place] = one.read[int(look.argmax())]
    return text(words)


def score(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF, both up to 100."""
    bleu, chrf = sacrebleu.corpus_bleu(written, [wanted]), sacrebleu.corpus_chrf(written, [wanted])
    return {"BLEU": bleu.score, "chrF": chrf.score}


def descriptions(sizes: Sizes, texts: Texts) -> experiment.Experiment:
    """Return the example."""
    given = corpus(sizes, texts)
    recipe = Recipe(
        architecture=luong.Translator(len(given.read), len(given.said), sizes.embed_dim, sizes.reader_dim, sizes.writer_dim),
        models={"torch": luong_torch.Translator, "jax": luong_jax.Translator},
        losses=writing.LOSSES,
        # With the usual eps of 1e-8, a gradient of rounding's own size would move a rare word's embedding by a whole step.
        optimizer=spec.optimizers.Adam(
            experiment.rates(sizes.learning_rate, sizes.steps), b2=0.98, eps=1e-6, clip=spec.optimizers.Clip(1.0)
        ),
        batches=lambda step: given.taught.shuffled(step, sizes.batch),
        steps=sizes.steps,
    )
    sources, wanted = [a for a, _ in given.asked], [b for _, b in given.asked]

    def scored(backend: str, model: Any) -> dict[str, float]:
        maps = writing.write(backend, model, given, [tokens(source) for source in sources])
        return score([pointed(one) for one in maps], wanted)

    return experiment.Experiment(
        name="descriptions",
        title="Debian package descriptions, English to French, by Luong's alignment",
        recipe=recipe,
        score=scored,
        baseline={"copy the source": score(sources, wanted)},
        figure=lambda models, folder: writing.draw(given, [tokens(source) for source in SHOWN], models, folder),
        replicas=sizes.replicas,
        watch=50,
    )


if __name__ == "__main__":
    experiment.run(lambda: experiment.run_experiment(descriptions(Sizes(), synopses())))
