"""Error attribution: all divergences of two programs, and the share of the outputs' error that each explains.

    find a divergence    ->    carry torch's array across to JAX    ->    share = 1 - error after / error before    ->    go on

Carrying an array across repairs all that follows from it, so that the next divergence is found where its operands agree. What a
rounding of the programs' own dtype explains, such as a table in float32 beside one in float64, is carried across and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from attention.parity.tracing.activation_patching import Pair, Swap, carry, repaired_share, replacements, rerun
from attention.parity.tracing.backward_slice import ancestors
from attention.parity.tracing.choice import Choice
from attention.parity.tracing.fault_localization import choose
from attention.parity.tracing.rounding_differences import ULPS, also_near, backward_slices, distance, is_within, near_pairs
from attention.parity.tracing.trace_alignment import Alignment

# Divergences that are looked for at most, arrays that are carried across in all, and further runs of one line that are kept.
MOST_PARTS, MOST_CARRIED, MOST_RUNS = 6, 24, 2
# What is left of the outputs' error, in roundings relative to their size, that no operation needs to explain.
LEFT = 16.0


@dataclass(eq=False)
class AttributedDivergence:
    """One divergence.

    Attributes:
        choice: where it is.
        alignment: the programs with all earlier divergences carried across.
        share: of the outputs' error that it explains; for what is unproven, that which is left.
        runs: where the same line parts again, each with all before it carried across, so that its operands agree.
        benign: whether a rounding of the programs' dtype explains it.
    """

    choice: Choice
    alignment: Alignment
    share: float = 0.0
    runs: tuple[AttributedDivergence, ...] = ()
    benign: bool = False

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The arrays that were exchanged; None where nothing is proven."""
        found = self.choice.swap
        if found is None:
            return None
        return self.alignment.torch.events[found.torch].value, self.alignment.jax.events[found.jax].value


def attribute(alignment: Alignment, unit: float) -> tuple[AttributedDivergence, ...]:
    """Return where two programs part, in order, until the outputs agree or nothing more is proven.

    Args:
        alignment: the two programs.
        unit: the unit roundoff of the dtype that they run in.
    """
    parts: list[AttributedDivergence] = []
    state, ends = alignment, alignment.unequal
    whole = _error(state, ends)
    state, rounded, carried = _rounded(state, unit)
    parts += rounded
    while state.unequal and len(parts) < MOST_PARTS + len(rounded):
        choice = choose(state, *backward_slices(state))
        part = AttributedDivergence(choice, state)
        parts.append(part)
        before = _error(state, ends)
        if choice.swap is None:
            part.share = _share(before, 0.0, whole)
            part.benign = before <= LEFT * unit
            break
        if choice.swap.repaired_share == 1:
            part.runs = _runs(part)
            part.share = _share(before, 0.0, whole)
            part.benign = _is_benign(part, unit) or _is_tiny(part, unit, part.share * whole)
            break
        state = _carried(state, part)
        part.share = _share(before, _error(state, ends), whole)
        carried += 1
        state, more = _again(state, parts, ends, whole, MOST_CARRIED - carried)
        carried += more
        part.benign = _is_benign(part, unit) or _is_tiny(part, unit, part.share * whole)
        if _all_repaired(state, parts):
            total = sum(each.share for each in parts) or 1.0
            for each in parts:
                each.share /= total
            break
    return tuple(parts)


def carried_state(parts: Sequence[AttributedDivergence]) -> Alignment:
    """Return the programs with all divergences carried across, as far as they are proven."""
    last = parts[-1]
    found = last.choice.swap
    if found is None:
        return last.alignment
    only = None if found.only is None else frozenset(found.only)
    state = _best(last.alignment, found.pairs or [(found.torch, found.jax)], only)
    if state.unequal:
        state = _best(state, [pair for part in parts if part.choice.swap for pair in part.choice.instances], None)
    return state


def _rounded(state: Alignment, unit: float) -> tuple[Alignment, list[AttributedDivergence], int]:
    """Carry across what roundings alone set apart, so that they cannot hide what follows; return also how often."""
    parts: dict[tuple[object, object], AttributedDivergence] = {}
    tried: set[int] = set()
    count = 0
    while state.unequal and count < MOST_CARRIED:
        pair = next(near_pairs(state, unit, tried), None)
        if pair is None:
            break
        # One table of torch may be made for every layer of JAX.
        pairs = [pair, *also_near(state, unit, pair)]
        tried.update(j for _, j in pairs)
        after = _best(state, pairs, None)
        if _agreeing(after) <= _agreeing(state) + 1:
            continue
        key = state.torch.events[pair[0]].place, state.jax.events[pair[1]].place
        _ = parts.setdefault(key, AttributedDivergence(_at(pair), state, benign=True))
        state, count = after, count + 1
    return state, list(parts.values()), count


