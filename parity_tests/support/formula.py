"""The attention formula as loops, and the calls on which every kernel is compared with it.

loops(q, k, v) = spec.attend(q, k, v), sharing no line with it        formula_grads = jax.grad of spec.attend
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import spec
from attention.spec import random
from attention.spec.axes import sizes
from attention.spec.masks.algebra import Mask, evaluate
from parity_tests.support.backends import numbers, wide

B, T, S, H, K, D, E = 2, 5, 7, 4, 2, 3, 11
SEED = 2**32 + 7

LENGTHS = spec.Lengths(kv=[4, 0], q=[5, 3])
SEGMENTS = spec.Segments(kv=[[0, 0, 1, 1, 1, -1, -1]] * 2, q=[[0, 1, 1, -1, 2]] * 2)
PER_HEAD = spec.DenseMask(numbers(3, H, T, S) > 0.6)

# name: (sizes that differ, options)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "unbatched": ({"batch": ()}, {"mask": spec.Causal(align="end")}),
    "many batch axes": (
        {"batch": (2, 3)},
        {"mask": spec.Lengths(kv=[[1, 7, 0], [2, 3, 4]]), "bias": numbers(4, 3, 1, T, 1)},
    ),
    "E != D": ({"E": E}, {"mask": PER_HEAD}),
    "one key head": ({"K": 1}, {"mask": SEGMENTS}),
    "a key head each": ({"K": H}, {"mask": PER_HEAD}),
    "scale": ({}, {"scale": -0.3}),
    "mask": ({}, {"mask": spec.Causal(align="start") & ~LENGTHS | SEGMENTS}),
    "sinks": ({}, {"sinks": numbers(5, H), "mask": LENGTHS}),
    "cap, bias, mask": ({}, {"softcap": 0.5, "bias": 3 * numbers(6, H, T, S), "mask": PER_HEAD, "scale": 2.0}),
    "dropout": ({"E": E}, {"dropout_rate": 0.3, "dropout_seed": SEED, "mask": LENGTHS}),
    "large scores": ({}, {"scale": 100.0, "bias": numbers(7, T, S)}),
}


def qkv(
    batch: tuple[int, ...] = (B,), K: int = K, E: int = D, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shapes = ((*batch, T, H, D), (*batch, S, K, D), (*batch, S, K, E))
    q, k, v = (numbers(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes))
    return q, k, v


def resolved(q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a call as the formula takes them: the mask as an array, the seed as what it keeps."""
    options = {"scale": 1 / np.sqrt(D), **options}
    of = sizes(q, k, v)
    options["allowed"] = evaluate(options.pop("mask", None), of)
    if "dropout_rate" in options:
        options["keep"] = random.keep(options.pop("dropout_seed"), options["dropout_rate"], of.scores)
    return options


def formula(q: np.ndarray, k: np.ndarray, v: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    return spec.attend(np, q, k, v, **resolved(q, k, v, options))


def loops(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float,
    allowed: Any = True,
    bias: Any = 0.0,
    softcap: float | None = None,
    sinks: Any = None,
    keep: Any = True,
    dropout_rate: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return context and logsumexp, one query at a time."""
    *batch, _, h, _ = q.shape
    shape = (*batch, h, T, S)
    allowed, bias, keep = (np.broadcast_to(x, shape) for x in (True if allowed is None else allowed, bias, keep))
    context, logsumexp = np.zeros((*batch, T, h, v.shape[-1])), np.full((*batch, h, T), -np.inf)
    for *b, i, t in np.ndindex(*batch, h, T):
        at, group = tuple(b), i // (h // k.shape[-2])
        x = np.array([q[(*at, t, i)] @ k[(*at, s, group)] * scale for s in range(S)])
        x = x if softcap is None else softcap * np.tanh(x / softcap)
        x, seen = x + bias[(*at, i, t)], allowed[(*at, i, t)]
        logits = x[seen] if sinks is None else np.append(x[seen], sinks[i])
        if logits.size:
            top = logits.max()
            logsumexp[(*at, i, t)] = top + np.log(np.exp(logits - top).sum())
        for s in np.flatnonzero(seen & keep[(*at, i, t)]):
            weight = np.exp(x[s] - logsumexp[(*at, i, t)]) / (1 - dropout_rate)
            context[(*at, t, i)] += weight * v[(*at, s, group)]
    return context, logsumexp


def allowed_by(mask: Mask, *given: np.ndarray) -> np.ndarray:
    allowed = evaluate(mask, sizes(*given))
    assert allowed is not None
    return np.broadcast_to(allowed, (B, H, T, S))


@cache
def formula_grads(case: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a direction, and the formula's gradients along it in JAX float64: of q, k, v and arrays in the options."""
    changed, options = CASES[case]
    given = qkv(**changed)
    along = numbers(8, *formula(*given, **options)["context"].shape)
    names = [name for name, x in options.items() if isinstance(x, np.ndarray)]
    fixed = resolved(*given, options)

    def scalar(q: Any, k: Any, v: Any, *rest: Any) -> Any:
        intermediates = spec.attend(jnp, q, k, v, **(fixed | dict(zip(names, rest, strict=True))))
        return (intermediates["context"] * along).sum()

    inputs = (*given, *(options[name] for name in names))
    with wide(*inputs):
        grads = jax.grad(scalar, tuple(range(len(inputs))))(*map(jnp.asarray, inputs))
        return along, [np.asarray(g) for g in grads]
