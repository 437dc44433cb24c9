"""Disambiguation by outputs: run both programs under each possible map, and keep the map under which they agree.

    error(map) = |second(map.forward(x)) - first(x)| / |first(x)|        for random x

One question is asked at a time, with values that are blind to the others (`symmetrized_values`), so that the number of runs is
the number of answers, not their product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.candidates import ALONE, Plan
from attention.parity.param_mapping.joint_search import joint
from attention.parity.param_mapping.name_assignment import names_distinguish
from attention.parity.param_mapping.open_questions import Question, questions
from attention.parity.param_mapping.open_reasons import has_documented_answer, missing_evidence, provable
from attention.parity.param_mapping.reordered_axes import reordered
from attention.parity.param_mapping.symmetrized_values import SymmetrizedValues
from attention.parity.param_mapping.trial_runs import Trial, noisy
from attention.parity.param_mapping.use_graph import NAMES_AND_USE, USE

MOST_RUNS = 200
AGREES = 1e-3
"""The largest relative error of float32 outputs that are said to agree."""
APART = 10.0
"""How much larger the error of a map must be to be told from the best."""
CLEARER = 0.5
"""Where no map agrees, how small the best error must be, relative to the present map's, to change it."""
FLOOR = 1e-7
"""An error that rounding alone may make."""
CONFIRMING = 4
"""Where a map makes the outputs agree, so many of its layouts are tried to see whether it is the only one."""
MOST_ROUNDS = 3
"""How often what remains open is asked again."""
GUESSED = frozenset({"names", "shapes", ALONE, NAMES_AND_USE, USE})
"""Evidence that the outputs may better."""
MOST_ELEMENTS = 10**8
"""A larger program is not run to confirm its map, nor to ask what it leaves open."""
WEAK = frozenset({"names", "shapes"})
"""Evidence of pairs that are exchanged where outputs differ."""
MOST_EXCHANGES = 24


@dataclass(frozen=True, eq=False)
class DecidedPlan:
    """A plan after its open questions were put to the outputs.

    Attributes:
        plan: with the answers.
        ties: the questions that remain, in words.
        open: why the map is open, in words.
        provable: names of the second whose uses, if a trace confirms them, establish an open map; see `ParamMap`.
    """

    plan: Plan
    ties: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    provable: tuple[str, ...] = ()


def decide(plan: Plan, trial: Trial) -> DecidedPlan:
    """Return the plan with its open questions answered by the outputs, those that remain, and why the map is open.

    Where outputs differ under the map, a program may be wrong, or the map. It is the map that is open where no evidence says
    which parameter is which, or how it is laid out: neither names, nor the order of use, nor a documented layout.

    Args:
        plan: the open map.
        trial: the two programs.
    """
    waiting = questions(plan)
    if sum(array.size for array in plan.first.values()) > MOST_ELEMENTS:
        why = f"not asked: more than {MOST_ELEMENTS:.0e} elements"
        return DecidedPlan(plan, tuple(f"{q.text(plan, len(q.answers(plan)))}; {why}" for q in waiting))
    if not any(entry.evidence in GUESSED for entry in plan.entries) and not waiting:
        return DecidedPlan(plan)
    values = noisy(plan)
    error = trial.error(plan, values)
    if trial.failure:
        return DecidedPlan(plan, tuple(f"{q.text(plan, len(q.answers(plan)))}; not asked: {trial.failure}" for q in waiting))
    likely, asked = plan, {place for question in waiting for place in question.places}
    ties: dict[Question, str] = {}
    for _ in range(MOST_ROUNDS):
        before = len(ties)
        plan, ties = _round(waiting, plan, trial, values, agreed=error <= AGREES, again=bool(ties))
        error = trial.error(plan, values)
        # What is resolved no longer needs to be hidden, so what it hid may be asked again.
        if not ties or len(ties) == before:
            break
        waiting = list(ties)
    if error > AGREES:
        plan, error = _exchanged(plan, trial, values, error)
    if error > AGREES and len(asked) > 1:
        plan, ties, error = _together(likely, plan, trial, values) or (plan, ties, error)
    said = _confirmed(plan, error, asked)
    if error <= AGREES:
        return DecidedPlan(said, tuple(ties.values()))
    ties = {question: tie for question, tie in ties.items() if not has_documented_answer(question, plan)}
    others = missing_evidence(plan, trial.crossed)
    shown = () if others else provable(plan, ties)
    if (shown or not (ties or others)) and (order := reordered(plan, trial, values, AGREES)):
        others, shown = [*others, order], ()
    return DecidedPlan(said, tuple(ties.values()), (*ties.values(), *others), shown)


