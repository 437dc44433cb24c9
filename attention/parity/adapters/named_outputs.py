"""Named outputs: the arrays that a program returns, flattened from any structure and keyed by path.

x -> {"output": x}        (x, {"hidden": h}) -> {"output[0]": x, "output[1].hidden": h}

A number is an array. What holds none, such as a text or a config object, is left out, and so are the caches in a result of
transformers and whatever `outputs=` does not pick; the caller is told what.
"""

# As `program`.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar, cast

import numpy as np

from attention.parity.adapters.pytree_paths import paths
from attention.spec.errors import SideFailed

T = TypeVar("T")
CACHES = ("past_key_values", "cache_params", "mems", "past_buckets_states")
"""Fields of a result of transformers that a later call continues from."""


@dataclass(eq=False)
class Choice:
    """Which outputs of a program are compared.

    Attributes:
        patterns: names, with * and ?, with or without the "output." before; all if empty.
        left_out: what was not taken of the last result that was read, by path, and why.
    """

    patterns: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def takes(self, path: str) -> bool:
        """Return whether an output of this path is picked: by its own name, or by that of what it is within."""
        inner = path.removeprefix("output").removeprefix(".")
        return not self.patterns or any(_within(name, pattern) for name in (path, inner) for pattern in self.patterns)


def _within(name: str, pattern: str) -> bool:
    return any(fnmatchcase(name, _literal(pattern + end)) for end in ("", ".*", "[*"))


def _literal(pattern: str) -> str:
    """Return a pattern in which a bracket is an index and no set of characters."""
    return pattern.replace("[", "[[]")


def plain(tree: Any, path: str = "", left_out: dict[str, str] | None = None) -> Any:
    """Return the tree in dicts, tuples and lists: a dataclass is the dict of its fields; None, inside a tree, is absent.

    Args:
        tree: what a program returned.
        path: of the tree.
        left_out: is told of the caches in a result of transformers.
    """
    if isinstance(tree, Mapping) or (is_dataclass(tree) and not isinstance(tree, type)):
        items = tree if isinstance(tree, Mapping) else {each.name: getattr(tree, each.name) for each in fields(tree)}
        caches = CACHES if any(kind.__name__ == "ModelOutput" for kind in type(tree).__mro__) else ()
        if left_out is not None:
            left_out.update({f"{path}.{name}": "a cache" for name in caches if items.get(name) is not None})
        kept = {name: inner for name, inner in items.items() if inner is not None and name not in caches}
        return {name: plain(inner, f"{path}.{name}", left_out) for name, inner in kept.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        return [plain(inner, f"{path}[{i}]", left_out) for i, inner in enumerate(tree) if inner is not None]
    return tree


def named_outputs(name: str, tree: Any, array: Callable[[Any], T | None], choice: Choice | None = None) -> dict[str, T]:
    """Return the arrays of what a program returned, by path.

    Args:
        name: of the program.
        tree: what it returned.
        array: returns a leaf as an array, or None if it is none.
        choice: which outputs are compared; it is told what was left out. All if None.

    Raises:
        SideFailed: there is no array, or none that is picked.
    """
    choice = choice or Choice()
    choice.left_out.clear()
    leaves = dict(paths({"output": plain(tree, "output", choice.left_out)}))
    made = {path: array(np.asarray(leaf) if isinstance(leaf, int | float | complex) else leaf) for path, leaf in leaves.items()}
    arrays = {path: leaf for path, leaf in made.items() if leaf is not None and choice.takes(path)}
    odd = {path: _kind(leaves[path]) for path, leaf in made.items() if leaf is None}
    if not arrays:
        raise SideFailed(_nothing(name, tree, odd, made, choice))
    choice.left_out.update({path: kind for path, kind in odd.items() if choice.takes(path)})
    found: dict[str, Any] = {}
    for path, leaf in arrays.items():
        # The two parts of a complex number are rounded, and differentiated, as two real ones.
        whole = "complex" not in str(getattr(leaf, "dtype", ""))
        found |= {path: leaf} if whole else {f"{path}.real": cast("Any", leaf).real, f"{path}.imag": cast("Any", leaf).imag}
    return found


def _kind(leaf: Any) -> str:
    return "None" if leaf is None else f"a {type(leaf).__name__}"


def _nothing(name: str, tree: Any, odd: Mapping[str, str], made: Mapping[str, Any], choice: Choice) -> str:
    if any(leaf is not None for leaf in made.values()):
        return f"outputs {', '.join(choice.patterns)} must pick one of {name}: {', '.join(made)}"[:480]
    if odd:
        path, kind = next(iter(odd.items()))
        return f"{path} of {name} is {kind}, and must be an array: let it return the arrays to compare"
    return f"output of {name} is {type(tree).__name__} without an array, and must hold one"
