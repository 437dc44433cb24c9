"""Probes for a diagnosis: inputs drawn for a contract and for the interface of the program.

    the probes of a contract, padding filled with numbers        + small inputs, a large mean, T beyond every window

A probe for our own layers holds NaN in padded tokens. A user's program may multiply them by 0, and the NaN would hide
everything else; so padded tokens hold numbers here.
"""

# Masks and positions are fields that not every layer has.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from attention.parity.contracts.probes import Drawer, N, Probe, probes
from attention.parity.mutations.locations import locations
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights

SMALL, MEAN = 0.01, 20.0
"""The scale of inputs that an eps still changes; the mean of inputs whose variance an unstable formula loses."""
SMALL_BIASES = "small inputs and biases"
"""The name of the probe with weights of its own."""
FARTHEST = 512
"""The longest call that is made to exceed a window."""


def diagnostic_probes(contract: Contract, weights: Weights | None = None, seed: int = 0) -> list[Probe]:
    """Return the probes of a diagnosis, the plainest first.

    Args:
        contract: the layer.
        weights: those of the program, if it takes no others.
        seed: of all numbers.
    """
    observations = _drawn(contract, seed)
    if weights is None:
        return list(observations)
    return [replace(probe, weights={**weights}) for probe in observations if probe.name != SMALL_BIASES]


@lru_cache(maxsize=32)
def _drawn(contract: Contract, seed: int) -> tuple[Probe, ...]:
    observations = (_filled(probe, seed) for probe in probes(contract, seed=seed) if not probe.intermediates)
    return (*observations, *_further(Drawer(contract, "float32", seed)))


def held_out_probes(contract: Contract, weights: Weights | None = None) -> list[Probe]:
    """Return probes with other numbers, on which a diagnosis must also hold."""
    return diagnostic_probes(contract, weights, seed=1)


def _further(drawer: Drawer) -> Iterator[Probe]:
    if drawer.allows(N, N):
        small = drawer.draw("small inputs", scale=SMALL)
        yield small
        yield replace(small, name=SMALL_BIASES, weights=_quiet(small))
        # The contract's probe with a bias also wants intermediates, which a user's program does not return.
        if drawer.takes("bias"):
            yield drawer.draw("bias", biased=True)
        shifted = drawer.draw("large mean")
        yield replace(shifted, arrays=_moved(shifted.arrays))
    reach = max((_reach(location.contract) for location in locations(drawer.contract)), default=0)
    if N <= reach <= FARTHEST and drawer.allows(reach + 5, reach + 5):
        yield drawer.draw("beyond the window", reach + 5, reach + 5)


def _reach(part: object) -> int:
    mask = getattr(part, "mask", None)
    return getattr(mask, "reach", None) or 0


def _quiet(probe: Probe) -> Weights:
    """Return the weights with small biases, except of norms: the inputs of norms are then as small as those of the layer."""
    params = probe.contract.params
    small = {n for n in params if n.endswith("proj.bias") or n.split(".")[-2:] in (["up", "bias"], ["down", "bias"])}
    return {n: x * x.dtype.type(SMALL) if n in small else x for n, x in probe.weights.items()}


def _moved(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x + x.dtype.type(MEAN) for name, x in arrays.items()}


def _filled(probe: Probe, seed: int) -> Probe:
    """Return the probe with random numbers in the place of NaN and inf."""
    rng = np.random.default_rng((seed, 17))
    arrays = {n: np.where(np.isfinite(x), x, rng.normal(size=x.shape).astype(x.dtype)) for n, x in probe.arrays.items()}
    return replace(probe, arrays=arrays)
