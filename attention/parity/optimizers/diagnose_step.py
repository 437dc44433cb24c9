"""Diagnose an optimiser step: which option of its contract each of two programs has wrong.

    trajectory = parameters after each step of the probe        z = (trajectory - hypothesis) / sigma
    a hypothesis explains a program  <=>  RMS z <= 4 and max |z| <= 30, for every tensor after every step

Single mutations are tried first, then one number of any value, then pairs. All that explain the program are listed: for this
contract they are the same mathematics.
"""

# Values come from users, with types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from attention.parity.numerics.comparison import Verdict, judge
from attention.parity.optimizers.adapters import StepProgram, Trajectory, framework, run
from attention.parity.optimizers.error_budget import StepBudgets, effective, flat
from attention.parity.optimizers.hypotheses import Hypothesis, hypotheses, neighbours, pairs, solved
from attention.parity.optimizers.probe import length, step_probe
from attention.parity.optimizers.reference_code import code
from attention.parity.optimizers.result import Explanation, StepDiagnosis, StepProgramDiagnosis
from attention.spec.errors import DTypeError, OptionError
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule
from attention.spec.options import SEED, Option, checked, one_of

FAR = 1e30
"""The distance of an element that is NaN or infinite in one program alone."""
MOST_CLOSE, CLOSE, BEHIND = 8, 9.0, 3.0
"""How many of the nearest hypotheses are judged by budgets of their own, how far they may be, in powers of e of the contract's
sigma, and how far behind the nearest."""


@checked(
    names=Option(
        "a pair of names",
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(type(name) is str for name in value),
    ),
    dtype=one_of("", "float32", "float64").raising(DTypeError),
    seed=SEED,
)
def diagnose_step(
    first: StepProgram,
    second: StepProgram,
    contract: Step,
    *,
    names: tuple[str, str] = ("first", "second"),
    dtype: str = "",
    seed: int = 0,
) -> StepDiagnosis:
    """Return which option of the contract each program has wrong.

        diagnose_step(lambda params: torch.optim.AdamW(params, lr=1e-3), optax.adamw(1e-3),
                      spec.optimizers.Adam(1e-3, weight_decay=0.01, decoupled=True))

    Args:
        first: a spec step; a function of parameters that returns a torch optimiser, or a tuple of what is called and stepped
            in this order; an optax.GradientTransformation; or a function of parameters and of the list of gradients that
            returns the parameters after each step, all dicts of NumPy arrays.
        second: the same.
        contract: the step that is meant.
        names: of the programs.
        dtype: in which functions of arrays compute, "float32" or "float64"; that of their results if empty. torch and optax
            are run in float64.
        seed: of the probe.

    Raises:
        OptionError: a program or the contract is of no such kind.
        SideFailed: a program raised, or returned something that cannot be compared.
    """
    if not isinstance(contract, Step):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
        raise OptionError(f"contract {type(contract).__name__} must be a step such as spec.optimizers.Adam")
    probe = step_probe(contract, seed)
    budgets: dict[str, StepBudgets] = {}

    def found(name: str, program: StepProgram) -> StepProgramDiagnosis:
        trajectory = run(name, program, probe)
        kind = dtype or _dtype(trajectory)
        made = budgets.setdefault(kind, StepBudgets(probe, kind))
        explaining, nearest = explain(trajectory, contract, made)
        at = _Comparison(trajectory, contract, made).differs_at()
        return StepProgramDiagnosis(name, framework(program), tuple(explaining), nearest, at, _last(contract, probe.steps))

    one, two = found(names[0], first), found(names[1], second)
    return StepDiagnosis(contract, one, two, code(contract))


