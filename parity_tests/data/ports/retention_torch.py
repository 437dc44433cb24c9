"""RetNet's retention in its parallel form: what was said n tokens ago counts gamma^n."""

import torch
from torch import nn
from torch.nn import functional as F


class Retention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.g_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x):
        B, T, M = x.shape
        q, k, v = (p(x).view(B, T, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        gamma = 1 - 2.0 ** (-2 - torch.arange(self.heads, dtype=x.dtype))  # here
        n = torch.arange(T)[:, None] - torch.arange(T)
        decay = torch.where(n >= 0, gamma[:, None, None] ** n, 0.0)
        y = (q @ k.mT * (M // self.heads) ** -0.5 * decay) @ v
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return self.out_proj(F.silu(self.g_proj(x)) * y.transpose(1, 2).flatten(2))


def build():
    return Retention(width=10, heads=2)


def inputs(rng):
    return (rng.normal(size=(2, 7, 10)),)
