"""Elementwise differences: a constant factor, a soft cap, an activation of another operand, a gate exchanged with its value.

torch = c x, c tanh(x / c), or f(u) w        jax = d x, x, or f(w) u        x, u and w agree
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attention.parity.diagnosis.rules.activations import ACTIVATIONS, APART, which
from attention.parity.diagnosis.rules.arrays import magnitudes
from attention.parity.diagnosis.rules.constants import is_plain, occurs
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair

SAMPLE = 8
GATES = ("sigmoid", "silu", "gelu by erf", "gelu by tanh", "relu", "tanh")


def another_operand(pair: OperandPair) -> Finding | None:
    """Name one activation of two arrays, each of which the other side has too: a gate, say, and what it gates."""
    torch = [(known.label, name, i) for i, (known, x, _) in enumerate(pair.of_size()) if (name := which(pair.torch, x))]
    jax = (
        []
        if not torch
        else [(known.label, name, i) for i, (known, _, y) in enumerate(pair.of_size()) if (name := which(pair.jax, y))]
    )
    for label, name, i in torch:
        for other, same, j in jax:
            if name == same and i != j and not pair.has(0, pair.jax) and not pair.has(1, pair.torch):
                evidence = f"torch = {name} of a, jax = {name} of b, a = {label}, b = {other}"
                return Finding(
                    f"{name} of another array: a gate and what it gates, exchanged", evidence, f"{name} of b", f"{name} of a"
                )
    return None


def gate_exchanged(pair: OperandPair) -> Finding | None:
    """Name f(u) w on one side and f(w) u on the other."""
    same = list(pair.of_size())[:12]
    at = np.linspace(0, pair.torch.size - 1, min(SAMPLE, pair.torch.size)).astype(int)
    for gate, u, u2 in same:
        for value, w, w2 in same:
            if value is gate:
                continue
            for name in GATES:
                f = ACTIVATIONS[name]
                # A few elements first: most pairs are not it.
                if not np.allclose(f(u.flat[at]) * w.flat[at], pair.torch.flat[at], rtol=1e-4, equal_nan=True):
                    continue
                if pair.equal(pair.torch, f(u) * w) and pair.equal(pair.jax, f(w2) * u2):
                    evidence = f"torch = {name}(u) w, jax = {name}(w) u, u = {gate.label}, w = {value.label}"
                    mend = f"{name}(second half) * first half", f"{name}(first half) * second half"
                    return Finding("gate and what it gates exchanged", evidence, *mend)
    return None


def soft_cap(pair: OperandPair) -> Finding | None:
    """Name c tanh(x / c) on one side, and x or another c on the other."""
    for known, x, y in pair.of_size():
        torch, jax = cap(pair, pair.torch, x), cap(pair, pair.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-6, APART * pair.limit)):
            continue
        # A cap of 1 is a tanh, and a number that nobody writes is fitted to something else.
        if magnitudes(x) < 3 or any(math.isfinite(c) and (c == 1.0 or not is_plain(c)) for c in (torch, jax)):
            continue
        told = [f"a soft cap of {c:.6g}" if math.isfinite(c) else "no soft cap" for c in (torch, jax)]
        first, second = capped("torch", jax), capped("jnp", torch)
        return Finding(f"{told[0]} on torch, {told[1]} on jax", f"both rebuilt from x = {known.label}", first, second)
    return None


def capped(module: str, c: float) -> str:
    """Return c tanh(x / c) as code, x where there is no cap."""
    return f"{c:.6g} * {module}.tanh(x / {c:.6g})" if math.isfinite(c) else "x"


def cap(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> float | None:
    """Return c of value = c tanh(x / c); inf if value = x; None if neither."""
    if pair.equal(value, x):
        return math.inf
    seen = np.isfinite(value) & np.isfinite(x) & (np.abs(value) < 1e29) & (x != 0)
    if not seen.any() or not (np.abs(value[seen]) < np.abs(x[seen])).all():
        return None
    # |value| / c = tanh(|x| / c) falls as c does: bisect at the largest element.
    i = int(np.argmax(np.where(seen, np.abs(x), 0.0)))
    a, v = abs(float(x.flat[i])), abs(float(value.flat[i]))
    low = c = v
    high = 1e6 * a
    for _ in range(200 if v else 0):
        c = math.sqrt(low * high)
        low, high = (c, high) if c * math.tanh(a / c) < v else (low, c)
    c = 1.0 if math.isclose(c, 1.0, rel_tol=1e-6) else c
    return c if c and pair.equal(value, c * np.tanh(x / c)) else None


PARTS = frozenset({"gelu", "hardsigmoid", "hardswish", "mish", "selu", "silu", "softplus"})
"""What torch calls activations that have no factor which a user could have written."""


def scaled(pair: OperandPair) -> Finding | None:
    """Name c x on one side and another c x on the other."""
    if pair.region[0] and pair.region[0][-1].name in PARTS:
        return None
    for known, x, y in _sized(pair):
        torch, jax = _factor(pair, pair.torch, x), _factor(pair, pair.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-7, APART * pair.limit)):
            continue
        if not all(is_plain(c) or occurs(c, *pair.region) or _is_exp(c, pair) for c in (torch, jax)):
            continue
        evidence = f"torch = {torch:.9g} x, jax = {jax:.9g} x, x = {known.label}"
        # Through one magnitude many functions go.
        sure = magnitudes(x) > 1 and not pair.backward
        return Finding(_scales(pair, torch, jax), evidence, times(jax / torch), times(torch / jax), sure=sure)
    return None


def _sized(pair: OperandPair) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
    """Yield what is known and has the size of the arrays; a number only if both arrays are read off it."""
    yield from pair.of_size()
    ends = tuple({id(event.value) for event in region} for region in pair.region)
    for known in pair.known if pair.torch.size == pair.jax.size == 1 else ():
        if known.torch.size == known.jax.size == 1 and id(known.torch) in ends[0] and id(known.jax) in ends[1]:
            yield known, known.torch.reshape(pair.torch.shape), known.jax.reshape(pair.jax.shape)


def _is_exp(c: float, pair: OperandPair) -> bool:
    return c > 0 and occurs(math.log(c), *pair.region)


def _scales(pair: OperandPair, torch: float, jax: float) -> str:
    """Return what two factors of one array are called."""
    for side, c, d in (("torch", torch, jax), ("jax", jax, torch)):
        if d > 0 and not is_plain(c) and math.isclose(c, math.log(d), rel_tol=1e-6):
            return f"a factor is not exponentiated on {side}: {c:.6g} for exp({c:.6g}) = {d:.6g}"
    told = [factor_text(c, pair.sizes) for c in (torch, jax)]
    if math.isclose(torch * jax, 1.0, rel_tol=1e-9) and not math.isclose(abs(torch), 1.0):
        return f"multiplied by what the other side divides by: scale {told[0]} on torch, {told[1]} on jax"
    what = "negative slope of a leaky relu" if pair.runs(0, "leaky_relu") else "scale"
    return f"{what} {told[0]} on torch, {told[1]} on jax"


def _factor(pair: OperandPair, value: np.ndarray, x: np.ndarray) -> float | None:
    seen = np.isfinite(value) & np.isfinite(x) & (np.abs(x) < 1e29) & (np.abs(value) < 1e29)
    below = float((x[seen] ** 2).sum())
    if not below:
        return None
    c = float((value[seen] * x[seen]).sum()) / below
    return c if c and seen.all() and pair.equal(value, c * x) else None


def factor_text(c: float, sizes: frozenset[int] = frozenset()) -> str:
    """Return a factor as people write it: a whole number, its root, or one over these, if it is one.

    Args:
        c: the factor.
        sizes: of axes nearby, of which a factor is told even where it is a short decimal.

    >>> factor_text(24**-0.5), factor_text(0.25), factor_text(0.3), factor_text(-8.0)
    ('1 / sqrt(24)', '1 / 4', '0.3', '-8')
    """
    a, sign = abs(c), "-" if c < 0 else ""
    if not 1e-100 < a < 1e100:
        return f"{c:.6g}"
    # 0.2 is 1 / 5, and nobody writes it so.
    if f"{a:.3g}" == f"{a:.12g}" and a < 1 and math.log2(a) % 1 and round(1 / a) not in sizes:
        return f"{c:.6g}"
    for value, text in ((a, "{}"), (1 / a, "1 / {}"), (a * a, "sqrt({})"), (1 / (a * a), "1 / sqrt({})")):
        n = round(value)
        if 1 <= n <= 2**16 and math.isclose(value, n, rel_tol=1e-9):
            return sign + text.format(n)
    return f"{c:.6g}"


def times(c: float) -> str:
    """Return what to write in the place of x for c x: an expression that Python evaluates to it.

    >>> times(0.5), times(24**0.5)
    ('x * 0.5', 'x * math.sqrt(24)')
    """
    n = round(c * c) if 0 < c < 256 else 0
    m = round(1 / (c * c)) if c > 0 and c * c * 2**16 > 1 else 0
    root = n > 1 and math.isclose(c * c, n, rel_tol=1e-9) and math.isqrt(n) ** 2 != n
    if root:
        return f"x * math.sqrt({n})"
    if m > 1 and math.isclose(c * c * m, 1.0, rel_tol=1e-9) and math.isqrt(m) ** 2 != m:
        return f"x / math.sqrt({m})"
    return f"x * {c:.12g}"


SPECIFIC = (gate_exchanged, another_operand)
GENERAL = (scaled, soft_cap)
