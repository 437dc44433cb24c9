"""Diagnose an optimiser step: which option of its contract each of two programs has wrong.

    trajectory = parameters after each step of the probe        z = (trajectory - hypothesis) / sigma
    a hypothesis explains a program  <=>  RMS z <= 4 and max |z| <= 30, for every tensor after every step

Single mutations are tried first, then one number of any value, then pairs. All that explain the program are listed: for this
contract they are the same mathematics.
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attention.parity.numerics.comparison import Verdict, judge
from attention.parity.optimizers.adapters import StepProgram, Trajectory, framework, run
from attention.parity.optimizers.error_budget import StepBudgets, effective, flat
from attention.parity.optimizers.hypotheses import Hypothesis, hypotheses, neighbours, pairs, solved
from attention.parity.optimizers.probe import length, step_probe
from attention.parity.optimizers.reference_code import Code, code, schedule_code
from attention.spec.errors import DTypeError, OptionError
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule
from attention.spec.options import SEED, Option, checked, one_of

FAR = 1e30
"""The distance of an element that is NaN or infinite in one program alone."""
MOST_CLOSE, CLOSE, BEHIND = 8, 9.0, 3.0
"""How many of the nearest hypotheses are judged by budgets of their own, how far they may be, in powers of e of the contract's
sigma, and how far behind the nearest."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A hypothesis and its verdict.

    Attributes:
        hypothesis: the step, and what is wrong with it.
        worst: the worst array's verdict; it agrees if the hypothesis explains the program.
    """

    hypothesis: Hypothesis
    worst: Verdict

    @property
    def explains(self) -> bool:
        """Whether every array of every step is as near as rounding allows."""
        return self.worst.agrees


@dataclass(frozen=True, eq=False)
class StepProgramDiagnosis:
    """The diagnosis of one program.

    Attributes:
        name: the program's.
        framework: "torch", "optax", "numpy" or "formula".
        explanations: every hypothesis that explains the program, all the same mathematics; empty if none is known.
        nearest: the nearest that does not.
        differs_at: the first step, from 1, after which a parameter differs from the contract; 0 if there is none.
        end: the last step of the contract's schedule; 0 where it has none, or the probe does not reach beyond it.
    """

    name: str
    framework: str
    explanations: tuple[Explanation, ...]
    nearest: Explanation | None
    differs_at: int = 0
    end: int = 0

    @property
    def past_end(self) -> bool:
        """Whether the program follows the contract until its schedule ends, and differs only then."""
        return 0 < self.end < self.differs_at

    @property
    def right(self) -> bool:
        """Whether the program follows the contract, as long as its schedule lasts."""
        return self.past_end or any(not found.hypothesis.mutations for found in self.explanations)

    @property
    def known(self) -> bool:
        """Whether the program is explained."""
        return bool(self.explanations)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the explanations: known mutations, or else numbers that were solved for."""
        known = tuple(found.hypothesis.name for found in self.explanations if not found.hypothesis.solved)
        return known or tuple(found.hypothesis.name for found in self.explanations)

    @property
    def equivalent(self) -> tuple[str, ...]:
        """Single numbers whose other values would be the same mathematics as `names` for this contract."""
        return tuple(found.hypothesis.name for found in self.explanations if found.hypothesis.name not in self.names)

    def __str__(self) -> str:
        if self.past_end:
            return (
                f"{self.name}: as the contract says up to the end of its schedule, step {self.end}; they differ from step"
                f" {self.differs_at} on, past the end, where the contract's rate stays constant and this program's does not"
            )
        if not self.known:
            near = f"; nearest, and wrong: {self.nearest.hypothesis.name} ({self.nearest.worst})" if self.nearest else ""
            return f"{self.name}: none of the known mistakes fits{near}; differs at step {self.differs_at}"
        how = "unique" if len(self.names) == 1 else "the same mathematics for this contract"
        how += f"; the same would be {' or '.join(self.equivalent)}" if self.equivalent else ""
        lines = [f"{self.name}: {' = '.join(self.names)}" + ("" if self.right else f"  ({how})")]
        lines += [f"    {mutation.story} [{mutation.source}]" for mutation in self.explanations[0].hypothesis.mutations]
        worst = self.explanations[0].worst
        lines.append(f"    evidence: worst of all arrays and steps is {worst}")
        lines += [f"    differs from the contract at step {self.differs_at}"] if self.differs_at else []
        if self.nearest:
            lines.append(f"    next best: {self.nearest.hypothesis.name}, {self.nearest.worst}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class StepDiagnosis:
    """The diagnosis of two programs of one optimiser step.

    Attributes:
        contract: the step that is meant.
        first, second: of each program.
        code: the fix: the contract as a line of each framework.
    """

    contract: Step
    first: StepProgramDiagnosis
    second: StepProgramDiagnosis
    code: dict[str, Code] = field(default_factory=dict[str, Code])

    @property
    def ok(self) -> bool:
        """Whether both programs follow the contract."""
        return self.first.right and self.second.right

    def __str__(self) -> str:
        lines = [str(self.first), str(self.second)]
        if not self.ok:
            said = [f"    {name}: {words}" for name, words in self.code.items()]
            rates = schedule_code(self.contract)
            lines += ["as the contract says:", *said, *(f"    with {name}'s schedule = {text}" for name, text in rates.items())]
        return "\n".join(lines)


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
                      spec.Adam(1e-3, weight_decay=0.01, decoupled=True))

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
        raise OptionError(f"contract {type(contract).__name__} must be a step such as spec.Adam")
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
