"""An optimiser step as a line of optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention.parity.optimizers.framework_code import Code, Lacks, finished, keywords, schedule_name
from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop


def optax_code(step: Step) -> Code:
    """Return the step as code of optax."""
    core, lacks = _OPTAX[type(step)](step)
    rate = schedule_name(step) if isinstance(step.learning_rate, Schedule) else repr(step.learning_rate)
    mask = ", mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)" if step.decayed == "matrices" else ""
    decay = [f"optax.add_decayed_weights({_weight(step, rate)}{mask})"] if step.weight_decay else []
    scale = [f"optax.scale({step.gradient_scale!r})"] if step.gradient_scale != 1 else []
    clip = [{"global norm": "optax.clip_by_global_norm", "value": "optax.clip"}.get(step.clip.by, "")] if step.clip else []
    clip = [f"{name}({step.clip.most!r})" for name in clip if name and step.clip]
    before, after = ([], decay) if step.decoupled else (decay, [])
    last = [] if isinstance(step, Adafactor) else [f"optax.scale_by_learning_rate({rate})"]
    momentum = getattr(step, "momentum", 0.0)
    if isinstance(step, RMSprop) and momentum:
        trace = f"optax.trace({momentum!r})"
        last = [*last, trace] if step.rate_in_sum else [trace, *last]
    # A decay without the rate as a factor, or with another rate, comes last.
    parts = [*core, *last, *after] if step.decoupled and (_apart(step) or not step.decay_times_rate) else [*core, *after, *last]
    lacks += [
        (step.clip is not None and step.clip.by == "tensor norm", "a clip of each tensor's norm"),
        (step.clip is not None and step.clip.by == "global norm" and step.clip.eps > 0, "a clip with an eps"),
    ]
    parts = [*scale, *clip, *before, *parts]
    return finished(f"optax.chain({', '.join(parts)})" if len(parts) > 1 else parts[0], lacks, "jax_impl")


def _apart(step: Step) -> bool:
    """Return whether the rate's factor is summed up, or has a rate of its own: then a decay must come after it."""
    return isinstance(step, Adafactor) or (isinstance(step, RMSprop) and step.rate_in_sum and step.momentum > 0)


def _weight(step: Step, rate: str) -> str:
    """Return the share of a parameter that is added to a gradient, or to an update."""
    if not step.decoupled or (step.decay_times_rate and not _apart(step)):
        return repr(step.weight_decay)
    if not step.decay_times_rate:
        return repr(-step.weight_decay)
    return (
        f"lambda n: {-step.weight_decay!r} * ({rate})(n)"
        if isinstance(step.learning_rate, Schedule)
        else f"{-step.weight_decay!r} * {rate}"
    )


def _optax_adafactor(step: Adafactor) -> tuple[list[str], Lacks]:
    constant = not isinstance(step.learning_rate, Schedule)
    rate = repr(step.learning_rate) if constant else f"({schedule_name(step)})(n)"
    capped = f"lambda n: jax.numpy.minimum({rate}, (n + 1.0) ** -0.5)"
    plain = rate if constant else schedule_name(step)
    options = {
        "decay_rate": step.decay_exponent,
        "min_dim_size_to_factor": step.least_factored,
        "epsilon": step.eps,
    }
    # optax's own function of steps rounds to float32.
    share = f"decay_rate_fn=lambda n, c: 1.0 - (n + {1.0 + step.steps_before!r}) ** -c"
    core = [f"optax.scale_by_factored_rms({keywords(options)}, {share})"]
    core += [f"optax.clip_by_block_rms({step.most_rms!r})"] if step.most_rms else []
    core += [f"optax.scale_by_learning_rate({capped if step.relative else plain})"]
    core += [f"optax.scale_by_param_block_rms({step.least_scale!r})"] if step.scaled else []
    core += [f"optax.ema({step.b1!r}, debias=False)"] if step.b1 else []
    lacks = [
        (step.floor > 0, "a least root and a least mean of rows"),
        (not step.eps, "squares without an eps"),
        (step.factored_axes == "last", "the last axes of arrays of rank 3 and more, unless they are the largest"),
    ]
    return core, lacks


def _optax_sgd(step: SGD) -> tuple[list[str], Lacks]:
    mean = step.dampening == step.momentum and step.first_damped
    lacks = [
        (step.dampening > 0 and not mean, "dampening that is not that of a mean (optax.ema), first gradient included"),
        (step.rate_in_sum and step.momentum > 0, "the learning rate inside the sum"),
        (mean and step.nesterov and step.momentum > 0, "a Nesterov step of a mean"),
    ]
    if not step.momentum:
        return [], []
    trace = f"optax.trace({step.momentum!r}, nesterov={step.nesterov})"
    return [f"optax.ema({step.momentum!r}, debias={step.debias})" if mean else trace], lacks


def _optax_adam(step: Adam) -> tuple[list[str], Lacks]:
    options = {"b1": step.b1, "b2": step.b2, "eps": step.eps, "eps_root": step.eps_root}
    lacks = [
        (not step.eps_corrected, "an eps before the correction"),
        (not step.bias_correction, "means without correction"),
        (step.amsgrad == "raw", "the largest raw mean square, corrected afterwards"),
        (step.amsgrad == "corrected" and step.nesterov, "a Nesterov step of AMSGrad"),
    ]
    if step.amsgrad:
        return [f"optax.scale_by_amsgrad({keywords(options)})"], lacks
    return [f"optax.scale_by_adam({keywords({**options, **({'nesterov': True} if step.nesterov else {})})})"], lacks


def _optax_rmsprop(step: RMSprop) -> tuple[list[str], Lacks]:
    inside = step.eps_root > 0
    options = {"decay": step.decay, "eps": step.eps_root or step.eps, "initial_scale": step.initial, "eps_in_sqrt": inside}
    name = "scale_by_stddev" if step.centered else "scale_by_rms"
    return [f"optax.{name}({keywords(options)})"], [(inside and step.eps > 0, "an eps inside the root and another outside")]


def _optax_adagrad(step: Adagrad) -> tuple[list[str], Lacks]:
    options = {"initial_accumulator_value": step.initial, "eps": step.eps_root}
    return [f"optax.scale_by_rss({keywords(options)})"], [(step.eps > 0, "an eps outside the root")]


def _optax_lion(step: Lion) -> tuple[list[str], Lacks]:
    return [f"optax.scale_by_lion(b1={step.b1!r}, b2={step.b2!r})"], []


_OPTAX: dict[type[Step], Callable[[Any], tuple[list[str], Lacks]]] = {
    SGD: _optax_sgd,
    Adam: _optax_adam,
    RMSprop: _optax_rmsprop,
    Adagrad: _optax_adagrad,
    Lion: _optax_lion,
    Adafactor: _optax_adafactor,
}
