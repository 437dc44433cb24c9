"""Whisper's stem: two convolutions over a spectrogram, the second of stride two, and learned positions."""

import torch
from torch import nn
from torch.nn import functional as F


class Stem(nn.Module):
    def __init__(self, mels, width, positions):
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.empty(positions, width))

    def forward(self, mel):
        x = F.gelu(self.conv1(mel))
        x = self.conv2(x)  # here
        x = F.gelu(x)
        return x.permute(0, 2, 1) + self.positions


def build():
    return Stem(mels=5, width=7, positions=6)


def inputs(rng):
    return (rng.normal(size=(2, 5, 12)),)
