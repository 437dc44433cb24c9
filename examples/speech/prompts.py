"""Recorded prompts: 563 short sentences, words, digits and letters that one speaker recorded for telephone exchanges.

    core-sounds-en.txt    name: what is said        en_US_f_Allison/name.wav    8 kHz, 16 bits, mono

They come in two packages of Debian, by Allison Smith, CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from examples.debian import fetch

TEXTS, SOUNDS = "asterisk-core-sounds-en", "asterisk-core-sounds-en-wav"
"""The packages."""
QUIET = 0.03
"""The share of a recording's loudest sample up to which it is silent."""
_TEXTS = f"usr/share/doc/{TEXTS}/core-sounds-en.txt.gz"
_SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"


@dataclass(frozen=True, eq=False)
class Prompt:
    """One recording."""

    name: str
    """Its file, without the ending: "digits/7"."""
    text: str
    samples: np.ndarray = field(repr=False)
    """`(n,)` float32, between -1 and 1."""
    rate: int = 8_000
    """Samples per second."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


def prompts(folder: Path | None = None) -> list[Prompt]:
    """Return every recording in which something is said, by name.

    Args:
        folder: of all that comes from Debian; None means `debian.FOLDER`.

    Raises:
        MissingData: as `debian.fetch`.
    """
    texts, sounds = fetch(TEXTS, folder), fetch(SOUNDS, folder)
    said = transcripts(gzip.decompress((texts / _TEXTS).read_bytes()).decode("utf-8"))
    files = {name: sounds / _SOUNDS / f"{name}.wav" for name in sorted(said)}
    return [Prompt(name, said[name], *heard(file)) for name, file in files.items() if file.is_file()]


def transcripts(listing: str) -> dict[str, str]:
    r"""Return what is said in each file: lines of `name: text`, without those that describe a noise or silence.

    >>> transcripts("; a comment\nvm-and: and\nbeep: [a tone]\nsilence/1: (1 second of silence)\nspy: IAX (not 2)\n")
    {'vm-and': 'and', 'spy': 'IAX'}
    """
    lines = (line.partition(": ") for line in listing.splitlines() if not line.startswith(";"))
    # What stands in brackets is a remark.
    said = {name.strip(): re.sub(r"[\[(].*?[\])]", "", text).strip() for name, _, text in lines}
    return {name: text for name, text in said.items() if text}


def heard(file: Path) -> tuple[np.ndarray, int]:
    """Return the samples of a mono 16-bit file, and how many there are in a second."""
    with wave.open(str(file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        return samples.astype(np.float32) / 2**15, sound.getframerate()


def joined(parts: Sequence[Prompt]) -> tuple[Prompt, list[float]]:
    """Return one recording of several, without the silence around each, and the seconds at which each begins."""
    rate, pieces = parts[0].rate, [trimmed(part.samples) for part in parts]
    begins = np.cumsum([0, *map(len, pieces)])[:-1] / rate
    names, texts = zip(*((part.name, part.text) for part in parts), strict=True)
    return Prompt(" + ".join(names), " ".join(texts), np.concatenate(pieces), rate), begins.tolist()


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Return a recording from the first sample that is loud to the last."""
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def words(text: str) -> list[str]:
    """Return what is said as words to be compared: small letters, no punctuation, numbers as they are spelt.

    >>> words("Please press 1, or the Call-Forward key.")
    ['please', 'press', 'one', 'or', 'the', 'call', 'forward', 'key']
    """
    plain: list[str] = re.findall(r"[a-z']+|[0-9]", text.lower())
    return [DIGITS.get(word, word) for word in plain]


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS: dict[str, str] = dict(zip("0123456789", NAMES, strict=True))
"""A digit is compared as the word that was spoken."""
