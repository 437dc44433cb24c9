"""Mutations of masks: which keys a query may attend to.

allowed[t, s]        inverted, ignored, aligned at the other corner, a key wider or narrower, another row's or head's
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.formula_hooks import hook_call
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import Mutation, Mutations
from attention.parity.mutations.operators import Operator, map_mask
from attention.spec.layers.block import Block
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.stack import Stack
from attention.spec.masks import Causal, Chunked, Prefix, Window
from attention.spec.masks.algebra import And, Mask, Not, Or, both


def _attends(location: Location) -> bool:
    return bool(location.calls) and not location.contract.parts


def polarity(location: Location) -> Mutations:
    """Yield masks whose True means "may not attend"."""
    if not _attends(location):
        return
    yield Mutation("polarity inverted", location.mask(lambda own, given: (None, _not(both(own, given)))))
    yield Mutation("polarity of the call's mask inverted", location.mask(lambda own, given: (own, _not(given))))
    if getattr(location.contract, "mask", None) is not None:
        yield Mutation("polarity of the layer's own mask inverted", location.mask(lambda own, given: (_not(own), given)))


def ignored(location: Location) -> Mutations:
    """Yield masks that are ignored, or applied to other rows and heads."""
    if not _attends(location):
        return
    yield Mutation("mask of the call ignored", location.mask(lambda own, _: (own, None)))
    if getattr(location.contract, "mask", None) is not None:
        yield Mutation("mask of the layer ignored", location.mask(lambda _, given: (None, given)))
        yield Mutation("mask of the layer ignored where the call has one", location.mask(_either))
    for name, change in _ALLOWED.items():
        yield Mutation(f"mask: {name}", hook_call(location, _allowed(change)))


def _either(own: Mask | None, given: Mask | None) -> tuple[Mask | None, Mask | None]:
    return (own, given) if given is None else (None, given)


def _keyed(allowed: np.ndarray) -> np.ndarray:
    """Return the mask with empty rows open to every key that another row sees."""
    return allowed | (~allowed.any(-1, keepdims=True) & allowed.any(-2, keepdims=True))


_ALLOWED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "queries and keys exchanged": lambda x: np.swapaxes(x, -1, -2) if x.shape[-1] == x.shape[-2] else x,
    "head 0's for all heads": lambda x: np.broadcast_to(x[..., :1, :, :], x.shape),
    "row 0's for the whole batch": lambda x: np.broadcast_to(x[:1], x.shape),
    "heads in another order": lambda x: x[..., ::-1, :, :],
    "empty rows see what others see": _keyed,
}


def _allowed(change: Callable[[np.ndarray], np.ndarray]) -> Any:
    def hook(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        return {"allowed": change(setting["allowed"])}

    return hook


def causal(location: Location) -> Mutations:
    """Yield a causal mask that is absent, present, strict, late, or at the other corner."""
    if isinstance(location.contract, LinearAttention):
        name = "sees later tokens" if location.contract.causal else "causal where it must not be"
        yield Mutation(name, location.option(causal=not location.contract.causal))
    own = getattr(location.contract, "mask", None)
    if not _attends(location) or not hasattr(location.contract, "mask"):
        return
    if not _has(own, Causal):
        for align in ("start", "end"):
            # Aligned at either corner, for T = S where both are one.
            hidden = Causal(align=align)
            yield Mutation(f"causal where it must not be, aligned at the {align}", _other(location, own, both(own, hidden)))
        return
    yield Mutation("causal mask forgotten", _changed(location, lambda m: Window(None, None, align=m.align), Causal))
    yield Mutation("causal corner at the other end", _changed(location, _cornered, Causal))
    yield Mutation("causal mask hides the token itself", _changed(location, _strict, Causal))
    yield Mutation("causal mask shows the next token", _changed(location, lambda m: Window(None, 1, align=m.align), Causal))
    yield Mutation("causal mask looks ahead, not back", _changed(location, lambda m: Window(0, None, align=m.align), Causal))


def _cornered(mask: Any) -> Mask:
    return replace(mask, align={"start": "end", "end": "start"}.get(mask.align, mask.align))


def _strict(mask: Any) -> Mask:
    return And(mask, Not(Window(0, 0, align=mask.align)))


def window(location: Location) -> Mutations:
    """Yield windows, chunks and prefixes a key too wide or too narrow, absent, or read otherwise."""
    own = getattr(location.contract, "mask", None)
    for name, kind, change in _bounds(own):
        yield Mutation(name, _changed(location, change, kind))
    for mask, kind, other in ((own, And, Or), (own, Or, And)):
        if isinstance(mask, kind):
            words = {And: "and", Or: "or"}
            label = f"masks joined by '{words[other]}' instead of '{words[kind]}'"
            yield Mutation(label, _other(location, own, other(mask.left, mask.right)))


def _bounds(own: Mask | None) -> Iterator[tuple[str, type[Mask], Callable[[Any], Mask]]]:
    for found in _parts(own):
        if isinstance(found, Window):
            yield "window absent", Window, lambda m: Window(None, None, align=m.align)
            yield from (item for side in ("before", "after") for item in _widths(found, side))
            yield "window's sides exchanged", Window, lambda m: replace(m, before=m.after, after=m.before)
        elif isinstance(found, Chunked):
            yield "chunks absent", Chunked, lambda m: Window(None, None, align=m.align)
            yield "chunk one wider", Chunked, lambda m: replace(m, size=m.size + 1)
            yield "chunk one narrower", Chunked, lambda m: replace(m, size=max(m.size - 1, 1))
            yield "window that slides for chunks", Chunked, lambda m: Window(m.size - 1, None, align=m.align)
        elif isinstance(found, Prefix):
            yield "prefix absent", Prefix, lambda m: replace(m, length=0)
            yield "prefix one longer", Prefix, lambda m: replace(m, length=m.length + 1)
            yield "prefix one shorter", Prefix, lambda m: replace(m, length=m.length - 1)


def _widths(found: Window, side: str) -> Iterator[tuple[str, type[Mask], Callable[[Any], Mask]]]:
    width = getattr(found, side)
    if width is None:
        return
    for label, other in (
        ("one wider", width + 1),
        ("one narrower", width - 1),
        ("twice as wide", 2 * width),
        ("unbounded", None),
    ):
        if other is None or (other >= 0 and other != width):
            yield f"window {label} {side} the token", Window, lambda m, n=other: replace(m, **{side: n})


def presence(location: Location) -> Mutations:
    """Yield blocks in which padded tokens keep an output."""
    if location.path or not isinstance(location.contract, (Block, Stack)):
        return

    def everyone(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        for inner in setting.values():
            if isinstance(inner, dict) and "present" in inner:
                inner["present"] = np.ones_like(inner["present"])
        return {"present": np.ones_like(setting["present"])}

    yield Mutation("padded tokens keep an output", hook_call(location, everyone))


def _changed(location: Location, change: Callable[[Any], Mask], kind: type[Mask]) -> Operator:
    return location.mask(lambda own, given: (map_mask(own, change, kind), given))


def _other(location: Location, right: Mask | None, wrong: Mask | None) -> Operator:
    """Return the operator that replaces the layer's mask, unless an earlier mutation has changed it."""
    return location.mask(lambda own, given: (wrong if own == right else own, given))


def _parts(mask: Mask | None) -> Iterator[Mask]:
    if isinstance(mask, (And, Or)):
        yield from (part for side in (mask.left, mask.right) for part in _parts(side))
    elif mask is not None:
        yield mask


def _has(mask: Mask | None, kind: type[Mask]) -> bool:
    return any(isinstance(part, kind) for part in _parts(mask))


def _not(mask: Mask | None) -> Mask | None:
    return None if mask is None else Not(mask)
