"""Gemma 3's pattern of layers: every third one sees all that came before, the others a window."""

import torch
from torch import nn
from torch.nn import functional as F

WINDOW, PATTERN = 2, 3


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, mask):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~mask, float("-inf"))  # here
        return x + self.out((F.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, layers, width, heads):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, x):
        n = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        for i, layer in enumerate(self.layers):
            sees_all = (i + 1) % PATTERN == 0  # here
            mask = n >= 0 if sees_all else (n >= 0) & (n < WINDOW)  # here
            x = layer(x, mask)
        return x


def build():
    return Stack(layers=3, width=8, heads=2)


def inputs(rng):
    return (rng.normal(size=(2, 5, 8)),)
