"""One optimizer step of SGD, Adam, Lion, RMSprop and Adagrad.

    p <- p - r u        r = learning rate of step t = 1, 2, ...;  clipping and decay are every optimiser's: `optimizer`

    SGD        b <- mu b + (1 - d) g,  b = g at t = 1        u = b, or g + mu b with nesterov, or g without momentum mu
    Adam       m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
               u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t) + eps_root) + eps)
    Lion       u = sign(b1 m + (1 - b1) g)      then m <- b2 m + (1 - b2) g
    RMSprop    v <- a v + (1 - a) g^2      u = g / (sqrt(v + eps_root) + eps), with momentum b <- mu b + u
    Adagrad    v <- v + g^2                u = g / (sqrt(v + eps_root) + eps)

Every option is a place where torch, optax or the paper disagree. Parameters are dicts of arrays of one framework; a step
returns new ones and writes over none.

References:
    Kingma and Ba, arXiv:1412.6980 (Adam); Loshchilov and Hutter, arXiv:1711.05101 (decoupled decay); Reddi et al.,
    arXiv:1904.09237 (AMSGrad); Dozat, Incorporating Nesterov Momentum into Adam, 2016; Chen et al., arXiv:2302.06675
    (Lion); Duchi et al., JMLR 12, 2011 (Adagrad). The options are those of torch.optim 2.13 and optax 0.2.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final, get_args

from attention.spec.axes import Array
from attention.spec.optimizers.optimizer import SHARE, SIZE, Arrays, State, Step
from attention.spec.options import FLOATS, NAMESPACE, Option, checked, one_of

AMSGrad = Literal["raw", "corrected"]
AMSGRAD = one_of(*get_args(AMSGrad), wanted="'raw', 'corrected'") | " or None"


@final
@dataclass(frozen=True, kw_only=True)
class SGD(Step):
    """Steepest descent with momentum.

    Args:
        momentum: mu; >= 0 and < 1.
        dampening: d; momentum itself makes the running sum an average.
        first_damped: whether the first gradient is damped too, as optax.ema does and torch does not.
        debias: whether the running average is divided by 1 - mu^t, as optax.ema does by default.
        nesterov: whether the gradient is added to the running sum once more.
        rate_in_sum: whether r is multiplied in before the sum is taken, as Sutskever et al. do. It matters once r changes.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    first_damped: bool = False
    debias: bool = False
    nesterov: bool = False
    rate_in_sum: bool = False

    MOMENTS: ClassVar[tuple[str, ...]] = ("b",)
    OPTIONS: ClassVar[Mapping[str, Option]] = {**Step.OPTIONS, "momentum": SHARE, "dampening": SHARE}

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        if not self.momentum:
            return learning_rate * g, moments
        g = learning_rate * g if self.rate_in_sum else g
        # No branch: t may be traced.
        damped = 1.0 if self.first_damped else t > 1
        b = self.momentum * moments["b"] + (1.0 - self.dampening * damped) * g
        u = b / _correction(xp, b, self.momentum, t) if self.debias else b
        u = g + self.momentum * u if self.nesterov else u
        return (u if self.rate_in_sum else learning_rate * u), {"b": b}