def _together(likely: Plan, plan: Plan, trial: Trial, values: Arrays) -> tuple[Plan, dict[Question, str], float] | None:
    """Return the plan with joint answers that make the outputs agree, what they do not tell, and the error; or None.

    Args:
        likely: the plan before any question was asked.
        plan: the plan after each was asked by itself.
        trial: the two programs.
        values: of matched parameters of the first.
    """
    # A documented layout is not given up for the sake of other answers, unless it was when asked by itself.
    documented = {place for q in questions(likely) if has_documented_answer(q, likely) for place in q.places}
    same = all(likely.entries[at].choices[0] == plan.entries[at].choices[0] for at in documented)
    for start in (likely,) if same else (likely, plan):
        waiting = [question for question in questions(start) if not {*question.places} & documented]
        if (found := joint(start, waiting, trial, values, AGREES)) is not None:
            # The search has runs of its own.
            trial.runs = 0
            error = trial.error(found, values)
            return found, _round(questions(found), found, trial, values, agreed=True, again=True)[1], error
    return None


def _exchanged(plan: Plan, trial: Trial, values: Arrays, error: float) -> tuple[Plan, float]:
    """Return the plan after the exchange of two kinds of parameters, in all layers, that makes the outputs agree, if one does.

    Names alone may mislead: `input_layernorm` and `post_attention_layernorm` beside `feedforward_layernorm` and
    `self_attention_layernorm`. What names tell apart on both sides, or the order of use confirms, is not exchanged.
    """
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, entry in enumerate(plan.entries):
        if entry.evidence in WEAK and len(entry.choices[0]) == 1:
            kinds.setdefault((entry.choices[0][0].first.shape, entry.choices[0][0].second.shape, entry.kind), []).append(place)
    pairs = [(a, b) for a, b in combinations(kinds, 2) if a[:2] == b[:2] and len(kinds[a]) == len(kinds[b])]
    for one, other in pairs[:MOST_EXCHANGES]:
        changed = plan
        for first, second in zip(kinds[one], kinds[other], strict=True):
            moves = plan.entries[first].choices[0][0], plan.entries[second].choices[0][0]
            if not names_distinguish((moves[0].first.name, moves[1].first.name), (moves[0].second.name, moves[1].second.name)):
                changed = changed.swapped(first, second)
        now = error if changed is plan or trial.runs + 2 > MOST_RUNS else trial.error(changed, values)
        if now <= AGREES:
            return changed, now
    return plan, error


def _round(
    waiting: list[Question], plan: Plan, trial: Trial, values: Arrays, *, agreed: bool, again: bool
) -> tuple[Plan, dict[Question, str]]:
    """Return the plan after asking every question once, and those that remain open, with what is to be said of them."""
    ties: dict[Question, str] = {}
    symmetrized = SymmetrizedValues(plan, values)
    while waiting:
        question, waiting = waiting[0], waiting[1:]
        hidden = values if agreed else symmetrized.over([other.beside(question) for other in (*waiting, *ties)], question)
        answer, tie = _ask(question, plan, trial, hidden, agreed=agreed)
        if answer is not plan and not question.siblings:
            symmetrized = symmetrized.after(answer, question.places)
        plan = answer
        following = [] if again else question.next(plan, resolved=agreed or not tie)
        waiting = following + waiting
        if tie and (question.siblings or not following):
            ties[question] = tie
    return plan, ties


def _confirmed(plan: Plan, error: float, asked: Iterable[int]) -> Plan:
    """Return the plan whose evidence says whether outputs agree in the end."""
    entries = enumerate(plan.entries)
    if error <= AGREES:
        return plan.with_evidence((at for at, entry in entries if entry.evidence in GUESSED), "outputs agree")
    for at in (at for at in asked if plan.entries[at].evidence in GUESSED):
        count = len(plan.entries[at].choices)
        plan = plan.with_evidence([at], f"best of {max(count, 2)}, outputs still differ ({error:.2g})")
    return plan


def _ask(question: Question, plan: Plan, trial: Trial, values: Arrays, *, agreed: bool) -> tuple[Plan, str]:
    """Return the plan with the best answer, and what remains untold, or ""; where outputs agree already, ask few others."""
    answers = question.answers(plan)[: CONFIRMING if agreed else None]
    if trial.runs + len(answers) + 1 > MOST_RUNS - 2 * MOST_ROUNDS:
        return plan, f"{question.text(plan, len(answers))}; not asked: {MOST_RUNS} runs are the most"
    wanted = trial.outputs(trial.first, plan.map.backward(plan.map.forward(values)))
    errors = [trial.distance(answer.map, values, wanted) for answer in answers]
    best = min(errors)
    if best > AGREES:
        winner = answers[errors.index(best)] if best <= CLEARER * errors[0] else plan
        clear = sum(error <= best / CLEARER for error in errors) == 1
        return winner, "" if clear else f"{question.text(plan, len(answers))}; none makes the outputs agree"
    good = [at for at, error in enumerate(errors) if error <= AGREES and error <= APART * max(best, FLOOR)]
    tie = "" if len(good) == 1 else f"{question.text(plan, len(answers))}; the outputs agree under {len(good)} of them"
    return answers[good[0]], tie
