"""Correctness gate: outputs and gradients of the timed call against the oracle's rounding budget, on a part of the rows.

    output[R]        = attend(q[R], k, v)                        rows of queries, and heads, do not depend on each other
    dk, dv, dq[R]    = its gradients                             if the cotangent is 0 outside of R
    agrees          <=> |program - oracle| within the budget of the program's own roundings, and 0 where the gradient is

So the oracle costs `len(R) * S` scores and not T * S, at any length; every tile of a kernel runs all the same. R holds the
first query, the last, and one of each stripe between them, of the outer heads of the last batch row.
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

from attention.parity.contracts.check import AGAIN, as_float64, verdicts
from attention.parity.numerics.comparison import Verdict
from attention.parity.numerics.comparison import judge as verdict_on
from attention.parity.numerics.error_budget import Budget, budget, differentiated
from attention.parity.numerics.rounding_sites import ROUNDS, Marker, stored_gradient
from attention.spec.attend import attend
from attention.spec.axes import COMPUTE
from benchmarks.cases import FORWARD, SEED, Case, drawn
from benchmarks.programs import Program, names

ROWS = 8
"""Rows of the timed call that are checked."""

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
        return attend(jnp, q, k, v, scale=self.scale, allowed=allowed, constant=stop_gradient, observe=Marker(rounds))[
            "context"
        ]


@dataclass(frozen=True)
class Part:
    """What is checked of a call.

    Attributes:
        row: the batch row.
        queries: which queries.
        heads: which query heads.
        kv_heads: which key/value heads: the first and the last, whose groups the query heads are.
    """

    row: int
    queries: tuple[int, ...]
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]

    def place(self, name: str, x: np.ndarray) -> Any:
        """Return the index of the part in a result `(B, T or S, H or K, D)`."""
        if name in BY_QUERY:
            return np.ix_((self.row,), self.queries, self.heads)
        return np.ix_((self.row,), range(x.shape[1]), self.kv_heads)


def part(case: Case) -> Part:
    """Return what is checked: of the last batch row, the first and last group of heads, and queries of every stripe."""
    of = case.sizes
    kv_heads = tuple(sorted({0, of.K - 1}))
    heads = tuple(h for h in range(of.H) if h // of.group in kv_heads)
    return Part(case.B - 1, tuple(rows(of.T)), heads, kv_heads)


def rows(queries: int) -> list[int]:
    """Return which of so many queries are checked."""
    if queries <= ROWS:
        return list(range(queries))
    edges = np.linspace(0, queries, ROWS - 1).astype(int)
    draw = np.random.default_rng(SEED)
    inner = {int(draw.integers(low, high)) for low, high in pairwise(edges)}
    return sorted({0, queries - 1} | inner)


def cotangent(case: Case) -> np.ndarray:
    """Return the cotangent of the first copy, `(B, T, H, D)`, with zeros outside of what is checked."""
    full = drawn(case, 1)[0][3]
    sparse, place = np.zeros_like(full), part(case).place("output", full)
    sparse[place] = full[place]
    return sparse


def expect(case: Case, rounds: tuple[str, ...], runs: int = 8) -> Budget:
    """Return what a correct program makes of the checked rows, and how far it may stray.

    Args:
        case: the call.
        rounds: what the program rounds on purpose.
        runs: of the Monte Carlo arithmetic.
    """
    # As in `contracts.check`: where storage is no coarser than arithmetic, only what is made anew counts.
    coarse = COMPUTE[case.dtype] != case.dtype
    return _expect(case, tuple(name in rounds and (coarse or name == "logsumexp") for name in ROUNDS), runs)


@lru_cache(maxsize=8)
def _expect(case: Case, rounds: tuple[bool, ...], runs: int) -> Budget:
    if case.dtype == "float64":
        # The same numbers, for both are drawn as float32: see `contracts.check.expect`.
        return as_float64(_expect(replace(case, dtype="float32"), rounds, runs))
    checked = part(case)
    q, k, v, g = (
        x[checked.place(name, x)] for name, x in zip(("d query", "d key", "d value", "output"), drawn(case, 1)[0], strict=True)
    )
    allowed = case.rows(list(checked.queries))[checked.row :][:1]
    given = (q, k, v, allowed, dict(zip(ROUNDS, map(np.bool_, rounds), strict=True)))
    formula, kinds = Formula(case.D**-0.5), {"dtype": COMPUTE[case.dtype], "storage": case.dtype, "runs": runs}
    if case.program == FORWARD:
        made = budget(formula, given, **kinds)
        return Budget({"output": made.value}, {"output": made.sigma})
    made = budget(differentiated(formula), (given, g.astype(np.float64)), **kinds)
    return Budget(*(dict(zip(names(case), (out, *d[:3]), strict=True)) for out, d in (made.value, made.sigma)))


def check(case: Case, program: Program) -> tuple[Verdict, ...]:
    """Return a verdict on the output and, of forward+backward, on each gradient."""
    results = program.results(cotangent(case))
    found = _verdicts(case, results, expect(case, program.rounds))
    if all(verdict.agrees for verdict in found):
        return found
    # A budget of 8 runs may miss what rounding does to a lucky element.
    return _verdicts(case, results, expect(case, program.rounds, AGAIN))


def _verdicts(case: Case, results: Mapping[str, np.ndarray], expected: Budget) -> tuple[Verdict, ...]:
    checked = part(case)
    places = {name: checked.place(name, x) for name, x in results.items()}
    inside = verdicts({name: x[places[name]] for name, x in results.items()}, expected)
    return *inside, *(_elsewhere(name, x, places[name]) for name, x in results.items())


def _elsewhere(name: str, x: np.ndarray, place: Any) -> Verdict:
    """Return a verdict on the rest of a result: an output is finite there, and a gradient exactly 0."""
    got = np.where(np.isfinite(x.astype(np.float32)), 0.0, np.nan) if name == "output" else x.astype(np.float64)
    got[place] = 0.0
    nothing = np.zeros(x.shape)
    return verdict_on(f"{name} elsewhere", got, nothing, nothing)
