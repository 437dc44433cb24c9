"""Array differences: how two arrays that should be equal differ, as a factor, an offset, a layout or a rounding.

    b = c a        b = a + c        b = a transposed, flipped, rolled        b = a, rounded        b = a, masked elsewhere

The first that holds of every element is the answer; if none does, the relative error and the worst element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from attention.parity.tracing.axis_permutations import arranged
from attention.parity.tracing.fingerprint import masked, real
from attention.parity.tracing.run_precision import narrowed

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """How the JAX side's array differs from the torch side's.

    Attributes:
        kind: "none", "shape", "masked", "factor", "offset", "axis factor", "axis offset", "axes", "reversed", "rolled",
            "reordered", "complement", "rounded", "zero", "nan" or "values".
        text: the same for a reader.
        numbers: what was measured, such as {"factor": 0.125}.
    """

    kind: str
    text: str
    numbers: Numbers = field(default_factory=Numbers)


def difference(torch: np.ndarray, jax: np.ndarray, limit: float = 1e-9) -> Difference:
    """Say how an array of the JAX side differs from one of the torch side.

    Args:
        torch: floats as float64, or booleans or integers.
        jax: the same.
        limit: what counts as equal, relative to the largest element.
    """
    torch, jax = real(torch), real(jax)
    lost = [
        f"NaN in {int(n)} of {x.size} elements of {side}" for side, x in (("torch", torch), ("jax", jax)) if (n := _lost(x))
    ]
    if lost and _lost(torch) != _lost(jax):
        return Difference("nan", "; ".join(lost))
    # A masked score is -inf on both sides, and their difference NaN, which no rule takes for a number.
    with np.errstate(invalid="ignore"):
        return _of_arrays(torch, jax, limit)


def _lost(x: np.ndarray) -> int:
    return int(np.isnan(x).sum()) if x.dtype.kind == "f" else 0


def _of_arrays(torch: np.ndarray, jax: np.ndarray, limit: float) -> Difference:
    if sorted(_sizes(torch)) != sorted(_sizes(jax)):
        return _of_sizes(torch, jax, limit)
    a, b = torch.squeeze(), jax.squeeze()
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        return _of_integers(a, b)
    results = [(order, _of_values(a, b.transpose(order), limit)) for order in _orders(b.shape, a.shape)]
    for order, found in results:
        if found.kind == "none":
            plain = order == tuple(range(b.ndim))
            return found if plain else Difference("axes", f"the axes are permuted: {order}", {"order": order})
    if not results:
        return Difference("shape", f"torch has {torch.shape}, jax {jax.shape}")
    named = [found for _, found in results if found.kind != "values"]
    return named[0] if named else results[0][1]


def _sizes(x: np.ndarray) -> tuple[int, ...]:
    return tuple(size for size in x.shape if size != 1)


def _orders(shape: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the orders of axes that give the wanted shape, the given order first."""
    if len(shape) > 5:
        yield from [tuple(range(len(shape)))] if shape == wanted else []
        return
    for order in permutations(range(len(shape))):
        if tuple(shape[axis] for axis in order) == wanted:
            yield order


def _of_sizes(a: np.ndarray, b: np.ndarray, limit: float) -> Difference:
    """Say how two arrays of different sizes differ: where one has merged axes that the other keeps, by their elements."""
    other = Difference("shape", f"shapes {a.shape} and {b.shape}", {"torch": a.shape, "jax": b.shape})
    if a.size != b.size or not a.dtype.kind == b.dtype.kind == "f":
        return other
    x, y = a.squeeze(), b.squeeze()
    if x.ndim <= y.ndim:
        results = [_of_values(x, laid, limit) for laid in arranged(y, x.shape)]
    else:
        results = [_of_values(laid, y, limit) for laid in arranged(x, y.shape)]
    named = [found for found in results if found.kind not in {"values", "reordered"}]
    rest = [found for found in results if found.kind != "values"]
    return [*named, *rest, *results, other][0]


def _of_integers(a: np.ndarray, b: np.ndarray) -> Difference:
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return Difference("values", f"{a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if a.dtype == bool:
        return _of_masks(a, b)
    if (a == b).all():
        return Difference("none", "equal")
    share = float((a != b).mean())
    return Difference("values", f"{share:.0%} of the elements differ", {"share": share})


def _of_masks(a: np.ndarray, b: np.ndarray) -> Difference:
    """Say how two boolean arrays differ: the complement, or by which diagonals."""
    if (a == b).all():
        return Difference("none", "equal")
    share = {"torch": float(a.mean()), "jax": float(b.mean()), "differ": float((a != b).mean())}
    if (a != b).all():
        return Difference("complement", "one is the complement of the other", share)
    numbers: Numbers = dict(share)
    if a.ndim >= 2:
        rows, columns = np.nonzero((a != b).reshape(-1, *a.shape[-2:]).any(0))
        diagonals = sorted({int(d) for d in columns - rows})
        numbers["diagonals"] = diagonals
    text = f"{share['differ']:.0%} of the mask differs: true in {share['torch']:.0%} of torch, {share['jax']:.0%} of jax"
    return Difference("masked", text, numbers)


def _of_values(a: np.ndarray, b: np.ndarray, limit: float) -> Difference:
    """Say how two float arrays of one shape differ."""
    hidden = masked(a), masked(b)
    if (hidden[0] != hidden[1]).any():
        found = _of_masks(*hidden)
        return Difference(
            "masked" if found.kind != "complement" else "complement", found.text.replace("true", "masked"), found.numbers
        )
    seen = ~hidden[0]
    x, y = a[seen], b[seen]
    scale = float(max(abs(x).max(initial=0.0), abs(y).max(initial=0.0)))
    if not scale or (abs(x - y) <= limit * scale).all():
        return Difference("none", "equal")
    if not abs(x).max() or not abs(y).max():
        return Difference("zero", f"{'torch' if not abs(x).max() else 'jax'} is zero everywhere", {})
    for rule in RULES:
        found = rule(np.where(seen, a, 0.0), np.where(seen, b, 0.0), seen, max(limit, 1e-12) * scale)
        if found is not None:
            return found
    return _error(a, b, seen)


Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, float], Difference | None]


