"""Turns: mistakes inside the formula, for those that no option, weight or position of a call can express.

    answer(probe)            the outputs of a call in NumPy float64, with every turn of an `Altered` probe made
    own_budget(probe)        the same with its error bar

A turn changes the setting of one part (which key is allowed, which angle) or an intermediate of its formula (scores, weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.locations import Site
from attention.parity.mutations.operators import Plant
from attention.parity.numerics.error_budget import Budget, budget, stored_gradient
from attention.parity.numerics.rounding_sites import ROUNDS, LayerProgram, Marker
from attention.spec.attend import UNOBSERVED, Observer
from attention.spec.axes import Array
from attention.spec.errors import ParamError
from attention.spec.layers.contract import Contract, ResolvedCall
from attention.spec.params import inner

LATE = {"scores", "logsumexp", "weights", "context", "gate_proj", "gated", "normed", "out_proj"}
"""Intermediates that follow the announcement of their attention; the others precede it."""


@dataclass(eq=False)
class At:
    """Where an intermediate is computed: one attention of a call.

    Attributes:
        xp: the array namespace.
        setting: of the part.
        weights: of the part, by its own names.
        seen: the values of each intermediate so far, as a right program has them.
    """

    xp: Any
    setting: ResolvedCall
    weights: Mapping[str, Array]
    seen: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])


SettingTurn = Callable[[Probe, Any, ResolvedCall], ResolvedCall]
"""`(probe, part of its contract, the part's setting) -> what changes in it`."""
IntermediateTurn = Callable[[At, str, Array], Array]


@dataclass(frozen=True, eq=False)
class Altered(Probe):
    """A probe whose mistakes are partly inside the formula.

    Attributes:
        resettled: setting turns and where they are made.
        remarked: intermediate turns and where they are made.
    """

    resettled: tuple[tuple[Site, SettingTurn], ...] = ()
    remarked: tuple[tuple[Site, IntermediateTurn], ...] = ()


def altered(probe: Probe) -> Altered:
    """Return the probe as one that can hold turns."""
    return probe if isinstance(probe, Altered) else Altered(**{f.name: getattr(probe, f.name) for f in fields(probe)})


def resettle(site: Site, turn: SettingTurn) -> Plant:
    """Plant another setting of a part."""

    def plant(probe: Probe) -> Probe:
        wrong = altered(probe)
        return replace(wrong, resettled=(*wrong.resettled, (site, turn)))

    return plant


def remark(site: Site, turn: IntermediateTurn) -> Plant:
    """Plant another intermediate of a part's formula."""

    def plant(probe: Probe) -> Probe:
        wrong = altered(probe)
        return replace(wrong, remarked=(*wrong.remarked, (site, turn)))

    return plant


def on(intermediate: str, turn: Callable[[At, Array], Array]) -> IntermediateTurn:
    """Return a turn of one intermediate."""
    return lambda at, name, value: turn(at, value) if name == intermediate else value


class Turned(Observer):
    """The `observe` of a call with intermediate turns, which are made after what `within` does."""

    def __init__(
        self,
        xp: Any,
        turns: tuple[tuple[Site, IntermediateTurn], ...],
        setting: ResolvedCall,
        weights: Mapping[str, Array],
        within: Observer = UNOBSERVED,
    ) -> None:
        self.turns, self.within, self.begun = turns, within, 0
        self.places: list[tuple[int, At, IntermediateTurn]] = []
        for site, turn in turns:
            owned, count = site.settings(setting), len(site.places)
            for i, call in enumerate(site.calls):
                # A differential layer attends twice at one place.
                which = i * count // len(site.calls)
                own = inner(".".join(site.places[which]), weights) if site.places[which] else weights
                self.places.append((call, At(xp, owned[which], own), turn))

    def attending(self, allowed: Array, scores: Callable[[], Array], sinks: Array, dropped: Callable[[Array], Array]) -> None:
        self.begun += 1
        self.within.attending(allowed, scores, sinks, dropped)

    def __call__(self, intermediate: str, value: Array) -> Array:
        value = self.within(intermediate, value)
        call = self.begun - 1 if intermediate in LATE else self.begun
        for number, at, turn in self.places:
            if number == call:
                at.seen.setdefault(intermediate, []).append(value)
                value = _turned(turn, at, intermediate, value)
        return value


def _turned(turn: IntermediateTurn, at: At, intermediate: str, value: Array) -> Array:
    try:
        return turn(at, intermediate, value)
    except KeyError as absent:
        raise ParamError(f"{absent} must be there for {intermediate} to be turned: another mistake took it away") from absent


def settled(probe: Probe) -> ResolvedCall:
    """Return the setting of a call, turned."""
    setting = probe.contract.resolve(probe.arrays, **probe.call())
    if isinstance(probe, Altered):
        for site, turn in probe.resettled:
            for own in site.settings(setting):
                own.update(turn(probe, site.within(probe.contract), own))
    return setting


def answer(probe: Probe) -> dict[str, np.ndarray]:
    """Return the outputs of a call in float64, mistakes and all.

    Raises:
        AttentionError: the mistake has no meaning in this call.
    """
    weights, arrays = ({name: x.astype(np.float64) for name, x in group.items()} for group in (probe.weights, probe.arrays))
    setting = settled(probe)
    turns = probe.remarked if isinstance(probe, Altered) else ()
    observe = Turned(np, turns, setting, weights) if turns else UNOBSERVED
    with np.errstate(all="ignore"):
        made = probe.contract.formula(np, weights, arrays, setting, observe=observe)
    return {name: made[name] for name in probe.contract.outputs}


@dataclass(frozen=True)
class TurnedProgram:
    """A contract's formula with intermediate turns, as a JAX program; see `LayerProgram`."""

    contract: Contract
    names: tuple[str, ...]
    turns: tuple[tuple[Site, IntermediateTurn], ...]

    def __call__(self, weights: Any, arrays: Any, setting: Any, rounds: dict[str, Any]) -> dict[str, Any]:
        """Return the results called `names`."""
        setting = jax.tree.map(stop_gradient, setting)
        weights, arrays = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, arrays))
        observe = Turned(jnp, self.turns, setting, weights, Marker(rounds))
        made = self.contract.formula(jnp, weights, arrays, setting, constant=stop_gradient, observe=observe)
        return {name: made[name] for name in self.names}


def own_budget(probe: Probe, runs: int = 8) -> Budget:
    """Return the float64 outputs of a call and how far a float32 program that makes the same mistakes may stray.

    Args:
        probe: the call, altered or right.
        runs: of the Monte Carlo arithmetic.
    """
    contract, names = probe.contract.unresolved(), probe.contract.outputs
    turns = probe.remarked if isinstance(probe, Altered) else ()
    program = TurnedProgram(contract, names, turns) if turns else LayerProgram(contract, names)
    # As in `contracts.check.expect`: calls of one shape share one trace, whatever they leave out.
    arrays = {**{name: np.zeros(shape) for name, shape in contract.optional(probe.arrays).items()}, **probe.arrays}
    flags = {name: np.bool_(False) for name in ROUNDS}
    return budget(program, (probe.weights, arrays, settled(probe), flags), dtype="float32", runs=runs)
