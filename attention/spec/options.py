"""Options: the allowed values of an argument, declared once, and the check that raises OptionError.

    EMBED_DIM = whole(1)        EMBED_DIM.check("embed_dim", value)        raises unless value is what it must be

    class Contract:
        OPTIONS = {"embed_dim": whole(1), "gate": one_of("headwise", none=True)}        check_options(self)

    @checked(head_dim=whole(1))
    def width(self, head_dim): ...

A field that is declared `bool` is a switch without an entry. No check runs code of the value's: an object that cannot be
compared, hashed or shown is refused like any other.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportUnknownVariableType=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, wraps
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from attention.spec.axes import COMPUTE, dtype_name
from attention.spec.errors import AttentionError, DTypeError, FileError, OptionError, shown
from attention.spec.numbers import is_count, is_finite, is_symbolic

MOST = 2**31 - 1
"""The largest number that JAX counts to while its 64-bit mode is off, and so the largest size."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What an argument may be.

    Args:
        wanted: in words, for the message.
        holds: whether a value is one.
        error: the exception class.
        most: the largest int, which a message names only to who exceeds it.
    """

    wanted: str
    holds: Callable[[Any], bool]
    error: type[AttentionError] = OptionError
    most: int | None = None

    def check(self, label: str, value: Any) -> None:
        """Raise `error` unless the value is allowed; `label` names it in the message."""
        if not self.holds(value):
            beyond = self.most is not None and is_count(value, self.most + 1)
            raise self.error(f"{label} {shown(value)} must be {f'at most {self.most}' if beyond else self.wanted}")

    def __or__(self, words: str) -> Option:
        """Return the option with None allowed, the message ending in these words."""
        return replace(self, wanted=f"{self.wanted}{words}", holds=lambda value: value is None or self.holds(value))

    def raising(self, error: type[AttentionError]) -> Option:
        """Return the option with another error."""
        return replace(self, error=error)


def whole(least: int = 1, most: int | None = MOST, *, wanted: str = "", none: bool = False) -> Option:
    """Return the option of an int from `least` to `most`, if that is given.

    >>> whole(1).check("num_heads", 0)
    Traceback (most recent call last):
    attention.spec.errors.OptionError: num_heads 0 must be a positive int
    """
    said = wanted or ("a positive int" if least == 1 else f"an int >= {least}")
    option = Option(said, lambda value: is_count(value, least) and (most is None or value <= most), most=most)
    return option | ", or None" if none else option


def number(
    least: float | None = None,
    *,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    wanted: str = "",
    none: bool = False,
) -> Option:
    """Return the option of a finite number: at least `least`, at most `most`, above `above`, below `below`, each if given."""
    bounds = ((">=", least), ("<=", most), (">", above), ("<", below))
    said = wanted or "a finite number" + " and".join(f" {sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def holds(value: Any) -> bool:
        return (
            is_finite(value)
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    return Option(said, holds) | ", or None" if none else Option(said, holds)


def one_of(*names: str, none: bool = False, wanted: str = "") -> Option:
    """Return the option of one of some words."""
    said = wanted or ", ".join(map(repr, (None, *names) if none else names))
    option = Option(wanted or f"one of {said}", lambda value: type(value) is str and value in names)
    return option | "" if none else option


def instance(*kinds: type, none: bool = False, wanted: str = "") -> Option:
    """Return the option of an object of some classes."""
    said = wanted or " or ".join(f"{kind.__name__}(...)" for kind in kinds)
    option = Option(said, lambda value: isinstance(value, kinds))
    return option | ", or None" if none else option


def size(least: int = 1, most: int = MOST) -> Option:
    """Return the option of an axis' size as a call has it: an int of at least `least`, or what an exporter leaves open."""
    plain = whole(least, most)
    return replace(plain, holds=lambda value: is_symbolic(value) or plain.holds(value))


SEED = whole(0, 2**63 - 1)
SWITCH = Option("True or False", lambda value: isinstance(value, bool))
FUNCTION = Option("a function", callable)
TEXT = Option("a string", lambda value: type(value) is str)
SHAPE = Option(
    "a tuple of ints >= 0", lambda value: isinstance(value, (tuple, list)) and all(is_count(n, 0) and n <= MOST for n in value)
)


MAPPING = Option("a mapping", lambda value: isinstance(value, Mapping))


