"""Diagnose a program: find the mutation, or the two, of its contract that reproduce its outputs.

    agrees      every output lies within the contract's budget
    named       one does not, and a mutation reproduces the outputs on every probe, and on others that were held out

A mutation is reported only if it also holds on the probes that were not used to find it: a wrong name is worse than none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.diagnosis.evidence import Observation, explains, hardest_first
from attention.parity.diagnosis.library_program import ProbedProgram
from attention.parity.diagnosis.probe_inputs import diagnostic_probes, held_out_probes
from attention.parity.diagnosis.result import Diagnosis, ProgramDiagnosis
from attention.parity.diagnosis.search import RANKED, Explanation, Group, Search
from attention.parity.diagnosis.user_program import probed_program
from attention.parity.mutations.formula_hooks import own_budget
from attention.parity.mutations.registry import hypotheses
from attention.spec.errors import OptionError, SideFailed, shown
from attention.spec.layers.contract import Contract
from attention.spec.options import SWITCH, checked, number

PATIENCE = 20.0
"""Seconds for the search among pairs, unless more are given."""
FAILED = "the program failed"
"""Why an observation is missing."""
KEPT_BACK = 3
"""How many held-out probes a name must hold on."""


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
    """Return how each program differs from the contract, by the name of the mutation.

    Args:
        torch_side: "torch", a module of ours, a program, or a function of the contract's arrays. A function whose first
            parameter is called `weights` or `params` is given canonical weights; `mask` (bool, True = may attend, broadcastable
            to (B, H, T, S)), `bias`, positions and `dropout_seed` if its signature names them.
        jax_side: likewise.
        contract: what both are meant to be.
        pairs: whether to search for two mutations where one does not explain the outputs.
        patience: seconds for that, for each program.
        torch_params: for a program with parameters of its own: `(them, by name) -> canonical weights`, or a `ParamMap`.
        jax_params: likewise.

    Raises:
        OptionError: `contract` is no layer, or a program's parameters are not mapped to canonical weights.
    """
    if not isinstance(contract, Contract):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"contract {shown(contract)} must be a layer's, such as MultiHeadAttention(...)")
    given = (("torch", torch_side, torch_params), ("jax", jax_side, jax_params))
    found = [
        diagnose_program(probed_program(side, name, contract, p), contract, pairs=pairs, patience=patience)
        for name, side, p in given
    ]
    return Diagnosis(*found)


def diagnose_program(
    who: ProbedProgram,
    contract: Contract,
    *,
    pairs: bool = True,
    patience: float = PATIENCE,
    calls: tuple[Sequence[Probe], Sequence[Probe]] | None = None,
) -> ProgramDiagnosis:
    """Return how one program differs from the contract.

    Args:
        who: the program.
        contract: as `diagnose`.
        pairs: as `diagnose`.
        patience: as `diagnose`.
        calls: the probes, and held-out ones on which a name must hold; those of the contract if None.
    """
    began = time.monotonic()
    first, second = calls or (diagnostic_probes(contract, who.weights), held_out_probes(contract, who.weights))
    observations = observe(who, first)
    diagnosis = ProgramDiagnosis(
        who.name, who.framework, "failed", observations.observations, observations.skipped, notes=observations.notes
    )
    if observations.observations:
        diagnosis = _explained(who, contract, diagnosis, second, pairs=pairs, patience=patience)
    return replace(diagnosis, seconds=time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class Observations:
    """The observations of one program.

    Attributes:
        observations: one for each probe that ran.
        skipped: why the others did not run, by name.
        notes: messages of failures.
    """

    observations: tuple[Observation, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()


def observe(who: ProbedProgram, probes: Sequence[Probe]) -> Observations:
    """Run a program on every probe that it supports."""
    observations: list[Observation] = []
    skipped: dict[str, str] = {}
    notes: dict[str, None] = {}
    for probe in probes:
        lack = who.unsupported(probe)
        if lack:
            skipped[probe.name] = lack
            continue
        try:
            observations.append(Observation(probe, who.outputs(probe), _right(probe)))
        except SideFailed as failure:
            skipped[probe.name] = FAILED
            notes[str(failure)] = None
    return Observations(tuple(observations), skipped, tuple(notes))


# By identity: the probes of a contract are the same objects for both programs.
_right = lru_cache(maxsize=256)(own_budget)


def _explained(
    who: ProbedProgram,
    contract: Contract,
    diagnosis: ProgramDiagnosis,
    held_out: Sequence[Probe],
    *,
    pairs: bool,
    patience: float,
) -> ProgramDiagnosis:
    odd = [observation for observation in diagnosis.observations if not observation.agrees]
    if _unsteady(who, diagnosis.observations[0]):
        note = "is dropout active (model.eval(), deterministic=True), or does it draw random numbers?"
        return replace(diagnosis, state="unsteady", notes=(*diagnosis.notes, note))
    if not odd:
        return replace(diagnosis, state="failed" if FAILED in diagnosis.skipped.values() else "agrees")
    search = Search(diagnosis.observations, patience)
    explanations = _causes(search, contract, pairs=pairs)
    told = _upheld(who, held_out, explanations, odd)
    # The search sorts the observations, and the evidence of the explanations is in its order.
    diagnosis = replace(diagnosis, observations=tuple(search.observations))
    if told:
        return replace(diagnosis, state="named", explanations=told)
    notes = list(diagnosis.notes)
    if any(np.isnan(observation.given).any() and not np.isnan(observation.wanted).any() for observation in odd):
        notes.append("it returns NaN where the contract has numbers")
    if explanations:
        notes.append(f"{explanations[0].names[0]!r} explains these outputs, but not those of held-out probes")
    if not search.exhausted:
        notes.append(f"not all pairs of mistakes were tried in {patience:g} s: give more patience")
    return replace(diagnosis, state="unknown", notes=tuple(notes))


def _causes(search: Search, contract: Contract, *, pairs: bool) -> list[Explanation]:
    """Return the explanations of the outputs: one mutation, one number, two mutations, or a mutation and a number."""
    mutations, scalars = hypotheses(contract)
    found = search.singles(mutations) or search.fits(scalars)
    if found or not pairs:
        return found
    groups = search.grouped(mutations)
    return search.pairs(groups) or search.fits(scalars, _nearest(groups))


def _nearest(groups: Sequence[Group]) -> list[Group]:
    """Return the groups whose outputs are nearest on some probe: one number more may explain the others."""
    return sorted(groups, key=lambda group: float(np.log(group.distances + 1.0).sum()))[:RANKED]


def _upheld(
    who: ProbedProgram, held_out: Sequence[Probe], explanations: Sequence[Explanation], odd: Sequence[Observation]
) -> tuple[Explanation, ...]:
    """Return the explanations that also hold on the held-out probes."""
    if not explanations:
        return ()
    worst = {observation.probe.name: observation.distance(observation.wanted) for observation in odd}
    others = [probe for probe in held_out if not who.unsupported(probe)]
    # Those that showed the largest differences.
    chosen = sorted(others, key=lambda probe: -worst.get(probe.name, 0.0))[:KEPT_BACK]
    observations = hardest_first(observe(who, chosen).observations)
    if not observations:
        return ()
    return tuple(
        explanation for explanation in explanations if explains(explanation.mutation, observations, strict=True) is not None
    )


def _unsteady(who: ProbedProgram, observation: Observation) -> bool:
    """Return whether two runs of the same probe differ."""
    again = who.outputs(observation.probe)
    return any(not np.array_equal(x, again[name], equal_nan=True) for name, x in observation.got.items())
