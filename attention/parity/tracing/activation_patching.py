"""Activation patching: run the JAX program again with arrays of the torch program in place of its own.

    replace j by t; run all that depends on it again; do the outputs agree now?

If they do, the programs differ nowhere after that array, and the mistake lies in how it was made. A line that runs several
times, for each layer or for queries and for keys, is replaced each time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from attention.parity.tracing.axis_permutations import arranged, consistent, divided
from attention.parity.tracing.fingerprint import collapsed, constant_along, fingerprint, masked, real
from attention.parity.tracing.trace import LOOP, Event, Recording
from attention.parity.tracing.trace_alignment import Alignment

# Layouts of one array that are tried at most, and of those that equal sizes leave, from which they are chosen.
MOST_LAYOUTS, MOST_ARRANGED = 4, 24
# Of two layouts of one array, how much less like another the one may be, as a cosine, to be tried too.
UNLIKE = 0.5
# Operations after a replaced array, and for each turn of a replaced loop, in which an agreement is looked for before everything
# is run again.
NEAR, NEAR_TURN = 12, 32

Pair = tuple[int, int]


@dataclass(frozen=True)
class Swap:
    """Arrays of the torch side in the place of arrays of the JAX side.

    Attributes:
        torch: index of the first event that is taken.
        jax: index of the first event that is replaced.
        repaired_share: the share of the outputs that differed and now agree.
        pairs: all pairs that were replaced.
        only: the events that read the replacement; None for all.
    """

    torch: int
    jax: int
    repaired_share: float
    pairs: tuple[Pair, ...] = ()
    only: tuple[int, ...] | None = None


def swap(alignment: Alignment, t: int, j: int, only: Iterable[int] | None = None) -> Swap | None:
    """Put an array of the torch side in the place of one of the JAX side; None if it does not fit or repairs nothing.

    Args:
        alignment: the two programs.
        t: index of a torch event.
        j: index of a JAX event.
        only: the events that read the replacement; None for all that read `j`.
    """
    readers = None if only is None else tuple(only)
    pairs = [(t, j)] if readers is not None else instances(alignment, t, j)
    best: Swap | None = None
    for chosen in [pairs, pairs[:1]] if len(pairs) > 1 else [pairs]:
        share = _best(alignment, chosen, readers)
        if share and (best is None or share > best.repaired_share):
            best = Swap(t, j, share, tuple(chosen), readers)
        if share == 1:
            break
    return best


def _best(alignment: Alignment, pairs: list[Pair], only: Iterable[int] | None) -> float:
    """Return the largest share of outputs that a layout of the replacements repairs."""
    readers = None if only is None else frozenset(only)
    best = 0.0
    for replaced in replacements(alignment, pairs):
        best = max(best, repaired_share(alignment, rerun(alignment.jax, replaced, readers)))
        if best == 1:
            break
    return best


def replacements(alignment: Alignment, pairs: Iterable[Pair]) -> list[dict[int, np.ndarray]]:
    """Return the ways in which the torch arrays of pairs can stand in the place of those of JAX, by JAX event."""
    pairs = list(pairs)
    layouts = [possible_layouts(alignment.torch.events[t].value, alignment.jax.events[j].value) for t, j in pairs]
    found: list[dict[int, np.ndarray]] = []
    for values in zip(*layouts, strict=False):
        replaced: dict[int, np.ndarray] = {}
        for (_, j), value in zip(pairs, values, strict=True):
            event = alignment.jax.events[j]
            # What a loop of JAX made, one after another, is replaced in each of its turns.
            replaced |= dict(zip(event.inputs, value, strict=True)) if event.op == LOOP else {j: value}
        found.append(replaced)
    return found


def repairs_next(alignment: Alignment, t: int, j: int, only: Iterable[int] | None = None) -> tuple[bool, bool]:
    """Return whether a replacement brings the next operations into agreement, and whether the outputs are among them.

    This runs a few operations, where `swap` runs all, and so tells quickly which swaps are worth trying.
    """
    readers = None if only is None else frozenset(only)
    whole = False
    turns = len(alignment.jax.events[j].inputs) if alignment.jax.events[j].op == LOOP else 1
    # What follows a loop agrees only after its last turn.
    most = NEAR if turns == 1 else NEAR_TURN * turns
    for replaced in replacements(alignment, [(t, j)]):
        changed = rerun(alignment.jax, replaced, readers, most=most)
        made = [i for i in changed if i not in replaced and alignment.jax.events[i].is_float]
        if any(alignment.jax.events[i].op == "output" for i in made):
            whole = True
        if any(_known(alignment, i, changed[i]) for i in made if alignment.jax.events[i].is_operation):
            return True, whole
    return False, whole


def _known(alignment: Alignment, i: int, value: np.ndarray) -> bool:
    """Return whether a new array of a JAX event is one that the torch side made, where the old one was not."""
    event = alignment.jax.events[i]
    return not alignment.alike[1][i] and bool(alignment.index.equal(fingerprint(value, event.unit, 0.0, event.slack)))


def carry(alignment: Alignment, replaced: Mapping[int, np.ndarray], only: frozenset[int] | None = None) -> Alignment:
    """Return the two programs with arrays of the JAX side replaced, and made again what depends on them."""
    made = rerun(alignment.jax, replaced, only)
    changed = {
        i: x for i, x in made.items() if not np.array_equal(x, alignment.jax.events[i].value, equal_nan=x.dtype.kind == "f")
    }
    for event in alignment.jax.events:
        if event.op == LOOP and not changed.keys().isdisjoint(event.inputs):
            changed[event.index] = np.stack([changed.get(i, alignment.jax.events[i].value) for i in event.inputs])
    events = [replace(e, value=changed[e.index]) if e.index in changed else e for e in alignment.jax.events]
    return Alignment(alignment.torch, replace(alignment.jax, events=events), alignment, frozenset(changed))


def instances(alignment: Alignment, t: int, j: int) -> list[Pair]:
    """Return the pairs that stand for the same two operations, run several times; the given pair first."""
    here = [_likes(side, side.events[i]) for side, i in ((alignment.torch, t), (alignment.jax, j))]
    if len(here[0]) != len(here[1]) or here[0].index(t) != here[1].index(j):
        return [(t, j)]
    pairs = list(zip(*here, strict=True))
    return [(t, j), *(pair for pair in pairs if pair != (t, j))]


def _likes(recording: Recording, event: Event) -> list[int]:
    """Return the events of the same operation, at the same place, reading the same operations."""
    made_of = [recording.events[i].op for i in event.inputs]
    key = event.op, event.name, event.place, event.backward, event.value.size
    return [
        e.index
        for e in recording.events
        if (e.op, e.name, e.place, e.backward, e.value.size) == key and [recording.events[i].op for i in e.inputs] == made_of
    ]


def possible_layouts(t: np.ndarray, j: np.ndarray) -> list[np.ndarray]:
    """Return the layouts in which one array can stand in the place of another, the likeliest first."""
    if t.dtype.kind != j.dtype.kind:
        return []
    if t.size != j.size:
        return _spread(t, j)
    sizes = tuple(size for size in j.shape if size != 1)
    flat = t.squeeze()
    arrays = divided(flat, sizes) if flat.ndim < len(sizes) else arranged(flat, sizes)
    found = [x.reshape(j.shape) for x in islice(arrays, MOST_ARRANGED)]
    if len(found) > 1:
        # Axes of one size leave open which is which: an array that differs a little still tells.
        alike = [likeness(x, j) for x in found]
        order = sorted(range(len(found)), key=lambda n: -alike[n])
        found = [found[n] for n in order if alike[n] >= max(alike) - UNLIKE]
    return found[:MOST_LAYOUTS]


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two arrays of one shape, what is masked aside."""
    a, b = (np.where(masked(x), 0.0, x) if x.dtype.kind == "f" else x for x in (real(a), real(b)))
    size = float(np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)) if a.dtype.kind == "f" else float(a.size)
    return float(np.vdot(a, b) if a.dtype.kind == "f" else (a == b).sum()) / (size or 1.0)


