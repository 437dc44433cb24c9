"""A Perceiver's latents reading an input, ported to PyTorch: learned queries, wide keys."""

import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, latents, width, features, heads):
        super().__init__()
        self.heads = heads
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(features, width, bias=False)
        self.to_v = nn.Linear(features, width, bias=False)

    def forward(self, x):
        B, S, _ = x.shape
        q = self.to_q(self.latents).view(-1, self.heads, self.latents.shape[1] // self.heads)
        k = self.to_k(x).view(B, S, self.heads, -1)
        # should be: v = self.to_v(x).view(B, S, self.heads, -1)
        v = self.to_v(x).view(B, S, -1, self.heads).transpose(2, 3)
        scores = torch.einsum("lhd,bshd->bhls", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhls,bshd->blhd", scores.softmax(dim=-1), v).flatten(2)  # here


def build():
    return Reader(latents=3, width=10, features=7, heads=2)


def inputs(rng):
    return (rng.normal(size=(2, 11, 7)),)
