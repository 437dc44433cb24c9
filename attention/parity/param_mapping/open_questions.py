"""Open questions of an ambiguous parameter map (layouts, siblings), and the maps that answer them.

layout          the same for entries that are alike; entry by entry only where that is not resolved
siblings        which array of the second is that of which of the first
"""

from __future__ import annotations

from dataclasses import dataclass

from attention.parity.param_mapping.candidates import Plan


@dataclass(frozen=True)
class Question:
    """Something that neither values nor names decide.

    Attributes:
        places: the entries that it is about.
        siblings: whether it asks which array of the second is that of the first of these entries; else it asks for their
            layout, which is taken to be the same for all.
    """

    places: tuple[int, ...]
    siblings: bool = False

    def answers(self, plan: Plan) -> list[Plan]:
        """Return the plans to decide between, the present one first."""
        if self.siblings:
            first = self.places[0]
            return [plan, *(plan.swapped(first, other) for other in self.places[1:])]
        count = len(plan.entries[self.places[0]].choices)
        return [plan, *(plan.chosen(self.places, choice) for choice in range(1, count))]

    def split(self, plan: Plan) -> list[Question]:
        """Return the question of layout for each entry by itself, where that is another question."""
        if self.siblings or len(plan.entries[self.places[0]].choices[0]) > 1:
            return []
        return [Question((place,)) for place in self.places] if len(self.places) > 1 else []

    def next(self, plan: Plan, *, resolved: bool) -> list[Question]:
        """Return what is to be asked when this is answered: the remaining siblings, or entry by entry what is not resolved."""
        if self.siblings:
            return [Question(self.places[1:], siblings=True)] if len(self.places) > 2 else []
        return [] if resolved else self.split(plan)

    def beside(self, asked: Question) -> Question:
        """Return what is open of this question while another is asked."""
        if self.siblings != asked.siblings:
            return self
        gone = asked.places[:1] if self.siblings else asked.places
        return Question(tuple(place for place in self.places if place not in gone), self.siblings)

    def text(self, plan: Plan, count: int) -> str:
        """Return what cannot be told."""
        entries = [plan.entries[place] for place in self.places]
        if self.siblings:
            return f"which of {', '.join(e.choices[0][0].first.name for e in entries)} is which is not told"
        others = f" and {len(entries) - 1} alike" if len(entries) > 1 else ""
        said = " | ".join(" + ".join(m.words for m in moves) for moves in entries[0].choices[: min(count, 3)])
        return f"{entries[0]}{others}: {count} layouts fit ({said}{' | ...' if count > 3 else ''})"


def questions(plan: Plan) -> list[Question]:
    """Return what is open: layouts of entries that are alike at once, then which sibling is which."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, entry in enumerate(plan.entries):
        if len(entry.choices) > 1:
            kinds.setdefault(entry.kind, []).append(place)
    return [Question(tuple(places)) for places in kinds.values()] + [Question(each, siblings=True) for each in plan.siblings]
