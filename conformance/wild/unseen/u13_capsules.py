"""Capsules: primary capsules from a convolution, routing by agreement, a decoder of the labelled capsule. The port is NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = True

PRIMARY, PRIMARY_DIM, DIGITS, DIGIT_DIM, ROUTINGS = 3, 4, 5, 6, 3
SIDE, GRID = 9, 3


def inputs():
    rng = np.random.default_rng(113)
    image = rng.normal(size=(2, 1, SIDE, SIDE)).astype("float32")
    return {"image": image, "label": rng.integers(0, DIGITS, size=(2,))}


def squash(s, dim=-1):
    norm_sq = s.pow(2).sum(dim=dim, keepdim=True)
    return (norm_sq / (1 + norm_sq)) * s / torch.sqrt(norm_sq + 1e-7)


class PrimaryCaps(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, PRIMARY * PRIMARY_DIM, 3, stride=2)

    def forward(self, x):
        u = self.conv(x)
        b, _, h, w = u.shape
        u = u.view(b, PRIMARY, PRIMARY_DIM, h, w).permute(0, 1, 3, 4, 2)
        return squash(u.reshape(b, PRIMARY * h * w, PRIMARY_DIM))


class DigitCaps(nn.Module):
    def __init__(self, num_routes):
        super().__init__()
        self.W = nn.Parameter(torch.randn(1, num_routes, DIGITS, DIGIT_DIM, PRIMARY_DIM) * 0.6)

    def forward(self, u):
        u_hat = torch.matmul(self.W, u[:, :, None, :, None]).squeeze(-1)  # (b, routes, digits, digit_dim)
        fixed = u_hat.detach()
        b_ij = torch.zeros(*u_hat.shape[:3], dtype=u.dtype)
        for it in range(ROUTINGS):
            c_ij = F.softmax(b_ij, dim=2).unsqueeze(-1)
            last = it == ROUTINGS - 1
            v_j = squash((c_ij * (u_hat if last else fixed)).sum(dim=1))
            if not last:
                b_ij = b_ij + (fixed * v_j.unsqueeze(1)).sum(dim=-1)
        return v_j


class CapsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.primary = PrimaryCaps(8)
        self.digits = DigitCaps(PRIMARY * GRID * GRID)
        self.decoder = nn.Sequential(nn.Linear(DIGITS * DIGIT_DIM, 16), nn.ReLU(), nn.Linear(16, SIDE * SIDE), nn.Sigmoid())

    def forward(self, image, label):
        v = self.digits(self.primary(F.relu(self.conv1(image))))
        lengths = torch.norm(v, dim=-1)
        onehot = F.one_hot(label, DIGITS).to(v.dtype)
        present = F.relu(0.9 - lengths) ** 2
        absent = F.relu(lengths - 0.1) ** 2
        margin = (onehot * present + 0.5 * (1.0 - onehot) * absent).sum(dim=1).mean()
        recon = self.decoder((v * onehot.unsqueeze(-1)).flatten(1))
        error = F.mse_loss(recon, image.flatten(1))
        return lengths, recon.view_as(image), margin + 0.0005 * SIDE * SIDE * error


def torch_side():
    torch.manual_seed(113)
    net = CapsNet()
    nn.init.normal_(net.primary.conv.weight, std=0.3)
    nn.init.normal_(net.decoder[0].weight, std=0.5)
    return net


def squashed(x):
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * square / (1.0 + square) * jax.lax.rsqrt(square + 1e-7)


class Routing(nnx.Module):
    """Dynamic routing from `routes` capsules to the digits'."""

    def __init__(self, routes, rngs):
        weight = nnx.initializers.normal(0.1)(rngs.params(), (routes, PRIMARY_DIM, DIGITS, DIGIT_DIM))
        self.weight = nnx.Param(weight)

    def __call__(self, capsules):
        votes = jnp.einsum("bri,rido->brdo", capsules, self.weight[...])
        frozen = jax.lax.stop_gradient(votes)

        def agree(_, logits):
            coupling = jax.nn.softmax(logits, axis=-1)
            candidate = squashed(jnp.einsum("brd,brdo->bdo", coupling, frozen))
            return logits + jnp.einsum("brdo,bdo->brd", frozen, candidate)

        logits = jax.lax.fori_loop(0, ROUTINGS - 1, agree, jnp.zeros(votes.shape[:3], votes.dtype))
        return squashed(jnp.einsum("brd,brdo->bdo", jax.nn.softmax(logits, axis=-1), votes))


