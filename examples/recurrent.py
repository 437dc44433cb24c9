"""Recurrent layers: gated recurrent units that read a sequence from one end, or from both.

    r = sigmoid(x W_r + b_r + h U_r + c_r)        z = sigmoid(x W_z + b_z + h U_z + c_z)
    n = tanh(x W_n + b_n + r (h U_n + c_n))       h <- (1 - z) n + z h

Rows of a batch have lengths: a state after the end of its row is 0, and a reader that comes from the right begins at the
row's own last element.

References:
    Cho et al., arXiv:1406.1078; gates in the order r, z, n, with the second bias inside the gate, as torch.nn.GRU has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec


@dataclass(frozen=True)
class GRU(spec.Architecture):
    """One reader.

    Args:
        input_dim: M, the width of an element.
        hidden_dim: E, the width of a state.
        reverse: whether it reads from the right.

    >>> {name: param.shape for name, param in GRU(3, 5).params.items()}
    {'input.kernel': (3, 15), 'input.bias': (15,), 'hidden.kernel': (5, 15), 'hidden.bias': (15,)}
    """

    input_dim: int
    hidden_dim: int
    reverse: bool = False

    @property
    def params(self) -> dict[str, spec.Param]:
        spread = 1.0 / math.sqrt(self.hidden_dim)
        gates = 3 * self.hidden_dim
        bias = spec.Param((gates,), "A")
        return {
            "input.kernel": spec.Param((self.input_dim, gates), "MA", inputs=1, spread=spread),
            "input.bias": bias,
            "hidden.kernel": spec.Param((self.hidden_dim, gates), "EA", inputs=1, spread=spread),
            "hidden.bias": bias,
        }


@dataclass(frozen=True)
class Bidirectional(spec.Architecture):
    """Two readers, one from each end, whose states are laid side by side.

    Args:
        input_dim: M, the width of an element.
        hidden_dim: the width of each reader's state; the whole has twice that.
    """

    input_dim: int
    hidden_dim: int

    @property
    def parts(self) -> Mapping[str, GRU]:
        return {
            "rightward": GRU(self.input_dim, self.hidden_dim),
            "leftward": GRU(self.input_dim, self.hidden_dim, reverse=True),
        }

    @property
    def params(self) -> dict[str, spec.Param]:
        return self.part_params()
