"""WeightMap: which stored tensor holds which canonical parameter, and how its axes are split, reordered and cut.

    stored (HD, M)   --split-->   (H, D, M)   --transpose-->   canonical (M, H, D)           Row(..., ("HD", "M"))
    stored (N, M)    --cut-->     (HD, M), (KD, M), (KE, M)    q, k and v one after another  Row(..., ("|HD", "M")) and two more
    stored (N, R)    --split-->   (H, N', R)  --cut-->  (H, D, R), (H, E, R)                 Row(..., ("H|D", "R")) and one more

A bar marks the axis along which the rows of one tensor are concatenated, in the order of the table. Both directions use
reshape, transpose and concatenation alone, so they are exact to the bit, for weights and for gradients.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false, reportUnnecessaryComparison=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from attention.spec.errors import OptionError, ParamError, shown
from attention.spec.layers.architecture import Architecture
from attention.spec.options import TEXT, checked
from attention.spec.params import Param, Weights
from attention.spec.storage.disk import brief, listed

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One row of a weight map: a canonical parameter and its place in a stored tensor."""

    canonical: str
    stored: str
    axes: tuple[str, ...]
    """The stored axes, each named by the letters that it merges: `("HD", "M")`; "" is an axis of size 1."""

    @property
    def cut(self) -> int | None:
        """The axis of `laid` along which the rows of one tensor are concatenated; None for a tensor of one row."""
        return next((at + 1 for at, merged in enumerate(self.axes) if "|" in merged), None)

    def laid(self, param: Param) -> tuple[int, ...]:
        """Return the shape of this row's share of the stored tensor; an axis with a bar counts as two."""
        sizes = dict(zip(param.axes, param.shape, strict=True))
        return tuple(math.prod(sizes[letter] for letter in part) for merged in self.axes for part in merged.split("|"))

    def shape(self, param: Param) -> tuple[int, ...]:
        """Return the shape of a stored tensor that no other row shares."""
        return _merged(self, self.laid(param))

    def read(self, stored: np.ndarray, param: Param) -> np.ndarray:
        """Return the canonical parameter of a stored tensor that no other row shares, as a copy."""
        letters, sizes = "".join(self.axes).replace("|", ""), dict(zip(param.axes, param.shape, strict=True))
        split = stored.reshape([sizes[letter] for letter in letters])
        return split.transpose([letters.index(letter) for letter in param.axes]).copy()

    def write(self, canonical: np.ndarray, param: Param) -> np.ndarray:
        """Return the stored tensor of a `canonical` parameter, as a copy: the inverse of `read`."""
        letters = "".join(self.axes).replace("|", "")
        split = canonical.transpose([param.axes.index(letter) for letter in letters])
        return split.reshape(self.shape(param)).copy()


@dataclass(frozen=True)
class WeightMap:
    """The names and layouts of the tensors of one family of checkpoints."""

    name: str
    rows: tuple[Row, ...]
    ignored: frozenset[str] = frozenset()
    """Tensors under the same prefix that are not part of the attention, such as the norm after the residual sum."""

    @property
    def output(self) -> str:
        """The path of the output projection in the family's module, such as `"output.dense"`."""
        return next(row.stored for row in self.rows if row.canonical == "out_proj.kernel").rpartition(".")[0]

    def tensors(self, params: Mapping[str, Param]) -> dict[str, list[Row]]:
        """Return the rows of every tensor that a layer with these parameters stores, by the tensor's name."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.canonical in params:
                found.setdefault(row.stored, []).append(row)
        return found


def linear(canonical: str, stored: str, axes: tuple[str, str], bias: str = "bias") -> tuple[Row, Row]:
    """Return the rows of a projection stored as `torch.nn.Linear` stores it: (outputs, inputs)."""
    # The bias has the output axes of the kernel.
    return Row(f"{canonical}.kernel", f"{stored}.weight", axes), Row(f"{canonical}.bias", f"{stored}.{bias}", (axes[0],))


def projections(query: str, key: str, value: str, output: str) -> tuple[Row, ...]:
    """Return the rows of four `torch.nn.Linear`."""
    return (
        *linear("q_proj", query, ("HD", "M")),
        *linear("k_proj", key, ("KD", "M")),
        *linear("v_proj", value, ("KE", "M")),
        *linear("out_proj", output, ("M", "HE")),
    )


def under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return the rows with a prefix on canonical and stored names."""
    return tuple(replace(row, canonical=ours + row.canonical, stored=theirs + row.stored) for row in rows)


def read(tensors: Mapping[str, np.ndarray], weight_map: WeightMap, contract: Architecture, at: str = "") -> Weights:
    """Return the canonical weights of the attention layer stored under the name prefix `at`.

    Args:
        tensors: a whole checkpoint; only the names that start with `at` are looked at. NumPy arrays, or what `np.asarray`
            makes one of, as it does of a torch tensor on the CPU; bfloat16 included.
        weight_map: the family's table.
        contract: gives the canonical shapes.
        at: name prefix, with its dot: `"encoder.layer.0.attention."`.

    Raises:
        ParamError: tensors under `at` are missing, misshapen, or unknown to the table, or the table lacks a parameter
            of the contract, or a value is not an array; the first faults are named.
        OptionError: not a WeightMap, or not an architecture.
    """
    params = _params(contract, weight_map)
    found = _arrays(tensors, at)
    table = _table(weight_map, params)
    # An unknown tensor may change the result, as relative positions do, so it is an error.
    got = {name: tensor.shape for name, tensor in found.items() if name not in weight_map.ignored}
    _check(f"{weight_map.name} tensors under {at!r}", got, {name: _shape(rows, params) for name, rows in table.items()})
    pieces = {
        row: piece for name, rows in table.items() for row, piece in zip(rows, _cut(found[name], rows, params), strict=True)
    }
    by_name = {row.canonical: row.read(piece, params[row.canonical]) for row, piece in pieces.items()}
    return {name: by_name[name] for name in params}


