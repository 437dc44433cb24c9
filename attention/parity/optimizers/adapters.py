"""Adapters of optimiser steps: torch, optax, the formula or a plain function, each as a function of parameters and gradients.

    run(name, step, probe)[n]["kernel"] = the parameter after n + 1 steps, in NumPy

    spec.optimizers.Adam(1e-3)                               the formula itself
    lambda params: torch.optim.AdamW(params, lr=1e-3)        torch; or a tuple of what is called or stepped in this order
    optax.adamw(1e-3)                                        an optax.GradientTransformation
    lambda params, gradients: [...]                          anything: dicts of NumPy arrays in, a list of dicts out

torch and optax run in float64, where rounding hides no mistake.
"""

# Frameworks leave their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
import torch

from attention.parity.adapters.user_errors import attributed_to
from attention.parity.optimizers.probe import Arrays, StepProbe
from attention.spec.errors import OptionError, SideFailed
from attention.spec.optimizers.optimizer import Step

Trajectory = list[Arrays]
StepProgram = Any


def run(name: str, program: StepProgram, probe: StepProbe) -> Trajectory:
    """Return the parameters after each step of a program.

    Args:
        name: what messages call the program.
        program: one of those above.
        probe: first parameters and gradients.

    Raises:
        OptionError: the program is none of those.
        SideFailed: it raised, or returned something else.
    """
    runner = _runner(name, program)
    with attributed_to(name):
        after = runner(probe)
    return _checked(name, after, probe)


def framework(program: StepProgram) -> str:
    """Return "formula", "optax", "torch" or "numpy": which kind of program it is; "" if none.

    A function of one required argument makes a torch optimiser, one of two runs all steps.
    """
    if isinstance(program, Step):
        return "formula"
    if isinstance(program, tuple) and hasattr(program, "init") and hasattr(program, "update"):
        return "optax"
    if not callable(program):
        return ""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        signature = inspect.signature(program)
    # A class or a function of C that lists no arguments.
    except ValueError:
        return ""
    wanted = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in kinds]
    return {1: "torch", 2: "numpy"}.get(len(wanted), "")


def formula(step: Step, probe: StepProbe) -> Trajectory:
    """Return the parameters after each step of the formula, in the dtype of the probe."""
    # Without an eps, an array that never had a gradient is divided by 0, in every framework.
    with np.errstate(all="ignore"):
        return steps_of(np, step, probe.params, probe.gradients)


def steps_of(xp: Any, step: Step, params: Mapping[str, Any], gradients: Any) -> list[dict[str, Any]]:
    """Return the parameters after each step, arrays of `xp`."""
    state, after, now = step.init(xp, params), [], dict(params)
    for of_step in gradients:
        now, state = step.step(xp, now, of_step, state)
        after.append(now)
    return after


def _runner(name: str, program: StepProgram) -> Callable[[StepProbe], Any]:
    runners: dict[str, Callable[[StepProbe], Any]] = {
        "formula": lambda probe: formula(program, probe),
        "optax": lambda probe: _optax(program, probe),
        "torch": lambda probe: _torch(program, probe),
        "numpy": lambda probe: program(dict(probe.params), [dict(g) for g in probe.gradients]),
    }
    kind = framework(program)
    if not kind:
        raise OptionError(
            f"{name} {type(program).__name__} must be a spec step, an optax.GradientTransformation, a function of parameters"
            " that returns a torch optimiser, or a function of parameters and gradients"
        )
    return runners[kind]


def _optax(transformation: optax.GradientTransformation, probe: StepProbe) -> Trajectory:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        params: Any = jax.tree.map(jax.numpy.asarray, probe.params)
        state = transformation.init(params)
        after: Trajectory = []
        for gradients in probe.gradients:
            updates, state = transformation.update(jax.tree.map(jax.numpy.asarray, gradients), state, params)
            params = optax.apply_updates(params, updates)
            after.append({name: np.asarray(p) for name, p in params.items()})
    return after


def _torch(factory: Callable[[list[torch.nn.Parameter]], Any], probe: StepProbe) -> Trajectory:
    params = {name: torch.nn.Parameter(torch.from_numpy(np.array(p))) for name, p in probe.params.items()}
    made, after = factory(list(params.values())), []
    for gradients in probe.gradients:
        for name, p in params.items():
            p.grad = torch.from_numpy(np.array(gradients[name]))
        for part in made if isinstance(made, tuple) else (made,):
            # An optimiser and a schedule step; clipping is a function.
            part.step() if hasattr(part, "step") else part()
        after.append({name: p.detach().numpy().copy() for name, p in params.items()})
    return after


def _checked(name: str, after: Any, probe: StepProbe) -> Trajectory:
    if not isinstance(after, (list, tuple)) or len(after) != probe.steps:
        got = f"{len(after)} results" if isinstance(after, (list, tuple)) else type(after).__name__
        raise SideFailed(f"{name} returned {got}, must be a list of the parameters after each of {probe.steps} steps")
    for number, params in enumerate(after):
        if not isinstance(params, Mapping) or set(params) != set(probe.params):
            got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise SideFailed(f"{name} returned {got} after step {number + 1}, must be a dict of {sorted(probe.params)}")
    trajectory = [{key: np.asarray(params[key]) for key in probe.params} for params in after]
    for key, p in probe.params.items():
        if trajectory[0][key].shape != p.shape:
            raise SideFailed(f"{name} returned {key} {trajectory[0][key].shape}, must be {p.shape}")
    return trajectory
