"""Inputs of both programs, as NumPy arrays rounded to values that both dtypes represent exactly.

x of (bfloat16, float32) = round(x, bfloat16), which float32 holds exactly
"""

# Inputs are whatever their user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity.adapters import Arrays, Call
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.dtype_rounding import rounding
from attention.spec.axes import COMPUTE
from attention.spec.errors import DTypeError, OptionError, ShapeError, UnknownName, shown
from attention.spec.options import one_of

Dtypes = tuple[str, str]
LOAD = one_of("first", "second", none=True)
DTYPE = one_of(*COMPUTE).raising(UnknownName)


def call_of(inputs: Any) -> Call:
    """Return the call that inputs mean, tensors and JAX arrays among them as NumPy arrays.

    Raises:
        OptionError: there is no array among them.
        DTypeError: an array holds neither numbers nor bools.
    """
    try:
        call = Call.of(inputs).map(_array)
    except RecursionError:
        raise OptionError(f"inputs {type(inputs).__name__} must not hold itself, nor be nested a hundred times") from None
    if (call.args or call.kwargs) and not call.leaves:
        raise OptionError(f"inputs {type(inputs).__name__} must hold arrays, by position or by name")
    return call


def _array(path: str, leaf: Any) -> Any:
    if type(leaf).__module__.partition(".")[0] == "torch" and hasattr(leaf, "detach"):
        from attention.torch_impl.params import to_numpy  # noqa: PLC0415 - a tensor is there, so torch is too

        if leaf.is_meta or "strided" not in str(leaf.layout):
            raise DTypeError(f"{path} {shown(leaf)} must be a dense torch.Tensor that holds numbers")
        leaf = to_numpy(leaf)
    # A typed random key has no numbers of its own; it is an option.
    if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = np.asarray(leaf)
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biuc" and not is_float(leaf):
        raise DTypeError(f"{path} {leaf.dtype} must be numbers or bools")
    return leaf


def pairs_of(dtypes: Any) -> list[Dtypes]:
    """Return the dtypes of the first and of the second program, for each that is asked for.

    Raises:
        UnknownName: one is not a key of `COMPUTE`, nor a pair of them.
    """
    asked: list[Any] = [dtypes] if isinstance(dtypes, str) else list(dtypes)
    found: list[Dtypes] = []
    for each in asked:
        pair = each if isinstance(each, (tuple, list)) else (each, each)
        if len(pair) != 2 or not all(map(DTYPE.holds, pair)):
            raise UnknownName(f"dtypes {shown(each)} must be one of {', '.join(COMPUTE)}, or a pair of them")
        found.append((pair[0], pair[1]))
    if not found:
        raise OptionError(f"dtypes {shown(dtypes)} must name at least one of {', '.join(COMPUTE)}")
    return found


def coarser(dtypes: Dtypes) -> str:
    """Return the dtype of the two that holds fewer digits."""
    return max(dtypes, key=lambda dtype: rounding(dtype).unit)


def rounded(arrays: Mapping[str, np.ndarray], dtypes: Dtypes) -> Arrays:
    """Return float arrays rounded to the coarser dtype: given bits, the same for both programs."""
    return {name: _round(x, dtypes) for name, x in arrays.items()}


def rounded_call(call: Call, dtypes: Dtypes) -> Call:
    """Return a call whose float inputs are rounded to the coarser dtype."""
    return call.map(lambda _, leaf: _round(leaf, dtypes) if isinstance(leaf, np.ndarray) else leaf)


def _round(x: np.ndarray, dtypes: Dtypes) -> np.ndarray:
    if x.dtype.kind == "c" and dtypes != ("float64", "float64"):
        return x.astype(np.complex64)
    return x.astype(coarser(dtypes), copy=False) if is_float(x) else x


def cotangents(outputs: Mapping[str, np.ndarray], given: Mapping[str, Any] | None, dtypes: Dtypes, seed: int) -> Arrays:
    """Return the cotangent of every float output: standard normal, or what is given, rounded to the coarser dtype.

    Args:
        outputs: by name.
        given: by name, all that shall count; None draws one for each.
        dtypes: of the two programs.
        seed: of the draws.

    Raises:
        UnknownName: a name is no float output.
        ShapeError: a cotangent is not shaped as its output.
    """
    floats = {name: x for name, x in outputs.items() if is_float(x)}
    if given is None:
        draws = np.random.default_rng(seed)
        return rounded({name: draws.standard_normal(x.shape) for name, x in floats.items()}, dtypes)
    for name, cotangent in given.items():
        if name not in floats:
            raise UnknownName(f"cotangents {shown(name)} must be one of the float outputs {', '.join(floats)}")
        if np.shape(cotangent) != floats[name].shape:
            raise ShapeError(f"cotangents {name!r} {np.shape(cotangent)} must be {floats[name].shape} as the output is")
    return rounded({name: np.asarray(_array(name, x), np.float64) for name, x in given.items()}, dtypes)