@checked(at=TEXT.raising(ParamError))
def write(weights: Weights, weight_map: WeightMap, contract: Architecture, at: str = "") -> dict[str, np.ndarray]:
    """Return the stored tensors, named under the prefix `at`, of canonical `weights`: the inverse of `read`.

    Raises:
        ParamError: parameters are missing, misshapen or unknown, to the contract or to the table; the first are named.
    """
    params = _params(contract, weight_map)
    weights = _arrays(weights, "")
    got = {name: value.shape for name, value in weights.items()}
    _check("canonical weights", got, {name: param.shape for name, param in params.items()})
    return {at + name: _joined(weights, rows, params) for name, rows in _table(weight_map, params).items()}


def _params(contract: Architecture, weight_map: WeightMap) -> Mapping[str, Param]:
    if not isinstance(weight_map, WeightMap):
        raise OptionError(f"weight_map {shown(weight_map)} must be a WeightMap")
    params = getattr(contract, "params", None)
    if not isinstance(params, Mapping):
        raise OptionError(f"contract {shown(contract)} must be an architecture")
    return params


def _arrays(tensors: Mapping[str, Any], at: str) -> dict[str, np.ndarray]:
    """Return the tensors under a name prefix, without it, as NumPy arrays."""
    if not isinstance(tensors, Mapping) or not isinstance(at, str):
        raise ParamError(f"tensors {shown(tensors)} at {shown(at)} must be arrays by name, and a text")
    if other := [name for name in tensors if not isinstance(name, str)]:
        raise ParamError(f"name {brief(repr(other[0]), 60)} of a tensor must be a text")
    return {name.removeprefix(at): _array(name, x) for name, x in tensors.items() if name.startswith(at)}


def _array(name: str, x: Any) -> np.ndarray:
    kind = f"{type(x).__module__}.{type(x).__name__}"
    try:
        if hasattr(x, "detach"):
            x = x.detach()
            # NumPy has no bfloat16; float32 holds every value.
            x = np.asarray(x.float()).astype(ml_dtypes.bfloat16) if str(x.dtype) == "torch.bfloat16" else x
        array = np.asarray(x)
    # For a tensor on another device the framework's own error is raised.
    except Exception as error:
        raise ParamError(
            f"{brief(name, 100)} {kind} must be a NumPy array, or a tensor on the CPU: {brief(error, 100)}"
        ) from error
    # The kind of ml_dtypes' types is "V", as for record types, which have fields.
    if array.dtype.kind not in "fiubV" or array.dtype.names:
        raise ParamError(f"{brief(name, 100)} {kind} must be an array of numbers, not {brief(array.dtype, 60)}")
    return array


def _table(weight_map: WeightMap, params: Mapping[str, Param]) -> dict[str, list[Row]]:
    table = weight_map.tensors(params)
    lost = params.keys() - {row.canonical for rows in table.values() for row in rows}
    if lost:
        raise ParamError(f"{weight_map.name} has no tensor for {listed(sorted(lost))}")
    return table


def _merged(row: Row, laid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stored shape from a shape in which an axis with a bar counts as two."""
    if row.cut is None:
        return laid
    return (*laid[: row.cut - 1], laid[row.cut - 1] * laid[row.cut], *laid[row.cut + 1 :])


def _whole(rows: list[Row], params: Mapping[str, Param]) -> tuple[int, ...]:
    """Return the shape of a stored tensor; an axis with a bar counts as two."""
    first, *others = (row.laid(params[row.canonical]) for row in rows)
    cut = rows[0].cut
    if cut is None:
        return first
    return (*first[:cut], first[cut] + sum(laid[cut] for laid in others), *first[cut + 1 :])


def _shape(rows: list[Row], params: Mapping[str, Param]) -> tuple[int, ...]:
    return _merged(rows[0], _whole(rows, params))


def _cut(stored: np.ndarray, rows: list[Row], params: Mapping[str, Param]) -> list[np.ndarray]:
    """Return each row's share of a stored tensor."""
    cut = rows[0].cut
    if cut is None:
        return [stored]
    ends = np.cumsum([row.laid(params[row.canonical])[cut] for row in rows])
    return np.split(stored.reshape(_whole(rows, params)), ends[:-1], axis=cut)


def _joined(weights: Weights, rows: list[Row], params: Mapping[str, Param]) -> np.ndarray:
    """Return the stored tensor of its rows: the inverse of `_cut`."""
    cut = rows[0].cut
    pieces = [row.write(weights[row.canonical], params[row.canonical]) for row in rows]
    if cut is None:
        return pieces[0]
    laid = [piece.reshape(row.laid(params[row.canonical])) for piece, row in zip(pieces, rows, strict=True)]
    return np.concatenate(laid, axis=cut).reshape(_shape(rows, params))


def _check(name: str, got: Shapes, wanted: Shapes) -> None:
    faults = [f"missing {n} {shape}" for n, shape in wanted.items() if n not in got]
    faults += [f"unexpected {n} {shape}" for n, shape in got.items() if n not in wanted]
    faults += [f"{n} {got[n]} must be {shape}" for n, shape in wanted.items() if n in got and got[n] != shape]
    if faults:
        raise ParamError(f"{brief(name, 100)} do not fit: {listed(faults)}")
