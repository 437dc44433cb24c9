"""Errors: the whole tree on one screen. A message says argument, got, wanted, in that order.

AttentionError(ValueError)
├── ShapeError        a rank or a size does not fit the axes
├── DTypeError        a number type does not fit, or would silently lose digits
├── OptionError       an option of a contract lies outside its range, or two exclude each other
├── MaskError         a mask does not fit the call, or leaves its alignment unsaid
├── PositionError     positions are missing or do not fit the call
├── CacheError        a key/value cache cannot hold what is appended
├── ParamError        weights are missing, unexpected or misshapen; the message names them all
├── FileError         a file is unreadable, cut short, corrupt, or not ours
├── KernelRefused     the kernel asked for by name cannot do this request, and says why
├── UnknownName       no kernel, contract, backend, dtype or model has this name
├── MissingExtra      an optional dependency is absent; the message names the extra
├── SideFailed        a program that a user brought raised, or returned what cannot be compared
└── ParityError       a comparison that was asserted to agree did not (also an AssertionError)
"""


class AttentionError(ValueError):
    """The root: catch it to catch every error that this library raises on purpose."""


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
    """A key/value cache cannot hold what is appended."""


class ParamError(AttentionError):
    """Weights are missing, unexpected or misshapen; the message names them all."""


class FileError(AttentionError):
    """A file is unreadable, cut short, corrupt, or not one of ours."""


class KernelRefused(AttentionError):
    """The kernel asked for by name cannot do this request; the message is its reason."""


class UnknownName(AttentionError):
    """No kernel, contract, backend, dtype or model has this name; the message lists those that exist."""


class MissingExtra(AttentionError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it, and `name` the package."""

    def __init__(self, message: str, *, name: str | None = None) -> None:
        ImportError.__init__(self, message, name=name)


class SideFailed(AttentionError):
    """A program that a user brought raised, or returned what cannot be compared; the message says which side, and where."""


class ParityError(AttentionError, AssertionError):
    """A comparison that was asserted to agree did not; the message is the report."""
