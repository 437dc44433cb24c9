"""Shrink a failing draw to the simplest one that still fails, and print it as code.

shrunk(draw) = the draw after every step of `simpler` that keeps it failing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from attention.spec.axes import Sizes
from attention.spec.errors import AttentionError, OptionError
from attention.spec.layers.stack import Stack
from attention.spec.masks import DenseMask
from attention.spec.masks.algebra import And, Mask, Not, Or, Pair, both, evaluate
from attention.spec.masks.selection import Several
from attention.spec.positions import AxialRotary
from tools.evaluation.option_fuzzing.draws import Draw, attention

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
            plainer.check()
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
    for step in _without(draw.contract):
        yield partial(_changed, draw, "contract", step)
    for name in ("mask", "memory_mask"):
        for part in _parts(getattr(draw, name)):
            yield lambda name=name, part=part: replace(draw, **{name: part})
    if getattr(draw.contract, "mask", None) is not None:
        yield lambda: _moved(draw)
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
            for step in _without(value):
                yield partial(_changed, part, f.name, step)
        elif f.name == "depth" and value > 1:
            yield lambda f=f: replace(part, **{f.name: 1})


def _changed(part: Any, name: str, make: Callable[[], Any]) -> Any:
    return replace(part, **{name: make()})


def _parts(mask: Mask | None) -> Iterator[Mask]:
    """Yield the masks of which a mask consists."""
    if isinstance(mask, (Pair, Several, Not)):
        yield from mask.inside


def _moved(draw: Draw) -> Draw:
    """Return a draw whose call holds the contract's mask, written out, so that its rows and keys can be cut."""
    contract: Any = draw.contract
    keys = draw.S if "key" in contract.inputs else draw.T
    sizes = Sizes(draw.batch, draw.T, keys, getattr(contract, "num_heads", 1), 1, 1, 1)
    full = np.broadcast_to(np.asarray(evaluate(both(contract.mask, draw.mask), sizes)), sizes.scores)
    return replace(draw, contract=replace(contract, mask=None), mask=DenseMask(full.copy()))


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
        raise OptionError("a draw must have a query and a key")
    made = replace(draw, batch=batch, T=t, S=s)
    for name, heads, keys, left in _masks(draw, t, s):
        old = Sizes(draw.batch, draw.T, keys, heads, 1, 1, 1)
        full = np.broadcast_to(np.asarray(evaluate(getattr(draw, name), old)), old.scores)
        made = replace(made, **{name: DenseMask(_corner(full, (*batch, heads, t, left)))})
    axial = isinstance(getattr(attention(draw.contract), "positions", None), AxialRotary)
    for name, count in (("query_positions", t), ("key_positions", s), ("positions", t)):
        where = getattr(draw, name)
        if where is not None:
            rows = min(where.ndim - 1 - axial, len(batch))
            shape = (*batch[len(batch) - rows :], count, *(2,) * axial)
            made = replace(made, **{name: _corner(where, shape)})
    if draw.bias is not None:
        shape = (*batch, attention(draw.contract).num_heads, t, s)
        fits = zip(draw.bias[::-1], shape[::-1], strict=False)
        made = replace(made, bias=tuple(1 if old == 1 else new for old, new in fits)[::-1])
    return made


def _masks(draw: Draw, t: int, s: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name of each mask of a draw, its heads, its keys, and how many are left of T and S."""
    own = attention(draw.contract)
    if draw.mask is not None:
        alone = "key" not in draw.contract.inputs
        yield "mask", getattr(own, "num_heads", 1), draw.T if alone else draw.S, t if alone else s
    if draw.memory_mask is not None:
        block: Any = draw.contract.block if isinstance(draw.contract, Stack) else draw.contract
        yield "memory_mask", block.cross_attention.num_heads, draw.S, s


def _corner(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the first elements of each axis, leading axes that the shape lacks being those of the first row."""
    x = x[(0,) * (x.ndim - len(shape))]
    return x[tuple(slice(n) for n in shape)].copy()


def code(draw: Draw) -> str:
    """Return a program that examines a draw again."""
    lines = ("import numpy as np", "from attention import spec", "from tools.evaluation.option_fuzzing import Draw, check_draw")
    return "\n".join((*lines, f"print(*check_draw({written(draw)}), sep='\\n')"))


def written(value: Any) -> str:
    """Return the expression that makes a value.

    >>> from attention import spec
    >>> written(spec.FeedForward(8, 5, bias=False)), written(~spec.Causal() & spec.Prefix(2))
    ('spec.FeedForward(embed_dim=8, hidden_dim=5, bias=False)', '(~spec.Causal() & spec.Prefix(length=2))')
    """
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()})"
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        return f"({', '.join(map(written, items))}{',' if len(items) == 1 else ''})"
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
