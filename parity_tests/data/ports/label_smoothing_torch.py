"""A classifier's loss with smoothed labels, by torch's own function."""

from torch import nn
from torch.nn import functional as F


class Classifier(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.head = nn.Linear(features, classes)

    def forward(self, x, labels):
        return F.cross_entropy(self.head(x), labels, label_smoothing=0.1)  # here


def build():
    return Classifier(features=6, classes=5)


def inputs(rng):
    return rng.normal(size=(11, 6)), rng.integers(0, 5, size=11)
