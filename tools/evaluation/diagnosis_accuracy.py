"""Accuracy of the diagnosis on programs whose mistake is known.

    python -m tools.evaluation.diagnosis_accuracy [--pairs 60] [--seed 0] [--side torch]

singles      every named mutation, run by a backend: the diagnosis must name its mathematics, and nothing else
pairs        two random hypotheses of a random contract: the truth must be among the first three explanations
unlisted     mutations in no catalogue: no name may be given
right        both backends without a mutation: they agree
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from attention.parity.contracts import backends
from attention.parity.contracts.probes import Probe
from attention.parity.diagnosis.diagnose import diagnose_program
from attention.parity.diagnosis.evidence import SAME
from attention.parity.diagnosis.library_program import LibraryLayer, Outputs, ProbedProgram
from attention.parity.diagnosis.probe_inputs import diagnostic_probes
from attention.parity.diagnosis.result import ProgramDiagnosis
from attention.parity.mutations.cases import CASE_MUTATIONS
from attention.parity.mutations.formula_hooks import formula_outputs
from attention.parity.mutations.mutation import Mutation
from attention.parity.mutations.operators import Operator, compose
from attention.parity.mutations.registry import hypotheses
from attention.parity.results.report import write
from attention.spec import cases
from attention.spec.errors import AttentionError
from attention.spec.layers.contract import Contract
from tools.evaluation.unlisted_mutations import unlisted_mutations

FIRST = 3
"""Among how many causes the truth about a pair must be."""
WANTED = {"singles": 0.95, "pairs": 0.90, "unlisted": 1.0, "right": 1.0}
STRANGE = ("self", "causal", "rotary", "cross")


@dataclass
class MutatedProgram(ProbedProgram):
    """A program with a mistake: a side that is given wrong calls, or the formula itself, rounded to float32.

    Args:
        name: what it is called.
        operator: of the mutation.
        side: the name of a side; "numpy" is the formula.
    """

    name: str
    operator: Operator
    side: str = "numpy"

    def __post_init__(self) -> None:
        self.framework = self.side

    def outputs(self, probe: Probe) -> Outputs:
        wrong = self.operator(probe)
        if self.side == "numpy":
            return {name: x.astype(np.float32) for name, x in formula_outputs(wrong).items()}
        made = backends.find(self.side).run(wrong, "auto").results
        return {name: made[name] for name in probe.contract.outputs}


@dataclass(frozen=True, eq=False)
class Trial:
    """One diagnosis whose truth is known.

    Attributes:
        kind: one of `WANTED`.
        case: the contract's name.
        truth: what is wrong.
        finding: what the diagnosis said.
        good: whether that is right.
        rank: where the truth stands among the causes, from 0, or None.
    """

    kind: str
    case: str
    truth: str
    diagnosis: ProgramDiagnosis
    good: bool
    rank: int | None = None

    def __str__(self) -> str:
        said = " || ".join(" = ".join(explanation.names) for explanation in self.diagnosis.explanations) or self.diagnosis.state
        mark = "right" if self.good else "WRONG"
        return f"{mark} {self.kind:9} {self.case:18} {self.truth:60} {self.diagnosis.seconds:5.1f} s  {said}"


def single(mutation: Mutation, side: str) -> Trial:
    """Return the trial of one named mutation: the one explanation must be its mathematics and of its kind."""
    contract = cases.find(mutation.case).contract
    found = diagnose_program(MutatedProgram(mutation.name, mutation.operator, side), contract)
    rank = rank_of(mutation.operator, found)
    good = rank == 0 and found.unique and mutation.kind in found.explanations[0].kinds
    return Trial("singles", mutation.case, mutation.name, found, good, rank)


def pair(case: str, first: Mutation, second: Mutation) -> Trial:
    """Return the trial of two mistakes at once."""
    contract = cases.find(case).contract
    both = compose(first.operator, second.operator)
    found = diagnose_program(MutatedProgram("two mistakes", both), contract)
    rank = rank_of(both, found)
    return Trial("pairs", case, f"{first.name} + {second.name}", found, rank is not None and rank < FIRST, rank)


def unlisted(case: str, mutation: Mutation) -> Trial:
    """Return the trial of a mistake in no list."""
    found = diagnose_program(MutatedProgram(mutation.name, mutation.operator), cases.find(case).contract)
    return Trial("unlisted", case, mutation.name, found, found.state == "unknown")


def right(case: str, backend: str) -> Trial:
    """Return the trial of a backend without a mutation."""
    found = diagnose_program(LibraryLayer(backend), cases.find(case).contract)
    return Trial("right", case, f"{backend} as it is", found, found.agrees)


def rank_of(truth: Operator, found: ProgramDiagnosis) -> int | None:
    """Return the rank of the explanation that equals the truth on every probe, or None."""
    for rank, explanation in enumerate(found.explanations):
        if all(q.apart(q.made(explanation.mutation.operator), q.made(truth)) <= SAME for q in found.observations):
            return rank
    return None


def random_pairs(count: int, seed: int, names: Sequence[str] = ()) -> Iterator[tuple[str, Mutation, Mutation]]:
    """Yield pairs of mutations of different kinds, each of which changes the outputs, also with the other."""
    rng = np.random.default_rng(seed)
    names = list(names) or list(cases.CASES)
    while count:
        case = names[rng.integers(len(names))]
        contract = cases.find(case).contract
        mutations, _ = hypotheses(contract)
        i, j = (int(n) for n in rng.choice(len(mutations), 2, replace=False))
        first, second = mutations[i], mutations[j]
        if first.kind != second.kind and _both_show(contract, first, second):
            count -= 1
            yield case, first, second


def _both_show(contract: Contract, first: Mutation, second: Mutation) -> bool:
    operators = (compose(), first.operator, second.operator, compose(first.operator, second.operator))
    try:
        none, one, other, both = (_outputs(contract, operator) for operator in operators)
    except AttentionError:
        return False
    return not any(_alike(*two) for two in ((none, one), (none, other), (one, both), (other, both), (none, both)))


def _outputs(contract: Contract, operator: Operator) -> np.ndarray:
    made = [x.reshape(-1) for probe in diagnostic_probes(contract) for x in formula_outputs(operator(probe)).values()]
    return np.nan_to_num(np.concatenate(made), nan=1e8)


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    # What rounding in float32 hides is no mistake.
    return bool(np.allclose(first, second, rtol=1e-5, atol=1e-7))


def trials(kind: str | None, pairs: int, seed: int, side: str, only: Sequence[str] = ()) -> Iterator[Trial]:
    """Yield the trials of one kind, or of all.

    Args:
        kind: one of `WANTED`, or None.
        pairs: how many random pairs.
        seed: of the pairs.
        side: the backend that runs the mutations.
        only: names of contracts; all if empty.
    """
    shown = [name for name in cases.CASES if not only or name in only]
    if kind in (None, "singles"):
        yield from (single(mutation, side) for mutation in CASE_MUTATIONS if mutation.case in shown)
    if kind in (None, "pairs"):
        yield from (pair(*drawn) for drawn in random_pairs(pairs, seed, shown))
    if kind in (None, "unlisted"):
        yield from (
            unlisted(case, x) for case in STRANGE if case in shown for x in unlisted_mutations(cases.find(case).contract)
        )
    if kind in (None, "right"):
        yield from (right(case, backend) for case in shown for backend in backends.BACKENDS)


def counts(done: Sequence[Trial]) -> dict[str, dict[str, int]]:
    """Return how many trials of each kind there were, and how many were right."""
    own = {kind: [trial.good for trial in done if trial.kind == kind] for kind in WANTED}
    return {kind: {"total": len(good), "good": sum(good)} for kind, good in own.items() if good}


def summary(done: Sequence[Trial]) -> list[str]:
    """Return a line for each kind of trial."""
    lines: list[str] = []
    for kind, wanted in WANTED.items():
        own = [trial for trial in done if trial.kind == kind]
        if own:
            good, seconds = sum(trial.good for trial in own), [trial.diagnosis.seconds for trial in own]
            told = f"{good} of {len(own)} = {good / len(own):.1%}, wanted {wanted:.0%}"
            lines.append(f"{kind:9} {told}; seconds: mean {np.mean(seconds):.1f}, most {max(seconds):.1f}")
    return lines


def ok(done: Iterable[Trial]) -> bool:
    """Return whether every kind of trial is as good as it has to be."""
    by_kind: dict[str, list[bool]] = {}
    for trial in done:
        by_kind.setdefault(trial.kind, []).append(trial.good)
    return bool(by_kind) and all(np.mean(good) >= WANTED[kind] for kind, good in by_kind.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every trial and the score; return 0 if it is good enough."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluation.diagnosis_accuracy", description="The accuracy of the diagnosis."
    )
    _ = parser.add_argument("--pairs", type=int, default=60, help="how many random pairs of mistakes")
    _ = parser.add_argument("--seed", type=int, default=0, help="of the pairs")
    _ = parser.add_argument("--side", default="torch", help="the backend: torch, jax_eager, numpy")
    _ = parser.add_argument("--cases", nargs="*", default=(), help="these contracts alone")
    _ = parser.add_argument("--kind", choices=[*WANTED], help="one kind of trial alone")
    _ = parser.add_argument("--json", metavar="PATH", help="write the counts to this file")
    given = parser.parse_args(arguments)
    console, done = Console(highlight=False, soft_wrap=True), list[Trial]()
    for trial in trials(given.kind, given.pairs, given.seed, given.side, given.cases):
        done.append(trial)
        console.print(str(trial), markup=False)
    for line in summary(done):
        console.print(line, markup=False)
    console.print(f"{time.monotonic() - began:.0f} s")
    if given.json:
        write(given.json, json.dumps({"side": given.side, "seed": given.seed, "kinds": counts(done)}, indent=1))
    return 0 if ok(done) else 1


if __name__ == "__main__":
    sys.exit(main())
