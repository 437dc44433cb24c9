"""A translator's decoder of 2015: an LSTM that looks back at the source by additive attention."""

import torch
from torch import nn


class Decoder(nn.Module):
    def __init__(self, emb, hidden, memory, align):
        super().__init__()
        self.hidden = hidden
        self.cell = nn.LSTMCell(emb + memory, hidden)
        self.query = nn.Linear(hidden, align, bias=False)
        self.key = nn.Linear(memory, align)
        self.energy = nn.Linear(align, 1, bias=False)
        self.out = nn.Linear(hidden + memory, emb)

    def forward(self, target, memory):
        keys = self.key(memory)  # (B, S, A)
        h = c = target.new_zeros(target.shape[0], self.hidden)
        outputs = []
        for x in target.unbind(1):
            energy = self.energy(torch.tanh(self.query(h).unsqueeze(1) + keys)).squeeze(-1)  # (B, S)
            weights = energy.softmax(dim=1)  # here
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h, c = self.cell(torch.cat([x, context], dim=-1), (h, c))
            outputs.append(self.out(torch.cat([h, context], dim=-1)))
        return torch.stack(outputs, dim=1)


def build():
    return Decoder(emb=5, hidden=7, memory=6, align=4)


def inputs(rng):
    return rng.normal(size=(3, 3, 5)), rng.normal(size=(3, 7, 6))
