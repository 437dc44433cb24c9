"""Adafactor: second moments of a matrix factored into row and column means; one step, with the options of torch and optax.

    b_t = 1 - (t + steps_before)^-decay_exponent                   G = g^2 + eps
    R <- b_t R + (1 - b_t) mean_j G_ij      C <- b_t C + (1 - b_t) mean_i G_ij      V_ij = R_i C_j / max(mean R, floor)
    v <- b_t v + (1 - b_t) G                                                        V = v  if not factored
    U = g / max(sqrt V, floor)                     U <- U / max(1, RMS(U) / most_rms)
    r_t = min(r, 1 / sqrt t) if relative, else r        r_t <- r_t max(least_scale, RMS(p)) if scaled
    b <- b1 b + (1 - b1) r_t U                     p <- p - b

Three programs of this name are three methods; each difference is an option here, and neither framework has all of them:

    what                              paper, arXiv:1804.04235     torch.optim.Adafactor     optax.adafactor
    eps added to g^2                  1e-30                       none: `eps=0`             1e-30
    least mean R and root of V        none                        `floor` = eps[0], 1.2e-7  none: `floor=0`
    rate                              min(1e-2, 1 / sqrt t)       min(lr, 1 / sqrt t)       lr: `relative=False`
    what is factored                  matrices                    ranks >= 2                both axes >= 128: `least_factored`
    axes of rank >= 3                                             the last two              the two largest: `factored_axes`
    mean of updates                   b1                          none                      momentum, of r_t U
    step of b_t                       t                           t                         t - decay_offset: `steps_before`
    decay                                                         r w p, r without its cap  w p: `decay_times_rate=False`

References:
    Shazeer and Stern, arXiv:1804.04235, algorithms 4 to 6. torch.optim 2.13, optax 0.2.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final, get_args

import numpy as np

from attention.spec.axes import Array
from attention.spec.optimizers.optimizer import SHARE, SIZE, Arrays, State, Step
from attention.spec.options import FLOATS, NAMESPACE, SHAPE, Option, checked, number, one_of, whole

FactoredAxes = Literal["last", "largest"]


@final
@dataclass(frozen=True, kw_only=True)
class Adafactor(Step):
    """The gradient over a root mean square that is stored as a row and a column.

    Args:
        decay_exponent: of the share b_t of the old mean squares; >= 0. The first step keeps nothing of them.
        steps_before: steps that b_t counts before the first one; optax's decay_offset is minus this.
        eps: added to squared gradients, as in the paper and optax.
        floor: the least mean of R and the least root of V, as in torch.
        most_rms: the bound on the root mean square of an update; > 0, or None.
        relative: whether the rate is at most 1 / sqrt t.
        scaled: whether the rate is relative to the size of the parameter.
        least_scale: the least such size.
        b1: share of the old mean of updates; 0 keeps none.
        least_factored: the least size of both axes of a factored parameter; optax has 128, torch 1.
        factored_axes: which two axes of a higher rank: the "last" (torch) or the "largest" (optax).
    """

    decay_exponent: float = 0.8
    steps_before: int = 0
    eps: float = 1e-30
    floor: float = 0.0
    most_rms: float | None = 1.0
    relative: bool = True
    scaled: bool = True
    least_scale: float = 1e-3
    b1: float = 0.0
    least_factored: int = 1
    factored_axes: FactoredAxes = "last"

    MOMENTS: ClassVar[tuple[str, ...]] = ("R", "C", "v", "b")
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **Step.OPTIONS,
        "b1": SHARE,
        **dict.fromkeys(("decay_exponent", "eps", "floor", "least_scale"), SIZE),
        "most_rms": number(above=0) | " or None",
        "steps_before": whole(0),
        "least_factored": whole(1, wanted="an int >= 1"),
        "factored_axes": one_of(*get_args(FactoredAxes), wanted="'last' or 'largest'"),
    }
    ELEMENTWISE: ClassVar[bool] = False

    @checked(shape=SHAPE)
    def factored(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the two axes by which an array of this shape is factored, columns last; None if it is not.

        >>> Adafactor(1e-2).factored((3, 7, 5)), Adafactor(1e-2, factored_axes="largest").factored((3, 7, 5))
        ((1, 2), (2, 1))
        """
        if len(shape) < 2:
            return None
        order = np.argsort(shape) if self.factored_axes == "largest" else range(len(shape))
        rows, columns = int(order[-2]), int(order[-1])
        return (rows, columns) if min(shape[rows], shape[columns]) >= self.least_factored else None

    @checked(xp=NAMESPACE, params=FLOATS)
    def init(self, xp: Any, params: Mapping[str, Array]) -> State:
        """Return the state before the first step; a moment that a parameter does without has one element."""
        moments: dict[str, Arrays] = {letter: {} for letter in self.MOMENTS}
        for name, p in params.items():
            none = xp.zeros_like(xp.reshape(p, (-1,))[:1])
            axes = self.factored(tuple(p.shape))
            wanted = {"v": p} if axes is None else {"R": p[_first(axes[1], p.ndim)], "C": p[_first(axes[0], p.ndim)]}
            wanted |= {"b": p} if self.b1 else {}
            for letter in self.MOMENTS:
                moments[letter][name] = xp.zeros_like(wanted.get(letter, none))
        return State(0, moments)

    def move(self, xp: Any, p: Array, g: Array, moments: Arrays, t: Any, learning_rate: Any) -> tuple[Array, Arrays]:
        fresh = (t + self.steps_before) ** -self.decay_exponent
        root, moments = self._root(xp, g * g + self.eps, moments, fresh)
        # 0 / 0 of an array that never had a gradient is no movement.
        u = g / xp.where(root == 0, xp.ones_like(root), root)
        if self.most_rms is not None:
            u = u / _at_least(xp, _rms(xp, u) / self.most_rms, 1.0)
        moved = self._rate(xp, p, t, learning_rate) * u
        if not self.b1:
            return moved, moments
        moved = self.b1 * moments["b"] + (1.0 - self.b1) * moved
        return moved, {**moments, "b": moved}

    def _root(self, xp: Any, square: Array, moments: Arrays, fresh: Any) -> tuple[Array, Arrays]:
        """Return the root mean square gradient, and the new running means."""
        axes = self.factored(tuple(square.shape))
        if axes is None:
            v = (1.0 - fresh) * moments["v"] + fresh * square
            return _at_least(xp, xp.sqrt(v), self.floor), {**moments, "v": v}
        rows, columns = axes
        r = (1.0 - fresh) * moments["R"] + fresh * xp.mean(square, axis=columns, keepdims=True)
        c = (1.0 - fresh) * moments["C"] + fresh * xp.mean(square, axis=rows, keepdims=True)
        mean = _at_least(xp, xp.mean(r, axis=rows, keepdims=True), self.floor)
        # Divided first: R C of gradients near eps is below the least float32.
        share = r / xp.where(mean == 0, xp.ones_like(mean), mean)
        return _at_least(xp, xp.sqrt(share) * xp.sqrt(c), self.floor), {**moments, "R": r, "C": c}

    def _rate(self, xp: Any, p: Array, t: Any, learning_rate: Any) -> Any:
        if self.relative:
            # A traced step is no number that `min` could compare.
            cap = t**-0.5
            learning_rate = min(learning_rate, cap) if isinstance(t, int) else xp.minimum(learning_rate, cap)
        return learning_rate * _at_least(xp, _rms(xp, p), self.least_scale) if self.scaled else learning_rate


def _first(axis: int, rank: int) -> tuple[slice, ...]:
    """Return the index that keeps the first of an axis, and all of the others."""
    return tuple(slice(0, 1) if other == axis else slice(None) for other in range(rank))


def _rms(xp: Any, x: Array) -> Array:
    return xp.sqrt(xp.mean(x * x))


def _at_least(xp: Any, x: Array, least: float) -> Array:
    return xp.where(x < least, least * xp.ones_like(x), x)
