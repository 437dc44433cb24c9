"""Reference code: an optimiser step as a line of torch.optim and of optax, with what each of them cannot express.

    code(spec.Adam(1e-3, weight_decay=0.01, decoupled=True))["torch"].text
        torch.optim.AdamW(params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)

Every default in which the two differ is written out. A text is an expression of `params`, `torch`, `optax` and, if the rate is
not constant, `schedule`, a function of the number of steps made. Tests run it beside the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import CosineRate, LinearRate, Schedule, WarmUp, rate
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

Lacks = list[tuple[bool, str]]


@dataclass(frozen=True)
class Code:
    """A step as code of one framework.

    Attributes:
        text: an expression; of torch a tuple, if something is called or stepped beside the optimiser.
        lacks: what the framework's own optimisers cannot do; the text omits it.
        backend: our backend, whose `optimizer(step, layer)` supports all of it.
    """

    text: str
    lacks: tuple[str, ...] = ()
    backend: str = "torch_impl"

    def __str__(self) -> str:
        return self.text + (f"    # but not {', '.join(self.lacks)}: {self.backend}.optimizer has it" if self.lacks else "")


def code(step: Step) -> dict[str, Code]:
    """Return the step as code of torch.optim and of optax."""
    return {"torch": _torch(step), "optax": _optax(step)}


def _torch(step: Step) -> Code:
    core, lacks = _TORCH[type(step)](step)
    parts = [f"lambda: {_torch_clip(step)}"] if step.clip else []
    parts.append(core)
    if isinstance(step.learning_rate, Schedule):
        parts[-1] = f"optimizer := {core}"
        parts.append(f"torch.optim.lr_scheduler.LambdaLR(optimizer, {_schedule(step)})")
    lacks += [
        (step.gradient_scale != 1, f"a gradient times {step.gradient_scale:.6g}"),
        (not step.decay_times_rate and bool(step.weight_decay), "a decay without the learning rate"),
        (step.clip is not None and step.clip.by != "value" and step.clip.eps != 1e-6, "a clip whose eps is not 1e-6"),
    ]
    return _made(f"({', '.join(parts)})" if len(parts) > 1 else parts[0], lacks)


def _torch_clip(step: Step) -> str:
    if step.clip is None:
        return ""
    name = {"global norm": "clip_grad_norm_(params", "tensor norm": "clip_grad_norm_([p]", "value": "clip_grad_value_(params"}
    call = f"torch.nn.utils.{name[step.clip.by]}, {step.clip.most!r})"
    return f"[{call} for p in params]" if step.clip.by == "tensor norm" else call


def _torch_call(name: str, step: Step, lacks: Lacks, **options: Any) -> tuple[str, Lacks]:
    constant = not isinstance(step.learning_rate, Schedule)
    options = {"lr": step.learning_rate if constant else 1.0, **options}
    groups = "params"
    if step.weight_decay and step.decayed == "matrices":
        groups = (
            f"[{{'params': [p for p in params if p.ndim > 1], 'weight_decay': {step.weight_decay!r}}},"
            " {'params': [p for p in params if p.ndim < 2], 'weight_decay': 0.0}]"
        )
    else:
        options["weight_decay"] = step.weight_decay
    return f"torch.optim.{name}({groups}, {_words(options)})", lacks


def _torch_sgd(step: SGD) -> tuple[str, Lacks]:
    lacks = [
        (step.decoupled and step.weight_decay > 0, "a decoupled decay"),
        (step.debias, "a mean of gradients without bias"),
        (step.first_damped and step.dampening > 0, "dampening of the first gradient"),
        (step.rate_in_sum and step.momentum > 0, "the learning rate inside the sum"),
    ]
    return _torch_call("SGD", step, lacks, momentum=step.momentum, dampening=step.dampening, nesterov=step.nesterov)


def _torch_adam(step: Adam) -> tuple[str, Lacks]:
    lacks = [
        (step.eps_root > 0, "an eps inside the root"),
        (not step.eps_corrected, "an eps before the correction"),
        (not step.bias_correction, "means without correction"),
        (step.nesterov, "optax's Nesterov step (torch.optim.NAdam has a schedule of its own)"),
        (step.amsgrad == "corrected", "the largest corrected mean square"),
    ]
    options = {"betas": (step.b1, step.b2), "eps": step.eps, **({"amsgrad": True} if step.amsgrad else {})}
    return _torch_call("AdamW" if step.decoupled else "Adam", step, lacks, **options)


def _torch_rmsprop(step: RMSprop) -> tuple[str, Lacks]:
    lacks = [
        (step.decoupled and step.weight_decay > 0, "a decoupled decay"),
        (step.eps_root > 0, "an eps inside the root"),
        (step.initial > 0, "a first mean square"),
        (step.rate_in_sum and step.momentum > 0, "the learning rate inside the sum"),
    ]
    options = {"alpha": step.decay, "eps": step.eps, "momentum": step.momentum, "centered": step.centered}
    return _torch_call("RMSprop", step, lacks, **options)


def _torch_adagrad(step: Adagrad) -> tuple[str, Lacks]:
    lacks = [(step.decoupled and step.weight_decay > 0, "a decoupled decay"), (step.eps_root > 0, "an eps inside the root")]
    return _torch_call("Adagrad", step, lacks, initial_accumulator_value=step.initial, eps=step.eps)


def _torch_lion(step: Lion) -> tuple[str, Lacks]:
    del step
    return "torch_impl.optimizer(step, layer)", [(True, "Lion by torch.optim, which has none")]


def _torch_adafactor(step: Adafactor) -> tuple[str, Lacks]:
    lacks = [
        (step.eps > 0, "an eps added to squares"),
        (not step.floor, "a root without a least value"),
        (not step.relative, "a rate without its cap of 1 / sqrt t"),
        (not step.scaled, "a rate that is not relative to the parameter"),
        (step.most_rms is None or step.most_rms < 1, "updates bounded by less than 1, or not at all"),
        (step.b1 > 0, "a mean of updates"),
        (step.steps_before > 0, "a decay of squares that has begun before"),
        (step.least_factored > 1 or step.factored_axes == "largest", "a choice of what is factored"),
        (step.weight_decay > 0 and not step.decoupled, "a coupled decay"),
    ]
    options = {"beta2_decay": -step.decay_exponent, "eps": (step.floor, step.least_scale), "d": max(step.most_rms or 1.0, 1.0)}
    return _torch_call("Adafactor", step, lacks, **options)


_TORCH: dict[type[Step], Callable[[Any], tuple[str, Lacks]]] = {
    SGD: _torch_sgd,
    Adam: _torch_adam,
    RMSprop: _torch_rmsprop,
    Adagrad: _torch_adagrad,
    Lion: _torch_lion,
    Adafactor: _torch_adafactor,
}


def _optax(step: Step) -> Code:
    core, lacks = _OPTAX[type(step)](step)
    rate = _schedule(step) if isinstance(step.learning_rate, Schedule) else repr(step.learning_rate)
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
    return _made(f"optax.chain({', '.join(parts)})" if len(parts) > 1 else parts[0], lacks, "jax_impl")


def _apart(step: Step) -> bool:
    """Return whether the rate's factor is summed up, or has a rate of its own: then a decay must come after it."""
    return isinstance(step, Adafactor) or (isinstance(step, RMSprop) and step.rate_in_sum and step.momentum > 0)


