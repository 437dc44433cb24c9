"""Whisper: what a trained recogniser of speech is made of, and how it chooses its words.

    x = gelu(conv2(gelu(conv1(log mel)))) + place         windows of 3 frames, the second every 2 frames: 50 states a second
    memory = encoder(x)                                   pre-norm, everything sees everything
    logits = decoder(E[said] + place, memory) E^T         pre-norm, causal; the same E reads words in and out
    next = argmax of the logits, the suppressed aside     until the end token

A convolution is a linear map of each window, so its kernel is that of any other projection: (3, A, M), the first two axes
summed over. `whisper_torch.py` and `whisper_jax.py` build it, each in its framework; what they share is here, in NumPy.

References:
    Radford et al., arXiv:2212.04356; the sizes, the rules and the alignment heads are read from the model's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention import spec
from attention.checkpoints import whisper
from attention.spec.axes import Array
from attention.spec.layers.activations import PLAIN
from attention.spec.params import inner

WINDOW = 3
"""Frames that a convolution sees at once: the one in the middle, and one on either side."""
STRIDES = (1, 2)


@dataclass(frozen=True)
class Whisper(spec.Architecture):
    """The whole recogniser.

    Args:
        encoder: of the sound's states.
        decoder: of the words said so far.
        mels: A, bands of the log-mel spectrogram.
        states: S, places of the encoder; the spectrogram has twice as many frames.
        longest: T, tokens that there are places for.
        vocabulary: V.
    """

    encoder: spec.Encoder
    decoder: spec.Decoder
    mels: int
    states: int
    longest: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Whisper:
        """Return what a `config.json` of transformers describes."""
        names = ("num_mel_bins", "max_source_positions", "max_target_positions", "vocab_size")
        return cls(whisper.encoder(config), whisper.decoder(config), *(int(config[name]) for name in names))

    @property
    def width(self) -> int:
        """M."""
        return self.encoder.block.width

    @property
    def parts(self) -> dict[str, spec.Architecture]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def params(self) -> dict[str, spec.Param]:
        m, spread = self.width, self.width**-0.5
        own = {
            "conv1.kernel": spec.Param((WINDOW, self.mels, m), "PAM", inputs=2),
            "conv1.bias": spec.Param((m,), "M"),
            "conv2.kernel": spec.Param((WINDOW, m, m), "PAM", inputs=2),
            "conv2.bias": spec.Param((m,), "M"),
            "sound_places": spec.Param((self.states, m), "SM", spread=spread),
            "text_places": spec.Param((self.longest, m), "TM", spread=spread),
            "embed": spec.Param((self.vocabulary, m), "VM", spread=spread),
        }
        return {**own, **self.part_params()}


@dataclass(frozen=True)
class Rules:
    """How words are chosen.

    Args:
        begin: tokens that every answer begins with: start of transcript, no time stamps.
        end: the token that ends it.
        never: tokens that are suppressed: noises, speakers, brackets.
        never_first: tokens that cannot be the first: a space, the end.
        longest: tokens at most, those of `begin` among them.
    """

    begin: tuple[int, ...]
    end: int
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    longest: int = 448

    def choose(self, logits: np.ndarray, *, first: bool) -> int:
        """Return the likeliest token of `logits` `(V,)` that may be said."""
        allowed = logits.copy()
        allowed[[*self.never, *(self.never_first if first else ())]] = -np.inf
        return int(allowed.argmax())


@dataclass(frozen=True)
class Listener:
    """A built model as two functions of NumPy arrays: all that choosing words needs to know of a framework."""

    encode: Callable[[np.ndarray], Any]
    """Log mel `(B, 2 S, A)` to what `decode` begins with: the sound's keys and values, and empty caches."""
    decode: Callable[[np.ndarray, Any], tuple[np.ndarray, np.ndarray, Any]]
    """`(tokens (B, T), carried)` to logits `(B, T, V)`, attention to the sound `(layers, B, H, T, S)` and what goes on."""


@dataclass(frozen=True)
class Heard:
    """What was heard: tokens without those they begin with, the end token included, and where each was looked for."""

    tokens: tuple[int, ...]
    weights: np.ndarray = field(repr=False)
    """`(layers, H, T, S)`: row t is the query that chose token t."""


def greedy(listener: Listener, sound: np.ndarray, rules: Rules) -> Heard:
    """Return the likeliest next token, again and again, until it is the end.

    Args:
        listener: the model.
        sound: log mel `(2 S, A)`.
        rules: which tokens may be said.
    """
    carried, new = listener.encode(sound[None]), list(rules.begin)
    said: list[int] = []
    looks: list[np.ndarray] = []
    while len(said) + len(rules.begin) < rules.longest and said[-1:] != [rules.end]:
        logits, weights, carried = listener.decode(np.array([new], np.int32), carried)
        new = [rules.choose(logits[0, -1], first=not said)]
        said += new
        looks.append(weights[:, 0, :, -1])
    return Heard(tuple(said), np.stack(looks, axis=2))


def formula(model: Whisper, xp: Any, weights: Mapping[str, Array], sound: Array, tokens: Array) -> dict[str, Array]:
    """Return the "memory" `(B, S, M)` and the "logits" `(B, T, V)` of tokens that are known, by the mathematics alone.

    Args:
        model: the architecture.
        xp: the array namespace: NumPy in float64 is the oracle.
        weights: canonical.
        sound: log mel `(B, 2 S, A)`.
        tokens: integers `(B, T)`.
    """
    x = sound
    for i, stride in enumerate(STRIDES, 1):
        seen, kernel = windows(xp, x, stride), weights[f"conv{i}.kernel"]
        rows = xp.reshape(seen, (*seen.shape[:2], -1)) @ xp.reshape(kernel, (-1, kernel.shape[-1]))
        x = PLAIN["gelu"](xp, rows + weights[f"conv{i}.bias"])
    given = {"x": x + weights["sound_places"]}
    memory = model.encoder.formula(xp, inner("encoder", weights), given, model.encoder.resolve(given))["output"]
    x = weights["embed"][tokens] + weights["text_places"][: tokens.shape[-1]]
    given = {"x": x, "memory": memory}
    x = model.decoder.formula(xp, inner("decoder", weights), given, model.decoder.resolve(given))["output"]
    return {"memory": memory, "logits": x @ weights["embed"].T}


def windows(xp: Any, x: Array, stride: int) -> Array:
    """Return every window of 3 rows of `x` `(B, T, A)`: `(B, T / stride, 3, A)`, with silence before and after."""
    silence = xp.zeros_like(x[:, :1])
    padded = xp.concat([silence, x, silence], axis=1)
    return xp.stack([padded[:, at : at + x.shape[1] : stride] for at in range(WINDOW)], axis=-2)


def shown(weights: np.ndarray, heads: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the rows `(n, T, S)` of some (layer, head) of `weights` `(layers, H, T, S)`."""
    return np.stack([weights[layer, head] for layer, head in heads])
