"""Examination: a program is asked, and its answers are explained by a mistake, by two, or not at all.

    agrees      every answer lies within the contract's budget
    named       an answer does not, and a mistake makes of every question, and of others kept back, what the program made

A name is told only if it also holds on questions that took no part in finding it: a wrong name is worse than none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.diagnosis.evidence import Asked, explains, hardest_first
from attention.parity.diagnosis.library_program import Patient
from attention.parity.diagnosis.result import Diagnosis, Finding
from attention.parity.diagnosis.search import RANKED, Cause, Group, Search
from attention.parity.diagnosis.test_inputs import questions, second_opinion
from attention.parity.diagnosis.user_program import patient
from attention.parity.mutations.formula_hooks import own_budget
from attention.parity.mutations.registry import hypotheses
from attention.spec.errors import OptionError, SideFailed, shown
from attention.spec.layers.contract import Contract
from attention.spec.options import SWITCH, checked, number

PATIENCE = 20.0
"""Seconds for the search among pairs, unless more are given."""
FAILED = "the program failed"
"""Why a question has no answer."""
KEPT_BACK = 3
"""How many further questions a name has to hold on."""


@checked(pairs=SWITCH, patience=number(0))
def diagnose(
    torch_side: Any,
    jax_side: Any,
    contract: Contract,
    *,
    pairs: bool = True,
    patience: float = PATIENCE,
    torch_params: Any = None,
    jax_params: Any = None,
) -> Diagnosis:
    """Return what each side does otherwise than the contract says, by name.

    Args:
        torch_side: "torch", a module of ours, a program, or a function of the contract's arrays. A function whose first
            parameter is called `weights` or `params` is given canonical weights; `mask` (bool, True = may attend, broadcastable
            to (B, H, T, S)), `bias`, positions and `dropout_seed` if its signature names them.
        jax_side: likewise.
        contract: what both are meant to be.
        pairs: whether to look for two mistakes where one does not explain the answers.
        patience: seconds for that, of each side.
        torch_params: for a program with parameters of its own: `(them, by name) -> canonical weights`, or a `ParamMap`.
        jax_params: likewise.

    Raises:
        OptionError: `contract` is no layer, or a program's parameters are not said to be which.
    """
    if not isinstance(contract, Contract):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"contract {shown(contract)} must be a layer's, such as MultiHeadAttention(...)")
    given = (("torch", torch_side, torch_params), ("jax", jax_side, jax_params))
    found = [examine(patient(side, name, contract, p), contract, pairs=pairs, patience=patience) for name, side, p in given]
    return Diagnosis(*found)


def examine(
    who: Patient,
    contract: Contract,
    *,
    pairs: bool = True,
    patience: float = PATIENCE,
    calls: tuple[Sequence[Probe], Sequence[Probe]] | None = None,
) -> Finding:
    """Return what one program does otherwise than the contract says.

    Args:
        who: the program.
        contract: as `diagnose`.
        pairs: as `diagnose`.
        patience: as `diagnose`.
        calls: the questions, and others on which a name has to hold; those of the contract if None.
    """
    began = time.monotonic()
    first, second = calls or (questions(contract, who.weights), second_opinion(contract, who.weights))
    ward = ask(who, first)
    finding = Finding(who.name, who.framework, "failed", ward.asked, ward.skipped, notes=ward.notes)
    if ward.asked:
        finding = _explained(who, contract, finding, second, pairs=pairs, patience=patience)
    return replace(finding, seconds=time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class Ward:
    """What was asked.

    Attributes:
        asked: questions and answers.
        skipped: why the others were not asked, by name.
        notes: what a failure said.
    """

    asked: tuple[Asked, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()


def ask(who: Patient, probes: Sequence[Probe]) -> Ward:
    """Ask a program all that it can be asked."""
    asked: list[Asked] = []
    skipped: dict[str, str] = {}
    notes: dict[str, None] = {}
    for probe in probes:
        lack = who.lacks(probe)
        if lack:
            skipped[probe.name] = lack
            continue
        try:
            asked.append(Asked(probe, who.answer(probe), _right(probe)))
        except SideFailed as failure:
            skipped[probe.name] = FAILED
            notes[str(failure)] = None
    return Ward(tuple(asked), skipped, tuple(notes))


# By identity: the questions of a contract are the same objects for both sides.
_right = lru_cache(maxsize=256)(own_budget)


def _explained(
    who: Patient, contract: Contract, finding: Finding, kept_back: Sequence[Probe], *, pairs: bool, patience: float
) -> Finding:
    odd = [question for question in finding.asked if not question.agrees]
    if _unsteady(who, finding.asked[0]):
        note = "is dropout active (model.eval(), deterministic=True), or does it draw random numbers?"
        return replace(finding, state="unsteady", notes=(*finding.notes, note))
    if not odd:
        return replace(finding, state="failed" if FAILED in finding.skipped.values() else "agrees")
    search = Search(finding.asked, patience)
    causes = _causes(search, contract, pairs=pairs)
    told = _upheld(who, kept_back, causes, odd)
    # Verdicts were given in the order in which questions refute; they are shown in the order in which they were asked.
    finding = replace(finding, asked=tuple(search.asked))
    if told:
        return replace(finding, state="named", causes=told)
    notes = list(finding.notes)
    if any(np.isnan(question.given).any() and not np.isnan(question.wanted).any() for question in odd):
        notes.append("it returns NaN where the contract has numbers")
    if causes:
        notes.append(f"{causes[0].names[0]!r} explains these answers, but not others that were kept back")
    if not search.exhausted:
        notes.append(f"not all pairs of mistakes were tried in {patience:g} s: give more patience")
    return replace(finding, state="unknown", notes=tuple(notes))


def _causes(search: Search, contract: Contract, *, pairs: bool) -> list[Cause]:
    """Return what explains the answers: one listed mistake, one number, two mistakes, a mistake and a number."""
    mistakes, dials = hypotheses(contract)
    found = search.singles(mistakes) or search.fits(dials)
    if found or not pairs:
        return found
    groups = search.grouped(mistakes)
    return search.pairs(groups) or search.fits(dials, _nearest(groups))


def _nearest(groups: Sequence[Group]) -> list[Group]:
    """Return the groups whose answers are nearest somewhere, so that one number more may explain the rest."""
    return sorted(groups, key=lambda group: float(np.log(group.distances + 1.0).sum()))[:RANKED]


def _upheld(who: Patient, kept_back: Sequence[Probe], causes: Sequence[Cause], odd: Sequence[Asked]) -> tuple[Cause, ...]:
    """Return the causes that also explain answers to questions that were kept back."""
    if not causes:
        return ()
    worst = {question.probe.name: question.distance(question.wanted) for question in odd}
    others = [probe for probe in kept_back if not who.lacks(probe)]
    # Those that showed most, and one that anything shows on.
    chosen = sorted(others, key=lambda probe: -worst.get(probe.name, 0.0))[:KEPT_BACK]
    asked = hardest_first(ask(who, chosen).asked)
    if not asked:
        return ()
    return tuple(cause for cause in causes if explains(cause.mistake, asked, strict=True) is not None)


def _unsteady(who: Patient, question: Asked) -> bool:
    """Return whether the same question has two answers."""
    again = who.answer(question.probe)
    return any(not np.array_equal(x, again[name], equal_nan=True) for name, x in question.got.items())
