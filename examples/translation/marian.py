"""A trained translator, English to Portuguese: what it is made of, and how it chooses its words.

    memory = encoder(sqrt(M) E[source] + place)                  6 blocks, post-norm, relu
    c_t = f_t c_{t-1} + (1 - f_t) W x_t                          f_t = sigmoid(W_f x_t + b_f)
    x = norm(x + relu(c))    x = norm(x + cross(x, memory))    x = norm(x + ffn(x))             2 layers of the decoder
    logits = x E^T + b                                           the same E: read in, read out, and before the encoder

Where other decoders attend to the words they have said, this one remembers them in a recurrent cell (SSRU), so a step costs
the same at the hundredth word as at the first. What it attends to is the source, and one head was taught to say which source
word it translates: the first of the last layer. `marian_torch.py` and `marian_jax.py` build it, each in its framework.

References:
    Kim et al., "From research to production and back: ludicrously fast neural machine translation", WNGT 2019 (SSRU).
    Chen et al., arXiv:1607.01628 (guided alignment); `models/transformer.h` of marian-dev 1.9 (which head is guided).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention import spec
from attention.checkpoints import weight_map
from attention.spec.axes import Array
from attention.spec.layers.activations import relu
from attention.spec.layers.contract import Contract
from attention.spec.norms import Norm
from attention.spec.params import Weights, inner, nest
from examples.checkpoint_readers import marian

START, END = -1, 0
"""What stands before the first word, whose embedding is zero; what a sentence of either language ends with."""
LONGEST = 2.5
"""Target tokens for each of the source, at which a translation is given up."""
GUIDED = 0
"""The head of the last decoder layer that was trained to align words."""


@dataclass(frozen=True)
class DecoderLayer(spec.Architecture):
    """One layer of the decoder: the cell, attention to the source, the feed-forward layer.

    Args:
        cross_attention: of the target's tokens to the memory.
        feed_forward: of the same width.
        norm: after each of the three sums.
    """

    cross_attention: spec.MultiHeadAttention
    feed_forward: spec.FeedForward
    norm: spec.LayerNorm | spec.RMSNorm

    @property
    def width(self) -> int:
        """M, which is also the width of the cell."""
        return self.cross_attention.embed_dim

    @property
    def parts(self) -> dict[str, spec.Architecture]:
        return {"cross_attn": self.cross_attention, "ffn": self.feed_forward}

    @property
    def norms(self) -> dict[str, Norm]:
        return dict.fromkeys(("norm1", "norm2", "norm3"), self.norm)

    @property
    def params(self) -> dict[str, spec.Param]:
        square = spec.Param((self.width, self.width), "ME", inputs=1)
        cell = {"candidate.kernel": square, "forget.kernel": square, "forget.bias": spec.Param((self.width,), "E")}
        norms = {name: param for at in self.norms for name, param in nest(at, self.norm.params(self.width)).items()}
        return {**cell, **self.part_params(), **norms}


@dataclass(frozen=True)
class Marian(spec.Architecture):
    """The whole translator.

    Args:
        encoder: of the source's embeddings.
        layer: each layer of the decoder; their weights differ.
        depth: how many.
        vocabulary: V, tokens that both languages share.
    """

    encoder: spec.Encoder
    layer: DecoderLayer
    depth: int
    vocabulary: int

    @property
    def width(self) -> int:
        """M."""
        return self.layer.width

    @property
    def parts(self) -> dict[str, spec.Architecture]:
        return {"encoder": self.encoder, **{f"decoder.{i}": self.layer for i in range(self.depth)}}

    @property
    def params(self) -> dict[str, spec.Param]:
        own = {
            "embed": spec.Param((self.vocabulary, self.width), "VM", spread=self.width**-0.5),
            "logit_bias": spec.Param((self.vocabulary,), "V"),
        }
        return {**own, **self.part_params()}


def architecture(checkpoint: marian.Checkpoint) -> Marian:
    """Return what a checkpoint's settings describe.

    Raises:
        OptionError: another architecture.
    """
    encoder, block = marian.encoder(checkpoint.settings), marian.block(checkpoint.settings)
    layer = DecoderLayer(block.attention, block.feed_forward, block.norm)
    return Marian(encoder, layer, int(checkpoint.settings["dec-depth"]), len(checkpoint.tensors["Wemb"]))


def weights(checkpoint: marian.Checkpoint, model: Marian) -> Weights:
    """Return a checkpoint's tensors as canonical weights."""
    return weight_map.read(checkpoint.tensors, marian.weight_map(model.encoder.depth, model.depth), model)


