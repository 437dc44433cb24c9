"""Feed-forward as an `nn.Module`: two or three `nn.Linear` around a fused activation.

output = drop(f(x W_gate) * (x W_up)) W_down        see attention/spec/layers/feed_forward.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention.spec import random as spec_random
from attention.spec.axes import check_float
from attention.spec.layers.feed_forward import FeedForward as Contract
from attention.spec.layers.tokens import check_tokens, dropped
from attention.torch_impl import random
from attention.torch_impl.attend import check_tensors
from attention.torch_impl.kernels.constants import constant
from attention.torch_impl.layers.layer import Layer

CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
"""What torch calls the functions of `spec.activations.PLAIN`; each computes in float32 or better, and rounds once."""


class Dropping(Layer):
    """A layer that drops features while training. Abstract."""

    def _drop(self, x: Tensor, rate: float, seed: Any) -> Tensor:
        """Return `x` with features dropped while training: the same ones in every framework."""
        if not (self.training and rate):
            return x
        return dropped(xp, x, random.keep(seed, rate, tuple(x.shape), x.device), rate)


class FeedForward(Dropping):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    up: nn.Linear
    down: nn.Linear

    def forward(self, x: Tensor, *, dropout_seed: Any = None) -> Tensor:
        """Return the layer's output.

        Args:
            x: `(*batch, T, M)`.
            dropout_seed: an int or an integer scalar; while training, None draws one from the framework's generator.

        Returns:
            `(*batch, T, M)`.

        Raises:
            ShapeError: `x` does not fit.
            DTypeError: not a tensor, or of another dtype than the layer.
        """
        c = self.contract
        check_input(x, self.up.weight)
        check_tokens("x", x, c.embed_dim)
        hidden, curve = self.up(x), CURVES[c.curve]
        hidden = curve(self.get_submodule("gate")(x)) * hidden if c.gated else curve(hidden)
        return self.down(self._drop(hidden, c.dropout_rate, self._seed(dropout_seed)))


def check_input(x: Tensor, weight: Tensor, **others: Tensor) -> None:
    """Raise DTypeError unless the inputs are tensors of the layer's dtype, or autocast will make them so."""
    check_tensors(x=x, **others)
    if not torch.is_autocast_enabled(x.device.type):
        _ = check_float(x=x, **others, parameters=weight)


def child(seed: Any, name: str) -> Any:
    """Return the seed of a place inside a layer: 32 bits that depend on the layer's seed and the place's name."""
    if seed is None:
        return None
    of = spec_random.key(seed)
    if isinstance(seed, Tensor):
        low = seed.to(torch.int64) & spec_random.WORD
        of = (low * 0, low)
    return spec_random.bits(of, _label(name))


@constant
def _label(name: str) -> int:
    # A compiler that traces Python cannot look into zlib.
    return spec_random.label(name)
