"""Parameters: names, shapes, initial values, and the canonical layout that both backends load.

    weights = {"q_proj.kernel": (M, H, D), "q_proj.bias": (H, D), ..., "out_proj.kernel": (H, E, M)}
    kernel ~ U[-a, a), a = sqrt(6 / (fan_in + fan_out))        Glorot and Bengio 2010, the fans of this one matrix
    bias = 0    scale = 1

The uniform numbers are exact in float32 and scaled by one rounded product, so that NumPy, torch and JAX draw the same
bits.
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attention.spec import random
from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import DTypeError, OptionError, ParamError, shown
from attention.spec.options import SHAPE, TEXT, Option, checked, number, whole
from attention.spec.storage.disk import listed

Weights = dict[str, np.ndarray]
"""Canonical weights: a name and a NumPy array each."""

WEIGHTS = Option("a mapping of arrays by name", lambda value: isinstance(value, Mapping), ParamError)
PARAMS = Option(
    "a mapping of names to Param",
    lambda value: isinstance(value, Mapping) and all(isinstance(x, Param) for x in value.values()),
)
SEED = Option(
    "an int in [0, 2**64)", lambda value: isinstance(value, (int, np.integer, np.ndarray)) and bool(random.key(value))
)


@dataclass(frozen=True)
class Param:
    """One learned array: its shape, a letter for each axis, and how many of them are inputs.

    Args:
        shape: sizes of the axes.
        axes: a letter of `axes.AXES` for each.
        inputs: leading axes that are summed over; 0 for parameters that are not matrices.
        fill: the first value where nothing is drawn: 0 for a bias, 1 for a norm's scale.
        spread: the bound of the uniform first values; None: Glorot's for a kernel, nothing drawn for the rest.
    """

    shape: tuple[int, ...]
    axes: str
    inputs: int = 0
    fill: float = 0.0
    spread: float | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "shape": SHAPE,
        "axes": TEXT,
        "inputs": whole(0),
        "fill": number(),
        "spread": number(none=True),
    }

    def __post_init__(self) -> None:
        # Trees are built for many calls, so plainly valid ones skip the checks one by one.
        if not (type(self.shape) is tuple and type(self.axes) is str and type(self.fill) is float and self.spread is None):
            for name, option in self.OPTIONS.items():
                option.check(f"Param {name}", getattr(self, name))
        if type(self.inputs) is not int or not 0 <= self.inputs <= len(self.shape):
            raise OptionError(
                f"Param inputs {shown(self.inputs)} must be an int from 0 to {len(self.shape)}, the axes of shape"
            )

    @property
    def limit(self) -> float:
        """The bound `a` of the uniform first values, rounded to float32; 0 where nothing is drawn."""
        if self.spread is not None:
            return float(np.float32(self.spread))
        if not self.inputs:
            return 0.0
        fans = math.prod(self.shape[: self.inputs]) + math.prod(self.shape[self.inputs :])
        return float(np.float32(math.sqrt(6.0 / fans)))


@checked(seed=SEED)
def init(params: Mapping[str, Param], seed: int, dtype: str = "float32") -> Weights:
    """Return first weights, drawn in float32 and rounded to `dtype`."""
    root, kind = random.key(seed), numpy_dtype(dtype)
    return {name: _first(name, param, root).astype(kind) for name, param in params.items()}


def _first(name: str, param: Param, root: random.Key) -> np.ndarray:
    if not param.limit:
        return np.full(param.shape, param.fill, np.float32)
    return random.uniform(random.fold_in(root, random.label(name)), param.shape) * np.float32(param.limit)


@checked(prefix=TEXT, params=PARAMS)
def nest(prefix: str, params: Mapping[str, Param]) -> dict[str, Param]:
    """Return a parameter tree as a part of a larger one.

    >>> list(nest("norm", {"scale": Param((3,), "M")}))
    ['norm.scale']
    """
    return {f"{prefix}.{name}": param for name, param in params.items()}


def inner(prefix: str, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return the part of a tree that `nest` put under `prefix`, by its own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


@checked(weights=WEIGHTS)
def cast(weights: Mapping[str, Array], dtype: str) -> Weights:
    """Return the weights rounded to `dtype`: the explicit way to lose digits."""
    kind = numpy_dtype(dtype)
    return {name: _numbers(name, value).astype(kind) for name, value in weights.items()}


def _numbers(name: str, value: Any) -> np.ndarray:
    """Return an array of numbers in NumPy, or raise ParamError."""
    try:
        array = np.asarray(value)
    # What another framework raises for an array that is traced, lies elsewhere, or needs a gradient.
    except (ValueError, TypeError, RuntimeError):
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ParamError(f"weights[{shown(name)}] {shown(value)} must be an array of numbers")
    return array


def check_weights(
    params: Mapping[str, Param], weights: Mapping[str, Array], dtype: str, kinds: tuple[type, ...] = (np.ndarray,)
) -> None:
    """Check weights against a parameter tree before any of them is loaded.

    Args:
        params: the tree.
        weights: by canonical name.
        dtype: what they are to be loaded into.
        kinds: the types of array that the caller can load.

    Raises:
        ParamError: some are missing, unexpected or misshapen; all are named.
        DTypeError: some would lose digits in `dtype`; all are named.
    """
    WEIGHTS.check("weights", weights)
    faults = [f"missing {name} {param.shape}" for name, param in params.items() if name not in weights]
    faults += [f"unexpected {name if type(name) is str else shown(name)}" for name in weights if name not in params]
    both = [name for name in params if name in weights]
    for name in both:
        if not isinstance(weights[name], kinds):
            got = f"{type(weights[name]).__module__}.{type(weights[name]).__name__}"
            faults.append(f"{name} {got} must be {' or '.join(kind.__name__ for kind in kinds)}")
        elif tuple(weights[name].shape) != params[name].shape:
            faults.append(f"{name} {tuple(weights[name].shape)} must be {params[name].shape}")
    if faults:
        raise ParamError(f"weights do not fit: {listed(faults)}")
    lossy = [f"{name} {dtype_name(weights[name])}" for name in both if not _widens(dtype_name(weights[name]), dtype)]
    if lossy:
        raise DTypeError(f"weights would lose digits: {'; '.join(lossy)} must be {dtype}: round them with spec.cast")


def _widens(got: str, wanted: str) -> bool:
    """Return whether every number of dtype `got` is a number of dtype `wanted`."""
    return got in COMPUTE and bool(np.can_cast(numpy_dtype(got), numpy_dtype(wanted), "safe"))
