"""Reversed windows: torch's transposed convolutions read their kernels from the end, `lax.conv_transpose` from the start.

    nn.ConvTranspose2d.weight (I, O, h, w)    ->    nnx.ConvTranspose.kernel (h, w, I, O), h and w reversed

A JAX program that reverses the kernel by itself (`transpose_kernel=True`) holds it as torch does, and shows no window here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate, chain, pairwise

import numpy as np

from attention.parity.param_mapping.block_moves import Move, Shape
from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.param_use import Digits, Use, Uses, strides_of


def reversed_windows(plan: Plan, uses: tuple[Uses, Uses]) -> Plan:
    """Return the plan with the windows reversed of kernels that one program alone reads from the end.

    Args:
        plan: the map so far.
        uses: of the parameters of both programs.
    """
    entries = tuple(
        entry
        if entry.evidence == "values"
        else replace(entry, choices=tuple(tuple(_reversed(move, uses, plan) for move in moves) for moves in entry.choices))
        for entry in plan.entries
    )
    return replace(plan, entries=entries)


def _reversed(move: Move, uses: tuple[Uses, Uses], plan: Plan) -> Move:
    names = move.first.name, move.second.name
    windows = [_window(each, name) for each, name in zip(uses, names, strict=True)]
    ends = [name in each.transposed for each, name in zip(uses, names, strict=True)]
    if ends[0] == ends[1] or windows[0] is None or windows[1] is None or not move.first.whole:
        return move
    if np.array_equal(move.forward(plan.first[names[0]]), move.second.of(plan.second[names[1]])):
        # Values that are the same as they are were copied as they are.
        return move
    apart = _with_axes_of(move, move.first.shape)
    strides = strides_of(apart.axes)
    flips = tuple(axis for axis, size in enumerate(apart.axes) if size > 1 and _counts(windows[0], size, strides[axis]))
    return replace(apart, flips=flips) if flips else move


def _with_axes_of(move: Move, shape: Shape) -> Move:
    """Return the same move with its axes split where those of its first array are: a kernel that stays as it is has one."""
    ends = sorted({math.prod(each[n:]) for each in (move.axes, shape) for n in range(len(each) + 1)})
    if any(b % a for a, b in pairwise(ends)):
        return move
    runs: list[list[int]] = []
    for size, stride in zip(move.axes, strides_of(move.axes), strict=True):
        inside = [end for end in ends if stride <= end <= stride * size]
        runs.append([b // a for a, b in pairwise(inside)][::-1])
    starts = [0, *accumulate(map(len, runs))]
    order = tuple(starts[axis] + n for axis in move.order for n in range(len(runs[axis])))
    return replace(move, axes=tuple(chain(*runs)), order=order)


def _window(uses: Uses, name: str) -> Use | None:
    """Return the use of a kernel by a convolution."""
    return next((use for use in uses.found if use.view.name == name and use.roles.get("window")), None)


def _counts(use: Use, size: int, stride: int) -> bool:
    """Return whether addresses a stride apart differ in nothing but their place in the window."""
    addresses = use.view.start + np.arange(size) * stride
    return all(
        (role == "window") == bool(np.any(_count(digits, addresses - use.view.start))) for role, digits in use.roles.items()
    )


def _count(digits: Digits, addresses: np.ndarray) -> np.ndarray:
    found = np.zeros(addresses.shape, np.int64)
    for size, stride in digits:
        found = found * size + addresses // max(stride, 1) % size
    return found
