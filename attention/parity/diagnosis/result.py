"""Diagnosis: what is wrong with each side, by name, with the evidence, the fix, and how sure that is.

unique       one hypothesis answers every question as the program did
class        several do, and are mathematically the same in this contract
open         several do, and no question that the program can be asked tells them apart
unknown      none does: then no name is given
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention.parity.diagnosis.evidence import Asked, worst
from attention.parity.diagnosis.search import Cause
from attention.parity.mutations.registry import KNOBS
from attention.parity.numerics.comparison import Verdict

STATES = ("agrees", "named", "unknown", "unsteady", "failed")
SHOWN = 3
"""How many causes are told where several explain the answers."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found about one side.

    Attributes:
        name: the side's.
        framework: "torch", "jax" or another.
        state: one of `STATES`.
        asked: the questions and answers.
        skipped: why other questions were not asked, by their names.
        causes: what explains the answers, the nearest first; empty unless `state` is "named".
        notes: what the reader must know beside that.
        seconds: how long it took.
    """

    name: str
    framework: str
    state: str
    asked: tuple[Asked, ...] = field(default=(), repr=False)
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the side does as the contract says, as far as it was asked."""
        return self.state == "agrees"

    @property
    def unique(self) -> bool:
        """Whether one cause explains the answers; its names are then the same mathematics."""
        return len(self.causes) == 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the first cause."""
        return self.causes[0].names if self.causes else ()

    @property
    def sureness(self) -> str:
        """How sure the name is."""
        if not self.causes:
            return ""
        if len(self.causes) > 1:
            return f"open: {len(self.causes)} causes explain every answer, and no question asked tells them apart"
        if len(self.names) > 1:
            return f"one of {len(self.names)}, mathematically the same here"
        return "unique among the known mistakes" + (", on the questions that could be asked" if self.skipped else "")

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the finding as text."""
        count = len(self.asked)
        head = {
            "agrees": f"agrees with the contract ({count} questions, outputs)",
            "named": self.causes[0].names[0] if self.causes else "",
            "unknown": "none of the known mistakes fits",
            "unsteady": "two runs of the same call differ",
            "failed": f"failed on a question, and agrees with the contract on {count}" if count else "could not be asked",
        }[self.state]
        made = [f"{self.name}: {head}"]
        for cause in self.causes[:SHOWN]:
            made += self._cause(cause)
        if self.state == "unknown":
            made += [f"    {_line(question)}" for question in self.asked if not question.agrees]
            made.append(
                "    next: attention.parity.locate(torch_side, jax_side, inputs) finds the first operation that differs"
            )
        made += [f"    {note}" for note in self.notes]
        if self.skipped:
            made.append("    not asked: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in self._skips().items()))
        return made

    def _skips(self) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        return reasons

    def _cause(self, cause: Cause) -> list[str]:
        made = [] if cause is self.causes[0] else [f"    or: {cause.names[0]}"]
        if len(cause.names) > 1:
            made.append(f"    the same here: {'; '.join(cause.names[1:])}")
        if cause is self.causes[0]:
            made.append(f"    sure: {self.sureness}")
            told = list(zip(self.asked, cause.evidence, strict=False))
            made += [f"    {_line(question)} -> {worst(verdicts):.2f}" for question, verdicts in told if not question.agrees]
        return made + _advice(cause, self.framework)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-ready data."""
        return {
            "side": self.name,
            "framework": self.framework,
            "state": self.state,
            "sureness": self.sureness,
            "causes": [_cause_dict(cause, self.asked) for cause in self.causes],
            "questions": {question.probe.name: worst(question.verdicts) for question in self.asked},
            "not asked": dict(self.skipped),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with two sides of a contract.

    Attributes:
        torch: what was found about the first side.
        jax: what was found about the second.
    """

    torch: Finding
    jax: Finding

    @property
    def findings(self) -> tuple[Finding, Finding]:
        """Both."""
        return self.torch, self.jax

    @property
    def ok(self) -> bool:
        """Whether both sides do as the contract says."""
        return all(finding.agrees for finding in self.findings)

    @property
    def unknown(self) -> bool:
        """Whether a side is wrong in a way that none of the known mistakes explains."""
        return any(finding.state == "unknown" for finding in self.findings)

    @property
    def alike(self) -> bool:
        """Whether both sides differ from the contract in the same way: then it may be the contract that is wrong."""
        first, second = self.findings
        return bool(first.names) and first.names == second.names

    def __str__(self) -> str:
        made = [str(finding) for finding in self.findings]
        if self.alike:
            made.append("Both sides differ from the contract in the same way: is the contract what you mean?")
        return "\n".join(made)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON-ready data."""
        return {"ok": self.ok, "unknown": self.unknown, "alike": self.alike, "sides": [f.to_dict() for f in self.findings]}


def _line(question: Asked) -> str:
    return f"z {worst(question.verdicts):>10.4g} on {question.probe.name}"


def _advice(cause: Cause, framework: str) -> list[str]:
    """Return the story and the right line of each knob that is turned, the side's own framework first."""
    made: list[str] = []
    for name in dict.fromkeys(part for part in cause.knobs[0].split(" + ") if part in KNOBS):
        knob = KNOBS[name]
        made.append(f"    {name}: {knob.story} [{knob.source}]")
        fixes = {"torch": knob.fix_torch, "jax": knob.fix_jax}
        made += [f"        {own:5}  {fixes[own]}" for own in sorted(fixes, key=lambda n: n != framework)]
    return made


def _cause_dict(cause: Cause, asked: tuple[Asked, ...]) -> dict[str, Any]:
    def z(verdicts: tuple[Verdict, ...]) -> float:
        return worst(verdicts)

    told = zip(asked, cause.evidence, strict=False)
    evidence = {question.probe.name: [z(question.verdicts), z(verdicts)] for question, verdicts in told}
    knobs = [KNOBS[name] for name in dict.fromkeys(cause.knobs[0].split(" + ")) if name in KNOBS]
    return {
        "names": list(cause.names),
        "knobs": list(dict.fromkeys(cause.knobs)),
        "z before and after": evidence,
        "fix": {knob.name: {"torch": knob.fix_torch, "jax": knob.fix_jax} for knob in knobs},
    }
