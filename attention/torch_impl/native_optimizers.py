"""Optimizers that torch has: the class of `torch.optim` that makes exactly a step of `spec.optimizers`, and its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, RMSprop

Native = tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]] | None
"""A class of `torch.optim` and its options; None where torch lacks the step."""


def _sgd(step: SGD, rank: int) -> Native:
    del rank
    damped = step.dampening > 0 and (step.first_damped or step.nesterov)
    if step.momentum and (step.debias or step.rate_in_sum or damped):
        return None
    options = {"momentum": step.momentum, "dampening": step.dampening, "nesterov": step.nesterov}
    return torch.optim.SGD, options if step.momentum else {}


def _adam(step: Adam, rank: int) -> Native:
    del rank
    if step.eps_root or not step.eps_corrected or not step.bias_correction or step.nesterov or step.amsgrad == "corrected":
        return None
    kind = torch.optim.AdamW if step.decoupled and step.decay_times_rate else torch.optim.Adam
    return kind, {"betas": (step.b1, step.b2), "eps": step.eps, "amsgrad": step.amsgrad == "raw"}


def _rmsprop(step: RMSprop, rank: int) -> Native:
    del rank
    if step.eps_root or step.initial or (step.rate_in_sum and step.momentum):
        return None
    options = {"alpha": step.decay, "eps": step.eps, "momentum": step.momentum, "centered": step.centered}
    return torch.optim.RMSprop, options


def _adagrad(step: Adagrad, rank: int) -> Native:
    del rank
    # Without an eps, torch divides 0 by 0 where there never was a gradient.
    if step.eps_root or not step.eps:
        return None
    return torch.optim.Adagrad, {"initial_accumulator_value": step.initial, "eps": step.eps}


def _adafactor(step: Adafactor, rank: int) -> Native:
    most = step.most_rms or 0.0
    shaped = step.least_factored == 1 and (step.factored_axes == "last" or rank < 3)
    bounded = step.relative and step.scaled and most >= 1.0 and not step.eps and step.floor > 0
    decays = not step.weight_decay or (step.decoupled and step.decay_times_rate)
    if step.b1 or step.steps_before or not (shaped and bounded and decays):
        return None
    return torch.optim.Adafactor, {
        "beta2_decay": -step.decay_exponent,
        "eps": (step.floor, step.least_scale),
        "d": most,
    }


NATIVE: dict[type[Step], Callable[[Any, int], Native]] = {
    SGD: _sgd,
    Adam: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adafactor: _adafactor,
}


def native(step: Step, rank: int) -> Native:
    """Return the optimizer of `torch.optim` that makes exactly this step on parameters of at most `rank` axes."""
    make = NATIVE.get(type(step))
    return make(step, rank) if make else None
