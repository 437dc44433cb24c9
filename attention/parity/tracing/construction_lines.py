"""Construction lines: where the module that a line calls was made, since a wrong setting stands there.

    model.py:41    x = self.norm(x)                                what the trace shows
    model.py:17    self.norm = nn.LayerNorm(width, eps=1e-6)       where its settings stand

Read from the text of the user's file alone: the attributes of `self` that the line calls, the loops over them, and what they
are given in the methods of the same class.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

from attention.parity.tracing.source_location import Place

# Assignments that are shown for one line, and lines of each.
MOST, LONGEST = 2, 12

Node = TypeVar("Node", ast.ClassDef, ast.FunctionDef)


def made_at(place: Place) -> tuple[tuple[Place, int], ...]:
    """Return where the modules that a line calls were made: each first line, with the number of the last one.

    Nothing where the text does not tell, as for functions, and for modules that were handed in.
    """
    tree = _tree(place.file) if place.line else None
    owner = _innermost(tree, place.line, ast.ClassDef) if tree else None
    method = _innermost(owner, place.line, ast.FunctionDef) if owner else None
    if owner is None or method is None:
        return ()
    names = dict.fromkeys(name for call in _calls(method, place.line) for name in _attributes(call.func, method))
    made = [(method, node) for name in names for method, node in _assignments(owner, name)]
    found = [(Place(place.file, node.lineno, method.name), min(_end(node), node.lineno + LONGEST)) for method, node in made]
    return tuple((first, last) for first, last in found if not first.line <= place.line <= last)[:MOST]


@lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _innermost(tree: ast.AST, line: int, kind: type[Node]) -> Node | None:
    """Return the smallest node of a kind in which a line lies."""
    around = [node for node in ast.walk(tree) if isinstance(node, kind) and node.lineno <= line <= _end(node)]
    return min(around, key=lambda node: _end(node) - node.lineno, default=None)


def _calls(method: ast.AST, line: int) -> Iterator[ast.Call]:
    """Yield the calls that stand on a line, the innermost first: it runs first."""
    found = [n for n in ast.walk(method) if isinstance(n, ast.Call) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    yield from reversed(found)


def _attributes(expression: ast.expr, method: ast.AST) -> Iterator[str]:
    """Yield the attributes of `self` that an expression is: by itself, as an element, or as the variable of a loop."""
    while isinstance(expression, ast.Subscript):
        expression = expression.value
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name) and expression.value.id == "self":
        yield expression.attr
    elif isinstance(expression, ast.Name):
        for loop in ast.walk(method):
            if isinstance(loop, ast.For | ast.comprehension) and _holds(loop.target, expression.id):
                yield from (n.attr for n in ast.walk(loop.iter) if isinstance(n, ast.Attribute) and _is_self(n.value))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _holds(target: ast.expr, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(target))


def _assignments(owner: ast.ClassDef, name: str) -> Iterator[tuple[ast.FunctionDef, ast.stmt]]:
    """Yield the assignments of an attribute of `self` in a class, with the methods in which they stand."""
    for method in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(method):
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Attribute) and t.attr == name and _is_self(t.value) for t in targets):
                yield method, node
