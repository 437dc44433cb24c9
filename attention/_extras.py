"""Extras: a missing framework is one clear line, found by asking and not by catching.

    require("torch", extra="torch", wanted_by="torch_impl")

stands at the top of a room's `__init__`, before the first import of the framework.
"""

from importlib.util import find_spec

from attention.spec.errors import MissingExtra

__all__ = ["require"]


def require(module: str, *, extra: str, wanted_by: str) -> None:
    """Refuse to go on without `module`, and say which extra brings it.

    Args:
        module: top-level name of the package, as it is imported.
        extra: the extra of this project that installs it.
        wanted_by: the room or feature that needs it, as the user knows it.

    Raises:
        MissingExtra: `module` is not installed.

    >>> require("numpy", extra="all", wanted_by="spec")
    >>> require("no_such_package", extra="all", wanted_by="spec")
    Traceback (most recent call last):
    attention.spec.errors.MissingExtra: spec needs no_such_package, which is not installed: pip install 'attention[all]'
    """
    if find_spec(module) is None:
        raise MissingExtra(f"{wanted_by} needs {module}, which is not installed: pip install 'attention[{extra}]'")
