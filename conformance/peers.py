"""Peers: other people's attention modules beside ours, with the same weights, outputs and gradients both.

    float64    max |ours - theirs| <= 1e-12 max |theirs|        the largest output, or the largest of all gradients
    float32    z = (ours - theirs in float64) / sigma           RMS z <= 4 and max |z| <= 30, sigma from the Monte Carlo budget

Weights and inputs are drawn in float32, so that both dtypes are given the same numbers. A line says how much of its limit the
worst result used: it passes up to 1. Their own float32 is judged as ours is, to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from attention.parity.contracts.backends import find
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Drawer, Probe
from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS, judge
from attention.parity.numerics.error_budget import Budget
from attention.spec.errors import ParityError
from attention.spec.layers.contract import Contract
from attention.spec.masks.algebra import Mask
from attention.spec.params import cast

LIMIT = 1e-12
"""Of the largest element, in float64."""

BACKENDS = ("torch", "jax")
"""The backends; JAX under `jax.jit`."""

Results = Mapping[str, np.ndarray]
"""Outputs by name, and gradients by "d " and the name of an input or of a canonical parameter."""

Theirs = Callable[[Probe], Results]
"""Their module, given the weights and inputs of a probe in its dtype."""


@dataclass(frozen=True)
class Line:
    """How one program did beside one of their modules.

    Attributes:
        name: of their module.
        backend: "torch", "jax", or "theirs" for their own float32.
        dtype: of weights and inputs.
        worst: error over limit; passes up to 1.
    """

    name: str
    backend: str
    dtype: str
    worst: float

    @property
    def passed(self) -> bool:
        """Whether the worst result is within its limit."""
        return self.worst <= 1.0


def draw(name: str, contract: Contract, t: int, s: int, mask: Mask | None = None, inputs: Iterable[str] | None = None) -> Probe:
    """Return a call in float32 with random biases and scales.

    Args:
        name: of their module.
        contract: ours.
        t: T.
        s: S.
        mask: of the call.
        inputs: names of the arrays that are given; None: all of those that differ.
    """
    probe = Drawer(contract, "float32").draw(name, t, s, mask=mask)
    return probe if inputs is None else replace(probe, arrays={n: probe.arrays[n] for n in inputs})


def widened(probe: Probe) -> Probe:
    """Return the same numbers as float64."""
    groups = {name: cast(getattr(probe, name), "float64") for name in ("weights", "arrays", "cotangents")}
    return replace(probe, dtype="float64", **groups)


def compare(probe: Probe, theirs: Theirs, backends: Iterable[str] = BACKENDS) -> list[Line]:
    """Return a line for every backend and dtype, and one for their own float32.

    Args:
        probe: from `draw`.
        theirs: their module.
        backends: names of sides.
    """
    wanted, lines = theirs(widened(probe)), list[Line]()
    expected = Budget(wanted, expect(probe).sigma)
    for backend in backends:
        side, name = find(backend), backend.removesuffix("_eager")
        lines.append(Line(probe.name, name, "float64", apart(side.run(widened(probe), "auto").results, wanted) / LIMIT))
        lines.append(Line(probe.name, name, "float32", strayed(side.run(probe, "auto").results, expected)))
    lines.append(Line(probe.name, "theirs", "float32", strayed(theirs(probe), expected)))
    return lines


def apart(got: Results, wanted: Results) -> float:
    """Return the largest difference, as a share of the largest output or of the largest gradient."""
    if got.keys() != wanted.keys():
        raise ParityError(f"results {sorted(got)} must be {sorted(wanted)}")
    worst = 0.0
    for gradients in (False, True):
        names = [name for name in wanted if name.startswith("d ") is gradients]
        largest = max(np.abs(wanted[name]).max() for name in names)
        worst = max(worst, *(float(np.abs(_shaped(got, wanted, name) - wanted[name]).max() / largest) for name in names))
    return worst


def strayed(got: Results, expected: Budget) -> float:
    """Return how much of its budget the worst result used."""
    verdicts = [judge(name, x, expected.value[name], expected.sigma[name]) for name, x in got.items()]
    return max(max(v.rms / MOST_RMS, v.worst / MOST_MAX) for v in verdicts)


def summary(lines: Iterable[Line]) -> list[tuple[str, str, str, str, str]]:
    """Return a row for every module, dtype and backend: how many calls pass of how many, and the worst error over its limit.

    A module's name is that of its lines up to the colon, after which stands how it was made and called.
    """
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.name.partition(":")[0], line.dtype, line.backend), []).append(line)
    return [
        (*group, f"{sum(x.passed for x in found)} / {len(found)}", f"{max(x.worst for x in found):.2g}")
        for group, found in groups.items()
    ]


def _shaped(got: Results, wanted: Results, name: str) -> np.ndarray:
    """Return a result, which must not be broadcast to fit."""
    if got[name].shape != wanted[name].shape:
        raise ParityError(f"{name} {got[name].shape} must be {wanted[name].shape}")
    return got[name]
