"""A SchNet of two molecules: radial basis, cosine cutoff, continuous-filter convolutions over a radius graph. The port is dense and has no graph."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

ELEMENTS, HIDDEN, FILTERS, GAUSSIANS, INTERACTIONS, CUTOFF, MOLECULES = 6, 10, 8, 7, 2, 3.0, 2


def inputs():
    rng = np.random.default_rng(207)
    return {
        "z": rng.integers(1, ELEMENTS, size=(9,)),
        "pos": (1.3 * rng.normal(size=(9, 3))).astype("float32"),
        "batch": np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]),
    }


def radius_graph(pos, batch, cutoff):
    with torch.no_grad():
        distance = (pos[:, None] - pos[None, :]).norm(dim=-1)
        near = (distance < cutoff) & (batch[:, None] == batch[None, :])
        near.fill_diagonal_(False)
    target, source = near.nonzero(as_tuple=True)
    return source, target


class ShiftedSoftplus(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = math.log(2.0)

    def forward(self, x):
        return F.softplus(x) - self.shift


class GaussianSmearing(nn.Module):
    def __init__(self, start, stop, num_gaussians):
        super().__init__()
        offset = torch.linspace(start, stop, num_gaussians)
        self.coeff = -0.5 / (offset[1] - offset[0]).item() ** 2
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, dist):
        dist = dist.view(-1, 1) - self.offset.view(1, -1)
        return torch.exp(self.coeff * torch.pow(dist, 2))


class CFConv(nn.Module):
    def __init__(self, filter_net):
        super().__init__()
        self.lin1 = nn.Linear(HIDDEN, FILTERS, bias=False)
        self.lin2 = nn.Linear(FILTERS, HIDDEN)
        self.nn = filter_net

    def forward(self, x, source, target, edge_weight, edge_attr):
        C = 0.5 * (torch.cos(edge_weight * math.pi / CUTOFF) + 1.0)
        W = self.nn(edge_attr) * C.view(-1, 1)
        x = self.lin1(x)
        message = x[source] * W
        x = torch.zeros_like(x).index_add(0, target, message)
        return self.lin2(x)


class InteractionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        mlp = nn.Sequential(nn.Linear(GAUSSIANS, FILTERS), ShiftedSoftplus(), nn.Linear(FILTERS, FILTERS))
        self.conv = CFConv(mlp)
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x, *edges):
        return self.lin(self.act(self.conv(x, *edges)))


class SchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(ELEMENTS, HIDDEN, padding_idx=0)
        self.distance_expansion = GaussianSmearing(0.0, CUTOFF, GAUSSIANS)
        self.interactions = nn.ModuleList([InteractionBlock() for _ in range(INTERACTIONS)])
        self.lin1 = nn.Linear(HIDDEN, HIDDEN // 2)
        self.act = ShiftedSoftplus()
        self.lin2 = nn.Linear(HIDDEN // 2, 1)
        self.atomref = nn.Embedding(ELEMENTS, 1)

    def forward(self, z, pos, batch):
        source, target = radius_graph(pos, batch, CUTOFF)
        edge_weight = (pos[source] - pos[target]).norm(dim=-1)
        edge_attr = self.distance_expansion(edge_weight)
        h = self.embedding(z)
        for interaction in self.interactions:
            h = h + interaction(h, source, target, edge_weight, edge_attr)
        per_atom = self.lin2(self.act(self.lin1(h))) + self.atomref(z)
        energy = torch.zeros(MOLECULES, 1, dtype=h.dtype).index_add(0, batch, per_atom)
        return energy.squeeze(-1), h


def torch_side():
    torch.manual_seed(207)
    net = SchNet()
    for name, p in net.named_parameters():
        nn.init.normal_(p, std=0.3 if name.endswith("bias") or "atomref" in name else 0.6)
    return net


def soft(x):
    """log(1/2 + exp(x)/2)"""
    return jnp.logaddexp(x, 0.0) - jnp.log(2.0)


def dense(p, x):
    return jnp.tensordot(x, p["kernel"], 1) + p["bias"]


def pairs(pos, batch):
    """Distances of all pairs of atoms, and which pairs count; the others' distances are 1, to have a gradient."""
    gap = pos[:, None, :] - pos[None, :, :]
    square = jnp.einsum("ijx,ijx->ij", gap, gap)
    joined = (batch[:, None] == batch) & ~jnp.eye(len(pos), dtype=bool) & (square < CUTOFF**2)
    return jnp.sqrt(jnp.where(joined, square, 1.0)), joined


