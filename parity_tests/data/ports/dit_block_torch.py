"""The feed-forward of a diffusion transformer, shifted, scaled and gated by what the picture is to show."""

from torch import nn
from torch.nn import functional as F


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)  # here


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x, condition):
        shift, scale, gate = self.modulation(condition).chunk(3, dim=1)
        h = modulate(self.norm(x), shift, scale)
        h = self.fc2(F.gelu(self.fc1(h), approximate="tanh"))
        return x + gate.unsqueeze(1) * h


def build():
    return Block(width=6, hidden=11)


def inputs(rng):
    return rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 6))
