"""Edits of convolutions, pooling and padding: padding side, width and mode, dilation, flipped kernels."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from attention.parity.diagnosis.edits.edit import Edit
from attention.parity.diagnosis.edits.edit_builders import with_kernel, with_setting
from attention.parity.diagnosis.edits.trial import Trials

MOST_DILATED = 8


def other_parameters(trials: Trials, e: int, p: Mapping[str, Any]) -> Iterator[Edit]:
    """Yield a convolution, a pooling or a padding with other parameters."""
    op = trials.events[e].op
    if op == "pad":
        yield from _pads(trials, e, p)
    if op == "conv_general_dilated":
        yield from _convolutions(trials, e, p)
    if op.startswith("reduce_window"):
        yield from _windows(trials, e, p)


def _pads(trials: Trials, e: int, p: Mapping[str, Any]) -> Iterator[Edit]:
    """Yield padding at the other end, or shared otherwise, and elements that are repeated, mirrored or taken around."""
    config = [tuple(c) for c in p["padding_config"]]
    for axis, (low, high, inner) in enumerate(config):
        total = low + high
        if inner or total <= 0 or min(low, high) < 0:
            continue
        for first in range(total + 1):
            if first != low:
                other = [*config[:axis], (first, total - first, inner), *config[axis + 1 :]]
                told = f"padding of {first} before and {total - first} after on torch, {low} before and {high} after on jax"
                yield with_setting(trials, e, {"padding_config": tuple(other)}, told)
    low, high = ([c[i] for c in config] for i in (0, 1))
    if any(c[2] for c in config) or min(*low, *high) < 0:
        return
    modes: tuple[tuple[Any, str], ...] = (
        ("edge", "the element at the edge"),
        ("reflect", "what is mirrored"),
        ("wrap", "the other end"),
    )
    for mode, said in modes:
        told = f"padding is filled with {said} on torch, with a constant on jax"
        width = list(zip(low, high, strict=True))
        yield Edit(told, e, lambda e, m=mode, w=width: {e: (trials.events[e].inputs, lambda x, _: np.pad(x, w, mode=m))})


def _convolutions(trials: Trials, e: int, p: Mapping[str, Any]) -> Iterator[Edit]:
    """Yield a convolution with other padding, dilation or a flipped kernel."""
    step = trials.step(e)
    assert step is not None  # noqa: S101 - for the type checker
    kernel = trials.value(step.inputs[1])
    pads, dilation = [tuple(pair) for pair in p["padding"]], tuple(p["rhs_dilation"])
    spec = p["dimension_numbers"].rhs_spec
    sizes = [kernel.shape[i] for i in spec[2:]]
    for told, params in _padded(pads, dilation, sizes):
        yield with_setting(trials, e, params, told)
    flip = tuple(i for i in spec[2:] if kernel.shape[i] > 1)
    if flip:
        yield with_kernel(trials, e, lambda w: np.flip(w, flip), "the kernel of a convolution is flipped on one side")
        if kernel.shape[spec[0]] == kernel.shape[spec[1]]:
            both = spec[0], spec[1]
            told = "the channels of a convolution's kernel are exchanged on one side"
            yield with_kernel(trials, e, lambda w: w.swapaxes(*both), told)
            told = "the kernel of a convolution is flipped and its channels exchanged on one side"
            yield with_kernel(trials, e, lambda w: np.flip(w.swapaxes(*both), flip), told)
        if len(flip) == 2 and kernel.shape[flip[0]] == kernel.shape[flip[1]]:
            yield with_kernel(
                trials, e, lambda w: w.swapaxes(*flip), "rows and columns of a convolution's kernel are exchanged"
            )


def _padded(pads: list[tuple[int, int]], dilation: tuple[int, ...], sizes: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other paddings and dilations that leave the result its size, and what they are called."""
    totals = [low + high for low, high in pads]
    now = _ends(pads)
    most = max(totals, default=0)
    for first in range(most + 1):
        other = [(min(first, t), t - min(first, t)) for t in totals]
        if other != pads:
            yield f"padding of {_ends(other)} on torch, {now} on jax", {"padding": tuple(other)}
    for d in range(1, MOST_DILATED + 1):
        if dilation and all(x == d for x in dilation):
            continue
        spans = [(d - own) * (k - 1) for own, k in zip(dilation, sizes, strict=True)]
        more = [t + s for t, s in zip(totals, spans, strict=True)]
        if min(more, default=-1) < 0:
            continue
        ways = {tuple((t // 2, t - t // 2) for t in more), tuple((t, 0) for t in more), tuple((0, t) for t in more)}
        for other in sorted(ways):
            told = f"dilation {d} on torch, {_one(dilation)} on jax"
            yield told, {"rhs_dilation": (d,) * len(dilation), "padding": other}


def _one(values: tuple[int, ...]) -> str:
    return str(values[0] if len(set(values)) == 1 else values)


def _ends(pads: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> str:
    told = [f"{low} before and {high} after" if low != high else f"{low} on either side" for low, high in pads]
    return told[0] if len(set(told)) == 1 else str(told)


def _windows(trials: Trials, e: int, p: Mapping[str, Any]) -> Iterator[Edit]:
    """Yield a pooling with its padding at the other end."""
    pads = [tuple(pair) for pair in p.get("padding", ())]
    if any(low != high for low, high in pads):
        other = tuple((high, low) for low, high in pads)
        yield with_setting(trials, e, {"padding": other}, f"padding of {_ends(other)} on torch, {_ends(pads)} on jax")
