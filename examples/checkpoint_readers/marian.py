"""Marian: the binary file of a translation model, its int8 matrices as float32, and its names as tables.

    u64 version = 1, n    n x u64 (name length, type, rank, data length)    names    i32 sizes    u64 pad, pad bytes    data
    w = q / multiplier                          type 0x4101: int8, and behind the last of them one float32, the multiplier
    self_Wq (M, HD)     self_bq (1, HD)     self_Wo_ln_scale (1, M)     ffn_W1 (M, A)     ffn_ffn_ln_scale (1, M)

Products take the transpose of an int8 matrix, so that is what lies there, whatever sizes are written beside it. Only
`Wemb` (V, M) lies as it is said to: it is the transpose already, of the projection to the vocabulary.

References:
    Junczys-Dowmunt et al., arXiv:1804.00344; `common/binary.cpp` and `models/transformer.h` of marian-dev, version 1.9.
    Kim et al., "From research to production and back: ludicrously fast neural machine translation", WNGT 2019 (SSRU).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.checkpoints.config import check_depth, count, get, need
from attention.checkpoints.weight_map import Row, WeightMap, under
from attention.spec.errors import FileError, OptionError
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Encoder
from attention.spec.layers.transformer import EncoderBlock
from attention.spec.norms import LayerNorm
from attention.spec.storage.disk import brief, content

VERSION = 1
MOST_AXES, MOST_DIGITS = 8, 10
FLOAT32, INT8 = 0x404, 0x4101
SETTINGS = "special:model.yml"
RANGES = "_QuantMultA"
"""How the names end of what int8 kernels scale activations by, for which float32 has no use."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    tensors: dict[str, np.ndarray] = field(repr=False)
    """float32, by Marian's names, of the sizes that the file gives."""
    settings: dict[str, str]
    """What Marian was told to train, as far as it is one word each: `{"dim-emb": "256", ...}`."""


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Return the tensors and the settings of a Marian model.

    Args:
        path: a `.bin` of float32 and int8 arrays.

    Raises:
        FileError: it is unreadable, cut short, damaged, or no such file.
    """
    whole = content(path, "a Marian model")
    tensors: dict[str, np.ndarray] = {}
    settings: dict[str, str] = {}
    said, names = brief(path), set[str]()
    for name, kind, shape, data in _entries(Reader(whole, said)):
        if name in names:
            raise FileError(f"{said} {brief(repr(name), 60)} must stand once")
        names.add(name)
        if name == SETTINGS:
            settings = _settings(bytes(data))
        elif not name.endswith(RANGES):
            tensors[name] = _array(f"{said} {brief(name, 60)}", kind, shape, data)
    return Checkpoint(tensors, settings)


@dataclass
class Reader:
    """A place in the bytes of a file, which moves on as they are read."""

    content: bytes
    path: str
    at: int = 0

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        if count > len(self.content) - self.at:
            raise FileError(
                f"{self.path} {len(self.content)} bytes must be at least {self.at + count}: it is cut short, or foreign"
            )
        self.at += count
        return memoryview(self.content)[self.at - count : self.at]

    def numbers(self, code: str, count: int) -> tuple[int, ...]:
        """Return the next numbers of a `struct` type."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))


def _entries(reader: Reader) -> Iterable[tuple[str, int, tuple[int, ...], memoryview]]:
    """Yield the name, type, sizes and bytes of every array."""
    version, count = reader.numbers("Q", 2)
    if version != VERSION:
        raise FileError(f"{reader.path} version {version} must be {VERSION}: it is no Marian model")
    # Taken at once, so that an absurd count of a foreign file is refused before anything is made of it.
    headers = list(struct.iter_unpack("<4Q", reader.take(32 * count)))
    names = [bytes(reader.take(length)).rstrip(b"\0").decode("utf-8", "replace") for length, *_ in headers]
    if (most := max((rank for _, _, rank, _ in headers), default=0)) > MOST_AXES:
        raise FileError(f"{reader.path} {most} axes must be at most {MOST_AXES}: it is damaged, or foreign")
    shapes = [reader.numbers("i", rank) for _, _, rank, _ in headers]
    (pad,) = reader.numbers("Q", 1)
    _ = reader.take(pad)
    for name, shape, (_, kind, _, length) in zip(names, shapes, headers, strict=True):
        yield name, kind, shape, reader.take(length)


def _array(name: str, kind: int, shape: tuple[int, ...], data: memoryview) -> np.ndarray:
    if min(shape, default=1) < 1:
        raise FileError(f"{name} sizes {shape} must be positive")
    size = math.prod(shape)
    needed = {FLOAT32: 4 * size, INT8: size + 4}.get(kind)
    if needed is None:
        raise FileError(f"{name} type {kind:#x} must be {FLOAT32:#x}, float32, or {INT8:#x}, int8 with one multiplier")
    if len(data) < needed:
        raise FileError(f"{name} {len(data)} bytes must be at least {needed}, as its sizes {shape} say")
    if kind == FLOAT32:
        return np.frombuffer(data, "<f4", size).reshape(shape).astype(np.float32)
    levels = np.frombuffer(data, np.int8, size)
    (multiplier,) = np.frombuffer(data, "<f4", 1, size)
    # The largest level through the least normal number is no float32 any more.
    if not (np.isfinite(multiplier) and multiplier > 128 / np.finfo(np.float32).max):
        raise FileError(f"{name} multiplier {multiplier} must be positive, and large enough for finite weights")
    laid = levels.reshape(shape) if name.endswith("Wemb") else levels.reshape(shape[::-1]).T
    return np.ascontiguousarray(laid / multiplier, np.float32)


