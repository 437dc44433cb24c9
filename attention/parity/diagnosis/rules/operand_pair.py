"""The input of every rule (`OperandPair`): two arrays that should be equal, and the earlier arrays that agree.

    torch = f(known on torch)        jax = g(known on jax)        f and g of one family, and not the same: the mistake's name

A rule rebuilds both arrays from what is known to agree. What it cannot rebuild, it does not name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, permutations
from typing import Any

import numpy as np

from attention.parity.diagnosis.rules.arrays import equal, near
from attention.parity.tracing import Divergence, Event
from attention.parity.tracing.array_difference import Difference, difference
from attention.parity.tracing.fingerprint import tolerance

MOST_APART, MOST_PAIRS, MOST_KNOWN, MOST_FAR = 60, 100, 60, 8


@dataclass(frozen=True, eq=False)
class Known:
    """An array that both programs made.

    Attributes:
        torch, jax: the same elements, each in its side's layout.
        label: what it is called.
        given: whether it is a parameter or an input.
    """

    torch: np.ndarray
    jax: np.ndarray
    label: str = ""
    given: bool = False


@dataclass(frozen=True, eq=False)
class OperandPair:
    """Two arrays that part.

    Attributes:
        torch, jax: the arrays, each in its side's layout.
        known: what agrees, the nearest first.
        units: unit roundoff of the coarsest dtype that took part on each side.
        limit: how far apart two computations of one array may lie, relative to its largest element.
        proven: whether one array in the place of the other repairs the outputs.
        absent: the side that lacks an operation, "torch" or "jax"; "" if both have one.
        backward: whether they are gradients.
        sizes: of axes nearby.
        region: the operations behind either array since the programs agreed, and what these read.
        made: all arrays of either side.
    """

    torch: np.ndarray
    jax: np.ndarray
    known: tuple[Known, ...] = ()
    units: tuple[float, float] = (2.0**-53, 2.0**-53)
    limit: float = 1e-9
    proven: bool = True
    absent: str = ""
    backward: bool = False
    sizes: frozenset[int] = field(default_factory=frozenset[int])
    region: tuple[tuple[Event, ...], tuple[Event, ...]] = ((), ())
    made: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]] = ((), ())

    def runs(self, which: int, *ops: str) -> bool:
        """Return whether a side (0 is torch, 1 JAX) runs one of these operations since the programs agreed."""
        return any(any(op in f"{e.name} {e.op}" for op in ops) for e in self.region[which] if e.is_operation)

    def has(self, which: int, value: np.ndarray) -> bool:
        """Return whether a side (0 is torch, 1 JAX) makes an array anywhere, in this layout or another."""
        return any(near(value, x, 4 * self.limit) for x in self.made[which] if x.dtype.kind == "f")

    @cached_property
    def relation(self) -> Difference:
        """How the arrays differ."""
        return difference(self.torch, self.jax)

    def of_size(self) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
        """Yield what is known and has as many elements as the arrays, shaped as these."""
        for known in self.known:
            if known.torch.size == self.torch.size > 1 and known.jax.size == self.jax.size:
                yield known, known.torch.reshape(self.torch.shape), known.jax.reshape(self.jax.shape)

    def equal(self, a: np.ndarray, b: np.ndarray, slack: float = 4.0) -> bool:
        """Return whether two arrays are equal within rounding."""
        return equal(a, b, slack * self.limit)


def in_one_layout(pair: OperandPair) -> OperandPair | None:
    """Return a pair with JAX's arrays laid out as torch's, such as (N, H, W, C) as (N, C, H, W); None where they are already.

    The order of the axes is that of an agreeing array of as many axes, so that it is not read off the arrays that differ.
    """
    n = pair.torch.ndim
    if n < 3 or pair.jax.ndim != n:
        return None
    order = next((found for k in pair.known if k.torch.ndim == k.jax.ndim == n and (found := _order(k.torch, k.jax))), None)
    if order is None or order == tuple(range(n)) or tuple(pair.jax.shape[i] for i in order) != pair.torch.shape:
        return None
    known = tuple(replace(k, jax=k.jax.transpose(order)) if k.jax.ndim == n else k for k in pair.known)
    return replace(pair, jax=pair.jax.transpose(order), known=known)


def _order(torch: np.ndarray, jax: np.ndarray) -> tuple[int, ...] | None:
    """Return the order of JAX's axes in which an array is torch's."""
    for order in permutations(range(jax.ndim)):
        if tuple(jax.shape[i] for i in order) == torch.shape and equal(torch, jax.transpose(order), 1e-5):
            return order
    return None


@dataclass(frozen=True)
class Finding:
    """A mistake by name.

    Attributes:
        name: what is wrong, or which way the sides differ where either may be right.
        evidence: the numbers.
        torch, jax: what to write there to have what the other side has.
        sure: whether both arrays were rebuilt from what agrees, within rounding; otherwise it is the likeliest of several.
    """

    name: str
    evidence: str
    torch: str = ""
    jax: str = ""
    sure: bool = True

    def __str__(self) -> str:
        lines = [f"{self.name}{'' if self.sure else '  (likely)'}", f"    {self.evidence}"]
        mends = [f"in {side}: {text}" for side, text in (("torch", self.torch), ("jax", self.jax)) if text]
        # Either may be the wrong one, and only one of them is to be changed.
        lines += [f"    {'or' if i else 'either'} {mend}" if len(mends) > 1 else f"    {mend}" for i, mend in enumerate(mends)]
        return "\n".join(lines)


def fix(side: str, text: str) -> dict[str, Any]:
    """Return what to write on one side, as an argument of `Finding`."""
    return {side: text}


Rule = Callable[[OperandPair], Finding | None]


def operand_pairs(divergence: Divergence, *, further: bool = False) -> Iterator[OperandPair]:
    """Yield the pairs of arrays that hold the mistake: the one of which a swap has proven it, then where the programs part.

    Args:
        divergence: of `locate`.
        further: whether other pairs that differ in the same way are yielded too, such as the same arrays in other layouts.
    """
    if divergence.torch is None or divergence.jax is None or divergence.difference is None:
        return
    known = agreed(divergence)
    made = tuple(
        tuple(e.value for m in divergence.timeline for e in ((m.torch, m.jax)[which],) if e is not None and e.is_float)
        for which in (0, 1)
    )
    sizes = frozenset(n for k in known for x in (k.torch, k.jax) for n in x.shape if n > 1)
    ends = divergence.ends
    shown = (divergence.torch, divergence.jax)
    proven = () if divergence.kind == "unproven" else ([ends] if ends else islice(_proven(divergence), MOST_FAR))
    for torch, jax in dict.fromkeys((*proven, shown, *(islice(_proven(divergence), MOST_FAR) if ends and further else ()))):
        units = (torch.unit, jax.unit)
        limit = max(tolerance(max(units)), 1e-9)
        backward = torch.backward or jax.backward
        absent = divergence.kind.removeprefix("absent in ") if divergence.kind.startswith("absent") else ""
        more: dict[str, Any] = {"absent": absent, "backward": backward, "sizes": sizes, "region": divergence.region}
        more["made"] = made
        proof = divergence.kind != "unproven" and ((torch, jax) != shown or ends in (None, shown))
        yield OperandPair(torch.value, jax.value, known, units, limit, proven=proof, **more)


def agreed(divergence: Divergence) -> tuple[Known, ...]:
    """Return what agrees: what was made last first, then parameters and inputs."""
    pairs = [(m.torch, m.jax) for m in divergence.timeline if m.matched and m.torch is not None and m.jax is not None]
    last = divergence.torch.index + MOST_APART if divergence.torch else 0
    before = [(t, j) for t, j in pairs if t.index < last and t.value.dtype.kind == j.value.dtype.kind == "f"]
    made = [_both(t, j) for t, j in (*reversed(before), *_crossing(divergence, last))]
    given = [_both(t, j) for t, j in divergence.given]
    return (*made[:MOST_KNOWN], *given[:MOST_KNOWN])


def _crossing(divergence: Divergence, last: int) -> Iterator[tuple[Event, Event]]:
    """Yield arrays that agree, but which the two programs make in another order."""
    alone = [m for m in divergence.timeline if m.matched and (m.torch is None or m.jax is None)]
    jax = [m.jax for m in alone if m.jax is not None and m.jax.value.dtype.kind == "f"][:MOST_APART]
    for event in (m.torch for m in alone if m.torch is not None and m.torch.index < last):
        if event.value.dtype.kind == "f":
            partners = (j for j in jax if j.value.size == event.value.size > 1 and near(event.value, j.value))
            yield from ((event, j) for j in list(partners)[:1])


def _both(torch: Event, jax: Event) -> Known:
    label = (torch.name or jax.name or "a constant") if torch.is_given else f"{torch.label} at {torch.place}"
    return Known(torch.value, jax.value, label, torch.is_given)


def _proven(divergence: Divergence) -> Iterator[tuple[Event, Event]]:
    """Yield the pairs that differ as the divergence says: the arrays that were swapped are told by how they differ."""
    wanted, tried = divergence.difference, 0
    for torch, jax in _pairs(divergence):
        if wanted is None or torch.value.size != jax.value.size or tried >= MOST_PAIRS:
            continue
        tried += 1
        if _alike(difference(torch.value, jax.value), wanted):
            yield torch, jax


def _alike(one: Difference, other: Difference) -> bool:
    """Return whether two differences are of the same elements, laid out in one way or another."""
    if one.kind != other.kind:
        return False
    names = {
        name for name in ("rms", "torch", "jax", "factor", "offset", "differ") if isinstance(other.numbers.get(name), float)
    }
    if not names:
        return one.text == other.text
    return all(math.isclose(one.numbers.get(name, math.nan), other.numbers[name], rel_tol=1e-9) for name in names)


def _pairs(divergence: Divergence) -> Iterator[tuple[Event, Event]]:
    """Yield pairs of events, those nearest to where the programs part first."""
    if divergence.torch is None or divergence.jax is None:
        return
    torch = [m.torch for m in divergence.timeline if m.torch is not None and not m.matched]
    jax = [m.jax for m in divergence.timeline if m.jax is not None and not m.matched]
    first, second = divergence.torch, divergence.jax
    torch = [t for t in torch if t.index >= first.index][:MOST_APART]
    jax = [j for j in jax if j.index >= second.index][:MOST_APART]
    # Of an operation that one side lacks, the other array is one that agrees.
    torch = [first, *([] if divergence.kind == "absent in torch" else torch)]
    jax = [second, *([] if divergence.kind == "absent in jax" else jax)]
    order = sorted((i + j, i, j) for i in range(len(torch)) for j in range(len(jax)))
    yield from dict.fromkeys((torch[i], jax[j]) for _, i, j in order)
