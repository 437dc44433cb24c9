"""Gated recurrent units in PyTorch, by its own fused kernel. See recurrent.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention.torch_impl import Layer
from examples import recurrent


class GRU(Layer):
    """One reader."""

    contract: recurrent.GRU
    input: nn.Linear
    hidden: nn.Linear

    def forward(self, x: Tensor, lengths: Tensor | None = None, initial: Tensor | None = None) -> Tensor:
        """Return the state after each element.

        Args:
            x: `(B, T, M)`.
            lengths: `(B,)` integers, how many elements of each row there are; None means all.
            initial: `(B, E)`; None means 0.

        Returns:
            `(B, T, E)`; 0 after the end of a row.
        """
        initial = x.new_zeros(x.shape[0], self.contract.hidden_dim) if initial is None else initial
        order, there = _order(x, lengths)
        x = turned(x, order) if self.contract.reverse else x
        states = torch.gru(x, initial[None], self._weights(), True, 1, 0.0, self.training, False, True)[0]
        states = turned(states, order) if self.contract.reverse else states
        return torch.where(there, states, 0.0)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the state `(B, E)` after one element `(B, M)`."""
        return torch.gru_cell(x, state, *self._weights())

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.input.weight, self.hidden.weight, self.input.bias, self.hidden.bias


class Bidirectional(Layer):
    """Two readers, one from each end."""

    contract: recurrent.Bidirectional
    rightward: GRU
    leftward: GRU

    def build_parts(self, dtype: str) -> None:
        for name, part in self.contract.parts.items():
            self.add_module(name, GRU(part, seed=None, dtype=dtype))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the states `(B, T, 2 E)` of both readers after each element."""
        return torch.cat([self.rightward(x, lengths), self.leftward(x, lengths)], dim=-1)


def turned(x: Tensor, order: Tensor) -> Tensor:
    """Return each row of `x` `(B, T, M)` in its own order `(B, T)`."""
    return torch.take_along_dim(x, order[..., None], dim=1)


def _order(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which element comes when each row is read from its end, and where `(B, T, 1)` there are elements."""
    places = torch.arange(x.shape[1], device=x.device)[None]
    ends = places.new_full((x.shape[0], 1), x.shape[1]) if lengths is None else lengths[:, None]
    there = places < ends
    return torch.where(there, ends - 1 - places, places), there[..., None]
