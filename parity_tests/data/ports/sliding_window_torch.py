"""Mistral's attention: each token sees itself and the `window - 1` tokens before it."""

import torch
from torch import nn
from torch.nn import functional as F


class SlidingWindowAttention(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, M = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
        t, s = torch.arange(T)[:, None], torch.arange(T)[None, :]
        seen = (s <= t) & (s > t - self.window)  # here
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)  # here
        y = torch.einsum("bhts,bhsd->bthd", F.softmax(scores, dim=-1), v)
        return self.proj(y.reshape(B, T, M))


def build():
    return SlidingWindowAttention(width=10, heads=2, window=3)


def inputs(rng):
    return (rng.normal(size=(2, 7, 10)),)
