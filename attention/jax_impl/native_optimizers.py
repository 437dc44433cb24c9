"""Optimizers that optax has: the transformations that make exactly a step of `spec.optimizers`, and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import CosineRate, LinearRate, Schedule, WarmUp
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

Pieces = list[Any] | None
"""Transformations of optax, one after another; None where optax lacks the step."""


def rate_at(rate: Any, count: Any) -> Any:
    """Return the learning rate after so many steps."""
    return rate(count) if callable(rate) else rate


def schedule(optax: Any, step: Step) -> Any:
    """Return the learning rate as optax takes it: a number, or a function of the steps made."""
    if not isinstance(step.learning_rate, Schedule):
        return step.learning_rate
    made = _schedule(optax, step.learning_rate)
    # An integer over an integer is float32, whatever the parameters are.
    return lambda count: made(count + float(step.first_count))


def _schedule(optax: Any, rate: Schedule | float) -> Any:
    if isinstance(rate, LinearRate):
        return optax.linear_schedule(rate.first, rate.last, rate.steps)
    if isinstance(rate, CosineRate):
        # optax's cosine ends at a share of where it begins, which may be 0.
        fall = optax.cosine_decay_schedule(1.0, rate.steps)
        return lambda count: rate.last + (rate.first - rate.last) * fall(count)
    if isinstance(rate, WarmUp):
        peak = rate.then.rate(0) if isinstance(rate.then, Schedule) else rate.then
        return optax.join_schedules([optax.linear_schedule(0.0, peak, rate.steps), _schedule(optax, rate.then)], [rate.steps])
    if isinstance(rate, Schedule):
        # A user's schedule is Python code, called at every step.
        kind = jax.ShapeDtypeStruct((), jnp.result_type(float))
        return lambda count: jax.pure_callback(lambda n: jnp.asarray(rate.rate(int(n)), kind.dtype), kind, count)
    return optax.constant_schedule(rate)


def _sgd(optax: Any, step: SGD, rank: int) -> Pieces:
    del rank
    if not step.momentum:
        return [optax.scale_by_learning_rate(schedule(optax, step))] if step.rate_in_sum else []
    if not step.dampening:
        if step.debias:
            return None
        before = [optax.scale_by_learning_rate(schedule(optax, step))] if step.rate_in_sum else []
        return [*before, optax.trace(step.momentum, nesterov=step.nesterov)]
    mean = step.dampening == step.momentum and step.first_damped
    return [optax.ema(step.momentum, debias=step.debias)] if mean and not (step.nesterov or step.rate_in_sum) else None


def _adam(optax: Any, step: Adam, rank: int) -> Pieces:
    del rank
    if not step.eps_corrected or not step.bias_correction or step.amsgrad == "raw" or (step.amsgrad and step.nesterov):
        return None
    options = {"b1": step.b1, "b2": step.b2, "eps": step.eps, "eps_root": step.eps_root}
    return [optax.scale_by_amsgrad(**options) if step.amsgrad else optax.scale_by_adam(**options, nesterov=step.nesterov)]


def _lion(optax: Any, step: Lion, rank: int) -> Pieces:
    del rank
    return [optax.scale_by_lion(b1=step.b1, b2=step.b2)]


def _rmsprop(optax: Any, step: RMSprop, rank: int) -> Pieces:
    del rank
    if step.eps and step.eps_root:
        return None
    scale = optax.scale_by_stddev if step.centered else optax.scale_by_rms
    inside = step.eps_root > 0
    core = scale(decay=step.decay, eps=step.eps_root or step.eps, initial_scale=step.initial, eps_in_sqrt=inside)
    rate = [optax.scale_by_learning_rate(schedule(optax, step))] if step.rate_in_sum else []
    return [core, *rate, *([optax.trace(step.momentum)] if step.momentum else [])]


def _adagrad(optax: Any, step: Adagrad, rank: int) -> Pieces:
    del rank
    return None if step.eps else [optax.scale_by_rss(initial_accumulator_value=step.initial, eps=step.eps_root)]


def _adafactor(optax: Any, step: Adafactor, rank: int) -> Pieces:
    if step.floor or not step.eps or (step.factored_axes == "last" and rank > 2):
        return None
    rate = schedule(optax, step)

    def capped(count: Any) -> Any:
        now = rate_at(rate, count)
        return jnp.minimum(now, (count + 1.0) ** -0.5) if step.relative else now

    def share(count: Any, exponent: Any) -> Any:
        # optax's own is rounded to float32 whatever the parameters are.
        return 1.0 - (count + 1.0 + step.steps_before) ** -exponent

    root = optax.scale_by_factored_rms(
        decay_rate=step.decay_exponent, min_dim_size_to_factor=step.least_factored, epsilon=step.eps, decay_rate_fn=share
    )
    bound = [optax.clip_by_block_rms(step.most_rms)] if step.most_rms else []
    scale = [optax.scale_by_param_block_rms(step.least_scale)] if step.scaled else []
    mean = [optax.ema(step.b1, debias=False)] if step.b1 else []
    return [root, *bound, optax.scale_by_learning_rate(capped), *scale, *mean]


NATIVE: dict[type[Step], Callable[[Any, Any, int], Pieces]] = {
    SGD: _sgd,
    Adam: _adam,
    Lion: _lion,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adafactor: _adafactor,
}


def native(optax: Any, step: Step, rank: int) -> Pieces:
    """Return the transformations of optax that make exactly this step on parameters of at most `rank` axes."""
    make = NATIVE.get(type(step))
    return make(optax, step, rank) if make else None
