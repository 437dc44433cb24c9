"""Conformer's convolution module: pointwise, gated, depthwise, normalised over the batch, pointwise."""

from torch import nn
from torch.nn import functional as F


class ConvModule(nn.Module):
    def __init__(self, width, kernel):
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.pointwise1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise2 = nn.Conv1d(width, width, 1)

    def forward(self, x):
        y = self.pointwise1(self.layer_norm(x).transpose(1, 2))
        y = F.glu(y, dim=1)  # here
        y = F.silu(self.batch_norm(self.depthwise(y)))
        return x + self.pointwise2(y).transpose(1, 2)


def build():
    return ConvModule(width=6, kernel=5)


def inputs(rng):
    return (rng.normal(size=(2, 9, 6)),)