def _weight(step: Step, rate: str) -> str:
    """Return how much of a parameter is added to a gradient, or to an update."""
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
    rate = repr(step.learning_rate) if constant else f"({_schedule(step)})(n)"
    capped = f"lambda n: jax.numpy.minimum({rate}, (n + 1.0) ** -0.5)"
    plain = rate if constant else _schedule(step)
    options = {
        "decay_rate": step.decay_exponent,
        "min_dim_size_to_factor": step.least_factored,
        "epsilon": step.eps,
    }
    # optax's own function of steps rounds to float32.
    share = f"decay_rate_fn=lambda n, c: 1.0 - (n + {1.0 + step.steps_before!r}) ** -c"
    core = [f"optax.scale_by_factored_rms({_words(options)}, {share})"]
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
        return [f"optax.scale_by_amsgrad({_words(options)})"], lacks
    return [f"optax.scale_by_adam({_words({**options, **({'nesterov': True} if step.nesterov else {})})})"], lacks


def _optax_rmsprop(step: RMSprop) -> tuple[list[str], Lacks]:
    inside = step.eps_root > 0
    options = {"decay": step.decay, "eps": step.eps_root or step.eps, "initial_scale": step.initial, "eps_in_sqrt": inside}
    name = "scale_by_stddev" if step.centered else "scale_by_rms"
    return [f"optax.{name}({_words(options)})"], [(inside and step.eps > 0, "an eps inside the root and another outside")]


def _optax_adagrad(step: Adagrad) -> tuple[list[str], Lacks]:
    options = {"initial_accumulator_value": step.initial, "eps": step.eps_root}
    return [f"optax.scale_by_rss({_words(options)})"], [(step.eps > 0, "an eps outside the root")]


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


def _schedule(step: Step) -> str:
    return f"lambda n: schedule(n + {step.first_count})" if step.first_count else "schedule"


def schedule_code(step: Step) -> dict[str, str]:
    """Return the schedule of a step, a function of the number of steps made, as code of each framework; empty if it has none.

    torch's is a plain function for `LambdaLR`, whose rates multiply the optimiser's `lr` of 1.
    """
    if not isinstance(step.learning_rate, Schedule):
        return {}
    return {"torch": f"lambda n: {_rate(step.learning_rate, 'n')}", "optax": _optax_schedule(step.learning_rate)}


def _rate(schedule: Schedule | float, n: str) -> str:
    """Return a rate as an expression of the number of steps made, in Python and `math`."""
    match schedule:
        case LinearRate(first, last, steps):
            return f"{first!r} + ({last!r} - {first!r}) * min({n}, {steps}) / {steps}"
        case CosineRate(first, steps, last):
            cosine = f"(1 + math.cos(math.pi * min({n}, {steps}) / {steps})) / 2"
            return f"{last!r} + ({first!r} - {last!r}) * {cosine}"
        case WarmUp(steps, then):
            return f"{rate(then, 0)!r} * {n} / {steps} if {n} < {steps} else {_rate(then, f'({n} - {steps})')}"
        case Schedule():
            return f"schedule.rate({n})"
        case _:
            return repr(schedule)


def _optax_schedule(schedule: Schedule | float) -> str:
    match schedule:
        case LinearRate(first, last, steps):
            return f"optax.linear_schedule({first!r}, {last!r}, {steps})"
        case CosineRate(first, steps, last):
            return f"optax.cosine_decay_schedule({first!r}, {steps}, {last / first if first else 0.0!r})"
        case WarmUp(steps, then):
            warm = f"optax.linear_schedule(0.0, {rate(then, 0)!r}, {steps})"
            return f"optax.join_schedules([{warm}, {_optax_schedule(then)}], [{steps}])"
        case Schedule():
            return "schedule.rate"
        case _:
            return f"optax.constant_schedule({schedule!r})"


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _made(text: str, lacks: Lacks, backend: str = "torch_impl") -> Code:
    return Code(text, tuple(words for lacking, words in lacks if lacking), backend)
