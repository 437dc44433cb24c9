"""The exception classes, all below AttentionError, and helpers that shorten values for messages.

AttentionError(ValueError)
├── ShapeError        a rank or a size does not fit the axes
├── DTypeError        a number type does not fit, or would silently lose digits
├── OptionError       an option of a contract lies outside its range, or two exclude each other
├── MaskError         a mask does not fit the call, or leaves its alignment unsaid
├── PositionError     positions are missing or do not fit the call
├── CacheError        a key/value cache has no space for the appended tokens
├── ParamError        weights are missing, unexpected or misshapen; the message names them all
├── FileError         a file is unreadable, cut short, corrupt, or not ours
├── KernelRefused     the kernel chosen by name refuses this request, with the reason
├── UnknownName       no kernel, contract, backend, dtype or model has this name
├── MissingExtra      an optional dependency is absent; the message names the extra
├── SideFailed        a program that a user brought raised, or returned what cannot be compared
└── ParityError       a comparison that was asserted to agree did not (also an AssertionError)
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

LONGEST = 480
"""The most characters of a message, whatever the input."""
HEAD, TAIL = 300, 130
"""How many of them are the beginning and the end of a message that had to be shortened."""


class AttentionError(ValueError):
    """The root: catch it to catch every error that this library raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(shortened(str(arg)) for arg in args))


class ShapeError(AttentionError):
    """A rank or a size does not fit the axes."""


class DTypeError(AttentionError):
    """A number type does not fit, or would silently lose digits."""


class OptionError(AttentionError):
    """An option of a contract lies outside its range, or two options exclude each other."""


class MaskError(AttentionError):
    """A mask does not fit the call, or leaves its alignment unsaid."""


class PositionError(AttentionError):
    """Positions are missing or do not fit the call."""


class CacheError(AttentionError):
    """A key/value cache has no space for the appended tokens."""


class ParamError(AttentionError):
    """Weights are missing, unexpected or misshapen; the message names them all."""


class FileError(AttentionError):
    """A file is unreadable, cut short, corrupt, or not one of ours."""


class KernelRefused(AttentionError):
    """The kernel chosen by name refuses this request; the message has the reason."""


class UnknownName(AttentionError):
    """No kernel, contract, backend, dtype or model has this name; the message lists those that exist."""

    @classmethod
    def among(cls, argument: str, got: object, known: Iterable[str]) -> UnknownName:
        """Return the error for a name that is none of the known ones, and the known one that is nearest to it.

        >>> print(UnknownName.among("dtype", "float23", ("float32", "int8")))
        dtype 'float23' must be one of float32, int8; did you mean 'float32'?
        """
        names = list(known)
        close = difflib.get_close_matches(got, names, 1) if isinstance(got, str) else []
        return cls(
            f"{argument} {shown(got)} must be one of {', '.join(names)}{f'; did you mean {close[0]!r}?' if close else ''}"
        )


class MissingExtra(AttentionError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it, and `name` the package."""

    def __init__(self, message: str, *, name: str | None = None) -> None:
        ImportError.__init__(self, message, name=name)


class SideFailed(AttentionError):
    """A user's program raised, or returned a value that cannot be compared; the message names the program and the place."""


class ParityError(AttentionError, AssertionError):
    """A comparison that was asserted to agree did not; the message is the report, of any length."""

    def __init__(self, *args: object) -> None:
        # A report is read whole; nothing of a user's is repeated in it.
        Exception.__init__(self, *args)


def shortened(text: str) -> str:
    """Return the text, cut in the middle if it has more than `LONGEST` characters; the end says what was wanted."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:HEAD]} ... ({len(text) - HEAD - TAIL} characters) ... {text[-TAIL:]}"


_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 16
_REPR.maxstring = _REPR.maxlong = 80
_REPR.maxother = 160


def shown(value: Any) -> str:
    """Return a value as shown in a message: its representation, shortened, or dtype and shape of an array.

    >>> shown("odd"), shown([1] * 1000), shown(10**5000)
    ("'odd'", '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ...]', 'an int of 16610 bits')
    """
    if isinstance(value, int) and value.bit_length() > 256:
        # Python refuses to write out an int of more than 4,300 digits.
        return f"an int of {value.bit_length()} bits"
    try:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple) and shape and dtype is not None:
            return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
        return _REPR.repr(value)
    # An object's own code runs here, and may do anything.
    except Exception:  # noqa: BLE001
        return f"of type {type(value).__name__}"
