"""Save and load a contract with its canonical weights in one safetensors file.

    header["__metadata__"] = {"format": "attention", "version": "1", "contract": <JSON of the dataclass tree>}

A file is written beside its target and then moved onto it, so that a crash loses nothing. It is read in steps, each of
which bounds the next: the header against the size of the file, the contract against the limits of `disk.parsed`, names,
shapes and dtypes against the contract, and then the numbers.
"""

# safetensors has no type hints, and arguments may come from code without type checks.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, overload

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from attention.spec.axes import COMPUTE, Array
from attention.spec.errors import AttentionError, DTypeError, FileError, MaskError, OptionError, ParamError, shown
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import Additive, Concat, General
from attention.spec.layers.contract import BACKEND, Contract
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Decoder, Encoder, Stack
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import KINDS
from attention.spec.masks.algebra import Mask
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.options import checked
from attention.spec.params import Weights, check_weights
from attention.spec.positions import (
    Alibi,
    AxialRotary,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RelativeBias,
    RelativeKeys,
    Rotary,
    YarnScaling,
)
from attention.spec.scores import Cosine, Dot, ScaledDot
from attention.spec.storage.disk import brief, listed, opened, parsed, replaced
from attention.spec.storage.safetensors_format import Header, arrays, header

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
POSITIONS = (
    Rotary,
    AxialRotary,
    Alibi,
    RelativeBias,
    RelativeKeys,
    LinearScaling,
    DynamicNTKScaling,
    YarnScaling,
    Llama3Scaling,
    LongRopeScaling,
)
PARTS = (*POSITIONS, Dot, ScaledDot, Cosine, General, Concat, Additive, RMSNorm, LayerNorm, L2Norm, *KINDS)
WANTED = "a whole safetensors file, as `attention.save` writes it"
MOST_CONTRACT = 2**20
"""Characters of a contract as JSON."""
TYPES = {kind.__name__: kind for kind in (*LAYERS, *PARTS)}


def encode(part: Any) -> Any:
    """Return a contract, or a part of one, as JSON-ready data.

    Raises:
        MaskError: a mask in it holds an array.

    >>> encode(ScaledDot(0.5))
    {'type': 'ScaledDot', 'scale': 0.5}
    """
    if isinstance(part, Mask) and not part.is_static:
        raise MaskError(f"mask {brief(repr(part))} must be structure without arrays to be saved")
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
        raise FileError(f"contract type {brief(repr(part.get('type')), 60)} must be one of {brief(', '.join(TYPES))}")
    known = {f.name for f in dataclasses.fields(kind) if f.init}
    if unknown := sorted(set(fields) - known):
        raise FileError(f"contract {part['type']} has fields this version does not know: {listed(unknown)}")
    try:
        return kind(**fields)
    except AttentionError:
        raise
    # A field may hold anything, and a class may do anything with it before it refuses it.
    except Exception as error:
        raise FileError(f"contract {part['type']} cannot be made of its fields: {brief(error)}") from error


