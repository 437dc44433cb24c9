"""One step of decoding: a token is written to the cache and reads all that is there, itself included."""

import torch
from torch import nn


class DecodeStep(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, x, keys, values, position):
        B, _, M = x.shape
        q, k, v = (proj(x).view(B, 1, self.heads, -1) for proj in (self.q, self.k, self.v))
        keys = keys.index_copy(1, position, k)
        values = values.index_copy(1, position, v)
        scores = torch.einsum("bthd,bshd->bhts", q, keys) / (M // self.heads) ** 0.5
        seen = torch.arange(keys.shape[1]) <= position  # here
        scores = scores.masked_fill(~seen, -1e9)  # here
        y = torch.einsum("bhts,bshd->bthd", scores.softmax(dim=-1), values)
        return self.o(y.flatten(2)), keys, values


def build():
    return DecodeStep(width=10, heads=2)


def inputs(rng):
    return rng.normal(size=(3, 1, 10)), rng.normal(size=(3, 8, 2, 5)), rng.normal(size=(3, 8, 2, 5)), rng.integers(4, 5, size=1)
