"""A sentence's embedding: the mean of its words' states."""

import numpy as np
import torch
from torch import nn


class Pooler(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.project = nn.Linear(width, out, bias=False)

    def forward(self, states, mask):
        x = torch.tanh(self.dense(states))
        x = (x * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # here
        return torch.tanh(self.project(x))


def build():
    return Pooler(width=6, out=5)


def inputs(rng):
    return rng.normal(size=(3, 7, 6)), (np.arange(7) < [[7], [4], [2]]).astype(float)
