"""The judge: is what is timed right? Asked of the very call, by the oracle's budget, on some of its rows.

    output[R]              = attend(q[R], k, v)                        rows of queries do not depend on each other
    dk, dv, dq[R]          = its gradients                             if the cotangent is 0 outside of R
    agrees                <=> |program - oracle| within the budget of the program's own roundings

So the oracle costs `len(R) * S` scores and not T * S, at any length; every tile of a kernel runs all the same. R holds the
first row, the last, and others between them, drawn anew in each stripe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from attention.parity.budget import Budget, budget, differentiated
from attention.parity.checks import AGAIN, as_float64, verdicts
from attention.parity.rounding import ROUNDS, Marker, stored_gradient
from attention.parity.verdict import Verdict
from attention.parity.verdict import judge as verdict_on
from attention.spec.attend import attend
from attention.spec.axes import COMPUTE
from benchmarks.cases import FORWARD, SEED, Case, drawn
from benchmarks.programs import Program, names

ROWS = 8
"""Of the timed call, that are judged."""

BY_QUERY = {"output", "d query"}
"""Results that have a row for each query."""


@dataclass(frozen=True)
class Formula:
    """The oracle of one functional call, as a JAX program whose budget can be taken.

    Args:
        scale: what `q . k` is multiplied by.
    """

    scale: float

    def __call__(self, q: Any, k: Any, v: Any, allowed: Any, rounds: dict[str, Any]) -> Any:
        """Return the context.

        Args:
            q: `(B, R, H, D)`.
            k: `(B, S, K, D)`.
            v: `(B, S, K, D)`.
            allowed: bool `(B, 1, R, S)`.
            rounds: a bool for each of `ROUNDS`.
        """
        q, k, v = (stored_gradient(x) for x in (q, k, v))
        return attend(jnp, q, k, v, scale=self.scale, allowed=allowed, constant=stop_gradient, mark=Marker(rounds))["context"]


def rows(case: Case) -> list[int]:
    """Return which queries are judged."""
    queries = case.sizes.T
    if queries <= ROWS:
        return list(range(queries))
    edges = np.linspace(0, queries, ROWS - 1).astype(int)
    draw = np.random.default_rng(SEED)
    inner = {int(draw.integers(low, high)) for low, high in pairwise(edges)}
    return sorted({0, queries - 1} | inner)


def cotangent(case: Case) -> np.ndarray:
    """Return the cotangent of the first copy, `(B, T, H, D)`, with zeros outside of the rows that are judged."""
    full = drawn(case, 1)[0][3]
    sparse = np.zeros_like(full)
    sparse[:, rows(case)] = full[:, rows(case)]
    return sparse


def expect(case: Case, rounds: tuple[str, ...], runs: int = 8) -> Budget:
    """Return what a correct program makes of the judged rows, and how far it may stray.

    Args:
        case: the call.
        rounds: what the program rounds on purpose.
        runs: of the Monte Carlo arithmetic.
    """
    # As in `parity.checks`: where storage is no coarser than arithmetic, only what is made anew counts.
    coarse = COMPUTE[case.dtype] != case.dtype
    return _expect(case, tuple(name in rounds and (coarse or name == "logsumexp") for name in ROUNDS), runs)


@lru_cache(maxsize=8)
def _expect(case: Case, rounds: tuple[bool, ...], runs: int) -> Budget:
    if case.dtype == "float64":
        # The same numbers, for both are drawn as float32: see `parity.checks.expect`.
        return as_float64(_expect(replace(case, dtype="float32"), rounds, runs))
    q, k, v, _ = drawn(case, 1)[0]
    chosen = rows(case)
    given = (q[:, chosen], k, v, case.rows(chosen), dict(zip(ROUNDS, map(np.bool_, rounds), strict=True)))
    formula, kinds = Formula(case.D**-0.5), {"dtype": COMPUTE[case.dtype], "storage": case.dtype, "runs": runs}
    if case.program == FORWARD:
        made = budget(formula, given, **kinds)
        return Budget({"output": made.value}, {"output": made.sigma})
    made = budget(differentiated(formula), (given, cotangent(case)[:, chosen].astype(np.float64)), **kinds)
    return Budget(*(dict(zip(names(case), (out, *d[:3]), strict=True)) for out, d in (made.value, made.sigma)))


def judge(case: Case, program: Program) -> tuple[Verdict, ...]:
    """Return a verdict on the output and, of forward+backward, on each gradient."""
    results = program.results(cotangent(case))
    found = _verdicts(case, results, expect(case, program.rounds))
    if all(verdict.agrees for verdict in found):
        return found
    # A budget of 8 runs may miss what rounding does to a lucky element.
    return _verdicts(case, results, expect(case, program.rounds, AGAIN))


def _verdicts(case: Case, results: Mapping[str, np.ndarray], expected: Budget) -> tuple[Verdict, ...]:
    chosen = rows(case)
    seen = {name: x[:, chosen] if name in BY_QUERY else x for name, x in results.items()}
    return *verdicts(seen, expected), *(_elsewhere(name, np.delete(results[name], chosen, 1)) for name in BY_QUERY & {*results})


def _elsewhere(name: str, rest: np.ndarray) -> Verdict:
    """Return a verdict on the other rows: an output is finite, and a gradient exactly 0."""
    wide = rest.astype(np.float64)
    got = np.where(np.isfinite(wide), 0.0, np.nan) if name == "output" else wide
    return verdict_on(f"{name} of other rows", got, np.zeros(rest.shape), np.zeros(rest.shape))
