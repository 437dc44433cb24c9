"""RMSNorm, LayerNorm and L2Norm: contracts and formulas over the last axis.

    RMSNorm      y = x / sqrt(mean(x^2) + eps) * g                       g = scale, or 1 + scale with offset
    LayerNorm    y = (x - mean x) / sqrt(var x + eps) * scale + bias     var = mean((x - mean x)^2), never mean(x^2) - mean(x)^2
    L2Norm       y = x / max(|x|, eps)

Over the last axis, in the compute dtype; a backend rounds to its dtype after the last product. The eps is explicit,
because libraries disagree: LayerNorm 1e-5 in torch, 1e-6 in flax, 1e-3 in keras.

References:
    Ba et al., arXiv:1607.06450 (LayerNorm); Zhang and Sennrich, arXiv:1910.07467 (RMSNorm); Henry et al.,
    arXiv:2010.04245 (queries and keys on the sphere); Gemma, arXiv:2403.08295 (1 + scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attention.spec.axes import Array
from attention.spec.errors import OptionError
from attention.spec.options import TEXT, Option, check_options, checked, number, whole
from attention.spec.params import Param

EPS = number(0)
WIDTH = whole(1)


@dataclass(frozen=True)
class RMSNorm:
    """Division by the root mean square.

    Args:
        eps: added to the mean square; >= 0.
        offset: whether the learned scale is stored as its difference from 1, as in Gemma.
    """

    eps: float = 1e-6
    offset: bool = False

    OPTIONS: ClassVar[Mapping[str, Option]] = {"eps": EPS}

    def __post_init__(self) -> None:
        check_options(self, "RMSNorm ")

    @checked(width=WIDTH, axis=TEXT)
    def params(self, width: int, axis: str = "M") -> dict[str, Param]:
        """Return the learned arrays of a norm over `width` features, whose axis letter is `axis`."""
        return {"scale": Param((width,), axis, fill=0.0 if self.offset else 1.0)}

    def normalise(self, xp: Any, weights: Mapping[str, Array], x: Array) -> Array:
        """Return `x` `(..., N)`, normalised over its last axis; `weights` holds "scale" `(N,)`, both in the compute dtype."""
        scale = weights["scale"]
        y = x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return y * (1.0 + scale if self.offset else scale)


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1, then a learned scale and bias.

    Args:
        eps: added to the variance; >= 0.
        bias: whether a bias is learned.
    """

    eps: float = 1e-5
    bias: bool = True

    OPTIONS: ClassVar[Mapping[str, Option]] = {"eps": EPS}

    def __post_init__(self) -> None:
        check_options(self, "LayerNorm ")

    @checked(width=WIDTH, axis=TEXT)
    def params(self, width: int, axis: str = "M") -> dict[str, Param]:
        """Return the learned arrays of a norm over `width` features, whose axis letter is `axis`."""
        tree = {"scale": Param((width,), axis, fill=1.0)}
        return {**tree, "bias": Param((width,), axis)} if self.bias else tree

    def normalise(self, xp: Any, weights: Mapping[str, Array], x: Array) -> Array:
        """Return `x` `(..., N)`, normalised over its last axis; `weights` holds "scale" and perhaps "bias", `(N,)`."""
        x = x - xp.mean(x, axis=-1, keepdims=True)
        y = x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + self.eps) * weights["scale"]
        return y + weights["bias"] if self.bias else y


@dataclass(frozen=True)
class L2Norm:
    """Length 1; nothing is learned.

    Args:
        eps: the least length that is divided by; > 0.
    """

    eps: float = 1e-12

    OPTIONS: ClassVar[Mapping[str, Option]] = {"eps": EPS}

    def __post_init__(self) -> None:
        check_options(self, "L2Norm ")
        if self.eps == 0:
            raise OptionError("L2Norm eps 0 must be positive: an array of zeros has no direction")

    @checked(width=WIDTH, axis=TEXT)
    def params(self, width: int, axis: str = "M") -> dict[str, Param]:
        """Return the learned arrays: none."""
        del width, axis
        return {}

    def normalise(self, xp: Any, weights: Mapping[str, Array], x: Array) -> Array:
        """Return `x` `(..., N)` with length 1 along its last axis; zeros stay zeros, and give no gradient but a finite one."""
        del weights
        return unit(xp, x, self.eps)


def unit(xp: Any, x: Array, eps: float) -> Array:
    """Return `x` `(..., N)` over its length, or over `eps` where it is shorter."""
    length = xp.sum(x * x, axis=-1, keepdims=True)
    # The root of 0 has no slope, so the choice is made before it.
    short = length <= eps**2
    return xp.where(short, x / eps, x / xp.sqrt(xp.where(short, xp.ones_like(length), length)))


Norm = RMSNorm | LayerNorm | L2Norm
