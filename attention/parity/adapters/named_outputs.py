"""Outputs: whatever a program returns, as arrays by name.

x -> {"output": x}        (x, {"hidden": h}) -> {"output[0]": x, "output[1].hidden": h}
"""

# As `program`.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from attention.parity.adapters.program import paths
from attention.spec.errors import SideFailed

T = TypeVar("T")


def plain(tree: Any) -> Any:
    """Return the tree in dicts, tuples and lists: a dataclass is the dict of its fields; None, inside a tree, is absent."""
    if isinstance(tree, Mapping):
        return {name: plain(inner) for name, inner in tree.items() if inner is not None}
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        return [plain(inner) for inner in tree if inner is not None]
    if is_dataclass(tree) and not isinstance(tree, type):
        return plain({field.name: getattr(tree, field.name) for field in fields(tree)})
    return tree


def named_outputs(name: str, tree: Any, array: Callable[[Any], T | None]) -> dict[str, T]:
    """Return the arrays of what a program returned, by path.

    Args:
        name: of the program.
        tree: what it returned.
        array: returns a leaf as an array, or None if it is none.

    Raises:
        SideFailed: a leaf is no array, or there is none.
    """
    leaves = {path: (leaf, array(leaf)) for path, leaf in paths({"output": plain(tree)})}
    for path, (leaf, made) in leaves.items():
        if made is None:
            got = "None" if leaf is None else f"a {type(leaf).__name__}"
            raise SideFailed(f"{path} of {name} is {got}, and must be an array: let it return the arrays to compare")
    if not leaves:
        raise SideFailed(f"output of {name} is {type(tree).__name__} without an array, and must hold one")
    found: dict[str, Any] = {}
    for path, (_, made) in leaves.items():
        # The two parts of a complex number are rounded, and differentiated, as two real ones.
        whole = "complex" not in str(getattr(made, "dtype", ""))
        found |= {path: made} if whole else {f"{path}.real": cast("Any", made).real, f"{path}.imag": cast("Any", made).imag}
    return found
