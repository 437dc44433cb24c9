"""Optimisers by name, and their description in words.

find("adamw")            the optimisers that the command line accepts
words(Adam(1e-3))        "Adam, rate 0.001": its kind, its rate, and every option that is not the usual one
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from attention.spec.errors import UnknownName
from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Clip, CosineRate, LinearRate, Schedule, WarmUp
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

OPTIMIZERS: dict[str, Step] = {
    "adamw": Adam(1e-3, weight_decay=1e-2, decoupled=True),
    "adamw_cosine": Adam(
        WarmUp(5, CosineRate(3e-3, 45)), b2=0.95, weight_decay=0.1, decoupled=True, decayed="matrices", clip=Clip(1.0)
    ),
    "adam": Adam(1e-3),
    "sgd": SGD(0.1),
    "momentum": SGD(0.05, momentum=0.9, weight_decay=1e-4),
    "nesterov_linear": SGD(LinearRate(0.05, 0.0, 50), momentum=0.9, nesterov=True, clip=Clip(0.5, eps=1e-6)),
    "adafactor": Adafactor(1e-2),
    "lion": Lion(1e-4, weight_decay=1e-2, decoupled=True),
    "rmsprop": RMSprop(1e-3),
    "adagrad": Adagrad(1e-2),
}


def find(name: str) -> Step:
    """Return the optimiser called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in OPTIMIZERS:
        raise UnknownName.among("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def words(step: Step) -> str:
    """Return the description of a step.

    >>> words(OPTIMIZERS["adamw"])
    'Adam, rate 0.001, weight decay 0.01, decoupled'
    >>> words(SGD(LinearRate(0.1, 0.0, 50), momentum=0.9, clip=Clip(0.5)))
    'SGD, rate from 0.1 to 0 in 50 steps, clip to a global norm of 0.5, momentum 0.9'
    """
    told = [_option(field, getattr(step, field.name)) for field in fields(step) if field.name != "learning_rate"]
    return ", ".join([type(step).__name__, f"rate {_rate(step.learning_rate)}", *filter(None, told)])


def _option(field: Field[Any], value: Any) -> str:
    if value == field.default or (field.default is MISSING and not value):
        return ""
    name = field.name.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, Clip):
        return f"clip to a {value.by} of {value.most:g}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _rate(rate: Schedule | float) -> str:
    if isinstance(rate, WarmUp):
        return f"warmed up in {rate.steps} steps to {_rate(rate.then)}"
    if isinstance(rate, CosineRate):
        return f"{rate.first:g}, by a cosine to {rate.last:g} in {rate.steps} steps"
    if isinstance(rate, LinearRate):
        return f"from {rate.first:g} to {rate.last:g} in {rate.steps} steps"
    return f"{rate:g}" if isinstance(rate, (int, float)) else repr(rate)
