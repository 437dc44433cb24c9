"""Optimizers in PyTorch: a step of `spec.optimizers` as a `torch.optim` optimizer, with clipping, decay and schedule.

    step = spec.optimizers.Adam(1e-3, weight_decay=0.01, decoupled=True, clip=spec.optimizers.Clip(1.0, eps=1e-6))
    made = optimizer(step, layer)
    made.zero_grad(); loss.backward(); made.step()

    step():   g <- scale g  (0 where there is none)  ->  clip  ->  lr <- r(first_count + count)  ->  inner.step()

`made.inner` is an optimiser of `torch.optim` wherever torch has the requested step. Where it has not (Lion, an eps
inside the root, Adam without bias correction ...), it is `Formula`, which runs the spec's own equation on tensors, parameter
by parameter and without a fused kernel. Nothing is approximated by an optimiser that only has the same name.

A kernel is a matrix and a bias a vector in `nn.Linear`, which is how every optimiser of ours sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import nn

from attention.spec.errors import OptionError, shown
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Clip, rate
from attention.torch_impl.native_optimizers import native

TORCH_EPS = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to a norm."""


def optimizer(step: Step, layer: nn.Module) -> Optimizer:
    """Return the optimiser of a layer's parameters.

    Args:
        step: what one step is.
        layer: any `nn.Module`; those of its parameters that want a gradient are trained.

    Raises:
        OptionError: `step` is no step, or `layer` has nothing to train.
    """
    if not isinstance(step, Step):
        raise OptionError(f"step {type(step).__name__} must be a step such as spec.optimizers.Adam")
    if not isinstance(layer, nn.Module):
        raise OptionError(f"layer {shown(layer)} must be an nn.Module")
    params = [p for p in layer.parameters() if p.requires_grad]
    if not params:
        raise OptionError(f"layer {type(layer).__name__} must have a parameter that requires a gradient")
    return Optimizer(step, params)


class Optimizer:
    """What one step of `spec` does to parameters; made by `optimizer`.

    Attributes:
        contract: the step that is meant.
        inner: what moves the parameters: an optimiser of torch.optim, or `Formula`.
        count: steps made.
    """

    def __init__(self, step: Step, params: list[nn.Parameter]) -> None:
        self.contract, self.params, self.count = step, params, 0
        self._decays_itself = True
        self.inner = self._made()

    def _made(self) -> torch.optim.Optimizer:
        step = self.contract
        found = native(step, max(p.ndim for p in self.params))
        if found is None:
            return Formula(self._groups(None), step)
        kind, options = found
        # Only these two decay apart from the gradient; what others lack is made up for in `step`.
        self._decays_itself = not step.decoupled or (kind in (torch.optim.AdamW, torch.optim.Adafactor))
        return kind(self._groups(step.weight_decay if self._decays_itself else 0.0), lr=self.learning_rate, **options)

    def _groups(self, decay: float | None) -> list[dict[str, Any]]:
        """Return what decays and what does not."""
        spared = [p for p in self.params if self.contract.spares(p.ndim)]
        others = [p for p in self.params if not self.contract.spares(p.ndim)]
        words = [{"params": others, "weight_decay": decay}, {"params": spared, "weight_decay": 0.0}]
        return [group if decay is not None else {"params": group["params"]} for group in words if group["params"]]

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return rate(self.contract.learning_rate, self.count + self.contract.first_count)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.inner.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients, which are scaled and clipped in place."""
        for p in self.params:
            # torch skips what has no gradient, decay and running means included; in JAX that gradient is 0, and so it is here.
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            if self.contract.gradient_scale != 1.0:
                _ = p.grad.mul_(self.contract.gradient_scale)
        if self.contract.clip is not None:
            clip(self.contract.clip, self.params)
        learning_rate = self.learning_rate
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        if not self._decays_itself:
            self._decay(learning_rate)
        self.inner.step()
        self.count += 1

    def _decay(self, learning_rate: float) -> None:
        share = (learning_rate if self.contract.decay_times_rate else 1.0) * self.contract.weight_decay
        for p in self.params:
            if share and not self.contract.spares(p.ndim):
                _ = p.mul_(1.0 - share)

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept for going on later."""
        return {"count": self.count, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.count = state["count"]
        self.inner.load_state_dict(state["inner"])


def clip(bound: Clip, params: Iterable[nn.Parameter]) -> None:
    """Clip the gradients of parameters in place."""
    params = [p for p in params if p.grad is not None]
    if bound.by == "value":
        nn.utils.clip_grad_value_(params, bound.most)
    elif bound.eps == TORCH_EPS:
        for together in [params] if bound.by == "global norm" else [[p] for p in params]:
            _ = nn.utils.clip_grad_norm_(together, bound.most)
    else:
        # torch's eps cannot be chosen.
        clipped = bound.clipped(xp, {str(number): p.grad for number, p in enumerate(params)})
        for number, p in enumerate(params):
            p.grad = clipped[str(number)]


class Formula(torch.optim.Optimizer):
    """The spec's equation of a step on tensors, for steps that torch.optim lacks."""

    def __init__(self, params: Any, step: Step) -> None:
        self.contract = step
        super().__init__(params, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure here
        """Move the parameters by the rate of their groups."""
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(count=0, **{k: v["p"] for k, v in self.contract.init(xp, {"p": p}).moments.items()})
                state["count"] += 1
                moments = {letter: state[letter] for letter in self.contract.MOMENTS}
                less, moments = self.contract.change(xp, p, p.grad, moments, state["count"], group["lr"])
                state.update(moments)
                p.sub_(less)
