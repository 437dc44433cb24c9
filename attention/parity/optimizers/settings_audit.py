"""Optimiser settings: where torch.optim and optax, asked for by the same name, are two methods.

    torch  AdamW(lr)            decays by 1e-2        optax  adamw(lr)            decays by 1e-4
    torch  RMSprop(lr)          g / (sqrt(v) + eps), alpha 0.99        optax  rmsprop(lr)  g / sqrt(v + eps), decay 0.9

An optax transformation holds its settings in closures, so that it is given as the factory and what the factory is called with.
"""

# Neither library's settings have types.
# pyright: standard

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attention.spec.errors import OptionError, UnknownName, shown

TWINS: dict[str, dict[str, str]] = {
    "Adam": {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "eps": "eps"},
    "NAdam": {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "eps": "eps"},
    "AdamW": {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "eps": "eps", "weight_decay": "weight_decay"},
    "SGD": {"lr": "learning_rate", "momentum": "momentum", "nesterov": "nesterov"},
    "RMSprop": {"lr": "learning_rate", "alpha": "decay", "eps": "eps", "momentum": "momentum", "centered": "centered"},
    "Adagrad": {"lr": "learning_rate", "eps": "eps", "initial_accumulator_value": "initial_accumulator_value"},
    "Adadelta": {"lr": "learning_rate", "rho": "rho", "eps": "eps"},
}
"""Settings that mean the same, by the class in torch.optim."""
FACTORIES = {"NAdam": "adam"}
INSIDE = {"RMSprop": "eps_in_sqrt", "Adagrad": ""}
"""Where torch adds eps to the root and optax to what is under it: always, or by the setting of this name."""


def optimizer_warnings(optimizer: Any, factory: Callable[..., Any], **settings: Any) -> tuple[str, ...]:
    """Return a line for each setting in which a torch optimiser differs from optax's, with what it may cost a step.

    Args:
        optimizer: an instance of a class in torch.optim.
        factory: the function of optax, such as `optax.adamw`; not what it returns.
        settings: what the factory is called with.

    Raises:
        OptionError: the optimiser is none of torch's, or the factory takes no such settings.
        UnknownName: there is no table for the class.
    """
    kind = type(optimizer).__name__
    if not hasattr(optimizer, "param_groups"):
        raise OptionError(f"optimizer {kind} must be an instance of a class in torch.optim")
    if kind not in TWINS:
        raise UnknownName(f"optimizer {shown(kind)} must be one of {', '.join(TWINS)}")
    theirs = _settings(factory, settings)
    found: list[str] = []
    for number, group in enumerate(optimizer.param_groups):
        where = f"{kind} group {number}" if len(optimizer.param_groups) > 1 else kind
        found += [f"optimizer: torch {where} {line}" for line in _compared(kind, _flat(group), _name(factory), theirs)]
    return tuple(found)


def _name(factory: Callable[..., Any]) -> str:
    return factory.func.__name__ if isinstance(factory, functools.partial) else factory.__name__


def _settings(factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of a factory, defaults included."""
    if not callable(factory):
        raise OptionError(f"factory {type(factory).__name__} must be a function of optax, such as optax.adamw, not its result")
    try:
        bound = inspect.signature(factory).bind_partial(**given)
    except TypeError as error:
        raise OptionError(f"settings {', '.join(given)} must be those of optax.{_name(factory)}: {error}") from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    betas = group.get("betas", (None, None))
    return {**group, "beta1": betas[0], "beta2": betas[1]}


def _compared(kind: str, ours: Mapping[str, Any], name: str, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences of one group of parameters."""
    if name != FACTORIES.get(kind, kind.lower()):
        yield f"is compared with optax.{name}, another method: an error of order 1 in each step"
        return
    rate = ours["lr"] if _is_number(ours["lr"]) else 1.0
    for mine, twin in TWINS[kind].items():
        a, b = _value(ours.get(mine)), _value(theirs.get(twin))
        if _is_number(a) and _is_number(b) and a != b:
            yield f"{mine} {a:g}, optax.{name} {twin} {b:g}: {_cost(mine, float(a), float(b), float(rate))}"
    if "weight_decay" not in TWINS[kind] and (decay := ours.get("weight_decay", 0)):
        extra = "" if theirs.get("weight_decay") in (None, 0) else ", and optax decays apart from it"
        yield (
            f"weight_decay {decay:g} is added to the gradient{extra}; optax.{name} adds none:"
            f" put optax.add_decayed_weights({decay:g}) before it, or each gradient lacks {decay:g} of its weight"
        )
    yield from _placed(kind, ours, name, theirs)


def _placed(kind: str, ours: Mapping[str, Any], name: str, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield an eps that stands in another place, and variants that only one side takes."""
    if kind in INSIDE and theirs.get(INSIDE[kind], True):
        eps = float(theirs.get("eps", 0.0))
        remedy = f"; {INSIDE[kind]}=False" if INSIDE[kind] else ""
        yield f"adds eps to the root, optax.{name} under it: as if eps were {eps**0.5:.1e} where gradients are small{remedy}"
    if root := theirs.get("eps_root"):
        yield f"has no eps under the root, optax.{name} eps_root {root:g}: as if eps were {root**0.5:.1e}"
    for variant in ("amsgrad", "dampening", "maximize", "momentum_decay"):
        if ours.get(variant):
            yield f"{variant}={ours[variant]}, which optax.{name} lacks: an error of order 1 in each step"
    if "nesterov" in theirs and "nesterov" not in TWINS[kind] and bool(theirs["nesterov"]) != (kind == "NAdam"):
        order = 1 - float(ours["beta1"] or 0)
        yield f"and optax.{name} nesterov={theirs['nesterov']}: an error of order {order:.1g} in each step"


def _value(x: Any) -> Any:
    # optax says None where torch says 0 or False.
    return 0 if x is None else x


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float))


def _cost(setting: str, ours: float, theirs: float, rate: float) -> str:
    """Return what a difference moves in one step."""
    if setting == "weight_decay":
        return f"each step moves a weight by {rate * abs(ours - theirs):.1e} of itself more on one side"
    if setting == "lr":
        return f"each step is {ours / theirs:.3g} times as long" if theirs else "one side stands still"
    if setting == "eps":
        return f"steps differ by up to {abs(ours - theirs):.0e} / |gradient|"
    return f"relative error of order {abs(ours - theirs):.2g} in each step"
