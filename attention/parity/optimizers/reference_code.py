"""Reference code: an optimiser step as a line of torch.optim and of optax, with what each of them cannot express.

    code(spec.optimizers.Adam(1e-3, weight_decay=0.01, decoupled=True))["torch"].text
        torch.optim.AdamW(params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)

Every default in which the two differ is written out. A text is an expression of `params`, `torch`, `optax` and, if the rate is
not constant, `schedule`, a function of the number of steps made. Tests run it beside the formula.
"""

from __future__ import annotations

from attention.parity.optimizers.framework_code import Code
from attention.parity.optimizers.optax_code import optax_code
from attention.parity.optimizers.torch_code import torch_code
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import CosineRate, LinearRate, Schedule, WarmUp, rate


def code(step: Step) -> dict[str, Code]:
    """Return the step as code of torch.optim and of optax."""
    return {"torch": torch_code(step), "optax": optax_code(step)}


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
