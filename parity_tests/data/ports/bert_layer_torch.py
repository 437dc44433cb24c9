"""BERT's layer: post-norm, and a mask of ones and zeros that becomes an additive one."""

import math

from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x):
        return x.view(*x.shape[:2], self.heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q.matmul(k.transpose(-1, -2)) / math.sqrt(self.head_dim)
        scores = scores + (1.0 - mask[:, None, None, :]) * -10000.0  # here
        probs = self.dropout(scores.softmax(dim=-1))
        return probs.matmul(v).permute(0, 2, 1, 3).flatten(2)


class Layer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, hidden)
        self.final = nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width, eps=1e-12)
        self.act = nn.GELU()

    def forward(self, x, mask):
        x = self.attention_norm(x + self.output(self.attention(x, mask)))
        return self.final_norm(x + self.final(self.act(self.intermediate(x))))


def build():
    return Layer(width=12, heads=2, hidden=17)


def inputs(rng):
    mask = (rng.permuted([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], axis=1)).astype(float)
    return rng.normal(size=(3, 5, 12)), mask
