"""The Annotated Transformer's feed-forward: its layer norm divides by an unbiased deviation, and adds epsilon outside."""

import torch
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2_bias = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)  # here
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2_bias


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm = LayerNorm(width)
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.w_2(self.w_1(self.norm(x)).relu())


def build():
    return FeedForward(width=10, hidden=17)


def inputs(rng):
    return (rng.normal(size=(2, 5, 10)),)
