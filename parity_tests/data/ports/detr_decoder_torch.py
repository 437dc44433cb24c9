"""A DETR decoder's self attention: positions are added to queries and keys, never to values."""

from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)

    def forward(self, x, pos):
        q = k = x + pos
        y = self.self_attn(q, k, value=x, need_weights=False)[0]  # here
        return self.norm1(x + y)


def build():
    return SelfAttention(width=8, heads=2)


def inputs(rng):
    return rng.normal(size=(5, 3, 8)), rng.normal(size=(5, 1, 8))
