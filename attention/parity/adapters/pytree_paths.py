"""Paths of the leaves of nested dicts, tuples and lists: "output", "output[1]", "cache.key[0]"."""

# A pytree holds whatever its user put there, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def paths(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested dicts, tuples and lists with its path.

    >>> list(paths({"x": 1, "cache": {"key": [2, 3]}}))
    [('x', 1), ('cache.key[0]', 2), ('cache.key[1]', 3)]
    """
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            yield from paths(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        for i, inner in enumerate(tree):
            yield from paths(inner, f"{path}[{i}]")
    else:
        yield path, tree


def mapped(function: Callable[[str, Any], Any], tree: Any, path: str = "") -> Any:
    """Return the tree with `function(path, leaf)` in the place of every leaf.

    >>> mapped(lambda path, leaf: f"{path} {leaf}", {"cache": [2, 3]})
    {'cache': ['cache[0] 2', 'cache[1] 3']}
    """
    if isinstance(tree, Mapping):
        return {name: mapped(function, inner, f"{path}.{name}" if path else str(name)) for name, inner in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        inner = [mapped(function, leaf, f"{path}[{i}]") for i, leaf in enumerate(tree)]
        # A named tuple is made of its fields, any other sequence of one list.
        return type(tree)(*inner) if hasattr(tree, "_fields") else tuple(inner) if isinstance(tree, tuple) else inner
    return function(path, tree)