def is_array(value: Any) -> bool:
    """Return whether a value is an array of any framework: it has a shape and a dtype."""
    # Not its values: an array may be traced, lie elsewhere, or have none.
    return isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype")


def is_sparse(value: Any) -> bool:
    """Return whether a value is a tensor of torch whose elements are not all stored. JAX gives its arrays a layout too."""
    layout = str(getattr(value, "layout", ""))
    return layout.startswith("torch.") and layout != "torch.strided"


ARRAY = Option("an array", is_array, DTypeError)


def arrays_by_name(*names: str) -> Option:
    """Return the option of a mapping of arrays by name, these among them; None means absent."""
    said = f", with {', '.join(map(repr, names))}" if names else ""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and all(name in value for name in names)
            and all(type(name) is str and (is_array(x) or (x is None and name not in names)) for name, x in value.items())
        )

    return Option(f"a mapping of arrays by name{said}", holds)


ARRAYS = arrays_by_name()
FLOATS = Option(
    "a mapping of floating arrays by name",
    lambda value: ARRAYS.holds(value) and all(x is not None and dtype_name(x) in COMPUTE for x in value.values()),
)


def check_options(owner: Any, prefix: str = "") -> None:
    """Raise unless each field of a dataclass is allowed by the `OPTIONS` of its class; fields declared bool must be bools.

    Args:
        owner: the object, whose fields are set.
        prefix: text before a field's name in a message.
    """
    for name, option in _options(type(owner)):
        option.check(f"{prefix}{name}", getattr(owner, name))


@cache
def _options(kind: type) -> tuple[tuple[str, Option], ...]:
    given: dict[str, Option] = getattr(kind, "OPTIONS", {})
    switches = {f.name: SWITCH for f in fields(kind) if f.type in ("bool", bool) and f.init}
    return tuple((f.name, {**switches, **given}[f.name]) for f in fields(kind) if f.name in {**switches, **given})


def checked(**options: Option) -> Callable[[F], F]:
    """Return a decorator of a function or method whose arguments must be what they are said to be.

    >>> @checked(width=whole(1))
    ... def double(width):
    ...     return 2 * width
    >>> double("x")
    Traceback (most recent call last):
    attention.spec.errors.OptionError: width 'x' must be a positive int
    """

    def decorate(function: F) -> F:
        places = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for place, value in zip(places, args, strict=False):
                if place in options:
                    options[place].check(place, value)
            for name, value in kwargs.items():
                if name in options:
                    options[name].check(name, value)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def finite_array(label: str, value: Any, error: type[AttentionError]) -> np.ndarray:
    """Return real numbers, or nested lists of them, as a float64 array, or raise `error`.

    >>> finite_array("positions", [0, 1], OptionError)
    array([0., 1.])
    """
    if isinstance(value, (list, tuple, int, float)) or is_array(value) or isinstance(value, np.generic):
        try:
            array = np.asarray(value)
            if (array.dtype.kind in "iuf" or array.dtype.name == "bfloat16") and np.isfinite(array).all():
                return array.astype(np.float64)
        # What another framework raises for an array that lies elsewhere, is traced, or needs a gradient.
        except (ValueError, TypeError, RuntimeError, OverflowError):
            pass
    raise error(f"{label} {shown(value)} must be an array of finite numbers")


def _is_path(value: Any) -> bool:
    """Return whether a value is a path that a file system could have."""
    if type(value) is str:
        return bool(value) and "\0" not in value and len(value) <= LONGEST_PATH
    return isinstance(value, PurePath)


LONGEST_PATH = 4096
PATH = Option("a path", _is_path, FileError)
ITERABLE = Option(
    "a tuple of names",
    lambda value: (
        isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, Mapping)) and not is_array(value)
    ),
)


def takes_arguments(function: Any, count: int) -> bool:
    """Return whether a function can be called with so many arguments by place."""
    try:
        _ = inspect.signature(function).bind(*range(count))
    # TypeError: no function, or one of other arguments; ValueError: of C, which does not list them; others: an object's own.
    except Exception:  # noqa: BLE001
        return False
    return True


def function_of(count: int) -> Option:
    """Return the option of a function that can be called with so many arguments by place."""
    return Option(f"a function of {count} argument{'s' if count > 1 else ''}", lambda value: takes_arguments(value, count))


NAMESPACE = Option("an array namespace such as numpy", lambda value: callable(getattr(value, "zeros_like", None)))
