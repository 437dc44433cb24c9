"""`spec.attend`: the attention formula `attend.attend` with checked arguments.

    spec.attend(numpy, q, k, v, scale=0.125)["context"]

The package's own calls pass what was checked before, and go to `attend.attend` itself.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import numpy as np

from attention.spec.attend import Observer
from attention.spec.attend import attend as formula
from attention.spec.axes import COMPUTE, Array, check_broadcast, check_float, check_shape, dtype_name, sizes
from attention.spec.errors import DTypeError
from attention.spec.numbers import LARGEST32, is_finite
from attention.spec.options import ARRAY, NAMESPACE, Option, is_array, takes_arguments
from attention.spec.scores import CAP


def _is_scalar(value: Any) -> bool:
    """Return whether a value is a finite number, or an array of one that may be traced."""
    if isinstance(value, (int, float, np.generic)):
        return is_finite(value)
    return is_array(value) and value.shape == () and dtype_name(value) in COMPUTE


NUMBER = Option("a finite number", _is_scalar)
SCALAR = Option("a finite number in float32", lambda value: _is_scalar(value) and (is_array(value) or abs(value) <= LARGEST32))
BOOL = Option("an array of bool", lambda value: is_array(value) and dtype_name(value) == "bool", DTypeError)
FUNCTION = Option("a function of one array", partial(takes_arguments, count=1))
OPTIONS = {
    "xp": NAMESPACE,
    **dict.fromkeys(("q", "k", "v"), ARRAY),
    **dict.fromkeys(("bias", "sinks"), ARRAY | ", or None"),
    **dict.fromkeys(("allowed", "keep"), BOOL | ", or None"),
    "scale": SCALAR,
    "dropout_rate": NUMBER,
    "softcap": CAP,
    "score_mod": FUNCTION | ", or None",
    "constant": FUNCTION,
    "observe": Option("a Observer", lambda value: isinstance(value, Observer)),
}


@wraps(formula)
def attend(xp: Any, q: Array, k: Array, v: Array, **options: Any) -> dict[str, Array]:
    """Return the result of `attend.attend` for checked arguments."""
    given = {"xp": xp, "q": q, "k": k, "v": v, **options}
    for name, value in given.items():
        if name in OPTIONS:
            OPTIONS[name].check(name, value)
    _check_arrays({name: value for name, value in given.items() if name in ARRAYS and value is not None}, xp)
    for name in ("score_mod", "constant"):
        if options.get(name) is not None:
            options[name] = partial(_called, name, options[name])
    return formula(xp, q, k, v, **options)


ARRAYS = ("q", "k", "v", "bias", "sinks", "allowed", "keep")


def _check_arrays(given: dict[str, Array], xp: Any) -> None:
    """Raise AttentionError unless arrays are floating or bool, fit each other, and are of the namespace's framework."""
    of = sizes(given["q"], given["k"], given["v"])
    for name, array in given.items():
        if name not in ("allowed", "keep"):
            _ = check_float(**{name: array})
        if name == "sinks":
            check_shape(name, array, (of.H,), "(H,)")
        elif name not in ("q", "k", "v"):
            check_broadcast(name, array, of.scores, "(*batch, H, T, S)")
    # NumPy's arrays are constants to JAX; torch's tensors go with nothing else.
    frameworks = {type(array).__module__.partition(".")[0].removesuffix("lib") for array in given.values()} - {"numpy"}
    if len(frameworks) > 1 or ("torch" in frameworks and "torch" not in getattr(xp, "__name__", "torch")):
        raise DTypeError(f"arrays of {', '.join(sorted(frameworks))} must be of one framework, that of xp")


def _called(name: str, function: Any, array: Array) -> Array:
    """Return the checked result of a user's function of an array."""
    made = function(array)
    ARRAY.check(f"{name} result", made)
    return made
