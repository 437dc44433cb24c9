"""Solve for the parameter map of two programs from all evidence, the most certain first.

given moves  >  equal values  >  names and documented layouts  >  the order of use  >  the outputs of both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from attention.parity.adapters import Arrays, Call, Program
from attention.parity.param_mapping import value_search
from attention.parity.param_mapping.block_moves import Move
from attention.parity.param_mapping.candidates import Entry, Plan, Preference, paired
from attention.parity.param_mapping.fused_params import fused, leftover
from attention.parity.param_mapping.layout_conventions import laid_out_alike, preference
from attention.parity.param_mapping.name_assignment import words
from attention.parity.param_mapping.open_questions import questions
from attention.parity.param_mapping.output_disambiguation import MOST_ELEMENTS, DecidedPlan, decide
from attention.parity.param_mapping.param_map import ParamMap
from attention.parity.param_mapping.param_use import Uses
from attention.parity.param_mapping.reversed_windows import reversed_windows
from attention.parity.param_mapping.siblings import siblings
from attention.parity.param_mapping.stacked_layers import stacks
from attention.parity.param_mapping.state_pairing import Pairs, crossing
from attention.parity.param_mapping.trial_runs import Trial
from attention.parity.param_mapping.unstacked_rows import stacked, unstacked
from attention.parity.param_mapping.use_alignment import Alignment, uses_of


def solve(
    first: Program,
    second: Program,
    call: Call | None = None,
    given: Sequence[Move] = (),
    apart: frozenset[str] = frozenset(),
) -> ParamMap:
    """Return the map between two programs' parameters.

    Args:
        first: a program.
        second: another.
        call: inputs to run both on where values, names and shapes leave a question open.
        given: moves that are known.
        apart: names of the first that are known to have no counterpart.
    """
    found = _solved(first, second, call, given, apart)
    if call is None or given or not (found.open or all(found.left_over)):
        return found
    uses = uses_of(first, call), uses_of(second, call)
    rows = None if uses[0] is None or uses[1] is None else unstacked((first, second), (uses[0], uses[1]))
    again = found if rows is None else stacked(_solved(*rows, call, (), apart), rows)
    return min(found, again, key=_unresolved)


def _unresolved(found: ParamMap) -> tuple[int, int]:
    """Return how much a map leaves over, and open."""
    return sum(map(len, found.left_over)), len(found.open)


def _solved(first: Program, second: Program, call: Call | None, given: Sequence[Move], apart: frozenset[str]) -> ParamMap:
    known = tuple(Entry(((move,),), move.evidence or "given") for move in given)
    plan = Plan(first.params, second.params, known, apart=apart)
    found = value_search.search(*plan.left)
    plan = replace(plan, entries=(*known, *(Entry(choices, "values") for choices in found.entries)), copies=found.copies)

    plan, alignment = _used(plan, first, second, call)
    plan = _paired(plan, alignment, (first, second))
    plan = replace(plan, entries=tuple(laid_out_alike([_carried(entry, plan) for entry in plan.entries])))
    if alignment is not None:
        plan = alignment.aligned(plan)
    plan = replace(plan, siblings=tuple(siblings(plan)))
    if alignment is not None:
        plan = reversed_windows(alignment.apart(plan), (alignment.first, alignment.second))
    crossed: Pairs = ()
    if call is not None and plan.map.moves:
        crossed = _crossed(plan, first, second, call)
        decided = decide(plan, Trial(first, second, call, crossed))
    else:
        decided = DecidedPlan(plan, tuple(q.text(plan, len(q.answers(plan))) for q in questions(plan)))
    plan = decided.plan
    left = [{*names} for names in plan.map.left_over]
    state = tuple(pair for pair in crossed if (pair[0] in left[0]) != (pair[1] in left[1]))
    return replace(plan.map, ties=decided.ties, open=decided.open, state=state, provable=decided.provable)


def _crossed(plan: Plan, first: Program, second: Program, call: Call) -> Pairs:
    """Return the parameters of one program that are state of the other, where the programs are not too large to be run."""
    large = sum(array.size for array in plan.first.values()) > MOST_ELEMENTS
    return () if large else crossing((first, second), call, plan.map.left_over)


def _used(plan: Plan, first: Program, second: Program, call: Call | None) -> tuple[Plan, Alignment | None]:
    """Return the plan with parameters in the order of use, and the uses of both programs, where they can be followed."""
    # Of what was given, too, the windows may have to be reversed.
    given = [move for entry in plan.entries if entry.evidence != "values" for moves in entry.choices for move in moves]
    kernels = any(move.first.whole and len(move.first.shape) > 2 for move in given)
    if call is None or not (all(plan.left) or kernels):
        return plan, None
    uses = uses_of(first, call), uses_of(second, call)
    if uses[0] is None or uses[1] is None:
        return plan, None
    ordered = _in_order(plan.first, uses[0]), _in_order(plan.second, uses[1])
    plan = replace(plan, first=ordered[0], second=ordered[1], kinds=(uses[0].kinds, uses[1].kinds))
    plan = replace(plan, biases=(uses[0].biases, uses[1].biases))
    return plan, Alignment(uses[0], uses[1])


def _paired(plan: Plan, alignment: Alignment | None, programs: tuple[Program, Program]) -> Plan:
    """Return the plan with what stacks, words, names and shapes say, in this order."""
    frameworks = programs[0].framework, programs[1].framework

    def best(one: str, other: str) -> Preference:
        return preference(one, other, frameworks)

    plan = replace(plan, entries=(*plan.entries, *stacks(*plan.left, best)))
    for entries in (fused, partial(paired, kinds=plan.kinds)):
        # Biases follow their kernels, whose layout is not decided yet.
        ours, theirs = ({n: x for n, x in side.items() if "bias" not in words(n)} for side in plan.left)
        plan = replace(plan, entries=(*plan.entries, *entries(ours, theirs, best)))
    uses = (alignment.first, alignment.second) if alignment is not None else (None, None)
    # Flax sorts by name what torch keeps as it was defined.
    defined = tuple([*each.params] if each.framework == "torch" else [] for each in programs)
    for biases in (False, True):
        # Only when the kernels are mapped is it known which biases do not follow one.
        left = plan.map.left_over
        ours, theirs = (
            {n: x for n, x in side.items() if n in names and (biases or "bias" not in words(n))}
            for side, names in zip(plan.left, left, strict=True)
        )
        if ours and theirs:
            plan = replace(plan, entries=(*plan.entries, *leftover(ours, theirs, best, uses, (defined[0], defined[1]))))
    return plan


def _in_order(params: Arrays, uses: Uses) -> Arrays:
    """Return the parameters in the order in which they are used, those that are not at the end."""
    place: dict[str, int] = {}
    for at, use in enumerate(uses.found):
        _ = place.setdefault(use.view.name, at)
    return dict(sorted(params.items(), key=lambda item: place.get(item[0], len(uses.found))))


def _carried(entry: Entry, plan: Plan) -> Entry:
    """Return the entry with only those of its layouts that carry the values over, where there are such."""
    if len(entry.choices) < 2 or entry.evidence == "values":
        return entry
    names = [{end: None for m in entry.choices[0] for end in (getattr(m, side).name,)} for side in ("first", "second")]
    one, other = {n: plan.first[n] for n in names[0]}, {n: plan.second[n] for n in names[1]}
    if not all(value_search.is_distinctive(array) for array in (*one.values(), *other.values())):
        return entry
    kind = value_search.narrowest(one, other)
    exact = tuple(moves for moves in entry.choices if all(_carries(move, one, other, kind) for move in moves))
    return Entry(exact, "values") if exact else entry


def _carries(move: Move, first: Arrays, second: Arrays, kind: np.dtype) -> bool:
    """Return whether a move gives the second's block of the first's, to the bit."""
    ours, theirs = move.forward(move.first.of(first[move.first.name])), move.second.of(second[move.second.name])
    rows = value_search.cast(ours[:1], kind), value_search.cast(theirs[:1], kind)
    return np.array_equal(*rows) and np.array_equal(value_search.cast(ours, kind), value_search.cast(theirs, kind))
