"""GPT-NeoX's attention: rotary positions for the first six of ten channels of a head, half with half."""

import torch
from torch import nn
from torch.nn import functional as F


def rotate_half(x):
    x1, x2 = x.chunk(2, dim=-1)  # here
    return torch.cat((-x2, x1), dim=-1)


class Attention(nn.Module):
    def __init__(self, width, heads, rotary):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def rotate(self, x):
        i = torch.arange(0, self.rotary, 2, dtype=x.dtype)
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 10000.0 ** (i / self.rotary)
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        turned, rest = x[..., : self.rotary], x[..., self.rotary :]
        return torch.cat((turned * cos + rotate_half(turned) * sin, rest), dim=-1)

    def forward(self, x):
        B, T, M = x.shape
        qkv = self.query_key_value(x).view(B, T, self.heads, 3 * M // self.heads).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return self.dense(y.transpose(1, 2).reshape(B, T, M))


def build():
    return Attention(width=20, heads=2, rotary=6)


def inputs(rng):
    return (rng.normal(size=(2, 7, 20)),)
