"""The divergence: the last pair of arrays that agrees, and the first that does not, with their lines.

last in agreement    model_torch.py:31    scores = q @ k.mT / math.sqrt(D)
                     model_jax.py:28      scores = jnp.einsum("thd,shd->hts", q, k) / D**0.5
first apart          ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention.parity.tracing.array_difference import Difference
from attention.parity.tracing.trace import Event


@dataclass(frozen=True)
class Coverage:
    """How much of a program was compared.

    Attributes:
        operations: that made an array, new layouts aside.
        matched: of these, whose array the other side made too.
    """

    operations: int
    matched: int

    def __str__(self) -> str:
        return f"{self.matched} of {self.operations} operations"


@dataclass(frozen=True)
class Moment:
    """One line of the aligned traces.

    Attributes:
        torch: the torch side's event, or None where only JAX has one.
        jax: the JAX side's event, or None.
        matched: whether the two hold the same array.
        first: whether this is where the programs part.
    """

    torch: Event | None
    jax: Event | None
    matched: bool
    first: bool = False


@dataclass(frozen=True, eq=False)
class Divergence:
    """Where two programs part, or that they do not.

    Attributes:
        found: whether an output, or a gradient, differs.
        kind: "" if none was found; "different" for two operations that do not make the same of the same arrays; "absent in jax"
            for an operation that only torch has: then `jax` is what it should have been applied to; "absent in torch" the other
            way round; "layout" for equal elements laid out in two ways; "unproven" where no single operation explains the
            outputs.
        torch: the event of the torch side at which they part.
        jax: that of the JAX side.
        agreed: the last pair that agrees before it.
        difference: how the two arrays differ.
        coverage: of the torch side and of the JAX side.
        timeline: the aligned traces, in order.
        outputs: the names of the outputs and gradients that differ, and how.
        notes: what a reader must know to trust this.
    """

    found: bool
    coverage: tuple[Coverage, Coverage]
    kind: str = ""
    torch: Event | None = None
    jax: Event | None = None
    agreed: tuple[Event, Event] | None = None
    difference: Difference | None = None
    timeline: tuple[Moment, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = "\n".join(f"  {name}: {text}" for name, text in self.outputs.items())
        cover = f"matched: torch {self.coverage[0]}, jax {self.coverage[1]}"
        if not self.found or self.torch is None or self.jax is None:
            return "\n".join(["no divergence", f"  {cover}", *(f"  {note}" for note in self.notes)])
        said = self.difference.text if self.difference else ""
        lines = [f"divergence ({self.kind}): {said}", *shown(self.torch), *shown(self.jax)]
        if self.agreed is not None:
            lines += [
                "last in agreement:",
                *(f"  {event.side:5}  {event.label}  {event.place}  {event.text}" for event in self.agreed),
            ]
        return "\n".join([*lines, "outputs that differ:", head, cover, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays as JSON-ready data."""
        return {
            "found": self.found,
            "kind": self.kind,
            "torch": told(self.torch),
            "jax": told(self.jax),
            "agreed": [told(event) for event in self.agreed or ()],
            "difference": None if self.difference is None else {"kind": self.difference.kind, "text": self.difference.text},
            "coverage": {side: vars(x) for side, x in zip(("torch", "jax"), self.coverage, strict=True)},
            "outputs": self.outputs,
            "notes": list(self.notes),
        }


def shown(event: Event) -> list[str]:
    """Return what a terminal shows of an event: what it is, and its line with the one before and after it."""
    lines = [f"  {event.side:5}  {event.label}  {event.place}"]
    for number, text in event.place.excerpt():
        lines.append(f"       {'>' if number == event.line else ' '} {number:4}  {text}")
    return lines


def told(event: Event | None) -> dict[str, Any] | None:
    """Return an event without its array."""
    if event is None:
        return None
    names = ("side", "index", "op", "name", "file", "line", "text", "dtype", "options", "backward")
    return {name: getattr(event, name) for name in names} | {"shape": list(event.shape)}
