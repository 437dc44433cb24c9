"""Scenes: two arrays that should be equal and are not, and the arrays that both programs had made alike before.

    torch = f(known on torch)        jax = g(known on jax)        f and g of one family, and not the same: the mistake's name

A rule rebuilds both arrays from what is known to agree. What it cannot rebuild, it does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from attention.parity.tracing import Divergence, Event
from attention.parity.tracing.difference import Difference, difference
from attention.parity.tracing.fingerprint import masked, tolerance

MOST_APART, MOST_PAIRS, MOST_KNOWN = 40, 160, 60


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
class Scene:
    """Two arrays that part.

    Attributes:
        torch, jax: the arrays, each in its side's layout.
        known: what agrees, the nearest first.
        relation: how the arrays differ.
        ops: the names of the operations that made them.
        dtypes: the dtypes that the programs gave them.
        limit: how far apart two computations of one array may lie, relative to its largest element.
        proven: whether one array in the place of the other mends the outputs.
        sizes: of axes nearby.
    """

    torch: np.ndarray
    jax: np.ndarray
    known: tuple[Known, ...] = ()
    relation: Difference | None = None
    ops: tuple[str, str] = ("", "")
    dtypes: tuple[str, str] = ("float64", "float64")
    limit: float = 1e-9
    proven: bool = False
    sizes: frozenset[int] = field(default_factory=frozenset[int])

    def of_size(self) -> Iterator[tuple[Known, np.ndarray, np.ndarray]]:
        """Yield what is known and has as many elements as the arrays, shaped as these."""
        for known in self.known:
            if known.torch.size == self.torch.size > 1 and known.jax.size == self.jax.size and known.torch.dtype.kind == "f":
                yield known, known.torch.reshape(self.torch.shape), known.jax.reshape(self.jax.shape)

    def equal(self, a: np.ndarray, b: np.ndarray, slack: float = 4.0) -> bool:
        """Return whether two arrays are equal within rounding."""
        return equal(a, b, slack * self.limit)


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
        lines += [f"    {side}: {text}" for side, text in (("torch", self.torch), ("jax", self.jax)) if text]
        return "\n".join(lines)


Rule = Callable[[Scene], Finding | None]


def equal(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    """Return whether two arrays are equal relative to the largest element, what both mask aside."""
    if a.shape != b.shape:
        return False
    hidden = masked(b)
    if (masked(a) != hidden).any() or hidden.all():
        return False
    a, b = a[~hidden], b[~hidden]
    scale = float(np.abs(b).max(initial=0.0))
    return bool(scale) and bool((np.abs(a - b) <= limit * scale).all())


def scenes(divergence: Divergence) -> Iterator[Scene]:
    """Yield the pairs of arrays that may hold the mistake, the likeliest first: where the programs part, then what follows."""
    if divergence.torch is None or divergence.jax is None:
        return
    known = _known(divergence)
    sizes = frozenset(n for k in known for x in (k.torch, k.jax) for n in x.shape if n > 1)
    pairs = [(divergence.torch, divergence.jax), *_after(divergence)]
    for torch, jax in pairs[:MOST_PAIRS]:
        first, second = torch.value, jax.value
        limit = max(tolerance(torch.unit), tolerance(jax.unit), 1e-9)
        more = {"ops": (torch.op, jax.op), "dtypes": (torch.dtype, jax.dtype), "limit": limit, "sizes": sizes}
        yield Scene(first, second, known, difference(first, second, limit), **more)


def _known(divergence: Divergence) -> tuple[Known, ...]:
    """Return what agrees: what was made last first, then parameters and inputs."""
    pairs = [(m.torch, m.jax) for m in divergence.timeline if m.matched and m.torch is not None and m.jax is not None]
    before = [(t, j) for t, j in pairs if divergence.torch is None or t.index < divergence.torch.index + MOST_APART]
    made = [_both(t, j) for t, j in reversed(before) if not t.is_given]
    given = [_both(t, j) for t, j in before if t.is_given]
    return (*made[:MOST_KNOWN], *given)


def _both(torch: Event, jax: Event) -> Known:
    label = torch.name if torch.is_given else f"{torch.label} at {torch.place}"
    return Known(torch.value, jax.value, label, torch.is_given)


def _after(divergence: Divergence) -> Iterator[tuple[Event, Event]]:
    """Yield pairs of events without a partner, of one size, from where the programs part."""
    alone = [m for m in divergence.timeline if not m.matched]
    assert divergence.torch is not None and divergence.jax is not None
    torch = [m.torch for m in alone if m.torch is not None and m.torch.index >= divergence.torch.index][:MOST_APART]
    jax = [m.jax for m in alone if m.jax is not None and m.jax.index >= divergence.jax.index][:MOST_APART]
    pairs = [(i + j, t, u) for i, t in enumerate(torch) for j, u in enumerate(jax) if t.value.size == u.value.size]
    for _, t, u in sorted(pairs, key=lambda pair: pair[0]):
        yield t, u
