"""Real text for the trained models, tokenised as in their training.

    ids[b] = [CLS] text[b] [SEP] [PAD] ...,    the lengths differ from row to row, so the padding is real

References:
    Schwaller et al., "Extraction of organic chemistry grammar from unsupervised learning of chemical reactions",
    Science Advances 7 (2021): reactions as SMILES, and the regular expression that tokenises them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attention.spec.errors import OptionError, shown

REACTIONS = (
    # Suzuki coupling: phenylboronic acid and 4-bromopyridine give 4-phenylpyridine.
    "OB(O)c1ccccc1.Brc1ccncc1>>c1ccc(-c2ccncc2)cc1",
    # Fischer esterification: acetic acid and ethanol give ethyl acetate.
    "CC(=O)O.OCC>>CC(=O)OCC",
    # Amide coupling: benzoic acid and benzylamine give N-benzylbenzamide.
    "OC(=O)c1ccccc1.NCc1ccccc1>>O=C(NCc1ccccc1)c1ccccc1",
    # Diels-Alder reaction: butadiene and maleic anhydride give tetrahydrophthalic anhydride.
    "C=CC=C.O=C1OC(=O)C=C1>>O=C1OC(=O)C2CC=CCC12",
)

SENTENCES = (
    "She sat on the bank of the river and watched the boats drift slowly past the old stone bridge.",
    "The bank raised its interest rate again.",
    "Attention is all you need.",
    "Translating a sentence, a reader looks back at the word that the next one depends on, however far away it stands.",
)

# One bracketed atom, one atom, one bond or bracket, or one ring number.
_SMILES = re.compile(r"\[[^\]]+]|Br?|Cl?|[NOSPFIbcnosp]|>>?|[().=#\-+\\/:~@?*$]|%[0-9]{2}|[0-9]")


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokenised text, padded on the right."""

    tokens: tuple[tuple[str, ...], ...]
    """Row by row and without the padding, for a report to name a position by its token."""
    ids: np.ndarray
    """`(B, S)` int64, 0 where padded."""
    lengths: np.ndarray
    """`(B,)` int64: how many tokens of each row are real."""


def reactions(folder: Path, texts: Sequence[str] = REACTIONS) -> Batch:
    """Return reaction SMILES cut into atoms, bonds and brackets, numbered by the `vocab.txt` of `folder`.

    Raises:
        OptionError: a text holds what the vocabulary does not.
    """
    names = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {name: number for number, name in enumerate(names)}
    rows = [("[CLS]", *_SMILES.findall(text), "[SEP]") for text in texts]
    for text, row in zip(texts, rows, strict=True):
        # findall skips what fits no token, so the pieces must add up to the text again.
        if "".join(row[1:-1]) != text or not vocabulary.keys() >= set(row):
            raise OptionError(f"text {shown(text)} must be made of tokens of {folder / 'vocab.txt'}, but gave {' '.join(row)}")
    return _pad(rows, [[vocabulary[token] for token in row] for row in rows])


def sentences(folder: Path, texts: Sequence[str] = SENTENCES) -> Batch:
    """Return English sentences cut into word pieces by the `tokenizer.json` of `folder`.

    Raises:
        OptionError: a text holds what the vocabulary does not.
    """
    # Comes with transformers, which is an extra.
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file pads everything to 128; here a row is padded to the longest of its batch.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    cut = [tokenizer.encode(text) for text in texts]
    for text, row in zip(texts, cut, strict=True):
        if "[UNK]" in row.tokens:
            raise OptionError(f"text {shown(text)} must be made of tokens of {folder}, but gave {' '.join(row.tokens)}")
    return _pad([tuple(row.tokens) for row in cut], [row.ids for row in cut])


def _pad(tokens: Sequence[tuple[str, ...]], ids: Sequence[Sequence[int]]) -> Batch:
    lengths = np.array([len(row) for row in ids])
    # Both vocabularies keep number 0 for [PAD].
    padded = np.zeros((len(ids), lengths.max()), np.int64)
    for row, numbers in zip(padded, ids, strict=True):
        row[: len(numbers)] = numbers
    return Batch(tuple(tokens), padded, lengths)
