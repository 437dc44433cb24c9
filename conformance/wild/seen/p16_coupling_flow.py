"""RealNVP: affine coupling layers with masks, a fixed permutation between them, log determinants. Port: a registered dataclass."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

DIM, HIDDEN, STEPS = 6, 16, 3


def inputs():
    return (np.random.default_rng(16).normal(size=(5, DIM)).astype("float32"),)


class CouplingLayer(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.net = nn.Sequential(
            nn.Linear(DIM, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * DIM)
        )
        self.rescale = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        kept = x * self.mask
        s, t = self.net(kept).chunk(2, dim=-1)
        s = self.rescale * torch.tanh(s) * (1 - self.mask)
        t = t * (1 - self.mask)
        return (x + t) * torch.exp(s), s.sum(-1)


class RealNVP(nn.Module):
    def __init__(self):
        super().__init__()
        checker = (torch.arange(DIM) % 2).float()
        self.layers = nn.ModuleList([CouplingLayer(checker if i % 2 else 1 - checker) for i in range(STEPS)])
        self.register_buffer("permutation", torch.tensor([3, 0, 5, 2, 1, 4]))

    def forward(self, x):
        logdet = torch.zeros_like(x[:, 0])
        for layer in self.layers:
            x, d = layer(x)
            logdet = logdet + d
            x = x[:, self.permutation]
        log_prior = -0.5 * (x**2 + np.log(2 * np.pi)).sum(-1)
        return x, log_prior + logdet


def torch_side():
    torch.manual_seed(160)
    flow = RealNVP()
    for layer in flow.layers:
        layer.rescale.data.uniform_(0.4, 1.5)
        for p in layer.net.parameters():
            p.data.mul_(1.5)
    return flow


@jax.tree_util.register_dataclass
@dataclass
class Conditioner:
    weights: list[jax.Array]
    biases: list[jax.Array]

    def __call__(self, h):
        *hidden, last = zip(self.weights, self.biases)
        for w, b in hidden:
            h = jnp.tanh(h @ w + b)
        return h @ last[0] + last[1]


@jax.tree_util.register_dataclass
@dataclass
class Flow:
    conditioners: list[Conditioner]
    scales: jax.Array

    def __call__(self, x):
        parity = np.arange(DIM) % 2
        order = np.array([3, 0, 5, 2, 1, 4])
        total = 0.0
        for i, conditioner in enumerate(self.conditioners):
            frozen = parity == 1 if i % 2 else parity == 0
            out = conditioner(jnp.where(frozen, x, 0.0))
            log_scale = self.scales[i] * jnp.tanh(out[..., :DIM])
            shift = out[..., DIM:]
            total = total + jnp.sum(jnp.where(frozen, 0.0, log_scale), axis=-1)
            x = jnp.where(frozen, x, (x + shift) * jnp.exp(log_scale))
            x = x[..., order]
        base = jax.scipy.stats.norm.logpdf(x).sum(-1)
        return x, base + total


def jax_side():
    flow = torch_side()

    def net(layer):
        linears = [m for m in layer.net if isinstance(m, nn.Linear)]
        return Conditioner(
            weights=[jnp.asarray(m.weight.detach().numpy()).T for m in linears],
            biases=[jnp.asarray(m.bias.detach().numpy()) for m in linears],
        )

    scales = jnp.stack([jnp.asarray(layer.rescale.detach().numpy()) for layer in flow.layers])
    return Flow([net(layer) for layer in flow.layers], scales)


MISTAKES = [
    {
        "name": "the shift is added after the scaling, not before it",
        "side": "jax",
        "old": "(x + shift) * jnp.exp(log_scale))",
        "new": "x * jnp.exp(log_scale) + shift)",
        "line": 93,
    },
    {
        "name": "the log determinant counts the frozen half too",
        "side": "jax",
        "old": "jnp.sum(jnp.where(frozen, 0.0, log_scale), axis=-1)",
        "new": "jnp.sum(log_scale, axis=-1)",
        "line": 92,
    },
    {
        "name": "the inverse permutation is applied",
        "side": "jax",
        "old": "x = x[..., order]",
        "new": "x = x[..., np.argsort(order)]",
        "line": 94,
    },
    {
        "name": "the log determinant is subtracted",
        "side": "torch",
        "old": "logdet = logdet + d",
        "new": "logdet = logdet - d",
        "line": 48,
    },
]
