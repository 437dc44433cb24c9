"""Activations: another, a missing, or a differently parameterised activation of one array.

torch = f(x)        jax = g(x), or x        x agrees, f and g of `ACTIVATIONS`
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from attention.parity.diagnosis.rules.arrays import magnitudes, near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair
from attention.spec.layers import activations

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
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0.0))),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hard swish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "log sigmoid": lambda x: -np.logaddexp(-x, 0.0),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "square": np.square,
    "abs": np.abs,
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
    "selu": ("F.selu(x)", "jax.nn.selu(x)"),
    "relu6": ("F.relu6(x)", "jax.nn.relu6(x)"),
    "hard swish": ("F.hardswish(x)", "jax.nn.hard_swish(x)"),
    "log sigmoid": ("F.logsigmoid(x)", "jax.nn.log_sigmoid(x)"),
    "softsign": ("F.softsign(x)", "jax.nn.soft_sign(x)"),
    "square": ("torch.square(x)", "jnp.square(x)"),
    "abs": ("torch.abs(x)", "jnp.abs(x)"),
    "exp": ("torch.exp(x)", "jnp.exp(x)"),
    "exp2": ("torch.exp2(x)", "jnp.exp2(x)"),
}
"""Each as code of torch and of JAX, of the argument x."""
APART = 20.0
"""How many times the tolerance two fitted numbers must be apart to be two."""
LEAST = 3
"""Magnitudes of an argument that an activation is known by."""
GATED: dict[str, tuple[str, Map]] = {
    "silu": ("silu", ACTIVATIONS["sigmoid"]),
    "mish": ("mish", lambda x: np.tanh(np.logaddexp(x, 0.0))),
    "hardswish": ("hard swish", ACTIVATIONS["hard sigmoid"]),
}
"""What torch calls an activation x g(x), what it is called here, and g, which may be all that differs."""


def another_activation(pair: OperandPair) -> Finding | None:
    """Name two activations of one agreed array, or one that only one side has."""
    for known, x, y in pair.of_size():
        if magnitudes(x) < LEAST:
            continue
        told = f"both rebuilt from x = {known.label}"
        torch, jax = which(pair.torch, x), which(pair.jax, y)
        if torch and jax and torch != jax:
            mend = WRITTEN[jax][0], WRITTEN[torch][1]
            return Finding(f"another activation: {torch} on torch, {jax} on jax", told, *mend)
        if torch and not jax and near(pair.jax, y) and not _activated(pair, 1, y):
            return Finding(f"{torch} is missing on jax, or too much on torch", told, "x", WRITTEN[torch][1])
        if jax and not torch and near(pair.torch, x) and not _activated(pair, 0, x):
            return Finding(f"{jax} is missing on torch, or too much on jax", told, WRITTEN[jax][0], "x")
    return None


def _activated(pair: OperandPair, side: int, x: np.ndarray) -> bool:
    """Return whether a side has an activation of an array: an ELU + 1 is missing nowhere if there is a ReLU in its place."""
    return any(which(value, x) for value in pair.made[side] if value.size == x.size and value is not x)


def which(value: np.ndarray, x: np.ndarray) -> str:
    """Return which activation of `x` an array is; "" if it is none, is `x` itself, or may be one of several."""
    if value.size != x.size or not x.size or near(value, x):
        return ""
    # Programs that write an activation out part inside it: erf(x / sqrt 2) on one side, tanh(...) on the other.
    found = {name: None for name, f in _possible(value, x) if near(value, f(x))}
    # Below 6 the two are one function.
    if "relu" in found:
        _ = found.pop("relu6", None)
    return next(iter(found)) if len(found) == 1 else ""


def _forms(f: Map) -> tuple[Map, ...]:
    return f, lambda x: f(x) + 1.0, lambda x: 0.5 * f(x) + 0.5


TRIED = (*ACTIVATIONS.items(), *((name, g) for name, f in INNER.items() for g in _forms(f)))


@lru_cache(maxsize=4096)
def _greatest(top: float, low: float) -> np.ndarray:
    """Return the largest that each function makes of arguments between two."""
    with np.errstate(all="ignore"):
        return np.array([f(np.array([top, low])).max() for _, f in TRIED])


def _possible(value: np.ndarray, x: np.ndarray) -> tuple[tuple[str, Map], ...]:
    """Return the functions whose largest element is the value's.

    All rise where the argument is above zero, and are nowhere greater below it than at one of the ends.
    """
    top, low, largest = float(x.max()), float(x.min()), float(value.max())
    if not (0 < top < math.inf and math.isfinite(low) and math.isfinite(largest)):
        return TRIED
    made = _greatest(top, low)
    far = np.abs(made - largest) > 1e-5 * np.maximum(np.abs(made), float(np.abs(value).max()))
    return tuple(each for each, no in zip(TRIED, far, strict=True) if not no)


def another_gate(pair: OperandPair) -> Finding | None:
    """Name two activations x g(x) that part at g, of which torch's has its name."""
    called = pair.region[0][-1].name if pair.region[0] else ""
    if called not in GATED:
        return None
    for known, x, y in pair.of_size():
        if magnitudes(x) < LEAST:
            continue
        f = GATED[called][1]
        if not any(near(pair.torch, c * f(x)) for c in (1.0, 6.0)):
            continue
        others = [name for key, (name, g) in GATED.items() if key != called and near(pair.jax, g(y))]
        if len(others) == 1:
            torch, jax = GATED[called][0], others[0]
            told = f"torch's {called} of x, on jax x times what it is in {jax}, x = {known.label}"
            return Finding(f"another activation: {torch} on torch, {jax} on jax", told, WRITTEN[jax][0], WRITTEN[torch][1])
    return None


STEPS = frozenset({"abs", "exp", "exp2", "square"})
"""What is taken on the way to much else."""


def within(pair: OperandPair) -> Finding | None:
    """Name two activations behind the arrays that part: of one array that both read, and each the last of its side."""
    first, second = ({id(e.value) for e in region} for region in pair.region)
    for known in pair.known:
        if id(known.torch) not in first or id(known.jax) not in second or magnitudes(known.torch) < LEAST:
            continue
        torch, jax = (
            [
                name
                for e in region
                if e.is_operation
                and e.value is not x
                and e.value.size == x.size
                and (name := which(e.value, x))
                and name not in STEPS
            ]
            for region, x in zip(pair.region, (known.torch, known.jax), strict=True)
        )
        if torch and jax and torch[-1] != jax[-1] and not (torch[-1] in jax or jax[-1] in torch[:-1]):
            name = f"another activation: {torch[-1]} on torch, {jax[-1]} on jax"
            told = f"both rebuilt from x = {known.label}, from which the arrays that part are made"
            return Finding(name, told, WRITTEN[jax[-1]][0], WRITTEN[torch[-1]][1], sure=False)
    return None


SPECIFIC = (another_activation, another_gate)
