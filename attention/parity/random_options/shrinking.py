"""Shrinking: a failing draw made as plain as it can be while it still fails, and printed as code.

    shrunk(draw) = the draw after every step of `simpler` that keeps it failing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

import numpy as np

from attention.parity.random_options.draws import Draw, attention
from attention.spec.algebra import And, Mask, Not, Or, Pair, evaluate
from attention.spec.axes import Sizes
from attention.spec.errors import AttentionError
from attention.spec.masks import Dense
from attention.spec.selection import Several

MOST = 200
"""Draws that are tried at most."""
PLACES = ("query_positions", "key_positions", "positions")


def shrunk(draw: Draw, fails: Callable[[Draw], bool], most: int = MOST) -> Draw:
    """Return the plainest draw that was found to fail.

    Args:
        draw: one that fails.
        fails: whether another does.
        most: how many are tried.
    """
    again = True
    while again:
        again = False
        for plainer in simpler(draw):
            most -= 1
            if most < 0:
                return draw
            if fails(plainer):
                draw, again = plainer, True
                break
    return draw


def simpler(draw: Draw) -> Iterator[Draw]:
    """Yield valid draws that are one step plainer."""
    for step in _steps(draw):
        # Not every option goes without every other one.
        with suppress(AttentionError):
            plainer = step()
            probe = plainer.probe()
            _ = probe.contract.settle(probe.arrays, **probe.call())
            yield plainer


def _steps(draw: Draw) -> Iterator[Callable[[], Draw]]:
    plain = {f.name: f.default for f in fields(Draw) if f.default is not MISSING and f.name not in ("batch", "seed", "given")}
    for name, default in plain.items():
        if name not in PLACES and getattr(draw, name) != default:
            yield lambda name=name, default=default: replace(draw, **{name: default})
    if any(getattr(draw, name) is not None for name in PLACES):
        yield lambda: replace(draw, **dict.fromkeys(PLACES))
    for count in range(1, min(draw.given, len(draw.contract.inputs))):
        yield lambda count=count: replace(draw, given=count)
    yield from (lambda step=step: replace(draw, contract=step()) for step in _without(draw.contract))
    for name in ("mask", "memory_mask"):
        for part in _parts(getattr(draw, name)):
            yield lambda name=name, part=part: replace(draw, **{name: part})
    yield from _smaller(draw)


def _without(part: Any) -> Iterator[Callable[[], Any]]:
    """Yield makers of a dataclass of options with one of them, at any depth, set back to its default."""
    for f in fields(part):
        value = getattr(part, f.name)
        if f.default is not MISSING and value != f.default:
            yield lambda f=f: replace(part, **{f.name: f.default})
        if isinstance(value, Mask):
            yield from (lambda f=f, inner=inner: replace(part, **{f.name: inner}) for inner in _parts(value))
        elif is_dataclass(value):
            yield from (lambda f=f, step=step: replace(part, **{f.name: step()}) for step in _without(value))
        elif f.name == "depth" and value > 1:
            yield lambda f=f: replace(part, **{f.name: 1})


def _parts(mask: Mask | None) -> Iterator[Mask]:
    """Yield the masks of which a mask consists."""
    if isinstance(mask, (Pair, Several, Not)):
        yield from mask.inside


def _smaller(draw: Draw) -> Iterator[Callable[[], Draw]]:
    """Yield makers of draws of one row or one batch axis less, their masks written out."""
    if "key" not in draw.contract.inputs or (draw.T == draw.S and draw.given == 1):
        yield lambda: _cut(draw, draw.batch, draw.T - 1, draw.S if "memory" in draw.contract.inputs else draw.T - 1)
    if "key" in draw.contract.inputs or "memory" in draw.contract.inputs:
        yield lambda: _cut(draw, draw.batch, draw.T - 1, draw.S)
        yield lambda: _cut(draw, draw.batch, draw.T, draw.S - 1)
    if draw.batch:
        yield lambda: _cut(draw, draw.batch[1:], draw.T, draw.S)
        if draw.batch[0] > 1:
            yield lambda: _cut(draw, (1, *draw.batch[1:]), draw.T, draw.S)


def _cut(draw: Draw, batch: tuple[int, ...], t: int, s: int) -> Draw:
    """Return a draw with fewer batch rows, queries or keys."""
    if t < 1 or s < 1:
        raise AttentionError("a draw must have a query and a key")
    heads, own = getattr(attention(draw.contract), "num_heads", 1), "key" not in draw.contract.inputs
    made = replace(draw, batch=batch, T=t, S=s)
    for name, old_s, new_s in (("mask", draw.T if own else draw.S, t if own else s), ("memory_mask", draw.S, s)):
        mask = getattr(draw, name)
        if mask is not None:
            if name == "memory_mask":
                heads = draw.contract_heads()
            old = Sizes(draw.batch, draw.T, old_s, heads, 1, 1, 1)
            full = np.broadcast_to(np.asarray(evaluate(mask, old)), old.scores)
            made = replace(made, **{name: Dense(_corner(full, (*batch, heads, t, new_s)))})
    for name, count in (("query_positions", t), ("key_positions", s), ("positions", t)):
        where = getattr(draw, name)
        if where is not None:
            rows = where[..., :count, :] if attention(draw.contract).inputs and _axial(draw) else where[..., :count]
            made = replace(made, **{name: rows})
    if draw.bias is not None:
        wide = (*batch, heads, t, s)
        made = replace(made, bias=tuple(1 if n == 1 else m for n, m in zip(draw.bias[::-1], wide[::-1], strict=False))[::-1])
    return made


def _axial(draw: Draw) -> bool:
    return getattr(attention(draw.contract).positions, "__class__", type(None)).__name__ == "AxialRotary"


def _corner(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the first elements of each axis, leading axes that the shape lacks being those of the first row."""
    x = x[(0,) * (x.ndim - len(shape))]
    return x[tuple(slice(n) for n in shape)].copy()


def code(draw: Draw) -> str:
    """Return a program that examines a draw again."""
    lines = ("import numpy as np", "from attention import spec", "from attention.parity.random_options import Draw, examine")
    return "\n".join((*lines, f"print(*examine({written(draw)}), sep='\\n')"))


def written(value: Any) -> str:
    """Return the expression that makes a value.

    >>> from attention import spec
    >>> written(spec.FeedForward(8, 5, bias=False)), written(~spec.Causal() & spec.Prefix(2))
    ('spec.FeedForward(embed_dim=8, hidden_dim=5, bias=False)', '(~spec.Causal() & spec.Prefix(length=2))')
    """
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()})"
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, (And, Or)):
        return f"({written(value.left)} {'&' if isinstance(value, And) else '|'} {written(value.right)})"
    if isinstance(value, Not):
        return f"~{written(value.mask)}"
    if not is_dataclass(value):
        return repr(value)
    given = {f.name: getattr(value, f.name) for f in fields(value) if f.init and _differs(getattr(value, f.name), f.default)}
    prefix = "" if isinstance(value, Draw) else "spec."
    return f"{prefix}{type(value).__name__}({', '.join(f'{name}={written(x)}' for name, x in given.items())})"


def _differs(value: Any, default: Any) -> bool:
    return isinstance(value, np.ndarray) or default is MISSING or value != default