def save(path: str | os.PathLike[str], contract: Contract, weights: Mapping[str, Array]) -> None:
    """Write weights with their contract.

    Raises:
        OptionError: no contract.
        ParamError: the weights do not fit the contract.
        FileError: the path cannot be written, or the contract is too large for a header.
    """
    if not isinstance(contract, Contract):
        raise OptionError(f"contract {shown(contract)} must be a layer's contract")
    if not isinstance(weights, Mapping):
        raise ParamError(f"weights {shown(weights)} must be arrays by name")
    check_weights(contract.params, weights, "float64")
    text = json.dumps(encode(contract))
    # What could not be read again must not take the place of a file.
    _ = _parsed(text, "contract must be one that a file can hold")
    write(path, weights, {**FORMAT, "contract": text})


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], header: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        FileError: the path cannot be written.
    """
    with replaced(path) as partial:
        try:
            # Not ascontiguousarray, which makes a vector of a scalar.
            save_file({name: np.array(x, order="C") for name, x in arrays.items()}, partial, header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read(path: str | os.PathLike[str]) -> tuple[Contract, Weights]:
    """Return the contract and the weights of a file, both checked before any weight is read.

    Raises:
        FileError: the file is missing, cut short, corrupt, or not one of ours.
        ParamError: its weights do not fit its contract.
        DTypeError: its weights are not floating.
    """
    with opened(path, WANTED) as file:
        said = f"path {brief(repr(str(path)))}"
        head = header(file, f"{said} must be {WANTED}")
        if {name: head.metadata.get(name) for name in FORMAT} != FORMAT:
            got = brief(repr(dict(head.metadata)))
            raise FileError(f"{said} has header {got} but must have {FORMAT} as `attention.save` writes it")
        contract = _contract(head.metadata.get("contract"), said)
        check_tensors(contract, head)
        weights = arrays(file, head)
    return contract, {name: weights[name] for name in contract.params}


def _parsed(text: str, said: str) -> Any:
    if len(text) > MOST_CONTRACT:
        raise FileError(f"{said}: {len(text)} characters must be at most {MOST_CONTRACT}")
    return parsed(text, said)


def _contract(text: str | None, said: str) -> Contract:
    """Return the contract that a header holds as JSON."""
    if text is None:
        raise FileError(f"{said} must hold its contract as JSON, and has none")
    data = _parsed(text, f"{said} must hold its contract as JSON")
    try:
        contract = decode(data)
    except AttentionError as error:
        raise FileError(f"{said} holds a contract that does not stand: {brief(error, 240)}") from error
    if not isinstance(contract, Contract):
        raise FileError(f"{said} holds a {type(contract).__name__} but must hold a layer's contract")
    return contract


def check_tensors(contract: Contract, head: Header) -> None:
    """Check the tensors that a header names against a contract, before any of them is read.

    Raises:
        ParamError: some are missing, unexpected or misshapen.
        DTypeError: some are not floating.
    """
    if isinstance(contract, Stack):
        # First, for a stack lists its parameters layer by layer: their number is known without that.
        needed = contract.depth * len(contract.block.params)
        if needed > len(head.tensors):
            raise ParamError(f"{head.said}: {len(head.tensors)} tensors must be {needed} or more at depth {contract.depth}")
    params = contract.params
    faults = [f"missing {name} {param.shape}" for name, param in params.items() if name not in head.tensors]
    faults += [f"unexpected {name}" for name in head.tensors if name not in params]
    both = {name: head.tensors[name] for name in params if name in head.tensors}
    faults += [f"{name} {x.shape} must be {params[name].shape}" for name, x in both.items() if x.shape != params[name].shape]
    if faults:
        raise ParamError(f"{head.said}: weights do not fit: {listed(faults)}")
    other = [f"{name} {x.dtype}" for name, x in both.items() if str(x.dtype) not in COMPUTE]
    if other:
        raise DTypeError(f"{head.said}: {listed(other)} must be one of {', '.join(COMPUTE)}")


@overload
def load(path: str | os.PathLike[str], backend: None = None) -> tuple[Contract, Weights]: ...
@overload
def load(path: str | os.PathLike[str], backend: str) -> Any: ...
@checked(backend=BACKEND | ", or None")
def load(path: str | os.PathLike[str], backend: str | None = None) -> Any:
    """Return the layer that a file holds, built in a framework; without one, `(contract, weights)`.

    Args:
        path: a file that `save` wrote.
        backend: "torch", "jax" or None.

    Raises:
        FileError: the file is missing, cut short, corrupt, or not one of ours.
        ParamError: its weights do not fit its contract.
        DTypeError: its weights are not floating.
        UnknownName: no such backend.
        MissingExtra: the framework is not installed.
    """
    contract, weights = read(path)
    if backend is None:
        return contract, weights
    return contract.build(backend, weights=weights, dtype=str(next(iter(weights.values())).dtype))
