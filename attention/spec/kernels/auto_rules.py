"""Rules of "auto": which kernels are preferred for which calls, as data, each with the measurement behind it.

    order(request) = prefer of the first rule that holds, then the table up to "reference" without those

A rule prefers and never forces: a kernel that refuses is passed over and its reason kept, and one that is not there is
skipped. Where sizes are not known yet (a shape that an exporter leaves open), a rule with sizes does not apply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attention.spec.kernels.request import Request
from attention.spec.masks.algebra import And, Mask, Or
from attention.spec.masks.aligned import Causal, Chunked, Window
from attention.spec.masks.padding import Lengths, Prefix
from attention.spec.masks.segments import Segments

STRUCTURES = ("window", "documents", "general", "lengths", "prefix", "causal", "none")
"""What a mask is to a kernel, the one that leaves the least first: of two that must both allow, the first decides."""

_KINDS: dict[type, str] = {
    Causal: "causal",
    Chunked: "documents",
    Segments: "documents",
    Lengths: "lengths",
    Prefix: "lengths",
}

Span = tuple[int, int | None]
"""The least and the most of a size, both included; None: no most."""

ANY: Span = (0, None)


def structure(mask: Mask | None) -> str:
    """Return which of `STRUCTURES` a mask has, by its kind alone: no array is read.

    >>> from attention.spec import DenseMask
    >>> structure(Causal() & Window(before=255, after=0)), structure(Causal() | Prefix(8)), structure(None)
    ('window', 'prefix', 'none')
    >>> structure(Causal() & Lengths([3])), structure(Causal() & DenseMask([[True]])), structure(~Causal())
    ('lengths', 'general', 'general')
    """
    if mask is None:
        return "none"
    kind = type(mask)
    if kind in _KINDS:
        return _KINDS[kind]
    if isinstance(mask, Window):
        # A window without a bound behind is a diagonal.
        return "causal" if mask.before is None else "window"
    if isinstance(mask, And):
        left, right = structure(mask.left), structure(mask.right)
        return left if STRUCTURES.index(left) < STRUCTURES.index(right) else right
    if isinstance(mask, Or) and {type(mask.left), type(mask.right)} == {Causal, Prefix}:
        return "prefix"
    return "general"


@dataclass(frozen=True)
class Rule:
    """The order of kernels for the calls that it describes; an empty tuple or None matches every call.

    Attributes:
        name: what it is about, in words.
        prefer: names of kernels, the fastest first.
        evidence: the file and its measured entries, or "not measured: " and the source.
        devices: as `Request.device`: "cpu", "cuda" (torch), "gpu" (JAX), "tpu".
        dtypes: of q, k and v.
        masks: names among `STRUCTURES`.
        queries: least and most T.
        keys: least and most S.
        heads: least and most of batch times H.
        square: whether T = S.
        grouped: whether query heads share key/value heads.
        differentiated: whether a gradient will be computed, if known at the call.
    """

    name: str
    prefer: tuple[str, ...]
    evidence: str
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    queries: Span = ANY
    keys: Span = ANY
    heads: Span = ANY
    square: bool | None = None
    grouped: bool | None = None
    differentiated: bool | None = None

    @property
    def measured(self) -> bool:
        """Whether the evidence is a file of ours."""
        return not self.evidence.startswith("not measured")

    def holds(self, request: Request, shape: str) -> bool:
        """Return whether the rule is about this call.

        Args:
            request: the call.
            shape: the `structure` of its mask.
        """
        # Devices first: in a table of all devices they leave the fewest. This runs on every call that is not compiled.
        if self.devices and request.device not in self.devices:
            return False
        if (self.masks and shape not in self.masks) or (self.dtypes and request.dtype not in self.dtypes):
            return False
        of = request.sizes
        return (
            (self.queries == ANY or _within(of.T, self.queries))
            and (self.keys == ANY or _within(of.S, self.keys))
            and (self.heads == ANY or _within(_product(of.batch, of.H), self.heads))
            and (self.square is None or self.square == (of.T == of.S))
            and (self.grouped is None or self.grouped == (of.H != of.K))
            and (self.differentiated is None or self.differentiated == request.differentiated)
        )

    def __str__(self) -> str:
        """Return the calls of the rule and the kernels that it prefers."""
        spans = (("T", self.queries), ("S", self.keys), ("B * H", self.heads))
        flags = (("T = S", self.square), ("grouped heads", self.grouped), ("gradient", self.differentiated))
        parts = [
            *("/".join(names) for names in (self.devices, self.dtypes) if names),
            *(["mask " + "/".join(self.masks)] if self.masks else []),
            *(_span(letter, span) for letter, span in spans if span != ANY),
            *(name if wanted else f"not {name}" for name, wanted in flags if wanted is not None),
        ]
        return f"{self.name} ({', '.join(parts) or 'any call'}): {', '.join(self.prefer)}"


def first(rules: Iterable[Rule], request: Request) -> Rule | None:
    """Return the first rule that holds for a request, or None."""
    shape = ""
    for rule in rules:
        if rule.devices and request.device not in rule.devices:
            continue
        shape = shape or structure(request.mask)
        if rule.holds(request, shape):
            return rule
    return None


def _within(n: Any, span: Span) -> bool:
    """Return whether a size lies in a span; False for a symbolic size, which must not be compared."""
    return type(n) is int and span[0] <= n and (span[1] is None or n <= span[1])


def _product(batch: tuple[int, ...], heads: int) -> int:
    total = heads
    for size in batch:
        total = total * size
    return total


def _span(letter: str, span: Span) -> str:
    least, most = span
    if most is None:
        return f"{letter} >= {least}"
    return f"{letter} <= {most}" if not least else f"{letter} {least} to {most}"
