"""Meta's rotary positions: pairs of channels are complex numbers, multiplied by e^(i angle)."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, length, theta=1e6):
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, width, bias=False)
        self.wv = nn.Linear(width, width, bias=False)
        d = width // heads
        freqs = 1.0 / theta ** (torch.arange(0, d, 2).float() / d)  # here
        angles = torch.outer(torch.arange(length).float(), freqs)  # here
        self.freqs_cis = torch.polar(torch.ones_like(angles), angles)  # here

    def rotate(self, x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.freqs_cis[: x.shape[1], None]).flatten(3)  # here

    def forward(self, x):
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)) for w in (self.wq, self.wk, self.wv))
        q, k = self.rotate(q), self.rotate(k)
        scores = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(2)


def build():
    return Attention(width=12, heads=2, length=32)


def inputs(rng):
    return (rng.normal(size=(2, 11, 12)),)
