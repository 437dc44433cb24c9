"""Gemma's feed-forward: RMSNorm that scales by one plus its weight, GeGLU."""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return y * (1.0 + self.weight_bias)  # here


class MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.pre_norm = RMSNorm(width)
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.post_norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, x):
        h = self.pre_norm(x)
        h = F.gelu(self.gate_proj(h), approximate="tanh") * self.up_proj(h)
        return x + self.post_norm(self.down_proj(h))


def build():
    return MLP(width=9, hidden=14)


def inputs(rng):
    return (rng.normal(size=(2, 5, 9)),)
