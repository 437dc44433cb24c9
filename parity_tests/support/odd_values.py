"""Odd values: one of every kind that a program may pass by mistake.

for odd in ODD: call(..., argument=odd.make())        a fresh value each time: generators and lists do not survive a call
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch


@dataclass(frozen=True)
class Odd:
    """One odd value.

    Attributes:
        kind: what it has in common with its siblings: every argument meets every kind.
        name: which of them it is.
        make: returns it anew.
    """

    kind: str
    name: str
    make: Callable[[], Any]

    def __str__(self) -> str:
        return self.name


def recursive() -> list[Any]:
    """Return a list that holds itself."""
    held: list[Any] = []
    held.append(held)
    return held


class Stranger:
    """An object of nobody's kind."""


class Loud:
    """An object whose representation is long."""

    def __repr__(self) -> str:
        return "loud " * 10_000


class Broken:
    """An object that cannot be shown, compared, or taken for true or false."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


def function(x: Any) -> Any:
    """Return what is given."""
    return x


def nothing(*_: Any, **__: Any) -> None:
    """Return nothing of whatever is given."""


VALUES: dict[str, dict[str, Callable[[], Any]]] = {
    "none": {"None": lambda: None, "Ellipsis": lambda: ..., "NotImplemented": lambda: NotImplemented},
    "text": {
        "''": lambda: "",
        "'odd'": lambda: "odd",
        "'1'": lambda: "1",
        "long text": lambda: "x" * 100_000,
        "lines": lambda: "a\nb\x00c",
        "bytes": lambda: b"odd",
        "bytearray": lambda: bytearray(b"odd"),
    },
    "sequence": {
        "[]": list,
        "()": tuple,
        "[1]": lambda: [1],
        "(1, 2)": lambda: (1, 2),
        "['a']": lambda: ["a"],
        "[None]": lambda: [None],
        "nested": lambda: [[1, 2], [3, 4]],
        "ragged": lambda: [[1], [2, 3]],
        "recursive": recursive,
        "long list": lambda: [0.5] * 100_000,
        "range": lambda: range(3),
        "generator": lambda: (x for x in (1, 2)),
        "iterator": lambda: iter([1, 2]),
        "[2**70]": lambda: [2**70],
        "[nan]": lambda: [float("nan")],
    },
    "mapping": {
        "{}": dict,
        "{'a': 1}": lambda: {"a": 1},
        "{1: None}": lambda: {1: None},
        "set": lambda: {1, 2},
        "frozenset": lambda: frozenset({"a"}),
    },
    "not finite": {
        "nan": lambda: float("nan"),
        "inf": lambda: float("inf"),
        "-inf": lambda: float("-inf"),
        "float64 nan": lambda: np.float64("nan"),
    },
    "number": {
        "-1": lambda: -1,
        "0": lambda: 0,
        "1": lambda: 1,
        "0.5": lambda: 0.5,
        "-0.5": lambda: -0.5,
        "1e308": lambda: 1e308,
        "5e-324": lambda: 5e-324,
        "Fraction": lambda: Fraction(1, 3),
        "complex": lambda: 1j,
    },
    "huge": {
        "2**20": lambda: 2**20,
        "2**31": lambda: 2**31,
        "2**63": lambda: 2**63,
        "-2**63": lambda: -(2**63),
        "10**30": lambda: 10**30,
        "10**5000": lambda: 10**5000,
    },
    "bool": {"True": lambda: True, "False": lambda: False, "numpy True": lambda: np.True_},
    "object": {
        "object": object,
        "stranger": Stranger,
        "loud": Loud,
        "broken": Broken,
        "path": lambda: Path("no/such/file"),
        "file": io.BytesIO,
        "exception": lambda: ValueError("odd"),
    },
    "callable": {
        "function": lambda: function,
        "nothing": lambda: nothing,
        "class": lambda: Stranger,
        "type": lambda: int,
        "Python module": lambda: np,
        "torch dtype": lambda: torch.float32,
        "numpy dtype": lambda: np.dtype("float32"),
    },
    "numpy scalar": {
        "int64": lambda: np.int64(3),
        "uint8": lambda: np.uint8(3),
        "float32": lambda: np.float32(0.5),
        "str_": lambda: np.str_("odd"),
        "datetime64": lambda: np.datetime64("2020-01-01"),
    },
    "numpy array": {
        "0-d": lambda: np.array(3),
        "0-d float": lambda: np.array(0.5),
        "int array": lambda: np.arange(3),
        "float array": lambda: np.zeros((2, 3), np.float32),
        "bool array": lambda: np.ones((2, 3), bool),
        "complex array": lambda: np.zeros((2, 3), np.complex64),
        "float64 array": lambda: np.zeros((2, 3, 8)),
        "nan array": lambda: np.full((2, 3), np.nan, np.float32),
        "eight axes": lambda: np.zeros((1,) * 8, np.float32),
    },
    "odd array": {
        "object array": lambda: np.array([None, "a"], object),
        "string array": lambda: np.array(["a", "b"]),
        "structured": lambda: np.zeros(2, [("a", "i4"), ("b", "f4")]),
        "dates": lambda: np.array(["2020-01-01"], "datetime64[D]"),
        "masked": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
        "strided": lambda: np.zeros((4, 6), np.float32)[::2, ::-2],
    },
    "empty": {
        "empty": lambda: np.zeros((0,), np.float32),
        "empty int": lambda: np.zeros((0,), np.int64),
        "empty axes": lambda: np.zeros((2, 0, 8), np.float32),
        "no rows": lambda: np.zeros((0, 3, 8), np.float32),
    },
    "torch": {
        "tensor": lambda: torch.zeros(2, 3, 8),
        "int tensor": lambda: torch.arange(3),
        "0-d tensor": lambda: torch.tensor(3),
        "nan tensor": lambda: torch.full((2, 3), float("nan")),
        "empty tensor": lambda: torch.zeros(0, 3, 8),
        "bfloat16 tensor": lambda: torch.zeros(2, 3, 8, dtype=torch.bfloat16),
        "sparse tensor": lambda: torch.zeros(2, 3).to_sparse(),
        "gradient tensor": lambda: torch.zeros(2, 3, 8, requires_grad=True),
        "parameter": lambda: torch.nn.Parameter(torch.zeros(3)),
        "nn.Module": lambda: torch.nn.Linear(2, 2),
        "meta tensor": lambda: torch.zeros(2, 3, 8, device="meta"),
    },
    "jax": {
        "jax array": lambda: jnp.zeros((2, 3, 8)),
        "jax ints": lambda: jnp.arange(3),
        "0-d jax": lambda: jnp.asarray(3),
        "jax key": lambda: jax.random.key(0),
        "jax nan": lambda: jnp.full((2, 3), jnp.nan),
        "empty jax": lambda: jnp.zeros((0, 3, 8)),
        "jax bfloat16": lambda: jnp.zeros((2, 3, 8), jnp.bfloat16),
        "shape struct": lambda: jax.ShapeDtypeStruct((2, 3, 8), jnp.float32),
    },
}

ODD = tuple(Odd(kind, name, make) for kind, values in VALUES.items() for name, make in values.items())
