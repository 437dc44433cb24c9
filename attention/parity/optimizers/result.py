"""The diagnosis of an optimiser step: the hypotheses that explain each of two programs, and the fix."""

from __future__ import annotations

from dataclasses import dataclass, field

from attention.parity.numerics.comparison import Verdict
from attention.parity.optimizers.hypotheses import Hypothesis
from attention.parity.optimizers.reference_code import Code, schedule_code
from attention.spec.optimizers.optimizer import Step


@dataclass(frozen=True, eq=False)
class Explanation:
    """A hypothesis and its verdict.

    Attributes:
        hypothesis: the step and its mutations.
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
