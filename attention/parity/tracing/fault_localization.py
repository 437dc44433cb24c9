"""The choice: which operation of either side the mistake is in.

    the smallest region (t, j) for which the JAX side with t in the place of j returns what the torch side returns

The region is all that has no partner and that t and j were made from: the mistake lies in it. It is of operations that do the
same thing differently; or of those that only torch has, if t in the place of what JAX goes on from mends it; or of those
that only JAX has. If no pair mends the outputs, there is more than one mistake, and the earliest of either frontier is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product, takewhile

from attention.parity.tracing.activation_patching import Swap, laid, mended, rerun, swap
from attention.parity.tracing.axis_permutations import close, consistent
from attention.parity.tracing.backward_slice import Cone, ancestors
from attention.parity.tracing.fingerprint import real
from attention.parity.tracing.source_location import Place
from attention.parity.tracing.trace import ROLES, Recording
from attention.parity.tracing.trace_alignment import Alignment

# What is tried at most: each costs a run of what depends on it.
MOST_SWAPS = 500


@dataclass(frozen=True, eq=False)
class Choice:
    """Where the mistake is.

    Attributes:
        kind: "different", "layout", "absent in jax", "absent in torch", or "unproven" where no swap mends the outputs.
        torch: index of the torch event to show.
        jax: index of the JAX event to show.
        swap: the evidence, where there is any.
        torch_places: the lines to show, where they are not the event's own.
        jax_places: the same of the JAX side.
    """

    kind: str
    torch: int
    jax: int
    swap: Swap | None = None
    torch_places: tuple[Place, ...] = ()
    jax_places: tuple[Place, ...] = ()


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
    best: tuple[str, Swap] | None = None
    for kind, t, j, only in _smallest(alignment, first, second):
        made = swap(alignment, t, j, only)
        if made is not None and (best is None or made.mended > best[1].mended):
            best = kind, made
            if made.mended == 1:
                break
    if best is None:
        return Choice("unproven", _root(alignment.torch, first), _root(alignment.jax, second))
    return _shown(alignment, *best, first, second)


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
    torch_places = () if kind == "absent in torch" else _shared(alignment.torch, first, found.torch)
    jax_places = () if kind == "absent in jax" else _shared(alignment.jax, second, found.jax)
    return Choice(kind, t, j, found, torch_places, jax_places)


def _shared(side: Recording, region: Cone, end: int) -> tuple[Place, ...]:
    """Return the frames that all of a region share, if it is spread over functions: the mistake is in how these are called."""
    stacks = [side.events[i].places for i in ancestors(side, end, region.inside) if side.events[i].is_operation]
    if len({places[0].function for places in stacks if places}) < 2 or not all(stacks):
        return ()
    columns = zip(*(places[::-1] for places in stacks), strict=False)
    shared = [column[0] for column in takewhile(lambda column: len({*column}) == 1, columns)]
    return tuple(shared[::-1])


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


def _smallest(alignment: Alignment, first: Cone, second: Cone) -> Iterator[tuple[str, int, int, tuple[int, ...] | None]]:
    """Yield the swaps that may be, of the smallest regions first."""

    @cache
    def size(which: int, i: int) -> tuple[int, int]:
        side, region = ((alignment.torch, first), (alignment.jax, second))[which]
        behind = [n for n in ancestors(side, i, region.inside) if side.events[n].is_operation]
        return len({side.events[n].place for n in behind}), len(behind)

    a, b = (_computed(side, region) for side, region in ((alignment.torch, first), (alignment.jax, second)))
    tried: list[tuple[tuple[float, float], str, int, int, tuple[int, ...] | None]] = []
    for t, j in product(a, b):
        cost = (size(0, t)[0] + size(1, j)[0], size(0, t)[1] + size(1, j)[1])
        tried.append((cost, "different", t, j, None))
    for t, j in product(a, second.border):
        only = tuple(i for i in second.inside if j in alignment.jax.events[i].inputs)
        cost = (size(0, t)[0] + 1, size(0, t)[1] + 2)
        tried += [(cost, "absent in jax", t, j, None), (cost, "absent in jax", t, j, only)]
    for t, j in product(first.border, b):
        cost = (size(1, j)[0] + 1, size(1, j)[1] + 2)
        tried.append((cost, "absent in torch", t, j, None))
    tried = [one for one in tried if _fits(alignment, one[2], one[3])]
    for _, kind, t, j, only in sorted(tried, key=lambda one: one[0])[:MOST_SWAPS]:
        yield kind, t, j, only


def _computed(side: Recording, region: Cone) -> list[int]:
    """Return what was computed in a region: an array that is only laid out anew stands for nothing new."""
    return [i for i in region.inside if side.events[i].is_operation]


def _fits(alignment: Alignment, t: int, j: int) -> bool:
    a, b = alignment.torch.events[t], alignment.jax.events[j]
    return a.value.size == b.value.size and a.value.dtype.kind == b.value.dtype.kind and a.is_float


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
    return Choice("different", _root(alignment.torch, first, t), _root(alignment.jax, second, j), Swap(t, j, share))


def _ends(alignment: Alignment, which: int, region: Cone) -> list[int]:
    """Return the constants without a partner that something other than a constant reads, in order."""
    side = (alignment.torch, alignment.jax)[which]
    inside = {*region.inside}
    found: dict[int, None] = {}
    for i in region.inside:
        if side.events[i].role:
            found.update(dict.fromkeys(n for n in side.events[i].inputs if not side.events[n].role and n in inside))
    return list(found)
