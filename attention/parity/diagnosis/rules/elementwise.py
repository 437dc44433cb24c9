"""Element by element: another activation, a soft cap, a factor, an offset, a gate exchanged with what it gates.

torch = f(x)        jax = g(x)        x agrees, f and g of the table below
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from attention.parity.diagnosis.rules.operand_pair import Finding, Scene, near
from attention.spec import activations

Map = Callable[[np.ndarray], np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -700.0, 700.0)))


ACTIVATIONS: dict[str, Map] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu by erf": lambda x: activations.gelu(np, x),
    "gelu by tanh": lambda x: activations.gelu_tanh(np, x),
    "quick gelu, x sigmoid(1.702 x)": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "hard sigmoid": lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "elu + 1": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))) + 1.0,
    "relu + 1": lambda x: np.maximum(x, 0.0) + 1.0,
    "leaky relu (0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky relu (0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "squared relu": lambda x: np.maximum(x, 0.0) ** 2,
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0.0)),
    "exp": lambda x: np.exp(np.minimum(x, 700.0)),
    "exp2": lambda x: np.exp2(np.minimum(x, 1000.0)),
}
INNER: dict[str, Map] = {
    "gelu by erf": lambda x: activations.erf(np, x / math.sqrt(2.0)),
    "gelu by tanh": lambda x: np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)),
}
"""What an activation g(x) = x (1 + inner(x)) / 2 is written with."""
WRITTEN = {
    "gelu by erf": ("F.gelu(x)", "jax.nn.gelu(x, approximate=False)"),
    "gelu by tanh": ('F.gelu(x, approximate="tanh")', "jax.nn.gelu(x), whose default it is"),
    "quick gelu, x sigmoid(1.702 x)": ("x * torch.sigmoid(1.702 * x)", "x * jax.nn.sigmoid(1.702 * x)"),
    "hard sigmoid": ("F.hardsigmoid(x)", "jax.nn.hard_sigmoid(x)"),
    "sigmoid": ("torch.sigmoid(x)", "jax.nn.sigmoid(x)"),
    "elu + 1": ("F.elu(x) + 1", "jax.nn.elu(x) + 1"),
    "relu + 1": ("F.relu(x) + 1", "jax.nn.relu(x) + 1"),
}
GATES = ("sigmoid", "silu", "gelu by erf", "gelu by tanh", "relu", "tanh")


def another_activation(scene: Scene) -> Finding | None:
    """Name two activations of one agreed array."""
    for known, x, y in scene.of_size():
        torch, jax = _which(scene.torch, x), _which(scene.jax, y)
        if torch and jax and torch != jax:
            mend = WRITTEN.get(jax, (f"{jax} of x", ""))[0], WRITTEN.get(torch, ("", f"{torch} of x"))[1]
            return Finding(f"another activation: {torch} on torch, {jax} on jax", f"both rebuilt from x = {known.label}", *mend)
    return None


def _which(value: np.ndarray, x: np.ndarray) -> str:
    found = [name for name, f in ACTIVATIONS.items() if near(value, f(x))]
    # Programs that write an activation out part inside it: erf(x / sqrt 2) on one side, tanh(...) on the other.
    found += [name for name, f in INNER.items() if any(near(value, c * f(x) + d) for c, d in ((1, 0), (1, 1), (0.5, 0.5)))]
    return found[0] if len(found) == 1 else ""


def another_operand(scene: Scene) -> Finding | None:
    """Name one activation of two arrays, each of which the other side has too: a gate, say, and what it gates."""
    torch = [(known.label, name, i) for i, (known, x, _) in enumerate(scene.of_size()) if (name := _which(scene.torch, x))]
    jax = [(known.label, name, i) for i, (known, _, y) in enumerate(scene.of_size()) if (name := _which(scene.jax, y))]
    for label, name, i in torch:
        for other, same, j in jax:
            if name == same and i != j:
                evidence = f"torch = {name} of a, jax = {name} of b, a = {label}, b = {other}"
                return Finding(
                    f"{name} of another array: a gate and what it gates, exchanged", evidence, f"{name} of b", f"{name} of a"
                )
    return None


def gate_exchanged(scene: Scene) -> Finding | None:
    """Name f(u) w on one side and f(w) u on the other."""
    same = list(scene.of_size())[:12]
    for gate, u, u2 in same:
        for value, w, w2 in same:
            if value is gate:
                continue
            for name in GATES:
                f = ACTIVATIONS[name]
                if scene.equal(scene.torch, f(u) * w) and scene.equal(scene.jax, f(w2) * u2):
                    evidence = f"torch = {name}(u) w, jax = {name}(w) u, u = {gate.label}, w = {value.label}"
                    mend = f"{name}(second half) * first half", f"{name}(first half) * second half"
                    return Finding("gate and what it gates exchanged", evidence, *mend)
    return None


def soft_cap(scene: Scene) -> Finding | None:
    """Name c tanh(x / c) on one side, and x or another c on the other."""
    for known, x, y in scene.of_size():
        torch, jax = cap(scene, scene.torch, x), cap(scene, scene.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=1e-6):
            continue
        told = [f"a soft cap of {c:.6g}" if math.isfinite(c) else "no soft cap" for c in (torch, jax)]
        form = "{c:.6g} * tanh(x / {c:.6g})"
        first, second = (form.format(c=c) if math.isfinite(c) else "x, without a cap" for c in (jax, torch))
        return Finding(f"{told[0]} on torch, {told[1]} on jax", f"both rebuilt from x = {known.label}", first, second)
    return None


def cap(scene: Scene, value: np.ndarray, x: np.ndarray) -> float | None:
    """Return c of value = c tanh(x / c); inf if value = x; None if neither."""
    if scene.equal(value, x):
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
    return c if c and scene.equal(value, c * np.tanh(x / c)) else None


def shifted(scene: Scene) -> Finding | None:
    """Name x + e on one side and x + another e on the other: an epsilon, or an off-by-one."""
    for known, x, y in scene.of_size():
        torch, jax = _shift(scene.torch, x), _shift(scene.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=1e-6, abs_tol=1e-300):
            continue
        small = max(abs(torch), abs(jax)) <= 1e-2 and (x >= 0).all()
        name = f"eps {torch:.3g} on torch, {jax:.3g} on jax" if small else f"{torch:.6g} added on torch, {jax:.6g} on jax"
        evidence = f"torch = x + {torch:.6g}, jax = x + {jax:.6g}, x = {known.label}"
        return Finding(name, evidence, f"{'eps=' if small else '+ '}{jax:.3g}", f"{'epsilon=' if small else '+ '}{torch:.3g}")
    return None


def _shift(value: np.ndarray, x: np.ndarray) -> float | None:
    with np.errstate(all="ignore"):
        apart = value - x
    c = float(np.median(apart)) if np.isfinite(apart).all() else math.nan
    # What is added must be known to three digits, or rounding would name it.
    if not math.isfinite(c) or np.abs(apart - c).max() > max(1e-3 * abs(c), 1e-15 * float(np.abs(x).max())):
        return None
    return 0.0 if abs(c) <= 1e-14 * float(np.abs(x).max()) else c


def scaled(scene: Scene) -> Finding | None:
    """Name c x on one side and another c x on the other."""
    for known, x, y in scene.of_size():
        torch, jax = _factor(scene, scene.torch, x), _factor(scene, scene.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=1e-7):
            continue
        evidence = f"torch = {torch:.9g} x, jax = {jax:.9g} x, x = {known.label}"
        name = f"scale {_told(torch, scene.sizes)} on torch, {_told(jax, scene.sizes)} on jax"
        return Finding(name, evidence, f"* {_told(jax, scene.sizes)}", f"* {_told(torch, scene.sizes)}")
    return None


def _factor(scene: Scene, value: np.ndarray, x: np.ndarray) -> float | None:
    seen = np.isfinite(value) & np.isfinite(x) & (np.abs(x) < 1e29) & (np.abs(value) < 1e29)
    below = float((x[seen] ** 2).sum())
    if not below:
        return None
    c = float((value[seen] * x[seen]).sum()) / below
    return c if c and seen.all() and scene.equal(value, c * x) else None


def _told(c: float, sizes: frozenset[int]) -> str:
    """Return a factor as people write it, if an axis has the size for it."""
    for n in sorted(sizes):
        for value, text in ((n**0.5, f"sqrt({n})"), (n**-0.5, f"1 / sqrt({n})"), (1 / n, f"1 / {n}"), (n, f"{n}")):
            if math.isclose(c, value, rel_tol=1e-9):
                return text
    return f"{c:.6g}"


RULES = (another_activation, gate_exchanged, another_operand, soft_cap, shifted, scaled)