@final
@dataclass(frozen=True, kw_only=True)
class Adam(Step):
    """Running means of the gradient and of its square.

    Args:
        b1: share of the old mean; >= 0 and < 1.
        b2: share of the old mean square.
        eps: added to the root.
        eps_root: added below the root.
        eps_corrected: whether eps is added after the correction, as in algorithm 1; otherwise it is the paper's "epsilon hat",
            which Keras has: (sqrt(v) + eps) / sqrt(1 - b2^t).
        bias_correction: whether the means are divided by 1 - b^t.
        amsgrad: whether the mean square never shrinks: the largest "raw" one (torch), or the largest "corrected" one (optax).
        nesterov: whether the mean looks one step ahead, as in optax.nadam.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0
    eps_corrected: bool = True
    bias_correction: bool = True
    amsgrad: AMSGrad | None = None
    nesterov: bool = False

    MOMENTS: ClassVar[tuple[str, ...]] = ("m", "v", "most")
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **Step.OPTIONS,
        "b1": SHARE,
        "b2": SHARE,
        "eps": SIZE,
        "eps_root": SIZE,
        "amsgrad": AMSGRAD,
    }

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        m = self.b1 * moments["m"] + (1.0 - self.b1) * g
        v = self.b2 * moments["v"] + (1.0 - self.b2) * g * g
        c = self._corrections(xp, v, t)
        most = xp.maximum(moments["most"], v / c[2] if self.amsgrad == "corrected" else v)
        square = v / c[2] if self.amsgrad is None else most if self.amsgrad == "corrected" else most / c[2]
        mean = self.b1 * m / c[1] + (1.0 - self.b1) * g / c[0] if self.nesterov else m / c[0]
        eps = self.eps if self.eps_corrected else self.eps / xp.sqrt(c[2])
        return learning_rate * mean / (xp.sqrt(square + self.eps_root) + eps), {"m": m, "v": v, "most": most}

    def _corrections(self, xp: Any, like: Array, t: Any) -> tuple[Array, Array, Array]:
        """Return 1 - b1^t, 1 - b1^(t + 1) and 1 - b2^t, or ones."""
        if not self.bias_correction:
            one = xp.asarray(1.0, dtype=like.dtype)
            return one, one, one
        return tuple(_correction(xp, like, share, n) for share, n in ((self.b1, t), (self.b1, t + 1), (self.b2, t)))


@final
@dataclass(frozen=True, kw_only=True)
class Lion(Step):
    """The sign of a mean of gradients.

    Args:
        b1: share of the running mean in the sign.
        b2: share of the old in the running mean.
    """

    b1: float = 0.9
    b2: float = 0.99

    MOMENTS: ClassVar[tuple[str, ...]] = ("m",)
    OPTIONS: ClassVar[Mapping[str, Option]] = {**Step.OPTIONS, "b1": SHARE, "b2": SHARE}

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        u = xp.sign(self.b1 * moments["m"] + (1.0 - self.b1) * g)
        return learning_rate * u, {"m": self.b2 * moments["m"] + (1.0 - self.b2) * g}


@final
@dataclass(frozen=True, kw_only=True)
class RMSprop(Step):
    """The gradient over its running root mean square.

    Args:
        decay: a, the share of the old mean square; >= 0 and < 1. torch has 0.99, optax 0.9.
        eps: added to the root, as torch does.
        eps_root: added below the root, as optax does with its eps by default.
        initial: the first mean square.
        centered: whether the square of the running mean is taken off first.
        momentum: mu.
        rate_in_sum: whether r is multiplied in before the momentum's sum is taken, as optax does. It matters once r changes.
    """

    decay: float = 0.99
    eps: float = 1e-8
    eps_root: float = 0.0
    initial: float = 0.0
    centered: bool = False
    momentum: float = 0.0
    rate_in_sum: bool = False

    MOMENTS: ClassVar[tuple[str, ...]] = ("m", "v", "b")
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **Step.OPTIONS,
        "decay": SHARE,
        "momentum": SHARE,
        "eps": SIZE,
        "eps_root": SIZE,
        "initial": SIZE,
    }

    @checked(xp=NAMESPACE, params=FLOATS)
    def init(self, xp: Any, params: Mapping[str, Array]) -> State:
        """Return the state before the first step."""
        return _started(super().init(xp, params), self.initial)

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        m = self.decay * moments["m"] + (1.0 - self.decay) * g
        v = self.decay * moments["v"] + (1.0 - self.decay) * g * g
        square = v - m * m if self.centered else v
        u = g / (xp.sqrt(square + self.eps_root) + self.eps)
        u = learning_rate * u if self.rate_in_sum else u
        b = self.momentum * moments["b"] + u
        return (b if self.rate_in_sum else learning_rate * b), {"m": m, "v": v, "b": b}


@final
@dataclass(frozen=True, kw_only=True)
class Adagrad(Step):
    """The gradient over the root of the sum of all squares so far.

    Args:
        initial: the first sum; torch has 0, optax 0.1.
        eps: added to the root, as torch does (1e-10).
        eps_root: added below the root, as optax does (1e-7).
    """

    initial: float = 0.0
    eps: float = 1e-10
    eps_root: float = 0.0

    MOMENTS: ClassVar[tuple[str, ...]] = ("v",)
    OPTIONS: ClassVar[Mapping[str, Option]] = {**Step.OPTIONS, "initial": SIZE, "eps": SIZE, "eps_root": SIZE}

    @checked(xp=NAMESPACE, params=FLOATS)
    def init(self, xp: Any, params: Mapping[str, Array]) -> State:
        """Return the state before the first step."""
        return _started(super().init(xp, params), self.initial)

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        v = moments["v"] + g * g
        # 0 / 0 of an array that never had a gradient is no movement.
        below = xp.sqrt(v + self.eps_root) + self.eps
        return learning_rate * g / xp.where(below == 0, xp.ones_like(below), below), {"v": v}


def _started(state: State, first: float) -> State:
    moments = {**state.moments, "v": {name: v + first for name, v in state.moments["v"].items()}}
    return State(state.count, moments)


def _correction(xp: Any, like: Array, share: float, t: Any) -> Array:
    """Return 1 - share^t in the dtype of `like`, because optax rounds it so: 6e-5 of it is lost in float32 at b2 = 0.999."""
    return 1.0 - xp.asarray(share, dtype=like.dtype) ** t
