"""The divergence: the last pair of arrays that agrees and the first that differs, with their source lines.

last in agreement    model_torch.py:31    scores = q @ k.mT / math.sqrt(D)
                     model_jax.py:28      scores = jnp.einsum("thd,shd->hts", q, k) / D**0.5
first apart          ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention.parity.tracing.array_difference import Difference
from attention.parity.tracing.source_location import Place
from attention.parity.tracing.trace import Event
from attention.parity.tracing.trace_alignment import Alignment

# A share of the error that counts as all of it.
MOST = 0.9995
# A share that is too small to be told.
LEAST = 1e-4


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
class TimelineRow:
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
        ends: the pair of which one array in the place of the other repairs what follows, which may lie behind those shown; None
            where nothing is proven.
        agreed: the last pair that agrees before it.
        difference: how the two arrays differ.
        coverage: of the torch side and of the JAX side.
        timeline: the aligned traces, in order.
        outputs: the names of the outputs and gradients that differ, and how.
        notes: what a reader must know to trust this.
        share: of the outputs' error that this explains; of what is unproven, the share that nothing else explains.
        runs: the same, where the line parts again when it runs for the next layer or the next operand.
        region: on either side, what was made from agreeing arrays up to the array that parts, and what that was made from.
        given: parameters, inputs and constants that both sides have, as pairs.
        others: further divergences, found with this one repaired, the one that explains most first.
        suspects: the lines of the torch side and of the JAX side, the likeliest first, in one of which the mistake is: at most
            five of either side, those of `others` among them.
        alignment: the two programs where they part, with what was repaired before carried across; None where nothing parts.
        confirmed: the parameters of the JAX side whose uses agree with the torch side's, what parts set aside: their layouts
            are shown to be right.
    """

    found: bool
    coverage: tuple[Coverage, Coverage]
    kind: str = ""
    torch: Event | None = None
    jax: Event | None = None
    ends: tuple[Event, Event] | None = None
    agreed: tuple[Event, Event] | None = None
    difference: Difference | None = None
    timeline: tuple[TimelineRow, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    share: float = 1.0
    runs: tuple[Divergence, ...] = ()
    region: tuple[tuple[Event, ...], tuple[Event, ...]] = ((), ())
    given: tuple[tuple[Event, Event], ...] = ()
    others: tuple[Divergence, ...] = ()
    suspects: tuple[tuple[Place, ...], tuple[Place, ...]] = ((), ())
    confirmed: frozenset[str] = frozenset()
    alignment: Alignment | None = None

    @property
    def all(self) -> tuple[Divergence, ...]:
        """This divergence and the others; nothing where none was found."""
        return (self, *self.others) if self.found else ()

    def __str__(self) -> str:
        head = "\n".join(f"  {name}: {text}" for name, text in self.outputs.items())
        cover = f"matched: torch {self.coverage[0]}, jax {self.coverage[1]}"
        if not self.found or self.torch is None or self.jax is None:
            return "\n".join(["no divergence", f"  {cover}", *(f"  {note}" for note in self.notes)])
        lines = [*(line for each in self.all for line in _lines(each)), *_suspected(self.suspects)]
        return "\n".join([*lines, "outputs that differ:", head, cover, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays as JSON-ready data."""
        return {
            "found": self.found,
            "kind": self.kind,
            "torch": event_fields(self.torch),
            "jax": event_fields(self.jax),
            "agreed": [event_fields(event) for event in self.agreed or ()],
            "difference": None if self.difference is None else {"kind": self.difference.kind, "text": self.difference.text},
            "coverage": {side: vars(x) for side, x in zip(("torch", "jax"), self.coverage, strict=True)},
            "outputs": self.outputs,
            "notes": list(self.notes),
            "share": self.share,
            "others": [other.to_dict() for other in self.others],
            "suspects": {
                side: [{"file": p.file, "line": p.span[0], "last": p.span[1]} for p in places]
                for side, places in zip(("torch", "jax"), self.suspects, strict=True)
            },
        }


def _lines(found: Divergence) -> list[str]:
    """Return the lines on both sides, how the arrays differ, and what share of the error that explains."""
    assert found.torch is not None  # noqa: S101 - for the type checker
    assert found.jax is not None  # noqa: S101 - for the type checker
    said = found.difference.text if found.difference else ""
    share = ""
    if found.kind == "unproven":
        share = f"; no single operation was found to explain {explained(found.share)} of the outputs' error"
    elif found.others or found.share < MOST:
        share = f"; explains {explained(found.share)} of the outputs' error"
    lines = [f"divergence ({found.kind}): {said}{share}", *shown(found.torch), *shown(found.jax)]
    if found.agreed is not None:
        lines += [
            "last in agreement:",
            *(f"  {event.side:5}  {event.label}  {event.place}  {event.text}" for event in found.agreed),
        ]
    return lines


def _suspected(suspects: tuple[tuple[Place, ...], tuple[Place, ...]]) -> list[str]:
    """Return what is said of the lines in one of which the mistake is; nothing where there is one of either side."""
    if max(map(len, suspects)) < 2:
        return []
    lines = [
        f"  {side:5}  {place}  {place.text}"
        for side, places in zip(("torch", "jax"), suspects, strict=True)
        for place in places
    ]
    return ["lines that may hold the mistake, the likeliest first:", *lines]


def explained(share: float) -> str:
    """Return a share of the error in per cent.

    >>> explained(0.5), explained(1.0), explained(7e-5)
    ('50%', '100%', 'less than 0.01%')
    """
    return "less than 0.01%" if share < LEAST else f"{100 * share:.3g}%" if share < MOST else "100%"


def shown(event: Event) -> list[str]:
    """Return what a terminal shows of an event: what it is, and what begins on its line with the line before and after that."""
    lines = [f"  {event.side:5}  {event.label}  {event.place}"]
    first, last = event.place.span
    for number, text in event.place.excerpt():
        lines.append(f"       {'>' if first <= number <= last else ' '} {number:4}  {text}")
    return lines


def event_fields(event: Event | None) -> dict[str, Any] | None:
    """Return an event without its array."""
    if event is None:
        return None
    names = ("side", "index", "op", "name", "file", "line", "text", "dtype", "options", "backward", "turns")
    return {name: getattr(event, name) for name in names} | {"shape": list(event.shape)}
