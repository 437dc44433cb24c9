"""Connected words: digits and letters, one recording of each, joined at random into utterances.

    sound = sum over words of gain * take(word) at a random speed, with random pauses, + noise
    features[t] = four frames of log energy in 32 bands, 12.5 ms apart, so that one step of the model is 50 ms

What the model is scored on are other utterances of the same recordings: it learns to hear words in a row, not to understand
another voice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from examples.speech.prompts import Prompt, trimmed

RATE = 8_000
HOP, WINDOW, BANDS, STACKED = 100, 256, 32, 4
FRAME = HOP * STACKED / RATE
"""Seconds that one step of the model hears."""
FRAMES = 104
"""Steps of the longest utterance: 5.2 s."""
MOST_WORDS = 4

PAD, START, END = range(3)
SPECIAL = ("<pad>", "<start>", "<end>")


@dataclass(frozen=True, eq=False)
class Utterance:
    """Words in a row."""

    words: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    """The seconds at which each word begins and ends."""
    samples: np.ndarray = field(repr=False)
    """`(n,)` float32 at `RATE`."""


def takes(recordings: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Return the recording of each digit and letter, from where something is heard to where nothing is any more."""
    wanted = {f"digits/{i}" for i in range(10)} | {f"letters/{chr(c)}" for c in range(ord("a"), ord("z") + 1)}
    return {p.text.lower(): trimmed(p.samples) for p in recordings if p.name in wanted}


def utterance(said: Mapping[str, np.ndarray], seed: tuple[int, ...]) -> Utterance:
    """Return the utterance of a seed: two to four words, each louder or softer, faster or slower by up to a tenth."""
    rng = np.random.default_rng(seed)
    names = tuple(rng.choice(sorted(said), rng.integers(2, MOST_WORDS + 1)))
    pieces, spans, at = list[np.ndarray](), list[tuple[float, float]](), 0
    for name in names:
        pause, take = np.zeros(rng.integers(RATE // 50, RATE // 2)), stretched(said[name], rng.uniform(0.9, 1.1))
        spans.append(((at + len(pause)) / RATE, (at + len(pause) + len(take)) / RATE))
        pieces += [pause, take * rng.uniform(0.5, 1.0)]
        at += len(pause) + len(take)
    sound = np.concatenate([*pieces, np.zeros(RATE // 20)])
    return Utterance(names, tuple(spans), (sound + 0.003 * rng.normal(size=len(sound))).astype(np.float32))


def stretched(samples: np.ndarray, factor: float) -> np.ndarray:
    """Return a recording that lasts `factor` times as long, and is as much lower."""
    places = np.arange(0, len(samples) - 1, 1 / factor)
    return np.interp(places, np.arange(len(samples)), samples)


def features(samples: np.ndarray) -> np.ndarray:
    """Return log energies `(T, 128)`, about 0 and of size 1, of the first `FRAMES` steps of a sound."""
    steps = min(FRAMES, max(1, len(samples) // (HOP * STACKED)))
    padded = np.pad(samples, (0, WINDOW))
    starts = HOP * np.arange(steps * STACKED)
    frames = padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    energies = np.log(power @ bands() + 1e-3)
    return (energies.reshape(steps, STACKED * BANDS) / 3.0).astype(np.float32)


@cache
def bands() -> np.ndarray:
    """Return triangular filters `(WINDOW / 2 + 1, BANDS)`, evenly spaced on the mel scale."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)

    frequencies = mel(np.linspace(0, RATE / 2, WINDOW // 2 + 1))
    edges = np.linspace(mel(60.0), mel(RATE / 2), BANDS + 2)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def vocabulary(said: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of the numbers that the model writes."""
    return (*SPECIAL, *sorted(said))


def batch(spoken: Sequence[Utterance], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return utterances as arrays of one shape.

    Returns:
        "sound" `(B, FRAMES, 128)` float32, "lengths" `(B,)`, and "target" `(B, MOST_WORDS + 1)`, which ends with END.
    """
    sound = np.zeros((len(spoken), FRAMES, STACKED * BANDS), np.float32)
    target = np.full((len(spoken), MOST_WORDS + 1), PAD, np.int64)
    lengths = np.zeros(len(spoken), np.int64)
    for row, one in enumerate(spoken):
        heard = features(one.samples)
        sound[row, : len(heard)], lengths[row] = heard, len(heard)
        target[row, : len(one.words) + 1] = [*(names.index(word) for word in one.words), END]
    return {"sound": sound, "lengths": lengths, "target": target}
