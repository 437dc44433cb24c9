"""Files: one safetensors file holds the canonical weights, and the contract in its header.

    header["__metadata__"] = {"format": "attention", "version": "1", "contract": <JSON of the dataclass tree>}

A file is written beside its target and then moved onto it, so that a crash loses nothing; it is read whole and checked
whole before anything is loaded.
"""

# safetensors says nothing of its types; bad input comes from code that nobody type-checked.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from attention.spec.algebra import Mask
from attention.spec.alignment_scores import Additive, Concat, General
from attention.spec.axes import Array
from attention.spec.errors import AttentionError, FileError, MaskError, OptionError
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.contract import BACKEND, Contract
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import KINDS
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.options import PATH, checked
from attention.spec.params import Weights, check_weights
from attention.spec.positions import (
    Alibi,
    AxialRotary,
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    RelativeBias,
    RelativeKeys,
    Rotary,
    Yarn,
)
from attention.spec.scores import Cosine, Dot, ScaledDot

FORMAT = {"format": "attention", "version": "1"}
LAYERS = (
    MultiHeadAttention,
    AlignmentAttention,
    LatentAttention,
    DifferentialAttention,
    LinearAttention,
    FeedForward,
    EncoderBlock,
    DecoderBlock,
    Encoder,
    Decoder,
)
POSITIONS = (Rotary, AxialRotary, Alibi, RelativeBias, RelativeKeys, Linear, DynamicNTK, Yarn, Llama3, LongRope)
PARTS = (*POSITIONS, Dot, ScaledDot, Cosine, General, Concat, Additive, RMSNorm, LayerNorm, L2Norm, *KINDS)
TYPES = {kind.__name__: kind for kind in (*LAYERS, *PARTS)}


def encode(part: Any) -> Any:
    """Return a contract, or a part of one, as JSON-ready data.

    Raises:
        MaskError: a mask in it holds an array.

    >>> encode(ScaledDot(0.5))
    {'type': 'ScaledDot', 'scale': 0.5}
    """
    if isinstance(part, Mask) and not part.is_static:
        raise MaskError(f"mask {part!r} must be structure without arrays to be saved")
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: encode(getattr(part, f.name)) for f in dataclasses.fields(part) if f.init}
        return {"type": type(part).__name__, **fields}
    return [encode(x) for x in part] if isinstance(part, tuple) else part


def decode(part: Any) -> Any:
    """Return what `encode` was given.

    Raises:
        FileError: a type or a field that this version does not know.
    """
    if isinstance(part, list):
        return tuple(decode(x) for x in part)
    if not isinstance(part, dict):
        return part
    fields = {name: decode(value) for name, value in part.items() if name != "type"}
    kind = TYPES.get(str(part.get("type")))
    if kind is None:
        raise FileError(f"contract type {part.get('type')!r} must be one of {', '.join(TYPES)}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise FileError(f"contract {part['type']} has fields this version does not know: {error}") from error


@checked(path=PATH)
def save(path: str | os.PathLike[str], contract: Contract, weights: Mapping[str, Array]) -> None:
    """Write weights with their contract.

    Raises:
        ParamError: the weights do not fit the contract.
        FileError: the path cannot be written.
    """
    if not isinstance(contract, Contract):
        raise OptionError(f"contract {type(contract).__name__} must be a layer's contract")
    check_weights(contract.params, weights, "float64")
    write(path, weights, {**FORMAT, "contract": json.dumps(encode(contract))})


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], header: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    target = Path(path)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        # Not ascontiguousarray, which makes a vector of a scalar.
        save_file({name: np.array(x, order="C") for name, x in arrays.items()}, partial, header)
        _ = partial.replace(target)
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"path {str(target)!r} must be writable: {error}") from error
    finally:
        # What could not be written cannot be removed either, and that is no news.
        with suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[Contract, Weights]:
    """Return the contract and the weights of a file, both checked.

    Raises:
        FileError: the file is missing, cut short, corrupt, or not one of ours.
        ParamError: its weights do not fit its contract.
        DTypeError: its weights are not floating.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            weights = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"path {str(path)!r} must be a whole safetensors file: {error}") from error
    if {name: header.get(name) for name in FORMAT} != FORMAT:
        raise FileError(f"path {str(path)!r} has header {header} but must have {FORMAT} as `attention.save` writes it")
    try:
        contract = decode(json.loads(header["contract"]))
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"path {str(path)!r} must hold its contract as JSON: {error!r}") from error
    except AttentionError as error:
        raise FileError(f"path {str(path)!r} holds a contract that does not stand: {error}") from error
    if not isinstance(contract, Contract):
        raise FileError(f"path {str(path)!r} holds a {type(contract).__name__} but must hold a layer's contract")
    check_weights(contract.params, weights, "float64")
    return contract, {name: weights[name] for name in contract.params}


@checked(path=PATH, backend=BACKEND | ", or None")
def load(path: str | os.PathLike[str], backend: str | None = None) -> Any:
    """Return the layer that a file holds, built in a framework; without one, `(contract, weights)`.

    Args:
        path: a file that `save` wrote.
        backend: "torch", "jax" or None.

    Raises:
        FileError: the file is missing, cut short, corrupt, or not one of ours.
        UnknownName: no such backend.
        MissingExtra: the framework is not installed.
    """
    contract, weights = read(path)
    if backend is None:
        return contract, weights
    layer = contract.build(backend, dtype=str(next(iter(weights.values())).dtype))
    layer.load_weights(weights)
    return layer