def _factor(a: np.ndarray, b: np.ndarray, seen: np.ndarray, limit: float) -> Difference | None:
    c = float((a * b).sum() / (a * a).sum())
    if a[seen].size < 2 or (abs(b - c * a) > 4 * limit).any():
        return None
    return Difference("factor", f"jax = {c:.6g} * torch{familiar(c)}", {"factor": c})


def _offset(a: np.ndarray, b: np.ndarray, seen: np.ndarray, limit: float) -> Difference | None:
    c = float((b - a)[seen].mean())
    if a[seen].size < 2 or (abs(b - a - c)[seen] > 4 * limit).any():
        return None
    return Difference("offset", f"jax = torch {'+' if c >= 0 else '-'} {abs(c):.6g}", {"offset": c})


def _by_axis(a: np.ndarray, b: np.ndarray, seen: np.ndarray, limit: float) -> Difference | None:
    """Look for a factor or an offset that depends on some axes only."""
    if not seen.all() or a.ndim < 2:
        return None
    with np.errstate(all="ignore"):
        for name, apart in (("factor", b / a), ("offset", b - a)):
            for axis in range(a.ndim):
                middle = np.median(apart, axis=axis, keepdims=True)
                again = middle * a if name == "factor" else a + middle
                if a.shape[axis] > 1 and (abs(again - b) <= 4 * limit).all():
                    text = (
                        f"jax = torch {'*' if name == 'factor' else '+'} c, where c is constant along axis {axis} of {a.shape}"
                    )
                    return Difference(f"axis {name}", text, {"constant along": axis, "c": middle.ravel()[:8].tolist()})
    return None


def _moved(a: np.ndarray, b: np.ndarray, _: np.ndarray, limit: float) -> Difference | None:
    """Look for a flip, a roll or another permutation along one axis."""
    for axis in range(a.ndim):
        if (abs(np.flip(a, axis) - b) <= limit).all():
            return Difference("reversed", f"reversed along axis {axis}", {"axis": axis})
        for shift in range(1, min(a.shape[axis], 64)):
            if (abs(np.roll(a, shift, axis) - b) <= limit).all():
                return Difference("rolled", f"rolled by {shift} along axis {axis}", {"axis": axis, "shift": shift})
    if (abs(np.sort(a, None) - np.sort(b, None)) <= limit).all():
        return Difference("reordered", "the same elements in another order", {"axes": _reordered(a, b, limit)})
    return None


def _reordered(a: np.ndarray, b: np.ndarray, limit: float) -> list[int]:
    """Return the axes along which the elements of each line are the same, in another order."""
    return [axis for axis in range(a.ndim) if (abs(np.sort(a, axis) - np.sort(b, axis)) <= limit).all()]


def _rounded(a: np.ndarray, b: np.ndarray, _: np.ndarray, limit: float) -> Difference | None:
    """Look for a dtype to which one is the other, rounded."""
    for dtype in ("bfloat16", "float16", "tfloat32", "float32"):
        for side, x, y in (("jax", a, b), ("torch", b, a)):
            if (abs(narrowed(x, dtype) - y) <= limit).all():
                return Difference("rounded", f"{side} is rounded to {dtype}", {"side": side, "dtype": dtype})
    return None


RULES: tuple[Rule, ...] = (_rounded, _factor, _offset, _by_axis, _moved)


def _error(a: np.ndarray, b: np.ndarray, seen: np.ndarray) -> Difference:
    error = np.where(seen, abs(a - b), 0.0) if a.ndim else np.asarray(abs(a - b))
    where = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
    x, y = float(a[where]), float(b[where])
    rms = float(np.sqrt(np.mean((a - b)[seen] ** 2)) / max(np.sqrt(np.mean(a[seen] ** 2)), 1e-300))
    share = float((error > 1e-9 * abs(a[seen]).max()).mean())
    text = f"relative error {rms:.2g} (RMS) in {share:.0%} of the elements; worst at {list(where)}: torch {x:.6g}, jax {y:.6g}"
    return Difference("values", text, {"rms": rms, "share": share, "where": where, "torch": x, "jax": y})


def familiar(c: float) -> str:
    """Return what a factor may be known as, in brackets with a space before, or "".

    >>> familiar(1.4426950408889634), familiar(0.25), familiar(0.377964473)
    (' (log2 e)', ' (1 / 4, 1 / sqrt 16)', ' (1 / sqrt 7)')
    """
    known = {"log2 e": math.log2(math.e), "ln 2": math.log(2), "sqrt(2 / pi)": math.sqrt(2 / math.pi), "-1": -1.0}
    names = [name for name, value in known.items() if math.isclose(c, value, rel_tol=1e-6)]
    whole = round(c), round(c * c), round(1 / c) if c else 0, round(1 / (c * c)) if c and abs(c) > 1e-4 else 0
    forms: tuple[Callable[[float], float], ...] = (float, math.sqrt, lambda n: 1 / n, lambda n: 1 / math.sqrt(n))
    for n, form, text in zip(whole, forms, ("{}", "sqrt {}", "1 / {}", "1 / sqrt {}"), strict=True):
        if 1 < n <= 65536 and math.isclose(abs(c), form(n), rel_tol=1e-6):
            names.append(("-" if c < 0 else "") + text.format(n))
    return f" ({', '.join(names)})" if names else ""