def _settings(text: bytes) -> dict[str, str]:
    """Return the lines `name: word` of a file that is simpler than YAML; lists are passed over."""
    lines = text.rstrip(b"\0").decode("utf-8", "replace").splitlines()
    pairs = (line.partition(":") for line in lines if line and line[0] not in " -#")
    return {name: word.strip().strip('"') for name, _, word in pairs if word.strip()}


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}.scale", f"{theirs}_ln_scale", ("", "M")), Row(f"{ours}.bias", f"{theirs}_ln_bias", ("", "M"))


def _linear(ours: str, kernel: str, bias: str, axes: tuple[str, str]) -> tuple[Row, Row]:
    return Row(f"{ours}.kernel", kernel, axes), Row(f"{ours}.bias", bias, ("", axes[1]))


ATTENTION = (
    *_linear("q_proj", "Wq", "bq", ("M", "HD")),
    *_linear("k_proj", "Wk", "bk", ("M", "KD")),
    *_linear("v_proj", "Wv", "bv", ("M", "KE")),
    *_linear("out_proj", "Wo", "bo", ("HE", "M")),
)
FEED_FORWARD = (*_linear("up", "W1", "b1", ("M", "A")), *_linear("down", "W2", "b2", ("A", "M")))

ENCODER_LAYER = WeightMap(
    "Marian encoder layer",
    (
        *under("self_attn.", "self_", ATTENTION),
        *under("ffn.", "ffn_", FEED_FORWARD),
        *_norm("norm1", "self_Wo"),
        *_norm("norm2", "ffn_ffn"),
    ),
)
"""Of an `EncoderBlock`, stored at `encoder_l1_`, `encoder_l2_` and so on."""

SSRU_LAYER = WeightMap(
    "Marian decoder layer",
    (
        Row("candidate.kernel", "rnn_W", ("M", "E")),
        *_linear("forget", "rnn_Wf", "rnn_bf", ("M", "E")),
        *under("cross_attn.", "context_", ATTENTION),
        *under("ffn.", "ffn_", FEED_FORWARD),
        *_norm("norm1", "rnn_ffn"),
        *_norm("norm2", "context_Wo"),
        *_norm("norm3", "ffn_ffn"),
    ),
)
"""Of a decoder layer whose self-attention is a recurrent cell instead, stored at `decoder_l1_` and so on."""


def weight_map(encoder_depth: int, decoder_depth: int) -> WeightMap:
    """Return the table of a whole model: "embed" (V, M) and "logit_bias" (V), "encoder.layers.0" and "decoder.0", and so on.

    Raises:
        OptionError: a depth is no int that a stack may have.
    """
    check_depth(encoder_depth)
    check_depth(decoder_depth)
    encoder = (under(f"encoder.layers.{i}.", f"encoder_l{i + 1}_", ENCODER_LAYER.rows) for i in range(encoder_depth))
    decoder = (under(f"decoder.{i}.", f"decoder_l{i + 1}_", SSRU_LAYER.rows) for i in range(decoder_depth))
    ends = (Row("embed", "Wemb", ("V", "M")), Row("logit_bias", "decoder_ff_logit_out_b", ("", "V")))
    return WeightMap("Marian", (*ends, *(row for rows in (*encoder, *decoder) for row in rows)))


WANTED = {
    "type": "transformer",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": "2",
    "transformer-decoder-autoreg": "rnn",
    "transformer-train-position-embeddings": "false",
    "dec-cell": "ssru",
    "dec-cell-base-depth": "2",
    "tied-embeddings-all": "true",
}
"""The settings of the one architecture that is read here: post-norm, and an SSRU in the decoder."""


def block(settings: Mapping[str, Any]) -> EncoderBlock:
    """Return the contract of each layer of the encoder that a checkpoint's settings describe.

    Raises:
        OptionError: they describe another architecture, or lack a number.
    """
    for name, wanted in WANTED.items():
        got = get(settings, name, wanted)
        if not isinstance(got, str) or got != wanted:
            raise OptionError(f"{name} {brief(repr(got))} must be {wanted!r}: another would be other mathematics")
    width, heads = _count(settings, "dim-emb"), _count(settings, "transformer-heads")
    fed = FeedForward(width, _count(settings, "transformer-dim-ffn"), activation="relu")
    return EncoderBlock(MultiHeadAttention(width, heads), fed, norm=LayerNorm(eps=1e-6), order="post")


def encoder(settings: Mapping[str, Any]) -> Encoder:
    """Return the contract of the encoder that a checkpoint's settings describe; errors as of `block`."""
    return Encoder(block(settings), depth=_count(settings, "enc-depth"))


def _count(settings: Mapping[str, Any], name: str) -> int:
    """Return a setting that is written in decimal digits."""
    digits = need(settings, name)
    # An int from a caller who read the settings otherwise.
    if isinstance(digits, str) and digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS:
        digits = int(digits)
    return count({name: digits}, name)
