"""Position-wise MLP as an `nn.Module`: two or three `nn.Linear` around an activation.

output = drop(f(x W_gate) * (x W_up)) W_down        see attention/spec/layers/feed_forward.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from attention.spec.axes import check_float
from attention.spec.call_types import FeedForwardCall
from attention.spec.layers.feed_forward import FeedForward as Contract
from attention.spec.layers.tokens import check_tokens
from attention.torch_impl.attend import autocasts, check_devices, check_tensors
from attention.torch_impl.layers.layer import Layer

CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
"""What torch calls the functions of `spec.activations.PLAIN`; each computes in float32 or better, and rounds once."""


class FeedForward(Layer):
    """The layer of a contract; arguments as `Layer`."""

    contract: Contract
    up: nn.Linear
    down: nn.Linear

    if TYPE_CHECKING:
        __call__: FeedForwardCall[Tensor]  # pyright: ignore[reportIncompatibleMethodOverride]

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
        return self.down(self.drop(hidden, c.dropout_rate, dropout_seed))


def check_input(x: Tensor, weight: Tensor, **others: Tensor) -> None:
    """Raise DTypeError unless the inputs are tensors of the layer's dtype, or autocast will make them so."""
    check_tensors(x=x, **others)
    check_devices(x=x, parameters=weight)
    if not autocasts(x.device):
        _ = check_float(x=x, **others, parameters=weight)