def interact(p, h, basis, window):
    kernel = dense(p["filter_out"], soft(dense(p["filter_in"], basis)))
    kernel = kernel * window[:, :, None]
    gathered = jnp.einsum("ijf,jf->if", kernel, h @ p["narrow"])
    return dense(p["mix"], soft(dense(p["widen"], gathered)))


def energies(params, z, pos, batch):
    length, joined = pairs(pos, batch)
    step = CUTOFF / (GAUSSIANS - 1)
    centres = jnp.arange(GAUSSIANS) * step
    basis = jnp.exp(-0.5 * jnp.square((length[..., None] - centres) / step))
    window = jnp.where(joined, jnp.square(jnp.cos(0.5 * jnp.pi * length / CUTOFF)), 0.0)
    h = params["atoms"][z]
    for p in params["blocks"]:
        h = h + interact(p, h, basis, window)
    atom = dense(params["read_out"], soft(dense(params["read_in"], h)))[:, 0] + params["reference"][z]
    member = jax.nn.one_hot(batch, MOLECULES, dtype=atom.dtype, axis=0)
    return member @ atom, h


def convert(net):
    state = {k: jnp.asarray(v.detach().numpy()) for k, v in net.state_dict().items()}

    def layer(key):
        return {"kernel": state[key + ".weight"].T, "bias": state[key + ".bias"]}

    def block(key):
        return {
            "filter_in": layer(key + ".conv.nn.0"),
            "filter_out": layer(key + ".conv.nn.2"),
            "narrow": state[key + ".conv.lin1.weight"].T,
            "widen": layer(key + ".conv.lin2"),
            "mix": layer(key + ".lin"),
        }

    return energies, {
        "atoms": state["embedding.weight"],
        "blocks": [block(f"interactions.{i}") for i in range(INTERACTIONS)],
        "read_in": layer("lin1"),
        "read_out": layer("lin2"),
        "reference": state["atomref.weight"][:, 0],
    }


def jax_side():
    keys = iter(jax.random.split(jax.random.key(7), 64))

    def draw(*shape, std=0.6):
        return std * jax.random.normal(next(keys), shape)

    def layer(n_in, n_out):
        return {"kernel": draw(n_in, n_out), "bias": draw(n_out, std=0.3)}

    def block():
        return {
            "filter_in": layer(GAUSSIANS, FILTERS),
            "filter_out": layer(FILTERS, FILTERS),
            "narrow": draw(HIDDEN, FILTERS),
            "widen": layer(FILTERS, HIDDEN),
            "mix": layer(HIDDEN, HIDDEN),
        }

    return energies, {
        "atoms": draw(ELEMENTS, HIDDEN),
        "blocks": [block() for _ in range(INTERACTIONS)],
        "read_in": layer(HIDDEN, HIDDEN // 2),
        "read_out": layer(HIDDEN // 2, 1),
        "reference": draw(ELEMENTS, std=0.3),
    }


MISTAKES = [
    {
        "name": "the softplus is not shifted by log 2",
        "side": "jax",
        "old": "return jnp.logaddexp(x, 0.0) - jnp.log(2.0)",
        "new": "return jnp.logaddexp(x, 0.0)",
        "line": 117,
    },
    {
        "name": "the cosine cutoff multiplies the radial basis before the filter network instead of the filter after it",
        "side": "jax",
        "old": """soft(dense(p["filter_in"], basis)))
    kernel = kernel * window[:, :, None]
""",
        "new": """soft(dense(p["filter_in"], basis * window[:, :, None])))
    kernel = kernel * (window > 0)[:, :, None]
""",
        "line": 133,
    },
    {
        "name": "a molecule's energy is the mean of its atoms' instead of the sum",
        "side": "jax",
        "old": "return member @ atom, h",
        "new": "return member @ atom / member.sum(axis=1), h",
        "line": 150,
    },
    {
        "name": "the messages take the target's features instead of the source's",
        "side": "torch",
        "old": "message = x[source] * W",
        "new": "message = x[target] * W",
        "line": 67,
    },
    {
        "name": "the Gaussians' exponent is divided by their spacing instead of by its square",
        "side": "torch",
        "old": "self.coeff = -0.5 / (offset[1] - offset[0]).item() ** 2",
        "new": "self.coeff = -0.5 / (offset[1] - offset[0]).item()",
        "line": 48,
    },
]
