"""Linear attention as a recurrent network: a state per head, read and normalised after each token is written to it."""

import torch
from torch import nn
from torch.nn import functional as F


def phi(x):
    return F.elu(x) + 1  # here


class LinearAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x):
        B, T, M = x.shape
        q, k, v = (y.view(B, T, self.heads, -1) for y in self.to_qkv(x).chunk(3, dim=-1))
        q, k = phi(q), phi(k)
        state = x.new_zeros(B, self.heads, M // self.heads, M // self.heads)
        total = x.new_zeros(B, self.heads, M // self.heads)
        outputs = []
        for t in range(T):
            state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
            total = total + k[:, t]
            top = torch.einsum("bhd,bhde->bhe", q[:, t], state)
            outputs.append(top / (q[:, t] * total).sum(-1, keepdim=True))
        return torch.stack(outputs, dim=1).flatten(2)


def build():
    return LinearAttention(width=6, heads=2)


def inputs(rng):
    return (rng.normal(size=(2, 4, 6)),)
