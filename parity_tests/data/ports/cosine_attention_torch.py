"""Swin v2's attention: cosines of queries and keys, times a learned temperature that is kept below a hundred."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class CosineAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(heads, 1, 1))
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, M = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = F.normalize(q, dim=-1)
        k = F.normalize(k, dim=-1)  # here
        scores = q @ k.transpose(-2, -1) * self.logit_scale.clamp(max=math.log(100.0)).exp()
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, M))


def build():
    return CosineAttention(width=12, heads=3)


def inputs(rng):
    return (rng.normal(size=(2, 7, 12)),)
