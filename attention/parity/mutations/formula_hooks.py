"""Hooks that change an intermediate of the formula, for mutations that no option, weight or position of a call can express.

    formula_outputs(probe)        the outputs of a call in NumPy float64, with every hook of a `HookedProbe` applied
    own_budget(probe)             the same with its error budget

A hook changes the resolved call of one part (which key is allowed, which angle) or an intermediate (scores, weights).
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
from attention.parity.mutations.locations import Location
from attention.parity.mutations.operators import Operator
from attention.parity.numerics.dtype_rounding import stored_gradient
from attention.parity.numerics.error_budget import Budget, budget
from attention.parity.numerics.rounding_sites import ROUNDS, LayerProgram, Marker
from attention.spec.attend import UNOBSERVED, Observer
from attention.spec.axes import Array
from attention.spec.errors import ParamError
from attention.spec.layers.contract import Contract, ResolvedCall
from attention.spec.params import inner

LATE = {"scores", "logsumexp", "weights", "context", "gate_proj", "gated", "normed", "out_proj"}
"""Intermediates computed after `Observer.attending` of their attention; the others precede it."""


@dataclass(eq=False)
class HookContext:
    """One attention of a call, in which a hook computes another intermediate.

    Attributes:
        xp: the array namespace.
        setting: of the part.
        weights: of the part, by its own names.
        seen: the right values of each intermediate so far.
    """

    xp: Any
    setting: ResolvedCall
    weights: Mapping[str, Array]
    seen: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])


CallHook = Callable[[Probe, Any, ResolvedCall], ResolvedCall]
"""`(probe, part of its contract, the part's setting) -> what changes in it`."""
IntermediateHook = Callable[[HookContext, str, Array], Array]


@dataclass(frozen=True, eq=False)
class HookedProbe(Probe):
    """A probe with hooks inside the formula.

    Attributes:
        call_hooks: hooks of the resolved call, with their locations.
        intermediate_hooks: hooks of intermediates, with their locations.
    """

    call_hooks: tuple[tuple[Location, CallHook], ...] = ()
    intermediate_hooks: tuple[tuple[Location, IntermediateHook], ...] = ()


def hooked(probe: Probe) -> HookedProbe:
    """Return the probe as one that can hold hooks."""
    return probe if isinstance(probe, HookedProbe) else HookedProbe(**{f.name: getattr(probe, f.name) for f in fields(probe)})


def hook_call(location: Location, hook: CallHook) -> Operator:
    """Return the operator that adds a hook of the resolved call of a part."""

    def mutate(probe: Probe) -> Probe:
        wrong = hooked(probe)
        return replace(wrong, call_hooks=(*wrong.call_hooks, (location, hook)))

    return mutate


def hook_intermediate(location: Location, hook: IntermediateHook) -> Operator:
    """Return the operator that adds a hook of the intermediates of a part."""

    def mutate(probe: Probe) -> Probe:
        wrong = hooked(probe)
        return replace(wrong, intermediate_hooks=(*wrong.intermediate_hooks, (location, hook)))

    return mutate


def on(intermediate: str, hook: Callable[[HookContext, Array], Array]) -> IntermediateHook:
    """Return a hook of one intermediate."""
    return lambda at, name, value: hook(at, value) if name == intermediate else value


class HookedObserver(Observer):
    """The `observe` of a call that applies hooks of intermediates, after the `observe` called `within`."""

    def __init__(
        self,
        xp: Any,
        hooks: tuple[tuple[Location, IntermediateHook], ...],
        setting: ResolvedCall,
        weights: Mapping[str, Array],
        within: Observer = UNOBSERVED,
    ) -> None:
        self.hooks, self.within, self.begun = hooks, within, 0
        self.active: list[tuple[int, HookContext, IntermediateHook]] = []
        for location, hook in hooks:
            owned, count = location.settings(setting), len(location.module_paths)
            for i, call in enumerate(location.calls):
                # A differential layer attends twice at one place.
                which = i * count // len(location.calls)
                own = inner(".".join(location.module_paths[which]), weights) if location.module_paths[which] else weights
                self.active.append((call, HookContext(xp, owned[which], own), hook))

    def attending(self, allowed: Array, scores: Callable[[], Array], sinks: Array, dropped: Callable[[Array], Array]) -> None:
        self.begun += 1
        self.within.attending(allowed, scores, sinks, dropped)

    def __call__(self, intermediate: str, value: Array) -> Array:
        value = self.within(intermediate, value)
        call = self.begun - 1 if intermediate in LATE else self.begun
        for number, at, hook in self.active:
            if number == call:
                at.seen.setdefault(intermediate, []).append(value)
                value = _apply(hook, at, intermediate, value)
        return value


def _apply(hook: IntermediateHook, at: HookContext, intermediate: str, value: Array) -> Array:
    try:
        return hook(at, intermediate, value)
    except KeyError as absent:
        raise ParamError(f"{absent} must exist for a hook of {intermediate}: another mutation removed it") from absent


def resolved_call(probe: Probe) -> ResolvedCall:
    """Return the setting of a call, with the hooks applied."""
    setting = probe.contract.resolve(probe.arrays, **probe.call())
    if isinstance(probe, HookedProbe):
        for location, hook in probe.call_hooks:
            for own in location.settings(setting):
                own.update(hook(probe, location.within(probe.contract), own))
    return setting


def formula_outputs(probe: Probe) -> dict[str, np.ndarray]:
    """Return the outputs of a call in float64, with all its mutations.

    Raises:
        AttentionError: a mutation does not apply to this call.
    """
    weights, arrays = ({name: x.astype(np.float64) for name, x in group.items()} for group in (probe.weights, probe.arrays))
    setting = resolved_call(probe)
    hooks = probe.intermediate_hooks if isinstance(probe, HookedProbe) else ()
    observe = HookedObserver(np, hooks, setting, weights) if hooks else UNOBSERVED
    with np.errstate(all="ignore"):
        made = probe.contract.formula(np, weights, arrays, setting, observe=observe)
    return {name: made[name] for name in probe.contract.outputs}


@dataclass(frozen=True)
class HookedProgram:
    """A contract's formula with hooks of intermediates, as a JAX program; see `LayerProgram`."""

    contract: Contract
    names: tuple[str, ...]
    hooks: tuple[tuple[Location, IntermediateHook], ...]

    def __call__(self, weights: Any, arrays: Any, setting: Any, rounds: dict[str, Any]) -> dict[str, Any]:
        """Return the results called `names`."""
        setting = jax.tree.map(stop_gradient, setting)
        weights, arrays = ({name: stored_gradient(x) for name, x in group.items()} for group in (weights, arrays))
        observe = HookedObserver(jnp, self.hooks, setting, weights, Marker(rounds))
        made = self.contract.formula(jnp, weights, arrays, setting, constant=stop_gradient, observe=observe)
        return {name: made[name] for name in self.names}


def own_budget(probe: Probe, runs: int = 8) -> Budget:
    """Return the float64 outputs of a call and how far a float32 program with the same mutations may stray.

    Args:
        probe: the call, with hooks or without.
        runs: of the Monte Carlo arithmetic.
    """
    contract, names = probe.contract.unresolved(), probe.contract.outputs
    hooks = probe.intermediate_hooks if isinstance(probe, HookedProbe) else ()
    program = HookedProgram(contract, names, hooks) if hooks else LayerProgram(contract, names)
    # As in `contracts.check.expect`: calls of one shape share one trace, whatever optional inputs they have.
    arrays = {**{name: np.zeros(shape) for name, shape in contract.optional(probe.arrays).items()}, **probe.arrays}
    flags = {name: np.bool_(False) for name in ROUNDS}
    return budget(program, (probe.weights, arrays, resolved_call(probe), flags), dtype="float32", runs=runs)
