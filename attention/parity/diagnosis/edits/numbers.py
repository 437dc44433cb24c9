"""Edits of constants: a number replaced by one of the torch program or by a fitted one, or a factor or offset added.

torch = f(x, c)        jax = f(x, d)        c is a number of the torch side, or is solved for
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

import ast
import math
from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.edits.edit import Change, Edit
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import called
from attention.parity.diagnosis.rules.constants import is_plain
from attention.parity.diagnosis.rules.elementwise import factor_text
from attention.parity.tracing.activation_patching import possible_layouts
from attention.parity.tracing.trace import Event, is_number

CHOICES = ("eq", "ne", "lt", "le", "gt", "ge")
"""Comparisons, of which masks are made."""
MOST_NUMBERS, STEPS, SMALL, LARGEST = 40, 24, 1e-2, 1e20


def other_numbers(trials: Trials, e: int, theirs: tuple[Event, ...]) -> Iterator[Edit]:
    """Yield a number of the JAX program as each of those of the torch side, and then as the one that fits."""
    event = trials.events[e]
    if not is_number(event) or event.value.dtype.kind not in "fiu" or not event.is_given:
        return
    own = float(event.value.reshape(()))
    if abs(own) > LARGEST:
        return
    sizes = (
        sorted({n for i in trials.jax.consumers[e] for x in theirs for n in x.shape if n > 1})
        if event.value.dtype.kind in "iu"
        else []
    )
    for c in dict.fromkeys([*_numbers(theirs), *sizes]):
        # What a choice compares with is a number of torch, and no function of one.
        derived = (-c, *((1 / c, math.sqrt(c), 1 / math.sqrt(c)) if 1e-20 < c < LARGEST else ()))
        others = () if _chooses(trials, e) else derived
        for value in dict.fromkeys((c, *others)):
            if abs(value) < LARGEST and not math.isclose(value, own, rel_tol=1e-9) and not _void(trials, e, value):
                yield _number(trials, e, own, value)
    if event.value.dtype.kind == "f" and not trials.weak and (fitted := _fitted(trials, e, own)) is not None:
        yield _number(trials, e, own, fitted)


def _chooses(trials: Trials, e: int) -> bool:
    return any(trials.events[i].op in (*CHOICES, "select_n") for i in trials.jax.consumers[e])


def _void(trials: Trials, e: int, value: float) -> bool:
    """Return whether a choice chooses nothing with another number: that is a mask that is missing."""
    for i in trials.jax.consumers[e]:
        made = trials.run({e: ((), lambda: np.full(trials.events[e].shape, value))}, 1).get(i)
        cases = [made] if trials.events[i].op in (*CHOICES, "select_n") and made is not None else []
        if any(x.size > 1 and bool((x == x.flat[0]).all()) for x in cases):
            return True
    return False


def _numbers(events: tuple[Event, ...]) -> list[float]:
    found: dict[float, None] = {}
    for event in events:
        if event.value.size == 1 and event.value.dtype.kind in "fiu" and not event.role:
            found[float(event.value.reshape(()))] = None
        for text in event.options.replace("=", ",").split(","):
            try:
                value = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError):
                continue
            if isinstance(value, int | float) and math.isfinite(value):
                found[float(value)] = None
    return list(found)[:MOST_NUMBERS]


def _number(trials: Trials, e: int, own: float, value: float) -> Edit:
    event = trials.events[e]
    what = kind(trials, e, value)
    told = f"{what} {factor_text(value)} on torch, {factor_text(own)} on jax"
    where = trials.jax.consumers[e][:1]
    place = f" at {trials.events[where[0]].place}" if where else ""

    def change(i: int) -> Change | None:
        same = float(trials.value(i).reshape(())) if trials.value(i).size == 1 else math.nan
        return {i: ((), lambda: np.full(event.shape, value))} if same == own else None

    return Edit(told, e, change, jax=f"{value:.9g}", evidence=f"the number {own:.9g}{place}")


def kind(trials: Trials, e: int, other: float) -> str:
    """Return what a number is, from what reads it."""
    readers = [trials.events[i] for i in trials.jax.consumers[e]]
    ops = {event.op for event in readers}
    after = {trials.events[i].op for event in readers for i in trials.jax.consumers[event.index]}
    value = max(abs(float(trials.value(e).reshape(()))), abs(other))
    if ops & {"add", "max"} and value <= SMALL and (after | ops) & {"rsqrt", "sqrt", "div", "log", "max"}:
        return "eps"
    if ops & {"max", "min", "clamp"}:
        return "the bound of a clip"
    if ops & {"pow", "integer_pow"}:
        return "the base or exponent of a power"
    names = {
        "mul": "the factor",
        "div": "the divisor",
        "add": "the addend",
        "sub": "the number subtracted",
        "pad": "the padding value",
    }
    return next((names[op] for op in sorted(ops) if op in names), "the number")


def _fitted(trials: Trials, e: int, own: float) -> float | None:
    """Return the number with which the proven array is torch's, as people write it; None where there is none.

    Secant steps on the distance along the direction in which the array moves.
    """
    if trials.ends is None:
        return None
    t, j = trials.ends
    wanted = possible_layouts(trials.alignment.torch.events[t].value, trials.value(j))
    made = _at(trials, e, j, own * (1 + 1e-4) if own else 1e-4)
    if not wanted or made is None or wanted[0].dtype.kind != "f":
        return None
    target, way = wanted[0], made - trials.value(j)
    seen = np.isfinite(target) & np.isfinite(way) & np.isfinite(trials.value(j)) & (np.abs(target) < 1e29)
    if not seen.any() or not np.abs(way[seen]).max(initial=0.0):
        return None
    w = way[seen] / np.linalg.norm(way[seen])

    def error(c: float) -> float:
        x = _at(trials, e, j, c)
        return math.nan if x is None else float((x - target)[seen] @ w)

    a, b = own, own * (1 + 1e-4) if own else 1e-4
    f, g = error(a), error(b)
    for _ in range(STEPS):
        if not (math.isfinite(f) and math.isfinite(g)) or f == g or not g:
            break
        a, b, f = b, b - g * (b - a) / (g - f), g
        g = error(b)
        if abs(b - a) <= 1e-13 * abs(b):
            break
    near = next((r for digits in (1, 2, 3, 4) if math.isclose(r := float(f"{b:.{digits}g}"), b, rel_tol=1e-6)), b)
    return near if math.isfinite(near) and (near != b or is_plain(near)) and not math.isclose(near, own, rel_tol=1e-6) else None


def _at(trials: Trials, e: int, j: int, value: float) -> np.ndarray | None:
    made = trials.run({e: ((), lambda: np.full(trials.events[e].shape, value))}, 200)
    return made.get(j)


def scaled(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array times the number, or plus the number, that makes it one of torch."""
    event = trials.events[e]
    if event.value.dtype.kind != "f" or event.value.size < 2:
        return
    own = trials.alignment.prints[1][e]
    if own.statistics.size < 4 or not own.scale:
        return
    for t in sorted(trials.alone):
        there = trials.alignment.prints[0][t]
        if there.count != own.count or there.statistics.size != own.statistics.size or there.masked != own.masked:
            continue
        # Mean, RMS, mean of absolute values, cube mean, and the elements in order at even steps.
        x, y = own.statistics, there.statistics
        limit = 1e-9 * there.scale
        for c in (float(y[1] / x[1]), -float(y[1] / x[1])):
            ordered = c * (x[4:] if c > 0 else x[:3:-1])
            if math.isclose(c, 1.0, rel_tol=1e-9) or (np.abs(ordered - y[4:]) > limit).any():
                continue
            if trials.gained(event.value * c, e):
                told = f"a factor of {factor_text(c)} is missing on jax, or too much on torch: {called(trials, e)}"
                if math.isclose(c, -1.0):
                    told = f"the other sign: {called(trials, e)}"
                yield Edit(told, e, lambda e, c=c: {e: ((e,), lambda v: v * c)}, jax=f"x * {c:.9g}")
        c = float(y[0] - x[0])
        if abs(c) > 1e-9 * own.scale and not (np.abs(x[4:] + c - y[4:]) > limit).any() and trials.gained(event.value + c, e):
            told = f"{c:.6g} is added on torch, and not on jax: {called(trials, e)}"
            yield Edit(told, e, lambda e, c=c: {e: ((e,), lambda v: v + c)}, jax=f"x + {c:.9g}")


def tables(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array of numbers that no input or parameter takes part in, as one of torch."""
    event = trials.events[e]
    if event.role or event.value.dtype.kind != "f" or event.value.size < 2:
        return
    for t in sorted(trials.alone):
        there = trials.alignment.torch.events[t]
        if there.role or not there.is_float or there.value.size != event.value.size:
            continue
        for x in possible_layouts(there.value, event.value)[:1]:
            told = f"another constant: {_some(x)} on torch, {_some(event.value)} on jax"
            yield Edit(told, e, lambda i, x=x: {i: ((), lambda: x)} if trials.value(i).shape == x.shape else None)


def _some(x: np.ndarray) -> str:
    flat = x.reshape(-1)
    return f"[{', '.join(f'{v:.4g}' for v in flat[:4])}{', ...' if flat.size > 4 else ''}]"