class Capsules(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 8, (3, 3), padding="VALID", rngs=rngs)
        self.primary = nnx.Conv(8, PRIMARY * PRIMARY_DIM, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.routing = Routing(PRIMARY * GRID * GRID, rngs)
        self.hidden = nnx.Linear(DIGITS * DIGIT_DIM, 16, rngs=rngs)
        self.pixels = nnx.Linear(16, SIDE * SIDE, rngs=rngs)

    def __call__(self, image, label):
        x = self.primary(nnx.relu(self.stem(jnp.moveaxis(image, 1, -1))))
        x = x.reshape(*x.shape[:3], PRIMARY, PRIMARY_DIM)
        x = jnp.moveaxis(x, 3, 1).reshape(x.shape[0], -1, PRIMARY_DIM)
        digits = self.routing(squashed(x))
        norms = jnp.linalg.norm(digits, axis=-1)
        target = jax.nn.one_hot(label, DIGITS, dtype=norms.dtype)
        loss = target * jnp.maximum(0.0, 0.9 - norms) ** 2 + 0.5 * (1 - target) * jnp.maximum(0.0, norms - 0.1) ** 2
        chosen = jnp.where(target[..., None] > 0, digits, 0.0).reshape(digits.shape[0], -1)
        drawn = nnx.sigmoid(self.pixels(nnx.relu(self.hidden(chosen)))).reshape(image.shape)
        total = loss.sum(-1).mean() + 0.0005 * jnp.sum((drawn - image) ** 2) / image.shape[0]
        return norms, drawn, total


def jax_side():
    source = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}
    model = Capsules(nnx.Rngs(0))
    for layer, key in ((model.stem, "conv1"), (model.primary, "primary.conv")):
        layer.kernel.set_value(source[key + ".weight"].transpose(2, 3, 1, 0))
        layer.bias.set_value(source[key + ".bias"])
    for layer, key in ((model.hidden, "decoder.0"), (model.pixels, "decoder.2")):
        layer.kernel.set_value(source[key + ".weight"].T)
        layer.bias.set_value(source[key + ".bias"])
    model.routing.weight.set_value(source["digits.W"][0].transpose(0, 3, 1, 2))
    return model


MISTAKES = [
    {
        "name": "the coupling coefficients are a softmax over the input capsules instead of over the digits",
        "side": "torch",
        "old": "c_ij = F.softmax(b_ij, dim=2).unsqueeze(-1)",
        "new": "c_ij = F.softmax(b_ij, dim=1).unsqueeze(-1)",
        "line": 50,
    },
    {
        "name": "the votes are not detached in the routing's iterations",
        "side": "jax",
        "old": "frozen = jax.lax.stop_gradient(votes)",
        "new": "frozen = votes",
        "line": 100,
    },
    {
        "name": "a primary capsule's channels are laid out as (dimension, capsule) instead of (capsule, dimension)",
        "side": "jax",
        "old": "x = x.reshape(*x.shape[:3], PRIMARY, PRIMARY_DIM)",
        "new": "x = jnp.swapaxes(x.reshape(*x.shape[:3], PRIMARY_DIM, PRIMARY), 3, 4)",
        "line": 121,
    },
    {
        "name": "the absent digits' losses are not halved",
        "side": "torch",
        "old": "margin = (onehot * present + 0.5 * (1.0 - onehot) * absent)",
        "new": "margin = (onehot * present + (1.0 - onehot) * absent)",
        "line": 72,
    },
    {
        "name": "one routing iteration too many",
        "side": "jax",
        "old": "jax.lax.fori_loop(0, ROUTINGS - 1, agree,",
        "new": "jax.lax.fori_loop(0, ROUTINGS, agree,",
        "line": 107,
    },
]
