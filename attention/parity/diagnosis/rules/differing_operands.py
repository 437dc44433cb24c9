"""Walk back to the operands: if both programs apply the same operation, the difference lies in an operand.

torch = a s, jax = b s        torch = a + s, jax = b + s        torch = a W, jax = b W        then a beside b
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from attention.parity.diagnosis.rules.arrays import equal, near
from attention.parity.diagnosis.rules.operand_pair import OperandPair
from attention.parity.tracing import Event

MOST_STEPS = 4
ALIKE = {
    **dict.fromkeys(("add", "add_", "add_any"), "sum"),
    **dict.fromkeys(("mul", "mul_"), "product"),
    **dict.fromkeys(("mm", "bmm", "matmul", "dot_general"), "product of matrices"),
}
"""Operations of two operands that are the same on both sides."""


def differing_operands(pair: OperandPair) -> Iterator[OperandPair]:
    """Yield the operands that part, of arrays that part and were made alike otherwise, as far back as this goes."""
    # Of an operation that one side lacks, the other array agrees with one that was made before.
    for _ in range(0 if pair.absent else MOST_STEPS):
        ends = [_made(region, value) for region, value in zip(pair.region, (pair.torch, pair.jax), strict=True)]
        found = _parted(pair, *ends) if ends[0] is not None and ends[1] is not None else None
        if found is None:
            return
        found = _unwrapped(pair, *found)
        regions = [tuple(e for e in r if e.index <= end.index) for r, end in zip(pair.region, found, strict=True)]
        pair = replace(pair, torch=found[0].value, jax=found[1].value, region=(regions[0], regions[1]), absent="")
        yield pair


def _made(region: tuple[Event, ...], value: object) -> Event | None:
    """Return the operation that made an array, behind whatever only lays it out anew; None where it is not recorded."""
    events = {event.index: event for event in region}
    event = region[-1] if region and region[-1].value is value else None
    while event is not None and event.is_move:
        event = events.get(event.inputs[0]) if event.inputs else None
    return event


SHAPES = frozenset(
    {"_reshape_alias", "_unsafe_view", "alias", "clone", "contiguous", "reshape", "squeeze", "unsqueeze", "view"}
)
"""Operations that keep the order of elements."""


def _unwrapped(pair: OperandPair, torch: Event, jax: Event) -> tuple[Event, Event]:
    """Return two arrays before they were given other shapes, if there they have one: a roll is seen along its own axes only."""
    sides: list[list[Event]] = []
    for region, end in zip(pair.region, (torch, jax), strict=True):
        events, made = {event.index: event for event in region}, [end]
        while made[-1].op in SHAPES and made[-1].inputs and made[-1].inputs[0] in events:
            made.append(events[made[-1].inputs[0]])
        sides.append(made)
    pairs = [(t, j) for t in reversed(sides[0]) for j in reversed(sides[1]) if t.shape == j.shape]
    return pairs[0] if pairs else (torch, jax)


def _same(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Return whether two arrays are equal: a roll of an array is not, if it has its shape."""
    return equal(a, b, limit) if a.shape == b.shape else near(a, b, limit)


def _parted(pair: OperandPair, torch: Event | None, jax: Event | None) -> tuple[Event, Event] | None:
    """Return the operands that part, where the operations are the same and their other operands agree."""
    if torch is None or jax is None or ALIKE.get(torch.op, "") != ALIKE.get(jax.op, "-"):
        return None
    operands = [
        [e for i in end.inputs for e in region if e.index == i and e.is_float]
        for end, region in zip((torch, jax), pair.region, strict=True)
    ]
    if [len(each) for each in operands] != [2, 2]:
        return None
    limit = 4 * pair.limit
    same = [(i, k) for i in (0, 1) for k in (0, 1) if _same(operands[0][i].value, operands[1][k].value, limit)]
    if len(same) != 1:
        return None
    [(i, k)] = same
    a, b = operands[0][1 - i], operands[1][1 - k]
    return (a, b) if a.value.size == b.value.size > 1 and a.is_float and b.is_float else None
