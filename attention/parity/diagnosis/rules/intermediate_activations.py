"""Activations and gates that differ at an intermediate array; likely, not certain: later operations are not recomputed.

torch: f(u) w on the way        jax: f(w) u on the way        or f of u on torch, f of w on jax, where neither has the other's
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from attention.parity.diagnosis.rules.activations import which, within
from attention.parity.diagnosis.rules.elementwise import gate_exchanged
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair
from attention.parity.tracing import Event

MOST_EVENTS, MOST_ELEMENTS = 12, 100_000


def gate_within(pair: OperandPair) -> Finding | None:
    """Name f(u) w on the way to torch's array and f(w) u on the way to JAX'."""
    torch, jax = (_made(region, ("mul",)) for region in pair.region)
    read = _read(pair)
    for t, j in product(torch, jax):
        if t.value.size != j.value.size:
            continue
        found = gate_exchanged(replace(pair, torch=t.value, jax=j.value, known=read))
        if found is not None:
            return replace(found, sure=False)
    return None


def operand_within(pair: OperandPair) -> Finding | None:
    """Name one activation of two arrays, on the way to those that part: gates in another order."""
    read = [k for k in _read(pair) if k.torch.size <= MOST_ELEMENTS]
    made = [
        {
            (name, i)
            for event in _made(region, ("tanh", "sigmoid", "logistic"))
            for i, k in enumerate(read)
            if getattr(k, side).size == event.value.size and (name := which(event.value.ravel(), getattr(k, side).ravel()))
        }
        for side, region in zip(("torch", "jax"), pair.region, strict=True)
    ]
    torch, jax = made[0] - made[1], made[1] - made[0]
    if len(torch) != 1 or len(jax) != 1:
        return None
    [(name, i)], [(same, j)] = torch, jax
    if name != same:
        return None
    told = f"{name} of a on torch, of b on jax, a = {read[i].label}, b = {read[j].label}"
    return Finding(f"{name} of another array: gates in another order", told, f"{name} of b", f"{name} of a", sure=False)


def _made(region: tuple[Event, ...], ops: tuple[str, ...]) -> list[Event]:
    return [e for e in region if e.is_operation and e.is_float and any(op in e.op for op in ops)][:MOST_EVENTS]


def _read(pair: OperandPair) -> tuple[Known, ...]:
    """Return the agreed arrays that either side reads where they part."""
    read = {id(event.value) for region in pair.region for event in region}
    return tuple(k for k in pair.known if {id(k.torch), id(k.jax)} & read)


RULES = (within, gate_within, operand_within)
