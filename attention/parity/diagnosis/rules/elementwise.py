"""Element by element: another activation, a soft cap, a factor, an offset, a gate exchanged with what it gates.

torch = f(x)        jax = g(x)        x agrees, f and g of the table below
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from attention.parity.diagnosis.rules.operand_pair import Finding, Known, Scene, magnitudes, near
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
    "relu": ("F.relu(x)", "jax.nn.relu(x)"),
    "gelu by erf": ("F.gelu(x)", "jax.nn.gelu(x, approximate=False)"),
    "gelu by tanh": ('F.gelu(x, approximate="tanh")', "jax.nn.gelu(x)"),
    "quick gelu, x sigmoid(1.702 x)": ("x * torch.sigmoid(1.702 * x)", "x * jax.nn.sigmoid(1.702 * x)"),
    "silu": ("F.silu(x)", "jax.nn.silu(x)"),
    "sigmoid": ("torch.sigmoid(x)", "jax.nn.sigmoid(x)"),
    "hard sigmoid": ("F.hardsigmoid(x)", "jax.nn.hard_sigmoid(x)"),
    "tanh": ("torch.tanh(x)", "jnp.tanh(x)"),
    "elu": ("F.elu(x)", "jax.nn.elu(x)"),
    "elu + 1": ("F.elu(x) + 1", "jax.nn.elu(x) + 1"),
    "relu + 1": ("F.relu(x) + 1", "jax.nn.relu(x) + 1"),
    "leaky relu (0.01)": ("F.leaky_relu(x)", "jax.nn.leaky_relu(x)"),
    "leaky relu (0.2)": ("F.leaky_relu(x, 0.2)", "jax.nn.leaky_relu(x, 0.2)"),
    "squared relu": ("F.relu(x) ** 2", "jax.nn.relu(x) ** 2"),
    "softplus": ("F.softplus(x)", "jax.nn.softplus(x)"),
    "mish": ("F.mish(x)", "jax.nn.mish(x)"),
    "exp": ("torch.exp(x)", "jnp.exp(x)"),
    "exp2": ("torch.exp2(x)", "jnp.exp2(x)"),
}
"""Each as code of torch and of JAX, of the argument x."""
APART = 20.0
"""How many times the tolerance two fitted numbers must be apart to be two."""
LEAST = 3
"""Magnitudes of an argument that an activation is known by."""
MOST_REDUCED = 24
"""Agreed arrays whose variances are tried."""
GATES = ("sigmoid", "silu", "gelu by erf", "gelu by tanh", "relu", "tanh")


def another_activation(scene: Scene) -> Finding | None:
    """Name two activations of one agreed array."""
    for known, x, y in scene.of_size():
        if magnitudes(x) < LEAST:
            continue
        torch, jax = _which(scene.torch, x), _which(scene.jax, y)
        if torch and jax and torch != jax:
            mend = WRITTEN[jax][0], WRITTEN[torch][1]
            return Finding(f"another activation: {torch} on torch, {jax} on jax", f"both rebuilt from x = {known.label}", *mend)
    return None


def _which(value: np.ndarray, x: np.ndarray) -> str:
    found = [name for name, f in ACTIVATIONS.items() if near(value, f(x))]
    # Programs that write an activation out part inside it: erf(x / sqrt 2) on one side, tanh(...) on the other.
    found += [name for name, f in INNER.items() if any(near(value, c * f(x) + d) for c, d in ((1, 0), (1, 1), (0.5, 0.5)))]
    return found[0] if len(found) == 1 else ""


def leaky_slope(scene: Scene) -> Finding | None:
    """Name the slopes that two leaky ReLUs have below zero."""
    for known, x, y in scene.of_size():
        torch, jax = _slope(scene, scene.torch, x), _slope(scene, scene.jax, y)
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-5, APART * scene.limit)):
            continue
        name = f"negative slope of a leaky relu {torch:.6g} on torch, {jax:.6g} on jax"
        mends = f"F.leaky_relu(x, {jax:.6g})", f"jax.nn.leaky_relu(x, {torch:.6g})"
        return Finding(name, f"both rebuilt from x = {known.label}", *mends)
    return None


def _slope(scene: Scene, value: np.ndarray, x: np.ndarray) -> float | None:
    below = x < 0
    if not np.isfinite(x).all() or magnitudes(x[below]) < 2 or below.all():
        return None
    c = float(np.median(value[below] / x[below]))
    return c if scene.equal(value, np.where(below, c * x, x)) else None


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
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-6, APART * scene.limit)):
            continue
        if magnitudes(x) < 2:
            continue
        told = [f"a soft cap of {c:.6g}" if math.isfinite(c) else "no soft cap" for c in (torch, jax)]
        first, second = capped("torch", jax), capped("jnp", torch)
        return Finding(f"{told[0]} on torch, {told[1]} on jax", f"both rebuilt from x = {known.label}", first, second)
    return None


def capped(module: str, c: float) -> str:
    """Return c tanh(x / c) as code, x where there is no cap."""
    return f"{c:.6g} * {module}.tanh(x / {c:.6g})" if math.isfinite(c) else "x"


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


FORMS: dict[str, Map] = {"": lambda y: y, "1 / sqrt": lambda y: y**-2.0, "sqrt": lambda y: y * y}
"""What makes an addend of a value: that of x + e, of 1 / sqrt(x + e), of sqrt(x + e)."""


def shifted(scene: Scene) -> Finding | None:
    """Name x + e on one side and x + another e on the other: an epsilon, or an off-by-one."""
    for known, x, y in _addable(scene):
        # Two arrays that are apart by as much as what is solved for are not the same array.
        apart = float(np.abs(np.sort(x, None) - np.sort(y, None)).max(initial=0.0))
        if magnitudes(x) < 2:
            continue
        for f in FORMS.values():
            torch, jax = _shift(f(scene.torch), x), _shift(f(scene.jax), y)
            if torch is None or jax is None or math.isclose(torch, jax, rel_tol=1e-6, abs_tol=1e-300):
                continue
            if abs(torch - jax) < 20 * apart or not (_may_be_nothing(scene, 0, torch) and _may_be_nothing(scene, 1, jax)):
                continue
            small = max(abs(torch), abs(jax)) <= 1e-2 and (x >= 0).all()
            first, second = _round(torch), _round(jax)
            name = f"eps {first} on torch, {second} on jax" if small else f"{first} added on torch, {second} added on jax"
            evidence = f"torch = x + {first}, jax = x + {second}, x = {known.label}"
            mends = (f"eps={second}", f"epsilon={first}") if small else (_plus(jax - torch), _plus(torch - jax))
            return Finding(name, evidence, *mends)
    return None


def _addable(scene: Scene) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
    """Yield what is known and has the size of the arrays, and the variances and mean squares of what is larger."""
    yield from scene.of_size()
    n = scene.torch.size
    for side in scene.region:
        # What only one side holds as it is, such as a variance to which the other added its eps when it was built.
        for event in side:
            if event.is_given and event.is_float and event.value.size == n > 1:
                x = event.value
                yield (
                    Known(x, x, event.name or "a constant", given=True),
                    x.reshape(scene.torch.shape),
                    x.reshape(scene.jax.shape),
                )
    for known in scene.known[:MOST_REDUCED]:
        x, y = known.torch, known.jax
        if x.ndim < 2 or y.ndim < 2 or x.size == n or x.shape[-1] != y.shape[-1] or x.size != n * x.shape[-1]:
            continue
        for what, f in (("variance", _variance), ("mean square", _mean_square)):
            label = f"the {what} of {known.label}"
            yield Known(x, y, label), f(x).reshape(scene.torch.shape), f(y).reshape(scene.jax.shape)


def _variance(x: np.ndarray) -> np.ndarray:
    return np.var(x, -1)


def _mean_square(x: np.ndarray) -> np.ndarray:
    return np.mean(x * x, -1)


def _may_be_nothing(scene: Scene, which: int, e: float) -> bool:
    """Return whether it can be that nothing is added: not where the side does add something to a variance."""
    return bool(e) or not scene.runs(which, "add")


def _round(e: float) -> str:
    """Return what was added as people write it: of six digits, or fewer if these are it within a thousandth of its own."""
    return f"{e:.3g}" if math.isclose(e, float(f"{e:.3g}"), rel_tol=2e-3, abs_tol=1e-300) else f"{e:.6g}"


def _plus(e: float) -> str:
    return f"x + {e:.6g}" if e >= 0 else f"x - {-e:.6g}"


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
        if torch is None or jax is None or math.isclose(torch, jax, rel_tol=max(1e-7, APART * scene.limit)):
            continue
        evidence = f"torch = {torch:.9g} x, jax = {jax:.9g} x, x = {known.label}"
        told = [factor_text(c, scene.sizes) for c in (torch, jax)]
        what = "negative slope of a leaky relu" if scene.runs(0, "leaky_relu") else "scale"
        name = f"{what} {told[0]} on torch, {told[1]} on jax"
        # Through one magnitude many functions go.
        sure = magnitudes(x) > 1
        return Finding(name, evidence, times(jax / torch), times(torch / jax), sure=sure)
    return None


def _factor(scene: Scene, value: np.ndarray, x: np.ndarray) -> float | None:
    seen = np.isfinite(value) & np.isfinite(x) & (np.abs(x) < 1e29) & (np.abs(value) < 1e29)
    below = float((x[seen] ** 2).sum())
    if not below:
        return None
    c = float((value[seen] * x[seen]).sum()) / below
    return c if c and seen.all() and scene.equal(value, c * x) else None


def factor_text(c: float, sizes: frozenset[int] = frozenset()) -> str:
    """Return a factor as people write it: a whole number, its root, or one over these, if it is one.

    Args:
        c: the factor.
        sizes: of axes nearby, of which a factor is told even where it is a short decimal.

    >>> factor_text(24**-0.5), factor_text(0.25), factor_text(0.3), factor_text(-8.0)
    ('1 / sqrt(24)', '1 / 4', '0.3', '-8')
    """
    a, sign = abs(c), "-" if c < 0 else ""
    if not a or not math.isfinite(a):
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


SPECIFIC = (another_activation, leaky_slope, gate_exchanged, another_operand)
GENERAL = (scaled, soft_cap, shifted)
