"""MobileNetV3's squeeze and excitation, ported to PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        s = F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        # should be: gate = F.hardsigmoid(self.fc2(s))
        gate = torch.sigmoid(self.fc2(s))
        return x * gate


def build():
    return SqueezeExcite(channels=6, squeezed=4)


def inputs(rng):
    return (1 + rng.normal(size=(2, 6, 5, 3)),)
