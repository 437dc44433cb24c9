"""Added constants: another eps, an off-by-one, a bias before a sigmoid, an eps inside or outside a square root.

torch = f(x + e)        jax = f(x + d)            torch = sqrt(x + e)        jax = sqrt(x) + e
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.activations import Map
from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.diagnosis.rules.constants import is_plain, occurs
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair

MOST_REDUCED = 24
"""Agreed arrays whose variances are tried."""
FORMS: dict[str, Map] = {
    "": lambda y: y,
    "1 / sqrt": lambda y: y**-2.0,
    "sqrt": lambda y: y * y,
    "sigmoid": lambda y: np.log(y / (1.0 - y)),
    "tanh": np.arctanh,
    "exp": np.log,
}
"""What makes an argument of a value: that of x, of 1 / sqrt(x), of sqrt(x), of a sigmoid, a tanh, an exponential."""


def shifted(pair: OperandPair) -> Finding | None:
    """Name x + e on one side and x + another e on the other: an epsilon, or an off-by-one."""
    for known, x, y in _addable(pair):
        # Two arrays that are apart by as much as what is solved for are not the same array.
        apart = float(np.abs(np.sort(x, None) - np.sort(y, None)).max(initial=0.0))
        if magnitudes(x) < 2:
            continue
        for form, f in FORMS.items():
            torch, jax = _shift(f(pair.torch), x), _shift(f(pair.jax), y)
            if torch is None or jax is None or math.isclose(torch, jax, rel_tol=1e-6, abs_tol=1e-300):
                continue
            if abs(torch - jax) < 20 * apart or not (_may_be_nothing(pair, 0, torch) and _may_be_nothing(pair, 1, jax)):
                continue
            if not all(is_plain(c) or occurs(c, *pair.region) for c in (torch, jax)):
                continue
            return _added(torch, jax, form, bool((x >= 0).all()), known.label)
    return None


def _added(torch: float, jax: float, form: str, positive: bool, label: str) -> Finding:
    small = max(abs(torch), abs(jax)) <= 1e-2 and positive and form in ("", "1 / sqrt", "sqrt")
    first, second = f"{torch:.6g}", f"{jax:.6g}"
    where = f" before a{'n' if form == 'exp' else ''} {form}" if form in ("sigmoid", "tanh", "exp") else ""
    name = f"eps {first} on torch, {second} on jax" if small else f"{first} added on torch, {second} added on jax{where}"
    evidence = f"torch = x + {first}, jax = x + {second}, x = {label}"
    mends = (f"eps={second}", f"epsilon={first}") if small else (_plus(jax - torch), _plus(torch - jax))
    return Finding(name, evidence, *mends)


def root_of_eps(pair: OperandPair) -> Finding | None:
    """Name sqrt(x + e) on one side and sqrt(x) + e on the other."""
    for known, x, y in _addable(pair):
        if magnitudes(x) < 3 or not (x > 0).all():
            continue
        for form in ("sqrt", "1 / sqrt"):
            values = [v if form == "sqrt" else 1.0 / v for v in (pair.torch, pair.jax)]
            inside = _shift(values[0] ** 2, x), _shift(values[1] ** 2, y)
            outside = _shift(values[0], np.sqrt(x)), _shift(values[1], np.sqrt(y))
            for which_in, which_out, told in ((0, 1, ("torch", "jax")), (1, 0, ("jax", "torch"))):
                e, d = inside[which_in], outside[which_out]
                if e and d and e > 0 and is_plain(e) and math.isclose(e, d, rel_tol=1e-3):
                    name = f"eps is added before the root on {told[0]}, after it on {told[1]}"
                    evidence = f"{told[0]} has sqrt(x + {e:.6g}), {told[1]} sqrt(x) + {d:.6g}, x = {known.label}"
                    codes = "sqrt(x + eps)", "sqrt(x) + eps"
                    first, second = codes[::-1] if which_in == 0 else codes
                    return Finding(name, evidence, first, second)
    return None


def _addable(pair: OperandPair) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
    """Yield what is known and has the size of the arrays, and the variances and mean squares of what is larger."""
    yield from pair.of_size()
    n = pair.torch.size
    if pair.jax.size != n:
        return
    for side in pair.region:
        # What only one side holds as it is, such as a variance to which the other added its eps when it was built.
        for event in side:
            if event.is_given and event.is_float and event.value.size == n > 1:
                x = event.value
                yield (
                    Known(x, x, event.name or "a constant", given=True),
                    x.reshape(pair.torch.shape),
                    x.reshape(pair.jax.shape),
                )
    for known in pair.known[:MOST_REDUCED]:
        x, y = known.torch, known.jax
        if x.ndim < 2 or y.ndim < 2 or x.size == n or x.shape[-1] != y.shape[-1] or x.size != n * x.shape[-1]:
            continue
        for what, f in (("variance", _variance), ("mean square", _mean_square)):
            label = f"the {what} of {known.label}"
            yield Known(x, y, label), f(x).reshape(pair.torch.shape), f(y).reshape(pair.jax.shape)


def _variance(x: np.ndarray) -> np.ndarray:
    return np.var(x, -1)


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.mean(x * x, -1)


def _may_be_nothing(pair: OperandPair, which: int, e: float) -> bool:
    """Return whether it can be that nothing is added: not where the side does add something to a variance."""
    return bool(e) or not pair.runs(which, "add")


def _plus(e: float) -> str:
    return f"x + {e:.6g}" if e >= 0 else f"x - {-e:.6g}"


def _shift(value: np.ndarray, x: np.ndarray) -> float | None:
    """Return what is added to `x`, as people write it where that is as near as is known; None if it is not one number."""
    with np.errstate(all="ignore"):
        apart = value - x
    c = float(np.median(apart)) if np.isfinite(apart).all() else math.nan
    # What is added must be known to three digits, or rounding would name it.
    spread = float(np.abs(apart - c).max(initial=0.0)) if math.isfinite(c) else math.inf
    if not math.isfinite(c) or spread > max(1e-3 * abs(c), 1e-15 * float(np.abs(x).max())):
        return None
    if abs(c) <= 1e-14 * float(np.abs(x).max()):
        return 0.0
    near = max(3 * spread / abs(c), 1e-6)
    return next((r for digits in (1, 2, 3) if math.isclose(r := float(f"{c:.{digits}g}"), c, rel_tol=near)), c)


RULES = (shifted, root_of_eps)