def _at(pair: Pair, like: Choice | None = None) -> Choice:
    kind = "different" if like is None else like.kind
    return Choice(kind, *pair, Swap(*pair, 0.0, (pair,)))


def _agreeing(state: Alignment) -> int:
    """Return how many arrays of JAX the torch side has too."""
    return sum(map(bool, state.alike[1]))


def _carried(state: Alignment, part: AttributedDivergence) -> Alignment:
    """Return the programs with the first pair of a divergence carried across, in the layout that brings most into agreement."""
    found = part.choice.swap
    assert found is not None  # noqa: S101 - for the type checker
    return _best(state, [(found.torch, found.jax)], None if found.only is None else frozenset(found.only))


def _best(state: Alignment, pairs: Sequence[Pair], only: frozenset[int] | None) -> Alignment:
    after = [carry(state, replaced, only) for replaced in replacements(state, pairs)]
    return max(after, key=_agreeing, default=state)


def _again(
    state: Alignment, parts: Sequence[AttributedDivergence], ends: Sequence[Pair], whole: float, most: int
) -> tuple[Alignment, int]:
    """Carry across every other time that a known line runs, as far as its operands agree, and count the error to it."""
    count = 0
    moved = True
    while moved and count < most and state.unequal:
        moved = False
        for part in parts:
            for pair in _ready(state, part):
                before = _error(state, ends)
                if len(part.runs) < MOST_RUNS:
                    part.runs = (*part.runs, AttributedDivergence(_at(pair, part.choice), state))
                state = _best(state, [pair], None)
                part.share += _share(before, _error(state, ends), whole)
                count, moved = count + 1, True
    return state, count


def _ready(state: Alignment, part: AttributedDivergence) -> list[Pair]:
    """Return the first pair of a line's other runs that parts although no more than that line lies behind it."""
    found = part.choice.swap
    # A pair that was carried across before may have repaired the last output.
    if found is None or found.only is not None or not state.unequal:
        return []
    first, second = (frozenset(region.inside) for region in backward_slices(state))
    for t, j in part.choice.instances:
        if t not in first or j not in second:
            continue
        sizes = len(ancestors(state.torch, t, first)), len(ancestors(state.jax, j, second))
        if sizes[0] <= part.choice.sizes[0] and sizes[1] <= part.choice.sizes[1]:
            return [(t, j)]
    return []


def _all_repaired(state: Alignment, parts: Sequence[AttributedDivergence]) -> bool:
    """Return whether the known lines, wherever they run, explain all that is left."""
    if not state.unequal:
        return True
    pairs = [pair for part in parts if part.choice.swap is not None for pair in part.choice.instances]
    return any(repaired_share(state, rerun(state.jax, replaced)) == 1 for replaced in replacements(state, pairs)[:1])


def _runs(part: AttributedDivergence) -> tuple[AttributedDivergence, ...]:
    """Return the further runs of the line of a proven divergence, each with those before it carried across."""
    found: list[AttributedDivergence] = []
    choice, state = part.choice, part.alignment
    assert choice.swap is not None  # noqa: S101 - for the type checker
    pairs = sorted(choice.swap.pairs, key=lambda pair: pair[1])[: MOST_RUNS + 1]
    for pair, after in pairwise(pairs):
        state = _best(state, [pair], None)
        found.append(AttributedDivergence(_at(after, choice), state))
    return tuple(found)


def _is_benign(part: AttributedDivergence, unit: float) -> bool:
    """Return whether a rounding of the dtype that the programs run in explains the difference, each time that the line runs."""
    if part.choice.kind == "layout":
        return False
    pairs = [each.arrays for each in (part, *part.runs)]
    return all(pair is not None and is_within(*pair, ULPS * unit) for pair in pairs)


def _is_tiny(part: AttributedDivergence, unit: float, error: float) -> bool:
    """Return whether the arrays, and the error of the outputs that this explains, are less than one rounding apart."""
    pairs = [each.arrays for each in (part, *part.runs)]
    return error <= unit and all(pair is not None and distance(*pair) <= unit for pair in pairs)


def _share(before: float, after: float, whole: float) -> float:
    """Return the share of the whole error that went."""
    return min(1.0, max(0.0, before - after) / whole) if whole else 0.0


def _error(state: Alignment, ends: Sequence[Pair]) -> float:
    """Return how far outputs are apart: the RMS of the difference relative to that of the output, over all that differed."""
    found = [distance(state.torch.events[i].value, state.jax.events[j].value) for i, j in ends]
    return float(np.sqrt(np.mean(np.square(found)))) if found else 0.0
