"""Parameters of equal shape whose names allow more than one pairing.

norm_b, norm_p        <->        bn2, downsample.1        which is which?

What stands beside a parameter tells it from others: a bias of its own, and the same parameter of other layers.
"""

from __future__ import annotations

from collections import Counter

from attention.parity.param_mapping.bias_inference import stem
from attention.parity.param_mapping.candidates import ALONE, Plan, numberless
from attention.parity.param_mapping.name_assignment import alike, described, words
from attention.parity.param_mapping.use_graph import NAMES_AND_USE, USE

MARGIN = 0.02
"""How much likeness an exchange of two names must cost for the names to tell them apart."""
OPEN = frozenset({"names", "shapes", ALONE, NAMES_AND_USE, USE})

Ends = tuple[str, str]
"""Names of a pair."""


def siblings(plan: Plan) -> list[tuple[int, ...]]:
    """Return the sets of entries that neither their names nor what stands beside them tell apart."""
    ours, theirs = described(list(plan.first)), described(list(plan.second))
    shapes: dict[tuple[object, ...], list[int]] = {}
    ends: dict[int, Ends] = {}
    for place, entry in enumerate(plan.entries):
        move = entry.choices[0][0]
        if entry.evidence in OPEN and move.first.whole and move.second.whole:
            shapes.setdefault((move.first.shape, move.second.shape), []).append(place)
            ends[place] = move.first.name, move.second.name
    known = _Neighbours(plan, list(ends.values()))
    sets: list[set[int]] = []
    for places in shapes.values():
        score = {(a, b): alike(ours[ends[a][0]], theirs[ends[b][1]]) for a in places for b in places}
        for a in places:
            for b in (other for other in places if other > a):
                near = score[a, a] + score[b, b] - score[a, b] - score[b, a] <= MARGIN
                if near and not known.distinguish(ends[a], ends[b]):
                    joined = [each for each in sets if a in each or b in each]
                    sets = [each for each in sets if each not in joined] + [{a, b}.union(*joined)]
    return [tuple(sorted(each)) for each in sets]


class _Neighbours:
    """What stands beside the parameters of two programs.

    Args:
        plan: of both.
        pairs: the names that it pairs.
    """

    def __init__(self, plan: Plan, pairs: list[Ends]) -> None:
        self.biased: list[set[str]] = []
        for params, added in zip((plan.first, plan.second), plan.biases, strict=True):
            stems = {stem(name) for name in params if "bias" in words(name)}
            self.biased.append({*added} | {name for name in params if stem(name) in stems})
        self.counts = Counter(numberless(first) for first, _ in pairs)
        self.partners: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for first, second in pairs:
            self.partners.setdefault(numberless(first), set()).add(numberless(second))

    def distinguish(self, one: Ends, other: Ends) -> bool:
        """Return whether two pairs would be worse if they exchanged their second arrays."""
        ours, theirs = ([pair[side] in self.biased[side] for pair in (one, other)] for side in (0, 1))
        # Only one of them has a bias, in both programs the same.
        if ours == theirs and ours[0] != ours[1]:
            return True
        kinds = [numberless(pair[0]) for pair in (one, other)]
        if kinds[0] == kinds[1] or self.counts[kinds[0]] == self.counts[kinds[1]]:
            return False
        # In no other layer would it be so.
        return any(self.counts[kind] > 1 and len(self.partners[kind]) == 1 for kind in kinds)