def explain(trajectory: Trajectory, contract: Step, budgets: StepBudgets) -> tuple[list[Explanation], Explanation | None]:
    """Return every hypothesis that explains a trajectory, and the nearest one that does not.

    Args:
        trajectory: parameters after each step.
        contract: the step that is meant.
        budgets: of what was run.
    """
    comparison = _Comparison(trajectory, contract, budgets)
    singles = effective(hypotheses(contract), contract, budgets)
    if (right := comparison.judged(Hypothesis(contract))).explains:
        return [right], comparison.nearest(singles)
    explaining = comparison.explaining(singles)
    told = {mutation.kind for found in explaining for mutation in found.hypothesis.mutations}
    explaining += comparison.explaining(solved(contract, comparison.residual, told))
    for candidates in (pairs(contract), neighbours(singles, comparison.residual)):
        explaining = explaining or comparison.explaining(candidates)
    explained = [found.hypothesis for found in explaining]
    return explaining, comparison.nearest([h for h in singles if h not in explained])


class _Comparison:
    """Compares a trajectory with hypotheses: all within the contract's budget, the nearest within their own."""

    def __init__(self, trajectory: Trajectory, contract: Step, budgets: StepBudgets) -> None:
        self.trajectory, self.contract, self.budgets = trajectory, contract, budgets
        self.flat_seen = flat(trajectory)
        self.flat_sigma = np.maximum(flat(budgets.sigma(contract)), np.finfo(np.float64).tiny)

    def residual(self, step: Step) -> np.ndarray:
        """Return (hypothesis - trajectory) / sigma of the contract, flat."""
        wanted = self.budgets.flat(step)
        equivalent = (wanted == self.flat_seen) | (np.isnan(wanted) & np.isnan(self.flat_seen))
        with np.errstate(all="ignore"):
            far = (wanted - self.flat_seen) / self.flat_sigma
        return np.where(equivalent, 0.0, np.where(np.isfinite(far), far, FAR))

    def distance(self, hypothesis: Hypothesis) -> float:
        """Return the distance of a hypothesis, in a robust measure."""
        return float(np.mean(np.log1p(np.abs(self.residual(hypothesis.step)))))

    def judged(self, hypothesis: Hypothesis) -> Explanation:
        """Return the verdict on a hypothesis by its own budget."""
        return Explanation(hypothesis, self._worst(self.trajectory, hypothesis.step))

    def _worst(self, trajectory: Trajectory, step: Step) -> Verdict:
        wanted, sigmas = self.budgets.after(step), self.budgets.sigma(step)
        verdicts = [
            judge(f"{name} after step {number + 1}", trajectory[number][name], after[name], sigmas[number][name])
            for number, after in enumerate(wanted)
            for name in after
        ]
        return max(verdicts, key=lambda verdict: (not verdict.agrees, verdict.rms))

    def differs_at(self) -> int:
        """Return the first step, from 1, after which a parameter differs from the contract; 0 if there is none."""
        wanted, sigmas = self.budgets.after(self.contract), self.budgets.sigma(self.contract)
        for number, after in enumerate(wanted):
            pairs = ((self.trajectory[number][name], x, sigmas[number][name]) for name, x in after.items())
            if not all(judge("", *each).agrees for each in pairs):
                return number + 1
        return 0

    def explaining(self, candidates: Iterable[Hypothesis]) -> list[Explanation]:
        """Return those of the nearest hypotheses that explain the trajectory."""
        far = {h: self.distance(h) for h in candidates}
        least = min(far.values(), default=0.0)
        near = [h for h in sorted(far, key=far.__getitem__)[:MOST_CLOSE] if far[h] < min(CLOSE, least + BEHIND)]
        right = self.budgets.after(self.contract)
        # A hypothesis whose budget is so wide that it explains the right trajectory too explains nothing.
        return [found for h in near if (found := self.judged(h)).explains and not self._worst(right, h.step).agrees]

    def nearest(self, candidates: Sequence[Hypothesis]) -> Explanation | None:
        """Return the nearest hypothesis."""
        return self.judged(min(candidates, key=self.distance)) if candidates else None


def _last(contract: Step, steps: int) -> int:
    """Return the last step, from 1, whose rate the schedule sets; 0 where there is none, or where a probe ends before it."""
    if not isinstance(contract.learning_rate, Schedule):
        return 0
    last = length(contract.learning_rate) - contract.first_count + 1
    return last if 0 < last < steps else 0


def _dtype(trajectory: Trajectory) -> str:
    return "float64" if all(p.dtype == np.float64 for p in trajectory[0].values()) else "float32"
