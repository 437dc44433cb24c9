"""RMSNorm and a SwiGLU feed-forward with one fused kernel: the gate first, then what it gates."""

from torch import nn
from torch.nn import functional as F


class MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)  # here
        hidden = F.silu(gate) * up  # here
        return x + self.down(hidden)


def build():
    return MLP(width=11, hidden=19)


def inputs(rng):
    return (rng.normal(size=(2, 5, 11)),)
