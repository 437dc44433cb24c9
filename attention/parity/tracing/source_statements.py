"""Source statements: the statement on a line, where its names are defined, and which lines read what it defines.

31    self.norm = nn.LayerNorm(64, eps=1e-6)      definition_lines(46) = [31]
46    x = self.norm(x)                            reading_lines(31) = [46]

Nothing is run: the text of the file is parsed. A file that cannot be read has no statements.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# Lines of one statement that are shown at most: a longer one is shown by its first.
MOST_LINES = 12


@dataclass(frozen=True, eq=False)
class Source:
    """A parsed file.

    Attributes:
        statements: all, those that hold others included, in order.
        scopes: the functions and classes around each statement, outermost first.
    """

    statements: tuple[ast.stmt, ...] = ()
    scopes: dict[ast.stmt, tuple[ast.AST, ...]] = field(default_factory=dict[ast.stmt, tuple[ast.AST, ...]])


def source(file: str) -> Source:
    """Return a parsed file, without statements if it cannot be read."""
    return _parsed("".join(linecache.getlines(file)))


@lru_cache(maxsize=64)
def _parsed(text: str) -> Source:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Source()
    scopes: dict[ast.stmt, tuple[ast.AST, ...]] = {}
    waiting: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(tree, ())]
    while waiting:
        node, around = waiting.pop()
        if isinstance(node, ast.stmt):
            scopes[node] = around
        inner = (*around, node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else around
        waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
    return Source(tuple(sorted(scopes, key=lambda s: (s.lineno, s.col_offset))), scopes)


def span(file: str, line: int) -> tuple[int, int]:
    """Return the first and the last line of the longest expression or statement that begins on a line, if it is short."""
    at = _at(source(file), line)
    found = [n for n in ast.walk(at) if getattr(n, "lineno", 0) == line] if at is not None else []
    if at is None or isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return line, line
    ends = [end for n in found if n not in _blocks(at) and (end := _end(n)) - line < MOST_LINES]
    return line, max(ends, default=line)


def _blocks(statement: ast.stmt) -> tuple[ast.AST, ...]:
    return (statement,) if getattr(statement, "body", None) else ()


def _end(node: ast.AST) -> int:
    return getattr(node, "end_lineno", None) or getattr(node, "lineno", 0)


def _at(parsed: Source, line: int) -> ast.stmt | None:
    """Return the innermost statement that a line belongs to."""
    found = [s for s in parsed.statements if s.lineno <= line <= _end(s)]
    return min(found, key=lambda s: (_end(s) - s.lineno, -s.col_offset), default=None)


def _read(statement: ast.stmt, line: int) -> Iterator[str]:
    """Yield the names that a statement reads, `self.x` as ".x"; of one that holds others, those of its line."""
    for node in ast.walk(statement):
        if _blocks(statement) and getattr(node, "lineno", line) != line:
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            yield f".{node.attr}"
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement gives a value to, `self.x` as ".x"."""
    targets: list[ast.AST] = []
    if isinstance(statement, ast.Assign):
        targets = [*statement.targets]
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For | ast.AsyncFor):
        targets = [statement.target]
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield f".{node.attr}"


def definition_lines(file: str, line: int) -> list[tuple[int, str]]:
    """Return where what a line reads is defined in its file, with the text of the definition.

    Attributes are looked for in the class of the line (its fields, and what any of its functions sets); names in its function
    above it, in the arguments' defaults, and at the top of the file.

    Args:
        file: the path.
        line: from 1.
    """
    parsed = source(file)
    at = _at(parsed, line)
    if at is None:
        return []
    around = parsed.scopes[at]
    inside = [n for n in around if isinstance(n, ast.ClassDef)]
    found: dict[int, str] = {}
    functions = [n for n in around if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for name in dict.fromkeys(_read(at, line)):
        for statement in _definitions(parsed, name, around, inside[-1] if inside else None, line):
            if statement.lineno != line and statement not in around:
                _ = found.setdefault(statement.lineno, ast.unparse(statement))
        for function in functions[-1:]:
            if name in _defaults(function):
                _ = found.setdefault(function.lineno, name)
    return list(found.items())


def is_global(file: str, line: int) -> bool:
    """Return whether a name is given a value at the top of a file, and so is read by all that the file defines."""
    parsed = source(file)
    at = _at(parsed, line)
    return (
        at is not None and not parsed.scopes[at] and not isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )


def function_line(file: str, line: int) -> int | None:
    """Return the line on which the innermost function around a statement begins; None at the top of a file."""
    parsed = source(file)
    at = _at(parsed, line)
    around = parsed.scopes[at] if at is not None else ()
    return next((n.lineno for n in reversed(around) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)), None)


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the arguments of a function that have a default."""
    positional = [*function.args.posonlyargs, *function.args.args]
    count = len(function.args.defaults)
    keyed = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {a.arg for a in positional[len(positional) - count :]} | {a.arg for a, default in keyed if default is not None}


def _returns(parsed: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """Return what a function returns, which is where a helper makes a layer."""
    return [s for s in parsed.statements if isinstance(s, ast.Return) and parsed.scopes[s][-1] is function]


def _definitions(
    parsed: Source, name: str, around: tuple[ast.AST, ...], inside: ast.ClassDef | None, line: int
) -> Iterable[ast.stmt]:
    helpers = [
        s
        for s in parsed.statements
        if isinstance(s, ast.FunctionDef)
        and s.name == name.removeprefix(".")
        and (not name.startswith(".") or inside in parsed.scopes[s])
    ]
    if helpers:
        return _returns(parsed, helpers[-1])
    binding = [s for s in parsed.statements if name.removeprefix(".") in {b.removeprefix(".") for b in _bound(s)}]
    if name.startswith("."):
        return [s for s in binding if inside is not None and inside in parsed.scopes[s] and _is_of(parsed, s, inside, name)]
    here = around[-1] if around else None
    local = [s for s in binding if name in _bound(s) and parsed.scopes[s] == around and s.lineno < line]
    if here is not None and local:
        return local[-1:]
    outer = [s for s in binding if name in _bound(s) and parsed.scopes[s] == around[: len(parsed.scopes[s])]]
    return [s for s in outer if s.lineno < line][-1:]


def _is_of(parsed: Source, statement: ast.stmt, inside: ast.ClassDef, name: str) -> bool:
    """Return whether a statement sets an attribute of a class: as a field of it, or in one of its functions."""
    return name in _bound(statement) or parsed.scopes[statement][-1] is inside


def reading_lines(file: str, line: int) -> list[int]:
    """Return the lines of the same function, below a line, that read what it gives a value to.

    Args:
        file: the path.
        line: from 1.
    """
    parsed = source(file)
    at = _at(parsed, line)
    if at is None:
        return []
    names = set(_bound(at))
    below = [s for s in parsed.statements if s.lineno > line and parsed.scopes[s] == parsed.scopes[at] and not _blocks(s)]
    return [s.lineno for s in below if names.intersection(_read(s, s.lineno))]
