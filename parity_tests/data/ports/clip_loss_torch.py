"""CLIP's loss: every picture must find its caption, and every caption its picture."""

import torch
from torch import nn
from torch.nn import functional as F


class ClipLoss(nn.Module):
    def __init__(self, image, text, width):
        super().__init__()
        self.image = nn.Linear(image, width, bias=False)
        self.text = nn.Linear(text, width, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(1))

    def forward(self, images, texts):
        x, y = F.normalize(self.image(images), dim=-1), F.normalize(self.text(texts), dim=-1)
        logits = self.logit_scale.exp() * x @ y.t()
        labels = torch.arange(len(logits))
        by_image = F.cross_entropy(logits, labels)
        by_text = F.cross_entropy(logits.t(), labels)  # here
        return (by_image + by_text) / 2


def build():
    return ClipLoss(image=6, text=5, width=4)


def inputs(rng):
    return rng.normal(size=(7, 6)), rng.normal(size=(7, 5))
