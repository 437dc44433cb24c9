"""RMSNorm before a linear layer, differentiated by PyTorch."""

import torch
from torch import nn


class NormLinear(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        r = torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6)  # here
        y = x * r * self.weight  # here
        return self.linear(y)


def build():
    return NormLinear(width=7, out=5)


def inputs(rng):
    return (rng.normal(size=(3, 4, 7)),)
