"""The choice: which operation of either side the mistake is in.

    the smallest region (t, j) for which the JAX side with t in the place of j returns what the torch side returns

The region is all that has no partner and that t and j were made from: the mistake lies in it. It is of operations that do the
same thing differently; or of those that only torch has, if t in the place of what JAX goes on from mends it; or of those
that only JAX has. If no pair mends the outputs, there is more than one mistake, and the earliest of either frontier is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from attention.parity.tracing.activation_patching import (
    Pair,
    Swap,
    carry,
    heals,
    instances,
    laid,
    mended,
    replacements,
    rerun,
    swap,
)
from attention.parity.tracing.axis_permutations import close, consistent
from attention.parity.tracing.backward_slice import Cone, ancestors
from attention.parity.tracing.fingerprint import collapsed, real
from attention.parity.tracing.trace import LOOP, ROLES, Recording, is_number
from attention.parity.tracing.trace_alignment import Alignment

# What is tried at most: swaps; arrays of either side that are combined; swaps that are run to the outputs because operations
# after them agree; those whose outputs are near, which is cheap; those after which nothing near agrees. Measured on 49 ports
# and 32 pairs: the swap that mends all was among the first 124, and of those with far outputs among the first 18 that are run.
MOST_SWAPS, MOST_SIDE, MOST_RUN, MOST_WHOLE, MOST_BLIND = 200, 64, 24, 200, 8
# Operations of a region that are counted, and of one that is only ranked among many.
MOST_REGION, MOST_RANKED = 400, 48
# Swaps that mend a part of the outputs, and are compared by how many operations they bring into agreement.
MOST_PARTIAL = 16
ENOUGH = 0.6
# Operations after an array that may be written in another way before the programs agree again.
DEPTH = 3


# The kind of a divergence, the torch event, the JAX event, and the events that read the replacement.
Trial = tuple[str, int, int, tuple[int, ...] | None]


@dataclass(frozen=True, eq=False)
class Choice:
    """Where the mistake is.

    Attributes:
        kind: "different", "layout", "absent in jax", "absent in torch", or "unproven" where no swap mends the outputs.
        torch: index of the torch event to show.
        jax: index of the JAX event to show.
        swap: the evidence, where there is any.
        instances: the pairs of the same operations, each time that their lines run.
        sizes: how many events of either side without a partner lie behind the pair that was swapped.
    """

    kind: str
    torch: int
    jax: int
    swap: Swap | None = None
    instances: tuple[Pair, ...] = ()
    sizes: tuple[int, int] = (0, 0)


def choose(alignment: Alignment, first: Cone, second: Cone) -> Choice:
    """Return where the mistake is.

    Args:
        alignment: the two programs.
        first: what differs on the torch side.
        second: what differs on the JAX side.
    """
    if not alignment.jax.steps:
        return Choice("unproven", first.frontier[0], second.frontier[0])
    found = _laid_out(alignment, first, second) or _tables(alignment, first, second)
    if found is not None:
        return found
    near, blind = list[Trial](), list[Trial]()
    run = {True: MOST_WHOLE, False: MOST_RUN}
    for trial in _smallest(alignment, first, second):
        healed, whole = heals(alignment, *trial[1:])
        if not healed and not whole:
            blind.append(trial)
            continue
        near.append(trial)
        run[whole] -= 1
        if run[whole] >= 0 and (made := _whole(alignment, trial)):
            smaller = _closing(alignment, near[:-1][:MOST_PARTIAL]) if _spread(alignment, made, first, second) else None
            return (
                _shown(alignment, trial[0], made, first, second)
                if smaller is None
                else _shown_part(alignment, smaller, first, second)
            )
    for trial in blind[:MOST_BLIND]:
        if made := _whole(alignment, trial):
            return _shown(alignment, trial[0], made, first, second)
    partial = _partial(alignment, near[:MOST_PARTIAL])
    if partial is None:
        return Choice("unproven", _root(alignment.torch, first), _root(alignment.jax, second))
    return _shown_part(alignment, partial, first, second)


def _spread(alignment: Alignment, made: Swap, first: Cone, second: Cone) -> bool:
    """Return whether a swap stands for several lines that run several times: there may be a mistake in each."""
    ends = ((alignment.torch, made.torch, first), (alignment.jax, made.jax, second))
    lines = [{side.events[i].place for i in ancestors(side, end, frozenset(region.inside))} for side, end, region in ends]
    return len(made.pairs) > 1 and all(len(each) > 1 for each in lines)


def _shown_part(alignment: Alignment, trial: Trial, first: Cone, second: Cone) -> Choice:
    kind, t, j, only = trial
    return _shown(alignment, kind, Swap(t, j, 0.0, ((t, j),), only), first, second)


def _whole(alignment: Alignment, trial: Trial) -> Swap | None:
    """Return the swap if it mends all outputs."""
    made = swap(alignment, *trial[1:])
    return made if made is not None and made.mended == 1 else None


def _partial(alignment: Alignment, trials: Sequence[Trial]) -> Trial | None:
    """Return the swap of the smallest region after which all that reads it agrees, or else which brings most into agreement."""
    if (closing := _closing(alignment, trials)) is not None:
        return closing
    after = [(trial, _after(alignment, trial)) for trial in trials]
    gains = [0 if made is None else _gain(alignment, made, trial[2]) for trial, made in after]
    most = max(gains, default=0)
    return next((trial for trial, gain in zip(trials, gains, strict=True) if gain and gain >= ENOUGH * most), None)


def _closing(alignment: Alignment, trials: Sequence[Trial]) -> Trial | None:
    """Return the swap of the smallest region after which all that reads the array agrees: other mistakes may follow."""
    for n, trial in enumerate(trials):
        after = _after(alignment, trial)
        if (
            after is not None
            and _gain(alignment, after, trial[2]) > 0
            and all(_closes(after, i, DEPTH, trial[2]) for i in trial[3] or _readers(after, trial[2]))
        ):
            # Where both sides compute, a smaller region that was tried does not do.
            return trial if trial[0] == "different" else _earlier(alignment, trial, trials[:n])
    return None


def _earlier(alignment: Alignment, trial: Trial, smaller: Sequence[Trial]) -> Trial:
    """Return the swap of the same array of torch for one that the array of JAX was made from, if that was tried."""
    kind, t, j, _ = trial
    behind = ancestors(alignment.jax, j, frozenset(i for i, ok in enumerate(alignment.fine[1]) if not ok)) - {j}
    return next((each for each in smaller if each[:2] == (kind, t) and each[2] in behind), trial)


def _after(alignment: Alignment, trial: Trial) -> Alignment | None:
    """Return the programs after a swap, in the layout that brings most into agreement; None if none fits."""
    _, t, j, only = trial
    readers = None if only is None else frozenset(only)
    made = [carry(alignment, replaced, readers) for replaced in replacements(alignment, [(t, j)])]
    return max(made, key=lambda after: _gain(alignment, after, j), default=None)


def _readers(after: Alignment, j: int) -> list[int]:
    """Return the operations that read an array of JAX, as it is or laid out anew; a single -1 where nothing does."""
    events, found = after.jax.events, list[int]()
    for i in after.jax.consumers[j]:
        found += _readers(after, i) if events[i].is_move else [i]
    return [i for i in found if events[i].is_float] or [-1]


def _closes(after: Alignment, i: int, depth: int, j: int) -> bool:
    """Return whether an event of JAX agrees with one of torch, or all that reads it does, after event `j` was replaced."""
    if i < 0 or not after.jax.events[i].is_operation:
        return False
    return _agrees(after, i, j) or (depth > 0 and all(_closes(after, n, depth - 1, j) for n in _readers(after, i)))


def _agrees(after: Alignment, i: int, j: int) -> bool:
    """Return whether an event of JAX agrees with one of torch that does not hold the replacement itself.

    What leaves the replacement as it is, such as a clip of numbers that lie between its limits, shows nothing.
    """
    return not {*after.partners[1][j]}.issuperset(after.partners[1][i])


def _gain(alignment: Alignment, after: Alignment, j: int) -> int:
    """Return how many operations of JAX agree with one of torch after a swap, and did not before."""
    moved = [i for i in after.changed if i != j and alignment.jax.events[i].is_operation and alignment.jax.events[i].is_float]
    return sum(_agrees(after, i, j) - bool(alignment.partners[1][i]) for i in moved)


def _shown(alignment: Alignment, kind: str, found: Swap, first: Cone, second: Cone) -> Choice:
    """Return the operations that stand for a region."""
    t, j = found.torch, found.jax
    if kind != "absent in torch":
        t = _root(alignment.torch, first, t)
    if kind != "absent in jax":
        j = _root(alignment.jax, second, j)
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


def _root(side: Recording, region: Cone, end: int | None = None) -> int:
    """Return the event of the frontier from which an event was made: of those that the inputs reach, the earliest."""
    behind = {*region.inside} if end is None else ancestors(side, end, region.inside)
    roots = [i for i in region.frontier if i in behind] or [*region.frontier]
    return min(roots, key=lambda i: (-ROLES.index(side.events[i].role), i))


def _repeated(alignment: Alignment, which: int, i: int) -> int:
    """Walk back through what one side computes twice and the other once: there it repeats where it should do something else."""
    side = (alignment.torch, alignment.jax)[which]
    while not side.events[i].is_given and alignment.surplus(which, i):
        again = [n for n in side.events[i].inputs if not side.events[n].is_given and alignment.surplus(which, n)]
        if not again:
            break
        i = max(again)
    return i


def _beside(there: tuple[Recording, int, int], here: tuple[Recording, int], region: Cone) -> int:
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


def _smallest(alignment: Alignment, first: Cone, second: Cone) -> Iterator[Trial]:
    """Yield the swaps that may be, of the smallest regions first."""

    @cache
    def size(which: int, i: int, most: int = MOST_REGION) -> tuple[int, int]:
        side = (alignment.torch, alignment.jax)[which]
        behind = [n for n in ancestors(side, i, inside[which], most) if side.events[n].is_operation]
        return len({side.lines[n] for n in behind}), len(behind)

    @cache
    def reads(which: int, i: int) -> frozenset[int]:
        side = (alignment.torch, alignment.jax)[which]
        behind = ancestors(side, i, apart[which], MOST_REGION)
        return frozenset(n for k in behind for n in side.events[k].inputs)

    @cache
    def readers(j: int) -> tuple[int, ...]:
        return tuple(i for i in alignment.jax.consumers[j] if i in inside[1])

    def is_far(which: int, i: int, given: Sequence[int]) -> bool:
        # What only one side has was made from one of some arrays, or may have been: of a constant.
        return bool(given) and reads(which, i).isdisjoint(given)

    inside = frozenset(first.inside), frozenset(second.inside)
    apart = [frozenset(n for n, ok in enumerate(fine) if not ok) for fine in alignment.fine]
    a = sorted(_computed(alignment.torch, first), key=lambda i: size(0, i, MOST_RANKED))[:MOST_SIDE]
    b = sorted(_computed(alignment.jax, second), key=lambda i: size(1, i, MOST_RANKED))[:MOST_SIDE]
    tried: list[tuple[tuple[float, float, float], Trial]] = []
    for t, j in (pair for pair in product(a, b) if _fits(alignment, *pair)):
        cost = (0, size(0, t)[0] + size(1, j)[0], size(0, t)[1] + size(1, j)[1])
        tried.append((cost, ("different", t, j, None)))
    for t, j in (pair for pair in product(a, second.border) if _fits(alignment, *pair)):
        cost = (is_far(0, t, alignment.alike[1][j]), size(0, t)[0] + 1, size(0, t)[1] + 2)
        tried += [(cost, ("absent in jax", t, j, None)), (cost, ("absent in jax", t, j, readers(j)))]
    for t, j in (pair for pair in product(first.border, b) if _fits(alignment, *pair)):
        cost = (is_far(1, j, alignment.alike[0][t]), size(1, j)[0] + 1, size(1, j)[1] + 2)
        tried.append((cost, ("absent in torch", t, j, None)))
    yield from (trial for _, trial in sorted(tried, key=lambda one: one[0])[:MOST_SWAPS])


def _computed(side: Recording, region: Cone) -> list[int]:
    """Return what was computed in a region: an array that is only laid out anew stands for nothing new.

    What a loop of torch made stands for all its turns; JAX runs each turn by itself.
    """
    inside = frozenset(region.inside)
    loops = [e.index for e in side.events if e.op == LOOP and inside.issuperset(e.inputs)] if side.side == "torch" else []
    return [*(i for i in region.inside if side.events[i].is_operation), *loops]


def _fits(alignment: Alignment, t: int, j: int) -> bool:
    a, b = alignment.torch.events[t], alignment.jax.events[j]
    same = a.value.size == b.value.size or 1 < alignment.prints[0][t].count == alignment.prints[1][j].count
    # No array that was computed stands in the place of a number that is written in the program.
    return same and a.value.dtype.kind == b.value.dtype.kind and a.is_float and not (is_number(a) or is_number(b))


def _laid_out(alignment: Alignment, first: Cone, second: Cone) -> Choice | None:
    """Look for an operand that has the right elements in the wrong layout: split in another way, or with two axes exchanged."""
    for i, k in product(first.frontier, second.frontier):
        for t, j in product(alignment.torch.events[i].inputs, alignment.jax.events[k].inputs):
            if _exchanged(alignment, t, j):
                found = swap(alignment, t, j)
                if found is not None and found.mended == 1:
                    return Choice("layout", *_first_exchanged(alignment, t, j), found)
    return None


def _exchanged(alignment: Alignment, t: int, j: int) -> bool:
    a, b = alignment.torch.events[t], alignment.jax.events[j]
    if j not in alignment.alike[0][t] or b.is_given or not alignment.prints[0][t].count:
        return False
    x, y, limit = real(a.value).squeeze(), real(b.value).squeeze(), alignment.prints[0][t].limit(alignment.prints[1][j])
    if x.size != y.size:
        # One side repeats it, such as a bias for every sequence of the batch.
        x, y = collapsed(x), collapsed(y)
    return not (close(x, y, limit) if x.shape == y.shape else consistent(x, y, limit))


def _first_exchanged(alignment: Alignment, t: int, j: int) -> tuple[int, int]:
    """Walk back to the first pair of which the axes are exchanged."""
    for b in alignment.jax.events[j].inputs:
        for a in alignment.alike[1][b]:
            if a <= t and a in ancestors(alignment.torch, t, range(t)) and _exchanged(alignment, a, b):
                return _first_exchanged(alignment, a, b)
    return t, j


def _tables(alignment: Alignment, first: Cone, second: Cone) -> Choice | None:
    """Look for constants that differ: what is made of neither inputs nor parameters, and read by what is."""
    ends = [_ends(alignment, which, region) for which, region in enumerate((first, second))]
    pairs = [
        (t, j)
        for t, j in zip(ends[0], ends[1], strict=False)
        if laid(alignment.torch.events[t].value, alignment.jax.events[j].value)
    ]
    if not pairs or len(ends[0]) != len(ends[1]) or len(pairs) != len(ends[0]):
        return None
    replaced = {j: laid(alignment.torch.events[t].value, alignment.jax.events[j].value)[0] for t, j in pairs}
    share = mended(alignment, rerun(alignment.jax, replaced))
    if share < 1:
        return None
    t, j = pairs[0]
    return Choice(
        "different", _root(alignment.torch, first, t), _root(alignment.jax, second, j), Swap(t, j, share, tuple(pairs))
    )


def _ends(alignment: Alignment, which: int, region: Cone) -> list[int]:
    """Return the constants without a partner that something other than a constant reads, in order."""
    side = (alignment.torch, alignment.jax)[which]
    inside = {*region.inside}
    found: dict[int, None] = {}
    for i in region.inside:
        if side.events[i].role:
            found.update(dict.fromkeys(n for n in side.events[i].inputs if not side.events[n].role and n in inside))
    return list(found)
