"""Positions: the base of rotary and sinusoidal frequencies, read from the table of either program.

frequency i of n = base ** (-i / n)        read off the table of either side, at three frequencies at least
"""

from __future__ import annotations

import math

import numpy as np

from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix
from attention.parity.tracing import Event

LEAST = 3
"""Frequencies that a base is read off: two more than it takes."""


def rotary_base(pair: OperandPair) -> Finding | None:
    """Name two bases of frequencies of which the rest is equal, or one base that is spread over n and over n - 1 steps."""
    torch, jax = (dict(filter(None, map(_base, region))) for region in pair.region)
    for n in torch.keys() & jax.keys():
        first, second = torch[n], jax[n]
        if math.isclose(first, second, rel_tol=1e-4):
            continue
        if _is_base(first) and _is_base(second):
            name = f"rotary base {first:.6g} on torch, {second:.6g} on jax"
            evidence = f"{n} frequencies, base ** (-i / {n}) on either side"
            return Finding(name, evidence, f"base={second:.6g}", f"base={first:.6g}")
        for side, other, one, two in (("torch", "jax", first, second), ("jax", "torch", second, first)):
            # base ** (-i / (n - 1)) is another base ** (-i / n).
            if _is_base(one) and math.isclose(two ** ((n - 1) / n), one, rel_tol=1e-5):
                name = f"frequencies are spread over {n} steps on {side}, over {n - 1} on {other}, so that the last is 1 / base"
                evidence = f"{n} frequencies of base {one:.6g}: base ** (-i / {n}) on {side}, base ** (-i / {n - 1}) on {other}"
                return Finding(name, evidence, **(fix(side, f"i / {n - 1}") | fix(other, f"i / {n}")))
    return None


def _is_base(base: float) -> bool:
    """Return whether a base is one that people write: of three digits, within what a table in float32 tells."""
    return math.isclose(base, float(f"{base:.3g}"), rel_tol=1e-5)


def _base(event: Event) -> tuple[int, float] | None:
    """Return how many frequencies an array holds, as they are or as angles of positions, and their base; None if it is none."""
    x = np.squeeze(event.value) if event.is_float else np.zeros(0)
    if event.role not in ("", "param") or x.ndim not in (1, 2) or x.size < LEAST or not np.isfinite(x).all():
        return None
    if x.ndim == 2:
        row = _row(x)
        if row is None:
            return None
        x = row
    half = x.size // 2
    # Halves, or neighbours, that turn by one angle are one frequency.
    if x.size % 2 == 0 and half >= LEAST and np.allclose(x[:half], x[half:], rtol=1e-6):
        x = x[:half]
    elif x.size % 2 == 0 and half >= LEAST and np.allclose(x[::2], x[1::2], rtol=1e-6):
        x = x[::2]
    n = x.size
    if n < LEAST or abs(x[0] - 1) > 1e-6 or (x <= 0).any() or not (np.diff(x) < 0).all():
        return None
    logs = np.log(x)
    slope = logs[-1] / (n - 1)
    if np.abs(logs - slope * np.arange(n)).max() > 1e-5 * abs(logs[-1]):
        return None
    return n, float(np.exp(-slope * n))


def _row(x: np.ndarray) -> np.ndarray | None:
    """Return the frequencies of a table of (positions, frequencies), of angles, or of their cosines; None if it is none."""
    if x.shape[0] < 2:
        return None
    if not x[0].any():
        return x[1]
    return np.arccos(np.clip(x[1], -1.0, 1.0)) if (x[0] == 1).all() and (np.abs(x) <= 1).all() else None


RULES = (rotary_base,)