def positions(start: int, count: int, width: int) -> np.ndarray:
    """Return what is added to the embeddings at places `start`, `start + 1` and so on: `(count, width)` float64.

    Sines, then cosines, of angles whose wavelengths rise from 2 pi to 20,000 pi tokens, both ends included.
    """
    frequencies = 10_000.0 ** -np.linspace(0.0, 1.0, width // 2)
    angles = np.arange(start, start + count)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def enter(xp: Any, embed: Array, tokens: Array, places: Array) -> Array:
    """Return sqrt(M) E[tokens] + places, the embedding of `START` being zero.

    Args:
        xp: the array namespace.
        embed: `(V, M)`.
        tokens: integers `(*batch, T)`.
        places: `(T, M)`, what `positions` returned.
    """
    said = tokens >= 0
    rows = embed[xp.where(said, tokens, xp.zeros_like(tokens))] * math.sqrt(embed.shape[-1])
    return xp.where(said[..., None], rows, xp.zeros_like(rows)) + places


def ssru(xp: Any, candidate: Array, forget: Array, state: Array) -> tuple[Array, Array]:
    """Return relu(c_t) at each step, and the last c: c_t = f_t c_{t-1} + (1 - f_t) candidate_t.

    No product of matrices waits for the step before, so all of them are made at once; what is left is this line.

    Args:
        xp: the array namespace.
        candidate: `(*batch, T, M)`.
        forget: f before its sigmoid, the same shape.
        state: c before the first step, `(*batch, M)`.
    """
    # By tanh, which overflows nowhere.
    keep = 0.5 + 0.5 * xp.tanh(0.5 * forget)
    cells: list[Array] = []
    for t in range(candidate.shape[-2]):
        state = keep[..., t, :] * state + (1.0 - keep[..., t, :]) * candidate[..., t, :]
        cells.append(state)
    return relu(xp, xp.stack(cells, axis=-2)), state


@dataclass(frozen=True)
class Translator:
    """A built model as two functions of NumPy arrays: all that choosing words needs to know of a framework."""

    encode: Callable[[np.ndarray, np.ndarray], Any]
    """`(source (B, S), lengths (B,))` to what `decode` begins with: memory and states."""
    decode: Callable[[np.ndarray, np.ndarray, Any, np.ndarray], tuple[np.ndarray, np.ndarray, Any]]
    """`(tokens (B, T), places (T, M), carried, lengths)` to logits `(B, T, V)`, weights `(B, H, T, S)` and what goes on."""
    width: int


def greedy(translator: Translator, sentences: Sequence[Sequence[int]]) -> list[tuple[list[int], np.ndarray]]:
    """Return each sentence's likeliest next token, again and again, until it is `END`.

    Args:
        translator: the model.
        sentences: source tokens, without their `END`. All go through the model at once.

    Returns:
        For each its target tokens, with their `END`, and the guided head's weights `(T, S)`.
    """
    source, lengths = padded(sentences)
    carried = translator.encode(source, lengths)
    # Each has a limit of its own, so that no sentence's translation depends on the others.
    limits = np.ceil(LONGEST * lengths).astype(int)
    last = np.full((len(sentences), 1), START)
    said, seen = [], []
    for place in range(int(limits.max())):
        logits, weights, carried = translator.decode(last, positions(place, 1, translator.width), carried, lengths)
        last = logits.argmax(-1)
        said.append(last[:, 0])
        seen.append(weights[:, GUIDED, 0])
        if all(END in row[:limit] or place + 1 >= limit for row, limit in zip(np.stack(said, 1), limits, strict=True)):
            break
    return [_until_end(*found) for found in zip(np.stack(said, 1), np.stack(seen, 1), limits, lengths, strict=True)]


def _until_end(said: np.ndarray, seen: np.ndarray, limit: int, length: int) -> tuple[list[int], np.ndarray]:
    """Return one sentence's tokens up to its `END` or its limit, and their weights on the tokens that it has."""
    tokens = said[:limit].tolist()
    count = tokens.index(END) + 1 if END in tokens else len(tokens)
    return tokens[:count], seen[:count, :length]


def padded(sentences: Sequence[Sequence[int]], step: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return `(B, S)` tokens, each sentence ended and filled with `END`, and how many of them are real.

    S is a multiple of `step`, so that sentences of nearly one length share a compilation.
    """
    lengths = np.array([len(ids) + 1 for ids in sentences], np.int32)
    wide = -(-int(lengths.max()) // step) * step
    return np.array([[*ids, *[END] * (wide - len(ids))] for ids in sentences], np.int32), lengths


def formula(model: Marian, xp: Any, weights: Mapping[str, Array], source: Array, target: Array) -> dict[str, Array]:
    """Return the "memory" `(B, S, M)` and the "logits" `(B, T, V)` of a target that is known, by the mathematics alone.

    Args:
        model: the architecture.
        xp: the array namespace: NumPy in float64 is the oracle.
        weights: canonical.
        source: tokens `(B, S)`, none of them padding.
        target: tokens `(B, T)`: `START` and what was said.
    """
    x = enter(xp, weights["embed"], source, xp.asarray(positions(0, source.shape[1], model.width)))
    given = {"x": x}
    memory = model.encoder.formula(xp, inner("encoder", weights), given, model.encoder.resolve(given))["output"]
    x = enter(xp, weights["embed"], target, xp.asarray(positions(0, target.shape[1], model.width)))
    for i in range(model.depth):
        x = _layer(model.layer, xp, inner(f"decoder.{i}", weights), x, memory)
    return {"memory": memory, "logits": x @ weights["embed"].T + weights["logit_bias"]}


def _layer(layer: DecoderLayer, xp: Any, weights: Mapping[str, Array], x: Array, memory: Array) -> Array:
    def norm(name: str, x: Array) -> Array:
        return layer.norm.normalise(xp, inner(name, weights), x)

    def part(name: str, contract: Contract, given: dict[str, Array]) -> Array:
        return contract.formula(xp, inner(name, weights), given, contract.resolve(given))["output"]

    state = xp.zeros_like(x[..., 0, :])
    said, _ = ssru(xp, x @ weights["candidate.kernel"], x @ weights["forget.kernel"] + weights["forget.bias"], state)
    x = norm("norm1", x + said)
    x = norm("norm2", x + part("cross_attn", layer.cross_attention, {"query": x, "key": memory}))
    return norm("norm3", x + part("ffn", layer.feed_forward, {"x": x}))
