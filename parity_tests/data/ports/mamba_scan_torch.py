"""Mamba's selective state space, one token after the other."""

import torch
from torch import nn
from torch.nn import functional as F


class SelectiveScan(nn.Module):
    def __init__(self, width, states):
        super().__init__()
        self.dt_proj = nn.Linear(width, width)
        self.B_proj = nn.Linear(width, states, bias=False)
        self.C_proj = nn.Linear(width, states, bias=False)
        self.A_log = nn.Parameter(torch.empty(width, states))
        self.D = nn.Parameter(torch.empty(width))

    def forward(self, x):
        dt = F.softplus(self.dt_proj(x))
        decay = torch.exp(dt.unsqueeze(-1) * -self.A_log.exp())
        write = (dt * x).unsqueeze(-1) * self.B_proj(x).unsqueeze(2)
        state = torch.zeros_like(write[:, 0])
        states = []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + write[:, t]  # here
            states.append(state)
        states = torch.stack(states, dim=1)  # here
        return torch.einsum("btmn,btn->btm", states, self.C_proj(x)) + self.D * x


def build():
    return SelectiveScan(width=5, states=3)


def inputs(rng):
    return (rng.normal(size=(2, 4, 5)),)
