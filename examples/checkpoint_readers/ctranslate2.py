"""CTranslate2: the one file of a converted model, byte by byte, and the tables that say which tensor in it is which.

    file      =  u32 version    text kind    u32 revision    u32 n    n variables    u32 m    m aliases
    variable  =  text name      u8 rank      u32 for each size    u8 dtype    u32 bytes    data
    alias     =  text name      text variable        two names for the same array, such as tied embeddings
    text      =  u16 length, the final NUL counted in    the bytes    NUL

    layer_0/self_attention/linear_0/weight (3 HD, M)    linear_1/weight (M, HE)    layer_norm/gamma, beta (M,)
    layer_0/attention/linear_0/weight (HD, M)    linear_1/weight (KD + KE, M)    linear_2/weight (M, HE)        the memory's
    layer_0/ffn/linear_0/weight (A, M)           linear_1/weight (M, A)

Everything is little-endian. A layer's norm stands beside the branch that it belongs to. A model whose keys have no bias is
stored with one of zeros, for the projections are stacked: it is checked and dropped.

References:
    OpenNMT/CTranslate2, src/models/model.cc, binary version 6; python/ctranslate2/specs/transformer_spec.py for the names.
"""

# Bad input comes from code that nobody type-checked.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from attention.checkpoints import weight_map
from attention.checkpoints.weight_map import Row, WeightMap
from attention.spec.errors import FileError, OptionError, ParamError, shown
from attention.spec.layers.architecture import Architecture
from attention.spec.layers.stack import Decoder, Encoder, Stack
from attention.spec.numbers import is_count
from attention.spec.params import Param, Weights
from attention.spec.storage.disk import brief, content

MOST_AXES, MOST = 8, 2**32
VERSIONS = (4, 5, 6)
"""Those whose variables say their dtype and bytes, as above."""

DTYPES = {0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2")}
"""The number types by their numbers in the file."""


@dataclass(frozen=True, eq=False)
class Model:
    """What such a file holds.

    Attributes:
        kind: the model's specification: "WhisperSpec".
        revision: of that specification.
        variables: every array by its name; settings such as "decoder/num_heads" are arrays of no axes.
        aliases: further names, and the variable that each means.
    """

    kind: str
    revision: int
    variables: Mapping[str, np.ndarray] = field(repr=False)
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])


def load(file: str | os.PathLike[str]) -> Model:
    """Return the model in a file, as `read`."""
    return read(content(file, "a model of CTranslate2's"), brief(file))


def read(data: bytes, name: str = "data") -> Model:
    """Return the model in the bytes of a file. Its arrays are views of `data`, and so cannot be written to.

    Args:
        data: the whole file.
        name: what errors call it.

    Raises:
        FileError: it is another kind of file, cut short, or goes on beyond its end.
    """
    if not isinstance(data, bytes):
        raise FileError(f"{name} {shown(data)} must be the bytes of a file")
    bytes_ = _Reader(data, name)
    version = bytes_.number(4)
    if version not in VERSIONS:
        raise FileError(f"{name} version {version} must be one of {', '.join(map(str, VERSIONS))}: no file of CTranslate2's")
    kind, revision = bytes_.text(), bytes_.number(4)
    variables: dict[str, np.ndarray] = {}
    for _ in range(bytes_.number(4)):
        at, array = bytes_.variable()
        variables[bytes_.new(at, variables)] = array
    aliases: dict[str, str] = {}
    for _ in range(bytes_.number(4)):
        alias, variable = bytes_.text(), bytes_.text()
        aliases[bytes_.new(alias, aliases)] = variable
    if bytes_.at != len(data):
        raise FileError(f"{name} {len(data)} bytes must be {bytes_.at}, where its last alias ends")
    if lost := sorted(set(aliases.values()) - set(variables)):
        raise FileError(f"{name} alias of {brief(repr(lost[0]), 60)} must be of a variable that it holds")
    return Model(kind, revision, variables, aliases)


