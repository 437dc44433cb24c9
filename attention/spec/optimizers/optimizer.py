"""One optimizer step: gradient scaling and clipping, weight decay, the update.

    g <- clip(scale g) + (w p  if the decay w is coupled)
    p <- p - r u - (r w p  if decoupled)                    r = rate(first_count + n) after n steps;  r u: `move`

Coupled decay is added to the gradient and so enters its moments; decoupled decay is applied to the parameter directly.

    matrix("q_proj.kernel", (M, H, D)) = (M, H D)        matrix("q_proj.bias", (H, D)) = (H D,)        any other = itself

is the shape that every optimizer sees, for any storage layout: a bias is a vector, and a kernel is a matrix.

References:
    Loshchilov and Hutter, arXiv:1711.05101. torch: `Adam` couples, `AdamW` does not; optax: `add_decayed_weights` before or
    after what scales the gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final, get_args

from attention.spec.axes import Array
from attention.spec.errors import OptionError, ParamError
from attention.spec.optimizers.schedules import Clip, Schedule, rate
from attention.spec.options import FLOATS, NAMESPACE, Option, check_options, checked, instance, number, one_of, whole
from attention.spec.params import Param

Arrays = dict[str, Array]
Decayed = Literal["all", "matrices"]

SIZE = number(0)
SHARE = number(0, below=1, wanted="a number >= 0 and < 1")
RATE = Option("a schedule or a finite number >= 0", lambda value: isinstance(value, Schedule) or SIZE.holds(value))


@dataclass(frozen=True, eq=False)
class State:
    """What a step leaves to the next.

    Attributes:
        count: steps made.
        moments: running sums by their letter in the equations, and then by parameter.
    """

    count: int
    moments: dict[str, Arrays]


def matrix(name: str, param: Param) -> tuple[int, ...]:
    """Return the shape in which an optimiser sees a parameter: inputs times outputs if it is a kernel, flat if it is a bias.

    >>> matrix("out_proj.kernel", Param((2, 3, 5), "HEM", inputs=2)), matrix("q_proj.bias", Param((2, 3), "HD"))
    ((6, 5), (6,))
    """
    if param.inputs:
        return math.prod(param.shape[: param.inputs]), math.prod(param.shape[param.inputs :])
    part, _, leaf = name.rpartition(".")
    # A parameter outside of every part is stored unchanged, for any name.
    return (math.prod(param.shape),) if part and leaf in ("bias", "scale") else param.shape


def matrices(params: Mapping[str, Param], arrays: Mapping[str, Array]) -> Arrays:
    """Return canonical arrays in the shapes in which an optimiser sees them."""
    return {name: arrays[name].reshape(matrix(name, param)) for name, param in params.items()}


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """What every optimiser has.

    Args:
        weight_decay: w; >= 0.
        decoupled: whether the decay joins the update and not the gradient, as in AdamW.
        decayed: what decays: "all", or "matrices", which spares biases and norms (arrays of rank 0 and 1).
        decay_times_rate: whether r multiplies a decoupled decay, as in torch and optax; in the paper it does not.
        clip: the bound on gradients, before anything else sees them.
        gradient_scale: what gradients are multiplied by: N for a loss that sums over N examples where a mean is meant.
        first_count: the first step count of the schedule.
    """

    weight_decay: float = 0.0
    decoupled: bool = False
    decayed: Decayed = "all"
    decay_times_rate: bool = True
    clip: Clip | None = None
    gradient_scale: float = 1.0
    first_count: int = 0
    learning_rate: float | Schedule = field(kw_only=False)

    MOMENTS: ClassVar[tuple[str, ...]]
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "learning_rate": RATE,
        "weight_decay": SIZE,
        "gradient_scale": number(),
        "first_count": whole(0),
        "decayed": one_of(*get_args(Decayed), wanted="'all' or 'matrices'"),
        "clip": instance(Clip, wanted="a Clip") | " or None",
    }
    ELEMENTWISE: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, f"{type(self).__name__} ")

    @checked(xp=NAMESPACE, params=FLOATS)
    def init(self, xp: Any, params: Mapping[str, Array]) -> State:
        """Return the state before the first step."""
        return State(0, {letter: {name: xp.zeros_like(p) for name, p in params.items()} for letter in self.MOMENTS})

    @final
    @checked(xp=NAMESPACE, params=FLOATS, gradients=FLOATS)
    def step(self, xp: Any, params: Mapping[str, Array], gradients: Mapping[str, Array], state: State) -> tuple[Arrays, State]:
        """Return the parameters after one more step, and what it leaves to the next.

        Args:
            xp: the arrays' namespace.
            params: by name.
            gradients: of the loss, by the same names, shaped as the parameters.
            state: of the previous step, or of `init`.

        Raises:
            ParamError: the gradients' names or shapes are not those of the parameters.
        """
        _check_gradients(params, gradients)
        self._check_state(params, state)
        gradients = {name: g * self.gradient_scale for name, g in gradients.items()}
        gradients = gradients if self.clip is None else self.clip.clipped(xp, gradients)
        after: Arrays = {}
        moments: dict[str, Arrays] = {letter: {} for letter in self.MOMENTS}
        for name, p in params.items():
            before = {letter: state.moments[letter][name] for letter in self.MOMENTS}
            learning_rate = rate(self.learning_rate, state.count + self.first_count)
            less, now = self.change(xp, p, gradients[name], before, state.count + 1, learning_rate)
            after[name] = p - less
            for letter in self.MOMENTS:
                moments[letter][name] = now[letter]
        return after, State(state.count + 1, moments)

    def _check_state(self, params: Mapping[str, Array], state: Any) -> None:
        """Raise OptionError unless a state is one of this step and of these parameters."""
        fits = isinstance(state, State) and all(set(params) <= set(state.moments.get(letter, {})) for letter in self.MOMENTS)
        if not fits:
            raise OptionError(f"state {type(state).__name__} must be what `init` or the last step of these parameters returned")

    @final
    def change(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        """Return what one parameter becomes less by in a step, decay included, and its new running sums.

        Args:
            xp: the arrays' namespace.
            p: the parameter.
            g: its gradient, scaled and clipped.
            moments: its running sums.
            t: the step, from 1; it may be traced.
            learning_rate: of this step; it may be traced.
        """
        decay = 0.0 if self.spares(p.ndim) else self.weight_decay
        if not self.decoupled:
            return self.move(xp, p, g + decay * p if decay else g, moments, t, learning_rate)
        moved, moments = self.move(xp, p, g, moments, t, learning_rate)
        return (moved + (learning_rate if self.decay_times_rate else 1.0) * decay * p if decay else moved), moments

    @checked(rank=whole(0))
    def spares(self, rank: int) -> bool:
        """Return whether an array of this rank does not decay."""
        return self.decayed == "matrices" and rank < 2

    @abstractmethod
    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        """Return r u and the new running sums of one array; `t` counts steps from 1."""


def _check_gradients(params: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
    faults = [f"no gradient of {name}" for name in params if name not in gradients]
    faults += [f"a gradient of {name}, which is no parameter" for name in gradients if name not in params]
    faults += [
        f"{name} {tuple(gradients[name].shape)} must be {tuple(p.shape)}"
        for name, p in params.items()
        if name in gradients and tuple(gradients[name].shape) != tuple(p.shape)
    ]
    if faults:
        raise ParamError("gradients do not fit: " + "; ".join(faults))
