"""Fault localisation: choose the operation of either program that contains the mistake.

    the smallest region (t, j) for which the JAX side with t in the place of j returns what the torch side returns

The region is all that has no partner and that t and j were made from: the mistake lies in it. It is of operations that do the
same thing differently; or of those that only torch has, if t in the place of what JAX goes on from repairs it; or of those
that only JAX has. If no pair repairs the outputs, there is more than one mistake, and the earliest of either frontier is named.
"""

from __future__ import annotations

from attention.parity.tracing.activation_patching import Swap, instances, repairs_next, swap
from attention.parity.tracing.backward_slice import BackwardSlice, ancestors, root
from attention.parity.tracing.candidate_swaps import Trial, bottleneck_swaps, smallest_swaps
from attention.parity.tracing.choice import Choice
from attention.parity.tracing.layout_faults import differing_tables, exchanged_operand
from attention.parity.tracing.partial_swaps import local_repair, most_explaining
from attention.parity.tracing.trace import Recording
from attention.parity.tracing.trace_alignment import Alignment

# Swaps that are run to the outputs at most: because operations after them agree; those whose outputs are near, which is cheap;
# those after which nothing near agrees. Measured on 49 ports and 32 pairs: the swap that repairs all was among the first 18 of
# those with far outputs.
MOST_RUN, MOST_WHOLE, MOST_BLIND = 24, 200, 8
# Swaps that mend a part of the outputs, and are compared by how many operations they bring into agreement.
MOST_PARTIAL = 16


def choose(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Choice:
    """Return where the mistake is.

    Args:
        alignment: the two programs.
        first: what differs on the torch side.
        second: what differs on the JAX side.
    """
    if not alignment.jax.steps:
        return Choice("unproven", first.frontier[0], second.frontier[0])
    found = exchanged_operand(alignment, first, second) or differing_tables(alignment, first, second)
    if found is not None:
        return found
    near: list[Trial] = []
    found = _smallest_whole(alignment, first, second, near)
    if found is not None:
        trial, made = found
        smaller = local_repair(alignment, near[:MOST_PARTIAL]) if _spread(alignment, made, first, second) else None
        return _shown(alignment, smaller or trial, None if smaller else made, first, second)
    part = local_repair(alignment, near[:MOST_PARTIAL])
    if part is None and (through := _narrowed(alignment, first, second)) is not None:
        return through
    part = part or most_explaining(alignment, near[:MOST_PARTIAL])
    if part is None:
        return Choice("unproven", root(alignment.torch, first), root(alignment.jax, second))
    return _shown(alignment, part, None, first, second)


def _smallest_whole(
    alignment: Alignment, first: BackwardSlice, second: BackwardSlice, near: list[Trial]
) -> tuple[Trial, Swap] | None:
    """Return the swap of the smallest region that repairs all; those that repair what follows next are added to `near`."""
    blind: list[Trial] = []
    run = {True: MOST_WHOLE, False: MOST_RUN}
    for trial in smallest_swaps(alignment, first, second):
        repaired_next, whole = repairs_next(alignment, *trial[1:])
        if not repaired_next and not whole:
            blind.append(trial)
            continue
        run[whole] -= 1
        if run[whole] >= 0 and (made := _whole(alignment, trial)):
            return trial, made
        near.append(trial)
    found = ((trial, _whole(alignment, trial)) for trial in blind[:MOST_BLIND])
    return next(((trial, made) for trial, made in found if made is not None), None)


def _narrowed(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Choice | None:
    """Return where the mistake is, of arrays through which all goes that differs: the region may be large, and is proven."""
    near: list[Trial] = []
    for trial in bottleneck_swaps(alignment, first, second):
        if not any(repairs_next(alignment, *trial[1:])):
            continue
        if made := _whole(alignment, trial):
            # In a program of many layers the last may mend all, whichever of them are wrong.
            smaller = local_repair(alignment, near[:MOST_PARTIAL])
            return _shown(alignment, smaller or trial, None if smaller else made, first, second)
        near.append(trial)
    partial = local_repair(alignment, near[:MOST_PARTIAL])
    return None if partial is None else _shown(alignment, partial, None, first, second)


def _spread(alignment: Alignment, made: Swap, first: BackwardSlice, second: BackwardSlice) -> bool:
    """Return whether a swap stands for several lines that run several times: there may be a mistake in each."""
    ends = ((alignment.torch, made.torch, first), (alignment.jax, made.jax, second))
    lines = [{side.events[i].place for i in ancestors(side, end, frozenset(region.inside))} for side, end, region in ends]
    return len(made.pairs) > 1 and all(len(each) > 1 for each in lines)


def _whole(alignment: Alignment, trial: Trial) -> Swap | None:
    """Return the swap if it repairs all outputs."""
    made = swap(alignment, *trial[1:])
    return made if made is not None and made.repaired_share == 1 else None


def _shown(alignment: Alignment, trial: Trial, made: Swap | None, first: BackwardSlice, second: BackwardSlice) -> Choice:
    """Return the operations that stand for the region of a swap, which repairs all or, if `made` is None, a part."""
    kind, t, j, only = trial
    found = made or Swap(t, j, 0.0, ((t, j),), only)
    t, j = found.torch, found.jax
    if kind != "absent in torch":
        t = root(alignment.torch, first, t)
    if kind != "absent in jax":
        j = root(alignment.jax, second, j)
    if kind == "absent in jax":
        j = _repeated(alignment, 1, j)
        j = _beside((alignment.torch, t, found.torch), (alignment.jax, j), second)
    elif kind == "absent in torch":
        t = _repeated(alignment, 0, t)
        t = _beside((alignment.jax, j, found.jax), (alignment.torch, t), first)
    sizes = (
        len(ancestors(alignment.torch, found.torch, frozenset(first.inside))),
        len(ancestors(alignment.jax, found.jax, frozenset(second.inside))),
    )
    repeated = () if found.only is not None else tuple(instances(alignment, found.torch, found.jax))
    return Choice(kind, t, j, found, repeated, sizes)


def _repeated(alignment: Alignment, which: int, i: int) -> int:
    """Walk back through what one side computes twice and the other once: there it repeats where it should do something else."""
    side = (alignment.torch, alignment.jax)[which]
    while not side.events[i].is_given and alignment.surplus(which, i):
        again = [n for n in side.events[i].inputs if not side.events[n].is_given and alignment.surplus(which, n)]
        if not again:
            break
        i = max(again)
    return i


def _beside(there: tuple[Recording, int, int], here: tuple[Recording, int], region: BackwardSlice) -> int:
    """Return where an operation that only the other side has would stand: with what it reads, or with what reads it.

    The other side tells: there it stands on a line with the one, or with the other.
    """
    (other, start, end), (side, made) = there, here
    readers = [i for i in region.frontier if made in side.events[i].inputs]
    line = other.events[start].place
    before = any(other.events[i].place == line for i in other.events[start].inputs)
    after = any(other.events[i].place == other.events[end].place for i in other.consumers[end])
    if readers and ((after and not before) or not side.events[made].line):
        return readers[0]
    return made
