"""An optimiser step as a line of torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention.parity.optimizers.framework_code import Code, Lacks, finished, keywords, schedule_name
from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Schedule
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop


def torch_code(step: Step) -> Code:
    """Return the step as code of torch.optim."""
    core, lacks = _TORCH[type(step)](step)
    parts = [f"lambda: {_torch_clip(step)}"] if step.clip else []
    parts.append(core)
    if isinstance(step.learning_rate, Schedule):
        parts[-1] = f"optimizer := {core}"
        parts.append(f"torch.optim.lr_scheduler.LambdaLR(optimizer, {schedule_name(step)})")
    lacks += [
        (step.gradient_scale != 1, f"a gradient times {step.gradient_scale:.6g}"),
        (not step.decay_times_rate and bool(step.weight_decay), "a decay without the learning rate"),
        (step.clip is not None and step.clip.by != "value" and step.clip.eps != 1e-6, "a clip whose eps is not 1e-6"),
    ]
    return finished(f"({', '.join(parts)})" if len(parts) > 1 else parts[0], lacks)


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
    return f"torch.optim.{name}({groups}, {keywords(options)})", lacks


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
