"""BYOL's loss: a predictor runs after a target network that is moved by averaging, never by gradients."""

import torch
from torch import nn
from torch.nn import functional as F


class Byol(nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.online = nn.Linear(features, width)
        self.predictor = nn.Linear(width, width)
        self.target = nn.Linear(features, width)

    def forward(self, first, second):
        predicted = F.normalize(self.predictor(F.elu(self.online(first))), dim=-1)
        target = F.normalize(torch.tanh(self.target(second)).detach(), dim=-1)  # here
        return 2 - 2 * (predicted * target).sum(dim=-1).mean()


def build():
    return Byol(features=6, width=5)


def inputs(rng):
    return rng.normal(size=(7, 6)), rng.normal(size=(7, 6))
