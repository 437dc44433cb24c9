"""The embedding of Attention Is All You Need: words times sqrt(width), plus sines and cosines, and tied output logits."""

import math

import torch
from torch import nn


class Embedding(nn.Module):
    def __init__(self, vocabulary, width):
        super().__init__()
        self.width = width
        self.lut = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.lut(ids) * math.sqrt(self.width)  # here
        position = torch.arange(ids.shape[1], dtype=x.dtype).unsqueeze(1)
        div = torch.exp(torch.arange(0, self.width, 2, dtype=x.dtype) * -(math.log(10000.0) / self.width))
        pe = torch.stack((torch.sin(position * div), torch.cos(position * div)), dim=-1).flatten(1)
        return self.norm(x + pe) @ self.lut.weight.T


def build():
    return Embedding(vocabulary=17, width=8)


def inputs(rng):
    return (rng.integers(0, 17, size=(3, 5)),)
