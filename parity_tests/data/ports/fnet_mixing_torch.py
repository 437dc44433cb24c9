"""FNet: a Fourier transform over tokens and channels stands in for attention."""

import torch
from torch import nn


class Mixing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, width)

    def forward(self, x):
        y = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real  # here
        return self.dense(self.norm(x + y)).tanh()


def build():
    return Mixing(width=6)


def inputs(rng):
    return (rng.normal(size=(2, 7, 6)),)
