"""The result of a diagnosis: what is wrong with each of two programs, with the evidence, the fix, and the confidence.

unique       one hypothesis reproduces the program's outputs on every probe
class        several do, and are mathematically the same in this contract
open         several do, and no probe that the program supports distinguishes them
unknown      none does: then no name is given
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention.parity.diagnosis.evidence import Observation, worst
from attention.parity.diagnosis.search import Explanation
from attention.parity.mutations.registry import KINDS
from attention.parity.numerics.comparison import Verdict

STATES = ("agrees", "named", "unknown", "unsteady", "failed")
SHOWN = 3
"""How many explanations are printed where several hold."""


@dataclass(frozen=True, eq=False)
class ProgramDiagnosis:
    """The diagnosis of one program.

    Attributes:
        name: the program's.
        framework: "torch", "jax" or another.
        state: one of `STATES`.
        observations: the probes and outputs.
        skipped: why other probes did not run, by name.
        explanations: the nearest first; empty unless `state` is "named".
        notes: further lines for the reader.
        seconds: how long it took.
    """

    name: str
    framework: str
    state: str
    observations: tuple[Observation, ...] = field(default=(), repr=False)
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    explanations: tuple[Explanation, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the program agrees with the contract on every probe that ran."""
        return self.state == "agrees"

    @property
    def unique(self) -> bool:
        """Whether there is one explanation; its names are then the same mathematics."""
        return len(self.explanations) == 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the first explanation."""
        return self.explanations[0].names if self.explanations else ()

    @property
    def confidence(self) -> str:
        """The confidence in the name, in words."""
        if not self.explanations:
            return ""
        if len(self.explanations) > 1:
            return f"open: {len(self.explanations)} explanations hold on every probe, and no probe that ran distinguishes them"
        if len(self.names) > 1:
            return f"one of {len(self.names)}, mathematically the same here"
        return "unique among the known mistakes" + (", on the probes that the program supports" if self.skipped else "")

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the finding as text."""
        count = len(self.observations)
        head = {
            "agrees": f"agrees with the contract (outputs of {count} probes)",
            "named": self.explanations[0].names[0] if self.explanations else "",
            "unknown": "none of the known mistakes fits",
            "unsteady": "two runs of the same call differ",
            "failed": f"failed on a probe, and agrees with the contract on {count}" if count else "failed on every probe",
        }[self.state]
        made = [f"{self.name}: {head}"]
        for explanation in self.explanations[:SHOWN]:
            made += self._cause(explanation)
        if self.state == "unknown":
            made += [f"    {_line(observation)}" for observation in self.observations if not observation.agrees]
            made.append("    next: parity.locate(torch_side, jax_side, inputs) finds the first operation that differs")
        made += [f"    {note}" for note in self.notes]
        if self.skipped:
            made.append("    not run: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in self._skips().items()))
        return made

    def _skips(self) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        return reasons

    def _cause(self, explanation: Explanation) -> list[str]:
        made = [] if explanation is self.explanations[0] else [f"    or: {explanation.names[0]}"]
        if len(explanation.names) > 1:
            made.append(f"    the same here: {'; '.join(explanation.names[1:])}")
        if explanation is self.explanations[0]:
            made.append(f"    confidence: {self.confidence}")
            told = list(zip(self.observations, explanation.evidence, strict=False))
            made += [
                f"    {_line(observation)} -> {worst(verdicts):.2f}" for observation, verdicts in told if not observation.agrees
            ]
        return made + _advice(explanation, self.framework)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-ready data."""
        return {
            "side": self.name,
            "framework": self.framework,
            "state": self.state,
            "sureness": self.confidence,
            "explanations": [_cause_dict(explanation, self.observations) for explanation in self.explanations],
            "probes": {observation.probe.name: worst(observation.verdicts) for observation in self.observations},
            "not run": dict(self.skipped),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The diagnosis of two programs of one contract.

    Attributes:
        torch: of the first program.
        jax: of the second.
    """

    torch: ProgramDiagnosis
    jax: ProgramDiagnosis

    @property
    def diagnoses(self) -> tuple[ProgramDiagnosis, ProgramDiagnosis]:
        """Both."""
        return self.torch, self.jax

    @property
    def ok(self) -> bool:
        """Whether both programs agree with the contract."""
        return all(diagnosis.agrees for diagnosis in self.diagnoses)

    @property
    def unknown(self) -> bool:
        """Whether a program is wrong in a way that no known mutation explains."""
        return any(diagnosis.state == "unknown" for diagnosis in self.diagnoses)

    @property
    def alike(self) -> bool:
        """Whether both programs differ from the contract in the same way: the contract may be wrong."""
        first, second = self.diagnoses
        return bool(first.names) and first.names == second.names

    def __str__(self) -> str:
        made = [str(diagnosis) for diagnosis in self.diagnoses]
        if self.alike:
            made.append("Both programs differ from the contract in the same way: is the contract what you mean?")
        return "\n".join(made)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON-ready data."""
        return {"ok": self.ok, "unknown": self.unknown, "alike": self.alike, "sides": [f.to_dict() for f in self.diagnoses]}


def _line(observation: Observation) -> str:
    return f"z {worst(observation.verdicts):>10.4g} on {observation.probe.name}"


def _advice(explanation: Explanation, framework: str) -> list[str]:
    """Return the story and the right line of each kind of mutation, the program's own framework first."""
    made: list[str] = []
    for name in dict.fromkeys(part for part in explanation.kinds[0].split(" + ") if part in KINDS):
        kind = KINDS[name]
        made.append(f"    {name}: {kind.story} [{kind.source}]")
        fixes = {"torch": kind.fix_torch, "jax": kind.fix_jax}
        made += [f"        {own:5}  {fixes[own]}" for own in sorted(fixes, key=lambda n: n != framework)]
    return made


def _cause_dict(explanation: Explanation, observations: tuple[Observation, ...]) -> dict[str, Any]:
    def z(verdicts: tuple[Verdict, ...]) -> float:
        return worst(verdicts)

    told = zip(observations, explanation.evidence, strict=False)
    evidence = {observation.probe.name: [z(observation.verdicts), z(verdicts)] for observation, verdicts in told}
    kinds = [KINDS[name] for name in dict.fromkeys(explanation.kinds[0].split(" + ")) if name in KINDS]
    return {
        "names": list(explanation.names),
        "kinds": list(dict.fromkeys(explanation.kinds)),
        "z before and after": evidence,
        "fix": {kind.name: {"torch": kind.fix_torch, "jax": kind.fix_jax} for kind in kinds},
    }
