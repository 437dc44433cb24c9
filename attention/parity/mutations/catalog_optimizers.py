"""Mutations of an optimiser step: every one sets an option of the step's contract to a wrong value.

    operator(right step) = wrong step, or None where the step has no such option

`optimizers.hypotheses` lists those that one contract can have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from attention.parity.mutations.mutation import Mutation
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Clip, Schedule
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

StepOperator = Callable[[Any], "Step | None"]


def option(*kinds: type[Step], **options: object) -> StepOperator:
    """Return the operator that sets other options of steps of these kinds."""
    return lambda step: replace(step, **options) if isinstance(step, kinds) else None


def of(kind: type[Step] | tuple[type[Step], ...], operator: Callable[[Any], Step]) -> StepOperator:
    """Return the operator for one kind of step."""
    return lambda step: operator(step) if isinstance(step, kind) else None


def _clip(**options: object) -> StepOperator:
    return lambda step: replace(step, clip=replace(step.clip, **options)) if step.clip else None


def _clip_forgotten(step: Step) -> Step | None:
    return replace(step, clip=None) if step.clip else None


def _clip_added(step: Step) -> Step | None:
    return None if step.clip else replace(step, clip=Clip(1.0))


def _one_later(step: Step) -> Step | None:
    return replace(step, first_count=step.first_count + 1) if isinstance(step.learning_rate, Schedule) else None


def _one_earlier(step: Step) -> Step | None:
    return replace(step, first_count=step.first_count - 1) if step.first_count else None


def _times(factor: float) -> StepOperator:
    return lambda step: replace(step, gradient_scale=step.gradient_scale * factor)


ROOTS: Final = (Adam, RMSprop, Adagrad)
SUMS: Final = (SGD, RMSprop)
NEAR_EPS = "gradients near eps"
SEVERAL = "several steps of unequal gradients"
ZEROS = "parameters that are not 0, gradients that are"
RANKS = "biases beside matrices"
LOUD = "steps above and below the bound"


def _mutation(name: str, kind: str, operator: StepOperator, story: str, source: str, revealed_by: str) -> Mutation:
    return Mutation(name, operator, kind, story, source, revealed_by=revealed_by)


def _eps(value: float, who: str) -> Mutation:
    return _mutation(f"eps {value:g}", "eps", option(*ROOTS, eps=value), f"the default of {who}", who, NEAR_EPS)


def _decay(value: float, who: str) -> Mutation:
    story = f"the default of {who}; it is not the other framework's"
    return _mutation(f"weight decay {value:g}", "weight_decay", option(Step, weight_decay=value), story, who, ZEROS)


def _share(name: str, value: float, kind: type[Step], story: str, who: str) -> Mutation:
    return _mutation(f"{name} {value:g}", name, option(kind, **{name: value}), story, who, SEVERAL)


EPSILONS = (
    _mutation("eps inside the root", "eps", of(ROOTS, lambda s: replace(s, eps=0.0, eps_root=s.eps or s.eps_root)),
        "optax.adam(eps_root=...), or optax.rmsprop as it comes: sqrt(v + eps) for sqrt(v) + eps", "optax#532, optax#417",
        NEAR_EPS),
    _mutation("eps outside the root", "eps", of(ROOTS, lambda s: replace(s, eps=s.eps_root or s.eps, eps_root=0.0)),
        "torch.optim.RMSprop for optax.rmsprop: sqrt(v) + eps for sqrt(v + eps)", "optax#532", NEAR_EPS),
    _mutation("eps before the bias correction", "eps_corrected", option(Adam, eps_corrected=False),
        "Keras and TensorFlow have the paper's epsilon hat: (sqrt(v) + eps) / sqrt(1 - b2^t)", "arXiv:1412.6980 section 2",
        NEAR_EPS),
    _mutation("eps after the bias correction", "eps_corrected", option(Adam, eps_corrected=True),
        "algorithm 1 of the paper, where epsilon hat is meant", "arXiv:1412.6980 section 2", NEAR_EPS),
    _eps(1e-8, "torch.optim.Adam and optax.adam"),
    _eps(1e-7, "keras.optimizers.Adam and optax.adagrad"),
    _eps(1e-6, "BERT's AdamW and optax.lamb"),
    _eps(1e-5, "Llama's AdamW"),
    _eps(1e-10, "torch.optim.Adagrad"),
    _mutation("eps forgotten", "eps", option(*ROOTS, eps=0.0, eps_root=0.0), "a hand-written root", "arXiv:1412.6980",
        NEAR_EPS),
)  # fmt: skip

DECAYS = (
    _mutation("coupled decay", "decoupled", option(Step, decoupled=False),
        "torch.optim.Adam(weight_decay=...) for AdamW: the decay goes through the running means",
        "arXiv:1711.05101, pytorch#104857", ZEROS),
    _mutation("decoupled decay", "decoupled", option(Step, decoupled=True),
        "AdamW for Adam(weight_decay=...), or optax.add_decayed_weights after the scaling", "arXiv:1711.05101", ZEROS),
    _decay(1e-2, "torch.optim.AdamW"),
    _decay(1e-4, "optax.adamw"),
    _decay(1e-3, "optax.lion"),
    _decay(0.0, "torch.optim.Adam, optax.adam"),
    _mutation("decay of biases and norms", "decayed", option(Step, decayed="all"),
        "no parameter groups, or no mask: arrays of rank 1 decay too", "nanoGPT configure_optimizers", RANKS),
    _mutation("no decay of biases and norms", "decayed", option(Step, decayed="matrices"),
        "parameter groups or a mask spare what should decay", "nanoGPT configure_optimizers", RANKS),
    _mutation("decay without the learning rate", "decay_times_rate",
        lambda s: replace(s, decay_times_rate=False) if s.decoupled else None,
        "the paper's decoupled decay is not multiplied by the learning rate; torch's and optax's are",
        "arXiv:1711.05101 algorithm 2", ZEROS),
)  # fmt: skip

MEANS = (
    _mutation("no bias correction", "bias_correction", option(Adam, bias_correction=False),
        "a hand-written Adam, or BERT's (correct_bias=False): the first steps are up to 3 times as long", "arXiv:2006.05987",
        SEVERAL),
    _share("b2", 0.95, Adam, "the value of GPT-3 and Llama for the default", "arXiv:2005.14165"),
    _share("b2", 0.999, Adam, "the default for the value of GPT-3 and Llama", "torch.optim.Adam"),
    _share("b2", 0.98, Adam, "the Transformer's", "arXiv:1706.03762"),
    _share("b1", 0.95, Adam, "Muon's and Lion's neighbours' for the default", "optax.contrib"),
    _share("b1", 0.0, Adam, "RMSprop for Adam", "arXiv:1412.6980 section 5"),
    _share("b2", 0.999, Lion, "Adam's for Lion's", "arXiv:2302.06675"),
    _share("b1", 0.95, Lion, "Lion's for language", "arXiv:2302.06675"),
    _mutation("b1 and b2 exchanged", "b1", of((Adam, Lion), lambda s: replace(s, b1=s.b2, b2=s.b1)),
        "positional arguments in another order", "optax.lion(lr, b1, b2) beside betas=(b1, b2)", SEVERAL),
    _mutation("AMSGrad forgotten", "amsgrad", option(Adam, amsgrad=None), "amsgrad=True was lost", "arXiv:1904.09237",
        SEVERAL),
    _mutation("AMSGrad added", "amsgrad",
        lambda s: replace(s, amsgrad="raw") if isinstance(s, Adam) and not s.amsgrad else None,
        "amsgrad=True where it is not meant", "arXiv:1904.09237", SEVERAL),
    _mutation("AMSGrad of corrected squares", "amsgrad",
        lambda s: replace(s, amsgrad="corrected") if getattr(s, "amsgrad", None) else None,
        "optax takes the largest mean square after the correction, torch before", "optax.scale_by_amsgrad", SEVERAL),
    _mutation("AMSGrad of raw squares", "amsgrad",
        lambda s: replace(s, amsgrad="raw") if getattr(s, "amsgrad", None) else None,
        "torch takes the largest mean square before the correction, optax after", "torch.optim.Adam", SEVERAL),
    _share("decay", 0.9, RMSprop, "the default of optax.rmsprop for torch's", "optax.rmsprop"),
    _share("decay", 0.99, RMSprop, "the default of torch.optim.RMSprop for optax's", "torch.optim.RMSprop"),
    _mutation("centered", "centered", option(RMSprop, centered=True), "the square of the mean is taken off",
        "arXiv:1308.0850", SEVERAL),
    _mutation("not centered", "centered", option(RMSprop, centered=False), "the square of the mean is not taken off",
        "arXiv:1308.0850", SEVERAL),
    _mutation("squares start at 0.1", "initial", option(RMSprop, Adagrad, initial=0.1), "optax.adagrad as it comes",
        "optax.adagrad", NEAR_EPS),
    _mutation("squares start at 0", "initial", option(RMSprop, Adagrad, initial=0.0), "torch.optim.Adagrad as it comes",
        "torch.optim.Adagrad", NEAR_EPS),
)  # fmt: skip

MOMENTA = (
    _mutation("momentum forgotten", "momentum", option(SGD, RMSprop, momentum=0.0), "torch's and optax's default is none",
        "torch.optim.SGD", SEVERAL),
    _mutation("momentum 0.9", "momentum", option(SGD, RMSprop, momentum=0.9), "the usual one", "torch tutorials", SEVERAL),
    _mutation("momentum 0.99", "momentum", option(SGD, RMSprop, momentum=0.99), "one nine more", "nnU-Net", SEVERAL),
    _mutation("Nesterov forgotten", "nesterov", option(SGD, Adam, nesterov=False),
        "the default of both frameworks is False", "torch.optim.SGD", SEVERAL),
    _mutation("Nesterov added", "nesterov", option(SGD, Adam, nesterov=True),
        "optax.nadam for optax.adam, nesterov=True for momentum", "optax.sgd", SEVERAL),
    _mutation("dampening", "dampening", of(SGD, lambda s: replace(s, dampening=s.momentum, first_damped=False)),
        "torch.optim.SGD(dampening=momentum), whose first gradient is not damped; optax.sgd has none", "torch.optim.SGD",
        SEVERAL),
    _mutation("no dampening", "dampening", option(SGD, dampening=0.0, first_damped=False, debias=False),
        "optax.trace sums gradients where torch's dampening, or optax.ema, has a mean", "optax.trace", SEVERAL),
    _mutation("momentum as a mean", "dampening",
        of(SGD, lambda s: replace(s, dampening=s.momentum, first_damped=True, debias=False)),
        "optax.ema(debias=False) for optax.trace: m <- mu m + (1 - mu) g", "optax.ema", SEVERAL),
    _mutation("momentum as a mean without bias", "dampening",
        of(SGD, lambda s: replace(s, dampening=s.momentum, first_damped=True, debias=True)),
        "optax.ema as it comes for optax.trace", "optax.ema", SEVERAL),
    _mutation("learning rate inside the momentum", "rate_in_sum", lambda s: _in_sum(s, inside=True),
        "v <- mu v + r g as in Sutskever et al., TensorFlow and optax.rmsprop: an old step keeps its old rate",
        "torch.optim.SGD, note", "a rate that changes"),
    _mutation("learning rate outside the momentum", "rate_in_sum", lambda s: _in_sum(s, inside=False),
        "p <- p - r v as torch has it: old gradients take the new rate", "torch.optim.SGD, note", "a rate that changes"),
)  # fmt: skip

AROUND = (
    _mutation("schedule one step ahead", "first_count", _one_later,
        "the scheduler steps before the optimiser, or counts from 1", "torch.optim.lr_scheduler, since 1.1",
        "a rate that changes"),
    _mutation("schedule one step behind", "first_count", _one_earlier, "the schedule counts from 0 where 1 is meant",
        "optax.scale_by_schedule", "a rate that changes"),
    _mutation("clip forgotten", "clip", _clip_forgotten, "clip_grad_norm_ was not called, or after the step",
        "torch.nn.utils", LOUD),
    _mutation("clip added", "clip", _clip_added, "a recipe's clip of 1 where none is meant",
        "transformers.Trainer max_grad_norm", LOUD),
    _mutation("clip of each tensor's norm", "clip", _clip(by="tensor norm"), "a loop over parameters around the clip",
        "torch.nn.utils", LOUD),
    _mutation("clip of the norm of all", "clip", _clip(by="global norm"), "one clip for what is to be clipped singly",
        "optax", LOUD),
    _mutation("clip by value", "clip", _clip(by="value"), "optax.clip, or clip_grad_value_, for the clip of a norm",
        "optax.clip", LOUD),
    _mutation("clip's eps forgotten", "clip", _clip(eps=0.0), "optax divides by the norm", "optax.clip_by_global_norm",
        LOUD),
    _mutation("clip's eps 1e-6", "clip", _clip(eps=1e-6), "torch divides by the norm + 1e-6",
        "torch.nn.utils.clip_grad_norm_", LOUD),
    _mutation("gradients summed over 8 examples", "gradient_scale", _times(8.0),
        "a sum over the batch where a mean is meant", "torch reduction='sum'", NEAR_EPS),
    _mutation("gradients averaged over 8 examples", "gradient_scale", _times(1 / 8),
        "a mean over the batch where a sum is meant", "jnp.mean", NEAR_EPS),
    _mutation("gradients of the wrong sign", "gradient_scale", _times(-1.0), "optax.scale(r) for optax.scale(-r)",
        "optax.scale", SEVERAL),
)  # fmt: skip


def _in_sum(step: Step, *, inside: bool) -> Step | None:
    moves = isinstance(step, SUMS) and step.momentum and isinstance(step.learning_rate, Schedule)
    return replace(step, rate_in_sum=inside) if moves else None


STEP_MUTATIONS = (*EPSILONS, *DECAYS, *MEANS, *MOMENTA, *AROUND)
