"""The first divergence as two panes of source code side by side, and the elements of the two arrays that differ most."""

# Values are whatever a program made, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from attention.parity.tracing import Divergence, Event
from attention.parity.tracing.source_location import Place

AROUND = 3
"""Lines of code before and after the line in question."""
MOST_VALUES = 6
MOST_AXES = 5
"""Arrays of more axes are compared in the order that they have."""


def panes(found: Divergence) -> list[dict[str, Any]]:
    """Return a pane for each side: the operation, the file, and the lines around the one that made the array."""
    return [_pane(event) for event in (found.torch, found.jax) if event is not None]


def _pane(event: Event) -> dict[str, Any]:
    first, last = event.place.span
    lines = [(number, text, first <= number <= last) for number, text in event.place.excerpt(AROUND)]
    indent = min((len(text) - len(text.lstrip()) for _, text, _ in lines if text.strip()), default=0)
    return {
        "side": event.side,
        "operation": event.label,
        "place": str(event.place),
        "lines": [{"number": number, "text": text[indent:], "marked": marked} for number, text, marked in lines],
    }


def suspects(found: Divergence) -> list[dict[str, str]]:
    """Return the lines that may hold the mistake, those of the torch side first, the likeliest of either first."""
    return [_suspect(side, place) for side, places in zip(("torch", "jax"), found.suspects, strict=True) for place in places]


def _suspect(side: str, place: Place) -> dict[str, str]:
    return {"side": side, "place": str(place), "text": place.text}


def compared(found: Divergence) -> tuple[Event, Event] | None:
    """Return the arrays whose difference a divergence tells: those that a swap has proven, else those of the lines shown."""
    return found.ends or ((found.torch, found.jax) if found.torch is not None and found.jax is not None else None)


def values(found: Divergence) -> list[dict[str, str]]:
    """Return the elements in which the two arrays at the divergence differ most; of shapes that do not fit, the worst."""
    pair = compared(found)
    if pair is None:
        return []
    first = np.asarray(pair[0].value)
    second = _laid(np.asarray(pair[1].value), first)
    if second is None or first.dtype.kind not in "biuf" or second.dtype.kind not in "biuf":
        return _worst(found)
    first, second = first.astype(np.float64), second.astype(np.float64)
    with np.errstate(invalid="ignore"):
        # Where only one is NaN nothing is farther; where both are equal, infinities too, nothing is nearer.
        apart = np.where(first == second, 0.0, np.nan_to_num(np.abs(first - second), nan=np.inf))
    apart = np.where(np.isnan(first) & np.isnan(second), 0.0, apart)
    order = np.argsort(-apart, axis=None, kind="stable")[:MOST_VALUES]
    places = [tuple(int(i) for i in np.unravel_index(flat, apart.shape)) for flat in order]
    return [
        {"index": ", ".join(map(str, at)), "torch": f"{first[at]:.9g}", "jax": f"{second[at]:.9g}", "apart": f"{apart[at]:.2g}"}
        for at in places
        if apart[at] > 0
    ]


def _worst(found: Divergence) -> list[dict[str, str]]:
    """Return the worst element, as the difference of the arrays tells it; none where it tells none."""
    numbers = found.difference.numbers if found.difference is not None else {}
    if not numbers.keys() >= {"where", "torch", "jax"}:
        return []
    torch, jax = numbers["torch"], numbers["jax"]
    index = ", ".join(map(str, numbers["where"]))
    return [{"index": index, "torch": f"{torch:.9g}", "jax": f"{jax:.9g}", "apart": f"{abs(torch - jax):.2g}"}]


def _laid(array: np.ndarray, like: np.ndarray) -> np.ndarray | None:
    """Return an array with its axes in the order of another, the nearest of those that fit; None if none fits."""
    squeezed, wanted = array.squeeze(), like.squeeze().shape
    orders = permutations(range(squeezed.ndim)) if squeezed.ndim <= MOST_AXES else [tuple(range(squeezed.ndim))]
    fitting = [laid.reshape(like.shape) for order in orders if (laid := squeezed.transpose(order)).shape == wanted]
    return min(fitting, key=lambda laid: _distance(laid, like), default=None)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    if first.dtype.kind not in "biuf" or second.dtype.kind not in "biuf":
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.nansum(np.abs(first.astype(np.float64) - second.astype(np.float64))))
