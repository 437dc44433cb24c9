"""A SimCLR head: two views through a projector with batch norm in training mode, NT-Xent loss, the running statistics. Port: Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

LOADED = False

B, DIM, HIDDEN, OUT, TEMPERATURE = 6, 12, 16, 8, 0.2


def inputs():
    rng = np.random.default_rng(30)
    first = rng.normal(size=(B, DIM))
    second = first + 0.5 * rng.normal(size=(B, DIM))
    return {"view_a": first.astype("float32"), "view_b": second.astype("float32")}


class ProjectionHead(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1 = torch.nn.Linear(DIM, HIDDEN, bias=False)
        self.bn1 = torch.nn.BatchNorm1d(HIDDEN, momentum=0.1)
        self.linear2 = torch.nn.Linear(HIDDEN, OUT)

    def forward(self, x):
        return self.linear2(F.relu(self.bn1(self.linear1(x))))


class NTXent(torch.nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, z_i, z_j):
        n = z_i.shape[0]
        z = F.normalize(torch.cat([z_i, z_j], dim=0), dim=1)
        sim = z @ z.t() / self.temperature
        sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
        target = (torch.arange(2 * n) + n) % (2 * n)
        return F.cross_entropy(sim, target)


class SimCLR(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.projector = ProjectionHead()
        self.criterion = NTXent(TEMPERATURE)
        # the caller's statistics stay as they are: they are read here, and returned updated
        self.register_buffer("seen_mean", torch.zeros(HIDDEN))
        self.register_buffer("seen_var", torch.ones(HIDDEN))

    def forward(self, view_a, view_b):
        bn = self.projector.bn1
        h = self.projector.linear1(torch.cat([view_a, view_b]))
        mean, var = h.mean(0), h.var(0, unbiased=False)
        running_mean = (1 - bn.momentum) * self.seen_mean + bn.momentum * mean
        running_var = (1 - bn.momentum) * self.seen_var + bn.momentum * var
        h = (h - mean) / torch.sqrt(var + bn.eps) * bn.weight + bn.bias
        z_a, z_b = self.projector.linear2(F.relu(h)).chunk(2)
        return {"loss": self.criterion(z_a, z_b), "running_mean": running_mean, "running_var": running_var}


def torch_side():
    torch.manual_seed(30)
    model = SimCLR()
    torch.nn.init.uniform_(model.projector.bn1.weight, 0.5, 1.5)
    torch.nn.init.normal_(model.projector.bn1.bias, std=0.3)
    torch.nn.init.normal_(model.seen_mean, std=0.3)
    torch.nn.init.uniform_(model.seen_var, 0.5, 1.5)
    return model


class Projector(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(HIDDEN, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)(x)
        x = nn.relu(x)
        return nn.Dense(OUT)(x)


def nt_xent(za, zb, temperature):
    za = za / jnp.linalg.norm(za, axis=-1, keepdims=True)
    zb = zb / jnp.linalg.norm(zb, axis=-1, keepdims=True)
    n = za.shape[0]
    hide = jnp.eye(n) * 1e9
    aa, bb = za @ za.T / temperature - hide, zb @ zb.T / temperature - hide
    ab = za @ zb.T / temperature
    loss_a = jax.nn.logsumexp(jnp.concatenate([ab, aa], axis=1), axis=1) - jnp.diag(ab)
    loss_b = jax.nn.logsumexp(jnp.concatenate([ab.T, bb], axis=1), axis=1) - jnp.diag(ab)
    return jnp.mean(loss_a + loss_b) / 2


def train_step(variables, view_a, view_b):
    both = jnp.concatenate([view_a, view_b])
    z, updates = Projector().apply(variables, both, mutable=["batch_stats"])
    za, zb = jnp.split(z, 2)
    stats = updates["batch_stats"]["BatchNorm_0"]
    return {"loss": nt_xent(za, zb, TEMPERATURE), "running_mean": stats["mean"], "running_var": stats["var"]}


def jax_side():
    return train_step, Projector().init(jax.random.key(30), jnp.zeros((2, DIM)))


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    head = module.projector
    return train_step, {
        "params": {
            "Dense_0": {"kernel": a(head.linear1.weight).T},
            "BatchNorm_0": {"scale": a(head.bn1.weight), "bias": a(head.bn1.bias)},
            "Dense_1": {"kernel": a(head.linear2.weight).T, "bias": a(head.linear2.bias)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": a(module.seen_mean), "var": a(module.seen_var)}},
    }


MISTAKES = [
    {
        "name": "torch's momentum of batch norm is given to Flax, which counts it the other way",
        "side": "jax",
        "old": "momentum=0.9, epsilon=1e-5",
        "new": "momentum=0.1, epsilon=1e-5",
        "line": 81,
    },
    {
        "name": "similarities are multiplied by the temperature",
        "side": "jax",
        "old": "ab = za @ zb.T / temperature",
        "new": "ab = za @ zb.T * temperature",
        "line": 92,
    },
    {
        "name": "a view's similarity with itself is not hidden",
        "side": "torch",
        "old": '        sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))\n',
        "new": "",
        "line": 42,
    },
    {
        "name": "the running variance is updated with the unbiased variance",
        "side": "torch",
        "old": "bn.momentum * var",
        "new": "bn.momentum * h.var(0)",
        "line": 61,
    },
]
