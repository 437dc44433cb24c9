"""Mistakes without an operation: an operand in another layout, or a different constant table.

heads split as (h d) beside (d h)        an angle table that starts at 1
"""

from __future__ import annotations

from itertools import product

from attention.parity.tracing.activation_patching import Swap, likeness, possible_layouts, repaired_share, rerun, swap
from attention.parity.tracing.axis_permutations import close, consistent
from attention.parity.tracing.backward_slice import BackwardSlice, ancestors, root
from attention.parity.tracing.choice import Choice
from attention.parity.tracing.fingerprint import collapsed, real
from attention.parity.tracing.trace_alignment import Alignment


def exchanged_operand(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Choice | None:
    """Look for an operand that has the right elements in the wrong layout: split in another way, or with two axes exchanged."""
    for i, k in product(first.frontier, second.frontier):
        for t, j in product(alignment.torch.events[i].inputs, alignment.jax.events[k].inputs):
            if _exchanged(alignment, t, j):
                found = swap(alignment, t, j)
                if found is not None and found.repaired_share == 1:
                    return Choice("layout", *_first_exchanged(alignment, t, j), found)
    return None


def differing_tables(alignment: Alignment, first: BackwardSlice, second: BackwardSlice) -> Choice | None:
    """Look for constants that differ: what is made of neither inputs nor parameters, and read by what is."""
    ends = [_ends(alignment, which, region) for which, region in enumerate((first, second))]
    pairs: list[tuple[int, int]] = []
    left = list(ends[0])
    for j in ends[1]:
        # Of several tables of one size, that which is likest.
        found = [(_likest(alignment, t, j), -t) for t in left]
        best, t = max(found, default=(-1.0, 0))
        if best >= 0:
            left.remove(-t)
            pairs.append((-t, j))
    if not pairs:
        return None
    replaced = {j: possible_layouts(alignment.torch.events[t].value, alignment.jax.events[j].value)[0] for t, j in pairs}
    share = repaired_share(alignment, rerun(alignment.jax, replaced))
    if share < 1:
        return None
    t, j = pairs[0]
    return Choice("different", root(alignment.torch, first, t), root(alignment.jax, second, j), Swap(t, j, share, tuple(pairs)))


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


def _likest(alignment: Alignment, t: int, j: int) -> float:
    """Return how like one table is to another, in the layout in which it is likest; -1 if it cannot stand in its place."""
    value = alignment.jax.events[j].value
    found = possible_layouts(alignment.torch.events[t].value, value)
    return abs(likeness(found[0], value)) if found else -1.0


def _ends(alignment: Alignment, which: int, region: BackwardSlice) -> list[int]:
    """Return the constants without a partner that something other than a constant reads, in order."""
    side = (alignment.torch, alignment.jax)[which]
    inside = {*region.inside}
    found: dict[int, None] = {}
    for i in region.inside:
        if side.events[i].role:
            found.update(dict.fromkeys(n for n in side.events[i].inputs if not side.events[n].role and n in inside))
    return list(found)
