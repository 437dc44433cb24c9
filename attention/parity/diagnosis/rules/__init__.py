"""Rules: the mistake's name, where two programs part, without any contract.

    found = locate(torch_side, jax_side, inputs)        name_mistake(found) -> (Finding, ...)

A rule fires only if it rebuilds the arrays of both sides from arrays that agree, or one side's from the other's where a swap
has proven that nothing else differs. No finding: none of the known mistakes fits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention.parity.diagnosis.rules import elementwise, indexing, missing_operation, patched, reductions
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, Rule, Scene, scenes
from attention.parity.tracing import Divergence

__all__ = ["RULES", "Finding", "Known", "Rule", "Scene", "name_mistake", "name_scene"]

RULES: tuple[Rule, ...] = (*elementwise.RULES, *indexing.RULES, *reductions.RULES)


COARSE = 1e-4
"""The most that two computations of one array may differ by, relative to its largest element, where one is to be rebuilt."""


def name_scene(scene: Scene, rules: tuple[Rule, ...] = RULES) -> tuple[Finding, ...]:
    """Return what the first rule that fits says of two arrays: the rules stand in order, special ones before general ones."""
    # A rule may divide by what is 0, or take inf from inf; such an array then equals nothing.
    with np.errstate(all="ignore"):
        # Where much is rounded, almost anything rebuilds an array.
        for rule in rules if scene.limit <= COARSE else (indexing.coarser,):
            if finding := rule(scene):
                return (finding,)
    return ()


def name_mistake(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the mistake at a divergence is called; nothing if none of the known mistakes fits.

    Args:
        divergence: of `locate`.
    """
    if not divergence.found:
        return ()
    for scene in scenes(divergence):
        # Where nothing is proven, only the same elements in other places are evidence, and not enough to be sure.
        found = name_scene(scene) if scene.proven else name_scene(scene, indexing.SAME_ELEMENTS)
        if found:
            return found if scene.proven else tuple(replace(finding, sure=False) for finding in found)
    return patched.name(divergence) or missing_operation.name(divergence)
