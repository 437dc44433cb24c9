"""Attention with linear biases, for any number of heads."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def slopes(heads):
    """Press et al.: powers of 2^(-8/n) for n a power of two; otherwise every other slope of twice as many fills up."""
    n = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    return first + [2 ** (-8 * i / (2 * n)) for i in range(1, 2 * n + 1, 2)][: heads - n]  # here


class Attention(nn.Module):
    slopes: torch.Tensor

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("slopes", torch.tensor(slopes(heads)), persistent=False)

    def forward(self, x):
        B, T, M = x.shape
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        position = torch.arange(T)
        bias = self.slopes[:, None, None] * (position[None, :] - position[:, None])  # here
        bias = bias.masked_fill(position[None, :] > position[:, None], float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out(y.transpose(1, 2).reshape(B, T, M))


def build():
    return Attention(width=18, heads=6)


def inputs(rng):
    return (rng.normal(size=(2, 7, 18)),)