def write(model: Model) -> bytes:
    """Return the bytes of a model's file: the inverse of `read`.

    Raises:
        FileError: no model, or one that the format cannot hold: of another dtype, or of a name that is no ASCII.
    """
    if not isinstance(model, Model):
        raise FileError(f"model {shown(model)} must be a Model")
    parts = [_number(6), _text(model.kind), _number(model.revision), _number(len(model.variables))]
    numbers = {dtype: number for number, dtype in DTYPES.items()}
    for name, array in model.variables.items():
        if not isinstance(array, np.ndarray):
            raise FileError(f"{brief(name, 60)} {shown(array)} must be a NumPy array")
        if array.dtype.newbyteorder("<") not in numbers:
            raise FileError(f"{brief(name, 60)} {brief(array.dtype, 60)} must be one of {', '.join(map(str, numbers))}")
        shape = (_number(array.ndim, 1), *map(_number, array.shape))
        parts += [_text(name), *shape, _number(numbers[array.dtype.newbyteorder("<")], 1), _number(array.nbytes)]
        parts.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    parts.append(_number(len(model.aliases)))
    return b"".join([*parts, *(_text(name) for pair in model.aliases.items() for name in pair)])


class _Reader:
    """A place in the bytes, which moves on as they are read."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise FileError(f"{self.name} {len(self.data)} bytes must be {self.at + n} or more: it is cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def text(self) -> str:
        at, raw = self.at, self.take(self.number(2))
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise FileError(f"{self.name} text {raw[:24]!r} at byte {at} must be ASCII that ends with NUL")
        return raw[:-1].decode("ascii")

    def new(self, name: str, known: Mapping[str, object]) -> str:
        if name in known:
            raise FileError(f"{self.name} {brief(repr(name), 60)} must stand once")
        return name

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.text()
        said = f"{self.name} {brief(name, 60)}"
        shape = tuple(self.number(4) for _ in range(self.number(1)))
        dtype, size = self.number(1), self.number(4)
        # NumPy multiplies the other axes even where one of them is 0.
        if len(shape) > MOST_AXES or math.prod(size or 1 for size in shape) >= MOST:
            raise FileError(f"{said} sizes {brief(shape, 60)} must be at most {MOST_AXES}, and less than 2**32 together")
        if dtype not in DTYPES:
            raise FileError(f"{said} dtype {dtype} must be one of {', '.join(map(str, DTYPES))}")
        if size != (wanted := math.prod(shape) * DTYPES[dtype].itemsize):
            raise FileError(f"{said} {size} bytes must be {wanted}: {DTYPES[dtype]} {shape}")
        # Not `take`, which would copy what a view of the whole file shows as well.
        if self.at + size > len(self.data):
            raise FileError(f"{self.name} {len(self.data)} bytes must be {self.at + size} or more: it is cut short")
        array = np.frombuffer(self.data, DTYPES[dtype], math.prod(shape), self.at).reshape(shape)
        self.at += size
        return name, array


def _number(value: int, n: int = 4) -> bytes:
    if not is_count(value, 0) or value >= 2 ** (8 * n):
        raise FileError(f"number {shown(value)} must be an int below 2**{8 * n}, as the format stores it")
    return value.to_bytes(n, "little")


def _text(value: str) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise FileError(f"text {shown(value)} must be ASCII")
    return _number(len(value) + 1, 2) + value.encode("ascii") + b"\0"


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}.scale", f"{theirs}/gamma", ("M",)), Row(f"{ours}.bias", f"{theirs}/beta", ("M",))


def _linear(ours: str, theirs: str, axes: tuple[str, str]) -> tuple[Row, Row]:
    return Row(f"{ours}.kernel", f"{theirs}/weight", axes), Row(f"{ours}.bias", f"{theirs}/bias", axes[:1])


def _fed(norm: str) -> tuple[Row, ...]:
    up, down = _linear("ffn.up", "ffn/linear_0", ("A", "M")), _linear("ffn.down", "ffn/linear_1", ("M", "A"))
    return (*up, *down, *_norm(norm, "ffn/layer_norm"))


_SELF = (
    *_linear("self_attn.q_proj", "self_attention/linear_0", ("|HD", "M")),
    *_linear("self_attn.k_proj", "self_attention/linear_0", ("|KD", "M")),
    *_linear("self_attn.v_proj", "self_attention/linear_0", ("|KE", "M")),
    *_linear("self_attn.out_proj", "self_attention/linear_1", ("M", "HE")),
    *_norm("norm1", "self_attention/layer_norm"),
)
_CROSS = (
    *_linear("cross_attn.q_proj", "attention/linear_0", ("HD", "M")),
    *_linear("cross_attn.k_proj", "attention/linear_1", ("|KD", "M")),
    *_linear("cross_attn.v_proj", "attention/linear_1", ("|KE", "M")),
    *_linear("cross_attn.out_proj", "attention/linear_2", ("M", "HE")),
    *_norm("norm2", "attention/layer_norm"),
)
ENCODER_LAYER = WeightMap("CTranslate2 encoder layer", (*_SELF, *_fed("norm2")))
DECODER_LAYER = WeightMap("CTranslate2 decoder layer", (*_SELF, *_CROSS, *_fed("norm3")))


def stack(contract: Encoder | Decoder) -> WeightMap:
    """Return the table of a stack of pre-norm blocks, whose names in the file begin with "encoder/" or "decoder/".

    Raises:
        OptionError: no stack.
    """
    if not isinstance(contract, Stack):
        raise OptionError(f"contract {shown(contract)} must be an Encoder or a Decoder")
    table = DECODER_LAYER if isinstance(contract, Decoder) else ENCODER_LAYER
    rows = tuple(
        replace(row, canonical=f"layers.{i}.{row.canonical}", stored=f"layer_{i}/{row.stored}")
        for i in range(contract.depth)
        for row in table.rows
    )
    return WeightMap(f"CTranslate2 {type(contract).__name__}", (*rows, *_norm("final_norm", "layer_norm")))


class _Stacked(Architecture):
    """An architecture as it is stored: keys have a bias wherever queries have one."""

    def __init__(self, of: Architecture) -> None:
        self.of, self.zeros = of, dict[str, Param]()
        for name, param in of.params.items():
            at = name.removesuffix("k_proj.kernel")
            if at != name and f"{at}q_proj.bias" in of.params and f"{at}k_proj.bias" not in of.params:
                self.zeros[f"{at}k_proj.bias"] = Param(param.shape[1:], param.axes[1:])

    @property
    def params(self) -> dict[str, Param]:
        return {**self.of.params, **self.zeros}


def weights(variables: Mapping[str, np.ndarray], table: WeightMap, architecture: Architecture, at: str = "") -> Weights:
    """Return the canonical weights of an architecture; arguments as `weight_map.read`.

    Raises:
        ParamError: as `weight_map.read`; or a bias of keys, which the architecture lacks, is not zeros.
    """
    stored = _Stacked(architecture)
    found = weight_map.read(variables, table, stored, at)
    for name in stored.zeros:
        if found.pop(name).any():
            raise ParamError(f"{table.name} {name} under {at!r} must be zeros: the architecture's keys have no bias")
    return found


def variables(weights: Weights, table: WeightMap, architecture: Architecture, at: str = "") -> dict[str, np.ndarray]:
    """Return the stored arrays of canonical weights: the inverse of `weights`; arguments as `weight_map.write`."""
    stored = _Stacked(architecture)
    kind = next(iter(weights.values())).dtype
    zeros = {name: np.zeros(param.shape, kind) for name, param in stored.zeros.items()}
    return weight_map.write({**weights, **zeros}, table, stored, at)
