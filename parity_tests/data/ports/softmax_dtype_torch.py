"""Multi-query attention whose softmax is in float32, whatever the rest is in."""

import torch
from torch import nn
from torch.nn import functional as F


class MultiQueryAttention(nn.Module):
    def __init__(self, width, heads, head_dim):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, heads * head_dim)
        self.kv_proj = nn.Linear(width, 2 * head_dim)

    def forward(self, x):
        q = self.q_proj(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv_proj(x).chunk(2, dim=-1)
        scores = torch.einsum("bthd,bsd->bhts", q, k) / q.shape[-1] ** 0.5
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(x.dtype)  # here
        return torch.einsum("bhts,bsd->bthd", weights, v).flatten(2)


def build():
    return MultiQueryAttention(width=10, heads=3, head_dim=4)


def inputs(rng):
    return (rng.normal(size=(2, 7, 10)),)
