"""Rules: the mistake's name, where two programs part, without any contract.

    found = locate(torch_side, jax_side, inputs)        name_mistake(found) -> (Finding, ...)

A rule fires only if it rebuilds the arrays of both sides from arrays that agree, or one side's from the other's where a swap
has proven that nothing else differs. No finding: none of the known mistakes fits.
"""

from __future__ import annotations

from attention.parity.doctor.rules import elementwise, places, proven, sums
from attention.parity.doctor.rules.scene import Finding, Known, Rule, Scene, scenes
from attention.parity.tracing import Divergence

__all__ = ["RULES", "Finding", "Known", "Rule", "Scene", "name_mistake", "name_scene"]

RULES: tuple[Rule, ...] = (*elementwise.RULES, *places.RULES, *sums.RULES)
NONE = "none of the known mistakes fits"


def name_scene(scene: Scene) -> tuple[Finding, ...]:
    """Return what every rule says of two arrays."""
    found = (rule(scene) for rule in RULES)
    return tuple(finding for finding in found if finding is not None)


def name_mistake(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the mistake at a divergence is called; nothing if none of the known mistakes fits.

    Args:
        divergence: of `locate`.
    """
    for scene in scenes(divergence):
        found = name_scene(scene)
        if found:
            return found
    return proven.name(divergence)
