"""A block of a vision transformer around torch's own multi-head attention."""

from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)  # here
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        y = self.norm1(x)  # here
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def build():
    return Block(width=10, heads=2)


def inputs(rng):
    # Patches of a dark picture: their variance is not large beside epsilon.
    return (0.05 * rng.normal(size=(3, 5, 10)),)
