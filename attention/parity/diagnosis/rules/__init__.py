"""Rules that name a mistake from the arrays around a divergence, without a contract.

    found = locate(torch_side, jax_side, inputs)        name_mistake(found) -> (Finding, ...)

A rule fires only if it rebuilds the arrays of both sides from arrays that agree, or one side's from the other's where a swap
has proven that nothing else differs. No finding: none of the known mistakes fits.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from attention.parity.diagnosis.rules import (
    activation_parameters,
    activations,
    addends,
    array_relations,
    combinations,
    convolutions,
    elementwise,
    intermediate_activations,
    masked_reductions,
    masking,
    missing_soft_cap,
    norms,
    operands,
    options,
    pooling,
    positions,
    proven_differences,
    rearrangements,
    reductions,
    resampling,
    selection,
    shifts,
)
from attention.parity.diagnosis.rules.differing_operands import differing_operands
from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair, Rule, in_one_layout, operand_pairs
from attention.parity.tracing import Divergence

__all__ = ["RULES", "Finding", "Known", "OperandPair", "Rule", "name_mistake", "name_pair"]

CERTAIN: tuple[Rule, ...] = (*options.RULES, *activations.SPECIFIC, *activation_parameters.RULES, *positions.RULES)
"""What two arrays are by themselves, whichever operands the others have."""
SPECIFIC: tuple[Rule, ...] = (
    *options.RULES,
    *activations.SPECIFIC,
    *activation_parameters.RULES,
    *elementwise.SPECIFIC,
    *positions.RULES,
    *selection.SPECIFIC,
)
RULES: tuple[Rule, ...] = (
    *SPECIFIC,
    *elementwise.GENERAL,
    *shifts.RULES,
    *masking.RULES,
    *rearrangements.RULES,
    array_relations.coarser,
    array_relations.stopped,
    combinations.other_array,
    *reductions.RULES,
    *addends.RULES,
    *operands.RULES,
    *norms.RULES,
    *combinations.RULES,
    *selection.RULES,
    *convolutions.RULES,
    *masked_reductions.RULES,
    array_relations.conjugated,
    *pooling.RULES,
    *resampling.RULES,
    *intermediate_activations.RULES,
)


COARSE = 1e-4
"""The most that two computations of one array may differ by, relative to its largest element, where one is to be rebuilt."""


LEAST = 0.02
"""The share of the outputs' error below which a divergence is called by a name only if that can be one mistake alone: arrays
that matter little, such as tables in another layout, are often equal in some other order as well."""


MOST_OF = 0.1
"""The share from which on arrays further away are looked at too, which is dear."""


def name_pair(pair: OperandPair, rules: tuple[Rule, ...] = RULES) -> tuple[Finding, ...]:
    """Return what the first rule that fits says of two arrays: the rules stand in order, special ones before general ones."""
    # A rule may divide by what is 0, take inf from inf, or a real number from a complex one; that then equals nothing.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        # Where much is rounded, almost anything rebuilds an array.
        for rule in rules if pair.limit <= COARSE else (array_relations.coarser,) if rules is not SPECIFIC else ():
            if finding := rule(pair):
                return (finding,)
    return ()


def name_mistake(divergence: Divergence) -> tuple[Finding, ...]:
    """Return what the mistake at a divergence is called; nothing if none of the known mistakes fits.

    Args:
        divergence: of `locate`.
    """
    if not divergence.found:
        return ()
    if divergence.difference is not None and divergence.difference.kind == "stop":
        return _stopped(divergence)
    first = _named(divergence)
    again = [_named(run) for run in divergence.runs] if first else []
    others = [found[0].name for found in again if found and found[0].name != first[0].name]
    # A line that runs again makes the same mistake again, though perhaps of other halves or in the other direction.
    if any(not _same_kind(name, first[0].name) for name in others):
        return ()
    return tuple(replace(finding, sure=False) for finding in first) if others else first


def _stopped(divergence: Divergence) -> tuple[Finding, ...]:
    """Name a gradient that one side stops; where both do, of different arrays, there is no name."""
    sides = {"absent in jax": ("torch", "jax"), "absent in torch": ("jax", "torch")}
    if divergence.kind not in sides or divergence.torch is None or divergence.jax is None:
        return ()
    there, here = sides[divergence.kind]
    event = divergence.torch if there == "torch" else divergence.jax
    mends = ("x.detach()", "") if here == "torch" else ("", "jax.lax.stop_gradient(x)")
    evidence = f"{there} lets no gradient through {event.label} at {event.place}, {here} does"
    return (Finding(f"the gradient is stopped on {there} and not on {here}", evidence, *mends),)


def _same_kind(one: str, other: str) -> bool:
    heads = one.partition(":"), other.partition(":")
    if any("1 + w" in a and b.startswith(("1 added", "0 added")) for a, b in ((one, other), (other, one))):
        return True
    return (bool(heads[0][1]) and heads[0][0] == heads[1][0]) or all(
        "mask" in name or "window" in name for name in (one, other)
    )


def _named(divergence: Divergence) -> tuple[Finding, ...]:
    first, far = list(operand_pairs(divergence)), list[OperandPair]()
    near = [each for pair in first for each in (pair, *differing_operands(pair))]
    if divergence.share < LEAST:
        return next((found for pair in near if pair.proven and (found := name_pair(pair, (*CERTAIN, shifts.shifted)))), ())
    # What can only be one mistake is looked for before what may be several, and near before far, where it is dearer.
    tried = ((SPECIFIC, near), (RULES, near), (SPECIFIC, far), (RULES, far))
    for rules, made in tried if divergence.share >= MOST_OF else tried[:2]:
        if made is far and not far:
            far += list(operand_pairs(divergence, further=True))[len(first) :]
        for pair in (each for one in made for each in (one, in_one_layout(one)) if each is not None):
            # Where nothing is proven, only the same elements in other places are evidence, and not enough to be sure.
            chosen = rules if pair.proven else rearrangements.SAME_ELEMENTS if rules is RULES else ()
            found = name_pair(pair, chosen)
            if found:
                return found if pair.proven else tuple(replace(finding, sure=False) for finding in found)
    return proven_differences.name(divergence) or missing_soft_cap.name(divergence)
