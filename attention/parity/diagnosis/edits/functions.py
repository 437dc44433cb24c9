"""Edits of unary functions: one added, removed or replaced, or applied along another axis.

torch = f(x)        jax = g(x), x, or f along another axis        x is what an array was made of, or the array itself
"""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from attention.parity.diagnosis.edits.edit import Changing, Edit, Make
from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.edits.words import called, chain, made_by
from attention.parity.diagnosis.rules.activations import ACTIVATIONS, WRITTEN
from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.diagnosis.rules.norms import EPS

POINTWISE: dict[str, Make] = {
    **ACTIVATIONS,
    "sine": np.sin,
    "cosine": np.cos,
    "log": np.log,
    "log(1 + x)": np.log1p,
    "exp(x) - 1": np.expm1,
    "square root": np.sqrt,
    "1 / sqrt(x)": lambda x: x**-0.5,
    "1 / x": lambda x: 1.0 / x,
    "the other sign": np.negative,
    "1 - x": lambda x: 1.0 - x,
    "1 + x": lambda x: 1.0 + x,
    "x - 1": lambda x: x - 1.0,
    "erf": lambda x: ACTIVATIONS["gelu by erf"](x * 2**0.5) / (x * 2**0.5) * 2 - 1,
    "rounding down": np.floor,
    "rounding up": np.ceil,
    "rounding": np.rint,
    "log2": np.log2,
    "log10": np.log10,
}
"""Functions of each element."""
USUAL = (0.0, 1e-6, 1e-5)
LEAST, MOST_BEHIND, MOST_AXES = 3, 12, 4


def along(x: np.ndarray) -> Iterator[tuple[str, str, Make]]:
    """Yield functions along axes: what they are called, which axes, and how they are made."""
    sizes = [i for i, n in enumerate(x.shape) if n > 1][:MOST_AXES]
    for axis in sizes:
        for name, make in _along(axis):
            yield name, _axes_text((axis,), x.shape), make
    for count in range(1, len(sizes) + 1):
        for axes in combinations(sizes, count):
            for name, make in _over(axes):
                yield name, _axes_text(axes, x.shape), make


def _axes_text(axes: tuple[int, ...], shape: tuple[int, ...]) -> str:
    return f"{'axes' if len(axes) > 1 else 'axis'} {' and '.join(map(str, axes))} of {shape}"


def _along(axis: int) -> Iterator[tuple[str, Make]]:
    yield "a cumulative sum", lambda x: np.cumsum(x, axis)
    yield "a cumulative product", lambda x: np.cumprod(x, axis)


def _over(axes: tuple[int, ...]) -> Iterator[tuple[str, Make]]:
    def mean(x: np.ndarray) -> np.ndarray:
        return x.mean(axes, keepdims=True)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axes, keepdims=True))
        return e / e.sum(axes, keepdims=True)

    yield "softmax", softmax
    yield "log softmax", lambda x: np.log(softmax(x))
    yield "division by the sum", lambda x: x / x.sum(axes, keepdims=True)
    yield "division by the length", lambda x: x / np.sqrt((x * x).sum(axes, keepdims=True))
    yield "subtraction of the mean", lambda x: x - mean(x)
    yield "subtraction of the maximum", lambda x: x - x.max(axes, keepdims=True)
    for eps in EPS if len(axes) == 1 else USUAL:
        yield "RMS norm", lambda x, eps=eps: x / np.sqrt(mean(x * x) + eps)
        yield "layer norm", lambda x, eps=eps: (x - mean(x)) / np.sqrt(mean((x - mean(x)) ** 2) + eps)
    for name, reduce in REDUCED.items():
        yield name, lambda x, f=reduce: np.broadcast_to(f(x, axes), x.shape)


