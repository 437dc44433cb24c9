"""Charts embedded in the page: histograms as SVG, matrices as PNG with one pixel per element.

The colour of an error is that of log2 |z|: 1 is what rounding is expected to do, the limit is red.
"""

# matplotlib leaves the types of its colour maps unknown.
# pyright: standard

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.image import imsave

from attention.parity.numerics.comparison import MOST_MAX
from attention.parity.numerics.error_maps import BINS, Picture

FIRST = -BINS * 3 // 8
"""The binary logarithm at which the first bin begins."""
LOW, HIGH = -3.0, float(np.log2(MOST_MAX)) + 3.0


@cache
def _errors() -> Any:
    """Return the colours of log2 |z|: from quiet blue over yellow at the largest z that agrees to red."""
    limit = (float(np.log2(MOST_MAX)) - LOW) / (HIGH - LOW)
    stops = [
        (0.0, "#1b2a41"),
        (limit * 0.5, "#3c7a9b"),
        (limit, "#f2d16b"),
        (min(limit + 0.02, 1.0), "#e4572e"),
        (1.0, "#8f0e1c"),
    ]
    return LinearSegmentedColormap.from_list("z", stops)


def image(picture: Picture) -> str:
    """Return a matrix as the `src` of an image, a pixel an element."""
    if picture.kind == "weights":
        values, colours, norm = picture.values, colormaps["magma"], Normalize(0.0, max(float(np.nanmax(picture.values)), 1e-9))
    else:
        with np.errstate(divide="ignore"):
            values = np.clip(np.log2(picture.values), LOW, HIGH)
        colours, norm = _errors(), Normalize(LOW, HIGH)
    drawn = io.BytesIO()
    imsave(drawn, colours(norm(np.nan_to_num(values, nan=HIGH))), format="png")
    return "data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode()


def summed(histograms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of histograms, those that are empty left out."""
    full = [h for h in histograms if h]
    return tuple(int(n) for n in np.sum(full, axis=0)) if full else (0,) * BINS


def bars(histogram: Sequence[int]) -> list[dict[str, Any]]:
    """Return the bars of a histogram: its height in percent (by square root), its range of z, whether that is too far."""
    tallest = max(*histogram, 1)
    return [
        {
            "height": round(100 * (count / tallest) ** 0.5, 1),
            "count": count,
            "range": _range(i),
            "far": 2.0 ** (FIRST + i) >= MOST_MAX,
        }
        for i, count in enumerate(histogram)
    ]


def _range(i: int) -> str:
    low, high = 2.0 ** (FIRST + i), 2.0 ** (FIRST + i + 1)
    if i == 0:
        return f"z < {high:g}"
    return f"z >= {low:g}" if i == BINS - 1 else f"{low:g} <= z < {high:g}"
