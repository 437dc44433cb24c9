"""Visibility: hypotheses about which key a query may attend to.

allowed[t, s]        inverted, ignored, aligned at the other corner, a key wider or narrower, another row's or head's
"""

# A site's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.formula_hooks import resettle
from attention.parity.mutations.locations import Site
from attention.parity.mutations.mutation import Mistake, Turned
from attention.parity.mutations.operators import Plant, swapped
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.stack import Stack
from attention.spec.layers.transformer import Block
from attention.spec.masks import Causal, Chunked, Prefix, Window
from attention.spec.masks.algebra import And, Mask, Not, Or, both


def _attends(site: Site) -> bool:
    return bool(site.calls) and not site.contract.parts


def polarity(site: Site) -> Turned:
    """Yield masks read as "may not attend" (6)."""
    if not _attends(site):
        return
    yield Mistake("polarity inverted", site.mask(lambda own, given: (None, _not(both(own, given)))))
    yield Mistake("polarity of the call's mask inverted", site.mask(lambda own, given: (own, _not(given))))
    if getattr(site.contract, "mask", None) is not None:
        yield Mistake("polarity of the layer's own mask inverted", site.mask(lambda own, given: (_not(own), given)))


def ignored(site: Site) -> Turned:
    """Yield masks that are not looked at, or not where they should be."""
    if not _attends(site):
        return
    yield Mistake("mask of the call ignored", site.mask(lambda own, _: (own, None)))
    if getattr(site.contract, "mask", None) is not None:
        yield Mistake("mask of the layer ignored", site.mask(lambda _, given: (None, given)))
        yield Mistake("mask of the layer ignored where the call has one", site.mask(_either))
    for name, turn in _ALLOWED.items():
        yield Mistake(f"mask: {name}", resettle(site, _allowed(turn)))


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


def _allowed(turn: Callable[[np.ndarray], np.ndarray]) -> Any:
    def turned(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        return {"allowed": turn(setting["allowed"])}

    return turned


def causal(site: Site) -> Turned:
    """Yield a causal mask that is absent, present, strict, late, or at the other corner (7)."""
    if isinstance(site.contract, LinearAttention):
        name = "sees later tokens" if site.contract.causal else "causal where it must not be"
        yield Mistake(name, site.option(causal=not site.contract.causal))
    own = getattr(site.contract, "mask", None)
    if not _attends(site) or not hasattr(site.contract, "mask"):
        return
    if not _has(own, Causal):
        for align in ("start", "end"):
            # Aligned at either corner, for T = S where both are one.
            hidden = Causal(align=align)
            yield Mistake(f"causal where it must not be, aligned at the {align}", _other(site, own, both(own, hidden)))
        return
    yield Mistake("causal mask forgotten", _turned(site, lambda m: Window(None, None, align=m.align), Causal))
    yield Mistake("causal corner at the other end", _turned(site, _cornered, Causal))
    yield Mistake("causal mask hides the token itself", _turned(site, _strict, Causal))
    yield Mistake("causal mask shows the next token", _turned(site, lambda m: Window(None, 1, align=m.align), Causal))
    yield Mistake("causal mask looks ahead, not back", _turned(site, lambda m: Window(0, None, align=m.align), Causal))


def _cornered(mask: Any) -> Mask:
    return replace(mask, align={"start": "end", "end": "start"}.get(mask.align, mask.align))


def _strict(mask: Any) -> Mask:
    return And(mask, Not(Window(0, 0, align=mask.align)))


def window(site: Site) -> Turned:
    """Yield windows, chunks and prefixes a key too wide or too narrow, absent, or read otherwise (8)."""
    own = getattr(site.contract, "mask", None)
    for name, kind, turn in _bounds(own):
        yield Mistake(name, _turned(site, turn, kind))
    for mask, kind, other in ((own, And, Or), (own, Or, And)):
        if isinstance(mask, kind):
            words = {And: "and", Or: "or"}
            label = f"masks joined by '{words[other]}' instead of '{words[kind]}'"
            yield Mistake(label, _other(site, own, other(mask.left, mask.right)))


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


def presence(site: Site) -> Turned:
    """Yield blocks in which padded tokens keep an output."""
    if site.path or not isinstance(site.contract, (Block, Stack)):
        return

    def everyone(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
        del probe, part
        for inner in setting.values():
            if isinstance(inner, dict) and "present" in inner:
                inner["present"] = np.ones_like(inner["present"])
        return {"present": np.ones_like(setting["present"])}

    yield Mistake("padded tokens keep an output", resettle(site, everyone))


def _turned(site: Site, turn: Callable[[Any], Mask], kind: type[Mask]) -> Plant:
    return site.mask(lambda own, given: (swapped(own, turn, kind), given))


def _other(site: Site, right: Mask | None, wrong: Mask | None) -> Plant:
    """Plant another mask of the layer, where an earlier mistake has not already changed it."""
    return site.mask(lambda own, given: (wrong if own == right else own, given))


def _parts(mask: Mask | None) -> Iterator[Mask]:
    if isinstance(mask, (And, Or)):
        yield from (part for side in (mask.left, mask.right) for part in _parts(side))
    elif mask is not None:
        yield mask


def _has(mask: Mask | None, kind: type[Mask]) -> bool:
    return any(isinstance(part, kind) for part in _parts(mask))


def _not(mask: Mask | None) -> Mask | None:
    return None if mask is None else Not(mask)
