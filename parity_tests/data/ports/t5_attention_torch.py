"""T5's encoder attention: no scale, no biases, and a learned score for each bucket of relative positions."""

import math

import torch
from torch import nn


def bucket(relative, buckets=8, max_distance=20):
    half = buckets // 2
    exact = half // 2
    distance = relative.abs()
    far = torch.log(distance.float().clamp(min=1) / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far.long()).clamp(max=half - 1)
    return (relative > 0).long() * half + torch.where(distance < exact, distance, far)


class Attention(nn.Module):
    def __init__(self, width, heads, head_dim):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, heads * head_dim, bias=False)
        self.k = nn.Linear(width, heads * head_dim, bias=False)
        self.v = nn.Linear(width, heads * head_dim, bias=False)
        self.o = nn.Linear(heads * head_dim, width, bias=False)
        self.relative_attention_bias = nn.Embedding(8, heads)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (proj(x).view(B, T, self.heads, -1).transpose(1, 2) for proj in (self.q, self.k, self.v))
        relative = torch.arange(T)[None, :] - torch.arange(T)[:, None]  # here
        bias = self.relative_attention_bias(bucket(relative)).permute(2, 0, 1)  # here
        y = (q @ k.transpose(2, 3) + bias).softmax(dim=-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def build():
    return Attention(width=8, heads=2, head_dim=5)


def inputs(rng):
    return (rng.normal(size=(2, 13, 8)),)