REDUCED: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "the mean": lambda x, axes: x.mean(axes, keepdims=True),
    "the sum": lambda x, axes: x.sum(axes, keepdims=True),
    "the maximum": lambda x, axes: x.max(axes, keepdims=True),
    "the minimum": lambda x, axes: x.min(axes, keepdims=True),
    "the length": lambda x, axes: np.sqrt((x * x).sum(axes, keepdims=True)),
    "the mean square": lambda x, axes: (x * x).mean(axes, keepdims=True),
    "the sum of squares": lambda x, axes: (x * x).sum(axes, keepdims=True),
    "the variance": lambda x, axes: x.var(axes, keepdims=True),
    "the unbiased variance": lambda x, axes: x.var(axes, keepdims=True, ddof=1),
    "the deviation": lambda x, axes: x.std(axes, keepdims=True),
    "the unbiased deviation": lambda x, axes: x.std(axes, keepdims=True, ddof=1),
}
"""Reductions, which keep their axes."""


def other_functions(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array as a function of what it was made of, in the place of the one that it is, and as one more of itself."""
    event = trials.events[e]
    if not event.is_float or event.value.dtype.kind != "f" or magnitudes(event.value) < LEAST:
        return
    for x in _behind(trials, e):
        value = trials.value(x)
        if value.dtype.kind != "f" or magnitudes(value) < LEAST:
            continue
        for name, make in POINTWISE.items():
            if _fits(trials, make(value), e):
                yield _pointwise(trials, name, make, x, e)
        for name, told, make in along(value):
            if _fits(trials, make(value), e):
                yield _axial(trials, (name, told), make, x, e)


def _fits(trials: Trials, made: np.ndarray, e: int) -> bool:
    return made.shape == trials.value(e).shape and bool(np.isfinite(made).all()) and trials.gained(made, e)


def _behind(trials: Trials, e: int) -> list[int]:
    """Return the event itself and what of its shape it was made of, nearest first."""
    shape, found, waiting = trials.value(e).shape, list[int](), [e]
    while waiting and len(found) < MOST_BEHIND:
        i = waiting.pop(0)
        if i not in found:
            found.append(i)
            waiting += [n for n in trials.events[i].inputs if trials.events[n].is_float and trials.value(n).size > 1]
    return [i for i in found if trials.value(i).shape == shape and trials.value(i).dtype.kind == "f"]


def _pointwise(trials: Trials, name: str, make: Make, x: int, e: int) -> Edit:
    offset, written = x - e, WRITTEN.get(name, (f"{name} of x",) * 2)
    own = chain(trials, x, e)
    if x == e:
        told = f"{name} is missing on jax, or too much on torch"
    elif own:
        told = f"another function: {name} on torch, {own} on jax"
    else:
        told = f"{name} of {called(trials, x)} on torch, {made_by(trials, e)} on jax"
    return Edit(told, e, _of(trials, make, offset), jax=written[1])


def _axial(trials: Trials, said: tuple[str, str], make: Make, x: int, e: int) -> Edit:
    name, where = said
    own = chain(trials, x, e)
    if x == e and name == "the mean":
        told = f"a mean over {where} is taken before what follows on torch, and after it on jax"
    elif x == e:
        told = f"{name} along {where} is missing on jax, or too much on torch"
    else:
        told = f"{name} along {where} on torch, {own or made_by(trials, e)} on jax"
        for same, other, f in along(trials.value(x)):
            if (same == name) != (other == where) and np.allclose(f(trials.value(x)), trials.value(e), rtol=1e-9, atol=1e-12):
                told = f"{name} along {where} on torch, {'' if same == name else same + ' '}along {other} on jax"
                break
    return Edit(told, e, _of(trials, make, x - e), jax=f"{name} along {where}")


def _of(trials: Trials, make: Make, offset: int) -> Changing:
    del trials
    return lambda e: {e: ((e + offset,), make)}


def removed(trials: Trials, e: int) -> Iterator[Edit]:
    """Yield an array as what it was made of: what is done between is left out."""
    event = trials.events[e]
    for x in _behind(trials, e)[1:] if event.value.dtype.kind == "f" else ():
        if np.array_equal(trials.value(x), event.value):
            continue
        own = chain(trials, x, e) or made_by(trials, e)
        yield Edit(
            f"{own} is missing on torch, or too much on jax",
            e,
            _of(trials, lambda x: x, x - e),
            jax="leave it out",
            evidence="jax without it makes what torch makes",
        )
