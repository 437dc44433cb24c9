"""Why a parameter map is ambiguous, and whether a trace could resolve it.

a program may be wrong, or the map: it is the map where nothing but shapes pairs two parameters, or two layouts fit
"""

from __future__ import annotations

from collections.abc import Mapping

from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.layout_conventions import documented
from attention.parity.param_mapping.name_assignment import words
from attention.parity.param_mapping.open_questions import Question
from attention.parity.param_mapping.state_pairing import Pairs


def has_documented_answer(question: Question, plan: Plan) -> bool:
    """Return whether a question of layout has an answer in the conventions of the frameworks, which was tried first."""
    if question.siblings:
        return False
    said = all(plan.entries[place].evidence.startswith("names") for place in question.places)
    if any(len(plan.entries[place].choices[0]) > 1 for place in question.places):
        # Parts that the names tell stand in the order of their words: q, k, v. Others may stand in any.
        return said
    names = [
        name for place in question.places for m in plan.entries[place].choices[0] for name in (m.first.name, m.second.name)
    ]
    # Tables are kept alike everywhere.
    return all(map(documented, names)) or (said and all("embed" in words(name) for name in names))


def missing_evidence(plan: Plan, crossed: Pairs) -> list[str]:
    """Return what no evidence but shapes says of a plan's pairs, and what both programs have left over.

    Args:
        plan: whose pairs.
        crossed: parameters of one program that are state of the other.
    """
    found = [f"{entry}: nothing but their shapes says so" for entry in plan.entries if entry.evidence == "shapes"]
    entries = {move.first.name for entry in plan.entries for move in entry.choices[0]}
    rest = [m for m in plan.map.moves if m.evidence == "shapes" and m.first.name not in entries]
    found += [f"{move.first.name} -> {move.second.name}: nothing but their shapes says so" for move in rest]
    stated = {name for pair in crossed for name in pair}
    left = [[name for name in names if name not in stated] for names in plan.map.left_over]
    recurrent = [name for names in left for name in names if "bias" in name and {"ih", "hh"} & {*words(name)}]
    found += [f"{name} is added to another bias, which the other program holds as one: no map says that" for name in recurrent]
    if all(left):
        sides = (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") for names in left)
        found.append("{} of the first and {} of the second have no counterpart".format(*sides))
    return found


def provable(plan: Plan, ties: Mapping[Question, str]) -> tuple[str, ...]:
    """Return the names of the second whose uses decide what is open, or nothing where a trace could not decide it.

    A use that makes an array of the first program shows the layout. Which of several arrays is which it does not show, for
    each makes an array of the other program in the place of any; but that question was answered in every way, none of which
    makes the outputs agree, unless there is another such question, whose answers would have to be tried together with its own.
    """
    either = [q for q in ties if q.siblings or len(plan.entries[q.places[0]].choices[0]) > 1]
    if len(either) > 1 or any("not asked" in tie for tie in ties.values()):
        return ()
    # Layers that are alike have one layout, which the first of them shows: a mistake may stand before the others.
    places = {place for question in ties for place in (question.places if question.siblings else question.places[:1])}
    return tuple(sorted({move.second.name for place in places for move in plan.entries[place].choices[0]}))
