"""Random calls of the formula, and assertions about their results.

formula(call) = attend(numpy, **call)        poisoned(call) = call, with NaN wherever nothing may be read
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from attention.spec.attend import attend

Call = dict[str, Any]
"""The arguments of `attend`, by name."""
Intermediates = dict[str, np.ndarray]

DIGITS = 1e-14
"""What is promised of float64: the error of numbers near 1."""
sides = st.integers(1, 4)


def call(seed: int, batch: tuple[int, ...], t: int, s: int, kv: int, group: int, d: int, e: int, *features: str) -> Call:
    """A call of normal numbers; features among "allowed", "bias", "softcap", "sinks", "keep"."""
    random = np.random.default_rng(seed)
    h = kv * group
    shapes = {"q": (t, h, d), "k": (s, kv, d), "v": (s, kv, e)}
    arrays = {name: random.standard_normal((*batch, *shape)) for name, shape in shapes.items()}
    every: Call = {
        # A query or a key in four sees nothing, whatever else is drawn.
        "allowed": (random.random((*batch, h, t, s)) < 0.6)
        & (random.random((*batch, 1, t, 1)) < 0.75)
        & (random.random((*batch, 1, 1, s)) < 0.75),
        "bias": random.standard_normal((h, 1, s)),
        "softcap": 1.5,
        "sinks": random.standard_normal(h),
        "keep": random.random((*batch, h, t, s)) < 0.7,
    }
    given = {name: every[name] for name in features}
    return {**arrays, "scale": 0.7, **given, **({"dropout_rate": 0.3} if "keep" in given else {})}


features = st.sets(st.sampled_from(["allowed", "bias", "softcap", "sinks", "keep"]))
calls = st.builds(
    lambda *numbers, on: call(*numbers, *sorted(on)),
    st.integers(0, 999),
    st.lists(sides, max_size=2).map(tuple),
    *(sides for _ in range(6)),
    on=features,
)
masked = st.builds(lambda seed, *sizes: call(seed, (2,), *sizes, "allowed"), st.integers(0, 999), *(sides for _ in range(6)))
# Groups of two, every size its own, every feature at once, and some rows and keys that nothing may read.
FULL = call(1, (2,), 3, 5, 2, 2, 7, 4, *["allowed", "bias", "softcap", "sinks", "keep"])


def close(got: Any, wanted: Any) -> None:
    """Raise unless two float64 arrays agree to the promised digits of their largest finite number, or of 1."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert (got.dtype, got.shape) == (np.float64, wanted.shape)
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=1.0)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=DIGITS * largest)


def unseen(allowed: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a query `(*batch, T, H)` sees no key, and where a key `(*batch, S, K)` is seen by no query."""
    rows = ~np.asarray(np.swapaxes(allowed, -3, -2).any(-1))
    heads = [allowed[..., i : i + group, :, :].any((-3, -2)) for i in range(0, allowed.shape[-3], group)]
    return rows, ~np.stack(heads, axis=-1)


def poisoned(of: Call) -> Call:
    """The call with NaN and infinities wherever nothing may be read."""
    q, k, v = (of[name].copy() for name in "qkv")
    rows, keys = unseen(of["allowed"], q.shape[-2] // k.shape[-2])
    q[rows], k[keys], v[keys] = np.nan, np.inf, np.nan
    return of | {"q": q, "k": k, "v": v}


def formula(of: Call, **changes: Any) -> Intermediates:
    """The intermediates in NumPy, of a call with some of its arguments changed."""
    return attend(np, **{**of, **changes})
