"""Operators that turn the probe of a right call into that of a wrong one, by another option, weight or position.

operator(right probe) = wrong probe        the program that runs it is correct
"""

# An operator reads fields of one layer's contract.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from attention.parity.contracts.probes import Probe
from attention.spec.errors import OptionError, ParamError
from attention.spec.layers.contract import Contract
from attention.spec.masks.algebra import And, Mask, Or, both, evaluate
from attention.spec.scores import ScaledDot

Operator = Callable[[Probe], Probe]

OFF_BY = 3e-5
"""A scale wrong by 0.003 %: a tolerance of 1e-3 does not notice it."""


def compose(*several: Operator) -> Operator:
    """Return the operator that applies several, one after another."""

    def mutate(probe: Probe) -> Probe:
        for one in several:
            probe = one(probe)
        return probe

    return mutate


def option(**options: object) -> Operator:
    """Return the operator that sets other options of the contract, and removes weights that it then lacks."""

    def mutate(probe: Probe) -> Probe:
        return with_options(probe, **options)

    return mutate


def part(path: str, **options: object) -> Operator:
    """Return the operator that sets other options of the part at `path`, such as "block.feed_forward"."""

    def changed_part(owner: Any, names: list[str]) -> Any:
        if not names:
            return changed(owner, **options)
        return changed(owner, **{names[0]: changed_part(getattr(owner, names[0], None), names[1:])})

    def mutate(probe: Probe) -> Probe:
        first, *rest = path.split(".")
        return with_options(probe, **{first: changed_part(getattr(probe.contract, first), rest)})

    return mutate


def weight(name: str, change: Callable[[np.ndarray], Any]) -> Operator:
    """Return the operator that changes a parameter."""

    def mutate(probe: Probe) -> Probe:
        old = _param(probe, name)
        return replace(probe, weights={**probe.weights, name: np.asarray(change(old), old.dtype)})

    return mutate


def move_positions(
    change: Callable[[np.ndarray], np.ndarray], names: tuple[str, ...] = ("query_positions", "key_positions")
) -> Operator:
    """Return the operator that changes positions; those that count from 0 are written out first."""

    def mutate(probe: Probe) -> Probe:
        n = probe.sizes
        given = {"query_positions": np.arange(n.T), "key_positions": np.arange(n.S)}
        given = {name: x if getattr(probe, name) is None else getattr(probe, name) for name, x in given.items()}
        return replace(probe, **{name: change(x) if name in names else x for name, x in given.items()})

    return mutate


def in_bfloat16(positions: np.ndarray) -> np.ndarray:
    """Return the positions as bfloat16 holds them: 8190 becomes 8192."""
    return positions.astype(ml_dtypes.bfloat16).astype(np.int64)


def swap_weights(first: str, second: str) -> Operator:
    """Return the operator that exchanges two parameters."""

    def mutate(probe: Probe) -> Probe:
        pair = {first: _param(probe, second), second: _param(probe, first)}
        return replace(probe, weights={**probe.weights, **pair})

    return mutate


def head_first(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (M, H, D) whose columns were split as (D, H)."""
    m, h, d = kernel.shape
    return kernel.reshape(m, d, h).transpose(0, 2, 1)


def head_last(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (M, H, D) whose columns (D, H) were split as (H, D): the reverse of `head_first`."""
    m, h, d = kernel.shape
    return kernel.transpose(0, 2, 1).reshape(m, h, d)


def other_dropout(probe: Probe) -> Probe:
    """Drop other weights."""
    return replace(probe, dropout_seed=None if probe.dropout_seed is None else probe.dropout_seed + 1)


def scale_off(probe: Probe) -> Probe:
    """Multiply the scale by 1.00003."""
    factor = probe.contract.score.factor(probe.contract.width)
    return with_options(probe, score=ScaledDot(factor * (1 + OFF_BY)))


def empty_row_mean(probe: Probe) -> Probe:
    """Mask by adding a large finite number, so that a row without a key becomes mean(v)."""
    mask = both(probe.contract.mask, probe.mask)
    allowed = evaluate(mask, probe.sizes)
    added = np.where(np.ones(probe.sizes.scores, bool) if allowed is None else allowed, 0.0, -1e30)
    bias = probe.arrays.get("bias", np.zeros(probe.sizes.scores))
    arrays = {**probe.arrays, "bias": (bias + added).astype(probe.arrays["query"].dtype)}
    return replace(with_options(probe, mask=None), mask=None, arrays=arrays)


def changed(owner: Any, **options: object) -> Any:
    """Return a contract or a part of one with other options.

    Raises:
        OptionError: it does not exist, or has no such option: an earlier mutation removed it.
    """
    known = {f.name for f in fields(owner)} if is_dataclass(owner) else set[str]()
    if not known.issuperset(options):
        raise OptionError(f"{type(owner).__name__} must have the options {', '.join(options)} to be mutated")
    right: Any = owner
    return replace(right, **options)


def _param(probe: Probe, name: str) -> np.ndarray:
    """Return a parameter of the call.

    Raises:
        ParamError: it has none of this name: an earlier mutation removed it.
    """
    if name not in probe.weights:
        raise ParamError(f"weights must have {name} for it to be mutated")
    return probe.weights[name]


def with_options(probe: Probe, **options: object) -> Probe:
    """Return the probe of a contract with other options, without the weights that it then lacks."""
    right: Any = probe.contract
    contract: Contract = changed(right, **options)
    return replace(probe, contract=contract, weights={name: _param(probe, name) for name in contract.params})


def map_mask(mask: Any, change: Callable[[Any], Mask], kind: type[Mask]) -> Any:
    """Return the mask with `change` applied to its parts of one kind."""
    if isinstance(mask, kind):
        return change(mask)
    if isinstance(mask, (And, Or)):
        return replace(mask, left=map_mask(mask.left, change, kind), right=map_mask(mask.right, change, kind))
    return mask
