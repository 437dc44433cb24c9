"""Observations: the outputs of a program on a probe, and their distance from those of a hypothesis.

    distance = RMS of (output - hypothesis) / spread         spread: sigma of the right call, nowhere below its own RMS
    explains <=> every verdict against the hypothesis's own budget agrees, on every probe

The distance is cheap (NumPy alone) and discards hypotheses; the verdict is strict and decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.formula_hooks import formula_outputs, own_budget
from attention.parity.mutations.mutation import Mutation
from attention.parity.mutations.operators import Operator
from attention.parity.numerics.comparison import Verdict, judge
from attention.parity.numerics.error_budget import Budget
from attention.spec.errors import AttentionError

Outputs = dict[str, np.ndarray]

NEAR = 100.0
"""The distance up to which a hypothesis is worth a verdict: a wrong program may round up to so much more than the right one."""
FAR = 1e8
"""The distance of what cannot be compared, such as NaN beside a number."""
SMALL = 2**14
"""The largest number of output elements that is cached."""
SAME = 0.5
"""The distance up to which two hypotheses are the same to rounding."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One probe, and the outputs of a program on it.

    Attributes:
        probe: the right call.
        got: the program's outputs.
        right: the right outputs, and their error budget.
    """

    probe: Probe
    got: Outputs
    right: Budget

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """A verdict on each output, against the contract."""
        return _judged(self.got, self.right)

    @property
    def agrees(self) -> bool:
        """Whether the program agrees with the contract on this probe."""
        return all(verdict.agrees for verdict in self.verdicts)

    @cached_property
    def wanted(self) -> np.ndarray:
        """The right outputs that the program also returns, in one row."""
        return _flat({name: self.right.value[name] for name in self.got})

    @cached_property
    def given(self) -> np.ndarray:
        """The program's outputs, likewise."""
        return _flat({name: self.got[name] for name in self.got})

    @cached_property
    def spread(self) -> np.ndarray:
        """The unit of distances: `(n,)`, positive."""
        rows: list[np.ndarray] = []
        for name in self.got:
            sigma, value = self.right.sigma[name], self.right.value[name]
            seen: np.ndarray = sigma[np.isfinite(sigma)]
            typical = float(np.sqrt(np.mean(seen**2))) if seen.size else 0.0
            # Where the right result is exact, a wrong one is not.
            least = max(typical, 2.0**-24 * float(np.max(np.abs(value), initial=0.0, where=np.isfinite(value))), 1e-38)
            rows.append(np.hypot(np.where(np.isfinite(sigma), sigma, 0.0), least).reshape(-1))
        return np.concatenate(rows)

    def made(self, operator: Operator, *, remember: bool = True) -> np.ndarray | None:
        """Return the outputs of a program with this mutation, in one row; None if it does not apply."""
        known = remember and self.given.size <= SMALL
        wrong = _remembered(operator, self.probe) if known else _made(operator, self.probe)
        flat = None if wrong is None else _flat({name: wrong[name] for name in self.got if name in wrong})
        return None if flat is None or flat.shape != self.given.shape else flat

    def distance(self, outputs: np.ndarray | None) -> float:
        """Return the distance of the program from these outputs."""
        return FAR if outputs is None else _rms(self.given, outputs, self.spread)

    def apart(self, first: np.ndarray | None, second: np.ndarray | None) -> float:
        """Return the distance of two outputs from each other."""
        return FAR if first is None or second is None else _rms(first, second, self.spread)

    def z(self, operator: Operator, *, strict: bool) -> tuple[Verdict, ...]:
        """Return a verdict on each output, against a program with this mutation; none if it does not apply.

        Args:
            operator: of the mutation.
            strict: whether to use that program's own budget even where the outputs are within the right one's.
        """
        wrong = None if strict else _remembered(operator, self.probe)
        if wrong is not None:
            verdicts = _judged(self.got, Budget(wrong, self.right.sigma))
            if all(verdict.agrees for verdict in verdicts):
                return verdicts
        try:
            return _judged(self.got, own_budget(operator(self.probe)))
        except AttentionError:
            return ()


def explains(
    mutation: Mutation, observations: Iterable[Observation], *, strict: bool = False
) -> list[tuple[Verdict, ...]] | None:
    """Return the verdicts of every observation if the mutation explains them all, or None."""
    found: list[tuple[Verdict, ...]] = []
    for observation in observations:
        verdicts = observation.z(mutation.operator, strict=strict)
        if not verdicts or not all(verdict.agrees for verdict in verdicts):
            return None
        found.append(verdicts)
    return found


def _made(operator: Operator, probe: Probe) -> Outputs | None:
    try:
        return formula_outputs(operator(probe))
    except AttentionError:
        return None


# Both programs, and all programs of the contract, share the probes.
_remembered = lru_cache(maxsize=4096)(_made)


def worst(verdicts: Iterable[Verdict]) -> float:
    """Return the largest RMS z."""
    return max((verdict.rms for verdict in verdicts), default=np.inf)


def hardest_first(observations: Sequence[Observation]) -> list[Observation]:
    """Return the observations in the order in which they refute most hypotheses: wrong outputs first."""
    return sorted(observations, key=lambda observation: observation.agrees)


def _judged(got: Outputs, wanted: Budget) -> tuple[Verdict, ...]:
    return tuple(judge(name, x, wanted.value[name], wanted.sigma[name]) for name, x in got.items())


def _flat(arrays: Outputs) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in arrays.values()])


def _rms(first: np.ndarray, second: np.ndarray, spread: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        z = np.abs(first - second) / spread
        z = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, np.where(np.isfinite(z), z, FAR))
        return float(np.sqrt(np.mean(np.minimum(z, FAR) ** 2)))