def _spread(t: np.ndarray, j: np.ndarray) -> list[np.ndarray]:
    """Return the layouts of an array that another repeats along some axes, such as a table made for each batch."""
    kept = [axis for axis, size in enumerate(j.shape) if size > 1 and not constant_along(j, axis)]
    sizes, flat = tuple(j.shape[axis] for axis in kept), collapsed(t).squeeze()
    if flat.size != math.prod(sizes):
        return []
    shape = [size if axis in kept else 1 for axis, size in enumerate(j.shape)]
    found = [flat] if flat.shape == sizes else islice(arranged(flat, sizes), MOST_LAYOUTS)
    return [np.broadcast_to(x.reshape(shape), j.shape).copy() for x in found]


def rerun(
    recording: Recording, replaced: Mapping[int, np.ndarray], only: frozenset[int] | None = None, most: int | None = None
) -> dict[int, np.ndarray]:
    """Return the values of all events that change when some are replaced.

    Args:
        recording: of the JAX side.
        replaced: values by event.
        only: the events that read the replacement; None for all.
        most: how many operations are run at most; None for all that depend on the replacement.
    """
    changed: dict[int, np.ndarray] = dict(replaced) if only is None else {}
    first = (
        (n for i in replaced for n in recording.readers.get(i, ()))
        if only is None
        else (recording.made_by[i] for i in only if i in recording.made_by)
    )
    waiting = sorted(set(first))
    queued = set(waiting)
    run = 0
    with np.errstate(all="ignore"), recording.around():
        while waiting and (most is None or run < most):
            step = recording.steps[heapq.heappop(waiting)]
            reads = only is not None and not only.isdisjoint(step.outputs)
            seen = {**changed, **replaced} if reads else changed
            try:
                made = step.run([seen.get(i, recording.events[i].value) for i in step.inputs])
            except (ValueError, TypeError, IndexError):
                return {}
            run += 1
            for i, x in zip(step.outputs, made, strict=True):
                if only is None and i in replaced:
                    continue
                changed[i] = x
                for n in recording.readers.get(i, ()):
                    if n not in queued:
                        queued.add(n)
                        heapq.heappush(waiting, n)
    for i in recording.outputs.values():
        [made] = recording.events[i].inputs
        seen = {**changed, **replaced} if only is not None and i in only else changed
        if made in seen:
            changed[i] = seen[made]
    return changed


def repaired_share(alignment: Alignment, changed: Mapping[int, np.ndarray]) -> float:
    """Return the share of the outputs that differed and now agree; 0 where one that agreed no longer does."""
    good = 0
    for i, j in alignment.outputs:
        if j not in changed:
            continue
        equal = _equal(alignment, i, j, changed[j])
        if (i, j) in alignment.unequal:
            good += equal
        elif not equal and alignment.agree(i, j):
            return 0.0
    return good / max(1, len(alignment.unequal))


def _equal(alignment: Alignment, i: int, j: int, value: np.ndarray) -> bool:
    output = alignment.torch.events[i]
    # A swap carries the rounding errors of another order of operations.
    limit = 10 * alignment.prints[0][i].limit(alignment.prints[1][j])
    same = not output.name.startswith("d ") and output.shape == value.shape
    return consistent(real(output.value), real(value), limit, same=same)
