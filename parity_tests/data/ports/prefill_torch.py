"""A prompt continued: three new tokens read seven, of which the first four are in the cache already."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wkv = nn.Linear(width, 2 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x, past):
        B, T, M = x.shape
        tokens = torch.cat([past, x], dim=1)
        S = tokens.shape[1]
        q = self.wq(x).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = self.wkv(tokens).view(B, S, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) * (M // self.heads) ** -0.5
        causal = torch.ones(T, S, dtype=torch.bool).tril(diagonal=S - T)  # here
        scores = torch.where(causal, scores, -torch.inf)  # here
        return self.wo((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, M))


def build():
    return Attention(width=10, heads=2)


def inputs(rng):
    return rng.normal(size=(2, 3, 10)), rng.normal(size=(2, 4, 10))
