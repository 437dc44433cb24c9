"""Convolutions of one array with one kernel that differ in padding, stride, dilation, or a flipped kernel.

torch = conv(pad(x, lo, hi), W)        jax = conv(pad(x, lo', hi'), W), or conv(pad(x, around), W), or conv(x, W flipped)

Both are made again from torch's own operands; what makes neither is not named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair, fix
from attention.parity.tracing import Event

MOST_PRODUCTS, MOST_PADDED = 3_000_000, 16
FLIPPED, EXCHANGED = "its kernel flipped", "its kernel flipped and its channels exchanged"
MODES = {"constant": "zeros", "wrap": "what is at the other edge", "reflect": "its reflection", "edge": "its edge"}


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A convolution of torch, of whatever direction, as one at step 1 along x with zeros put between its elements.

    Attributes:
        x: `(n, channels, *sizes)`.
        kernel: `(out, channels / groups, *sizes)`.
        bias: `(out,)`, or None.
        strides, dilation, padding, groups: as torch is told them; the padding is that of `x`.
    """

    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None
    strides: list[int]
    dilation: list[int]
    padding: list[int]
    groups: int

    def made(self, low: list[int], high: list[int], mode: str = "constant", kernel: str = "") -> np.ndarray | None:
        """Return the convolution with other padding, or the kernel turned; None where it cannot be."""
        weights = self.kernel if not kernel else np.flip(self.kernel, tuple(range(2, self.kernel.ndim)))
        weights = weights.swapaxes(0, 1) if kernel == EXCHANGED else weights
        sizes = self.x.shape[2:]
        if mode != "constant" and any(p >= n for pads in (low, high) for p, n in zip(pads, sizes, strict=True)):
            return None
        pad: Any = np.pad  # its modes are literals, and here they are names from a table
        x: np.ndarray = pad(self.x, ((0, 0), (0, 0), *zip(low, high, strict=True)), mode=mode)
        spans = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, weights.shape[2:], strict=True))
        axes = tuple(range(2, x.ndim))
        if any(n < span for n, span in zip(x.shape[2:], spans, strict=True)):
            return None
        seen: np.ndarray = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
        steps = tuple(slice(None, None, s) for s in self.strides)
        taps = tuple(slice(None, None, d) for d in self.dilation)
        seen = seen[(slice(None), slice(None), *steps, *taps)]
        if seen.size * (len(weights) // self.groups) > MOST_PRODUCTS:
            return None
        return self._summed(seen, weights)

    def _summed(self, seen: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        n, rank = len(self.kernel) // self.groups, kernel.ndim - 2
        parts: list[np.ndarray] = []
        for g in range(self.groups):
            inner = kernel.shape[1]
            window, weights = seen[:, g * inner : (g + 1) * inner], kernel[g * n : (g + 1) * n]
            summed = (1, *range(2 + rank, 2 + 2 * rank)), (1, *range(2, 2 + rank))
            parts.append(np.moveaxis(np.tensordot(window, weights, summed), -1, 1))
        made = np.concatenate(parts, 1)
        return made if self.bias is None else made + self.bias.reshape(-1, *(1,) * rank)


def other_convolution(pair: OperandPair) -> Finding | None:
    """Name how two convolutions of one array with one kernel differ."""
    found = [c for e in pair.region[0] if (c := _read(e, pair.region[0])) is not None]
    if len(found) != 1 or not pair.runs(1, "conv", "dot", "mul"):
        return None
    torch = jax = ""
    for told, made in _variants(found[0]):
        for value in _cut(made, pair.torch.size):
            torch = torch or (told if near(pair.torch, value) else "")
            jax = jax or (told if near(pair.jax, value) else "")
        if torch and jax:
            break
    if not torch or not jax or torch == jax:
        return None
    told = "both made again from torch's array and kernel"
    for side, other, one, two in (("torch", "jax", torch, jax), ("jax", "torch", jax, torch)):
        if two.startswith(f"{one} and "):
            turn = two.removeprefix(f"{one} and ")
            return Finding(f"a convolution has {turn} on {other}, and not on {side}", told, **fix(side, turn))
    return Finding(f"a convolution has {torch} on torch, {jax} on jax", told, jax, torch)


def _cut(made: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield what is made, and its beginning where that is all that is kept: a causal convolution is often cut."""
    if made.size == size:
        yield made
    rest = made.size // made.shape[-1] if made.size else 0
    if rest and size % rest == 0 and size < made.size:
        yield made[..., : size // rest]


def _variants(c: _Convolution) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what people make of one convolution, and how it is told."""
    low = high = c.padding
    ways: list[tuple[str, list[int], list[int], str, str]] = [(_padding_text(low, high), low, high, "constant", "")]
    if any(n > 1 for n in c.kernel.shape[2:]):
        square = c.groups == 1 and c.kernel.shape[0] == c.kernel.shape[1]
        ways += [
            (f"{_padding_text(low, high)} and {turn}", low, high, "constant", turn)
            for turn in (FLIPPED, EXCHANGED)[: 1 + square]
        ]
    # The end of a strided convolution may need less than the beginning.
    for p in {max(0, max(low) - 1), max(low)}:
        ways.append((_padding_text([p] * len(low), low), [p] * len(low), low, "constant", ""))
    total = [a + b for a, b in zip(low, high, strict=True)]
    for first in range(min(max(total), MOST_PADDED) + 1):
        one = [min(first, t) for t in total]
        rest = [t - a for t, a in zip(total, one, strict=True)]
        ways.append((_padding_text(one, rest), one, rest, "constant", ""))
    ways += [
        (f"{_padding_text(low, high)} filled with {MODES[mode]}", low, high, mode, "") for mode in list(MODES)[1:] if any(low)
    ]
    for told, before, after, mode, turn in ways:
        made = c.made(before, after, mode, turn)
        if made is not None:
            yield told, made


def _padding_text(low: list[int], high: list[int]) -> str:
    both = [f"{a} before and {b} after" if a != b else f"{a} on either side" for a, b in zip(low, high, strict=True)]
    return f"padding of {both[0] if len(set(both)) == 1 else both}"


def _read(event: Event, region: tuple[Event, ...]) -> _Convolution | None:
    """Return a convolution of torch from its event; None if it is none, or its operands are not at hand."""
    values = {e.index: e.value for e in region}
    operands = [values.get(i) for i in event.inputs]
    told = _options(event)
    if told is None or len(operands) < 2 or operands[0] is None or operands[1] is None:
        return None
    strides, padding, dilation, transposed, extra, groups = told
    x, kernel, bias = operands[0], operands[1], operands[2] if len(operands) > 2 else None
    if x.ndim != kernel.ndim or x.ndim < 3 or x.dtype.kind != "f" or (transposed and (any(extra) or groups != 1)):
        return None
    strides, padding, dilation = ((list(v) * x.ndim)[: x.ndim - 2] for v in (strides, padding, dilation))
    made = _turned if transposed else _plain
    return made(x, kernel, bias, strides, dilation, padding, groups)


def _options(event: Event) -> tuple[Any, ...] | None:
    """Return strides, padding, dilation, whether it is transposed, output padding and groups, as torch is told them."""
    if event.op != "convolution":
        return None
    try:
        told = ast.literal_eval(f"[{event.options}]")
    except (ValueError, SyntaxError):
        return None
    told = told[1:] if told and told[0] is None else told
    return tuple(told) if len(told) == 6 else None


Sizes = list[int]


def _plain(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, strides: Sizes, dilation: Sizes, padding: Sizes, groups: int
) -> _Convolution:
    return _Convolution(x, kernel, bias, strides, dilation, padding, groups)


def _turned(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, strides: Sizes, dilation: Sizes, padding: Sizes, groups: int
) -> _Convolution | None:
    """Return a transposed convolution as one of an array with zeros between its elements, by the kernel flipped."""
    sizes = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))
    wide = np.zeros((*x.shape[:2], *sizes))
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    rest = [d * (k - 1) - p for d, k, p in zip(dilation, kernel.shape[2:], padding, strict=True)]
    if min(rest) < 0:
        return None
    flipped = np.flip(kernel.swapaxes(0, 1), tuple(range(2, kernel.ndim)))
    return _Convolution(wide, flipped, bias, [1] * len(strides), dilation, rest, groups)


RULES = (other_convolution,)
