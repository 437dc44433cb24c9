"""NeRF: positional encoding of points and directions, an MLP with a skip, volume rendering along rays. Port: a dataclass of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = False

L_XYZ, L_DIR, WIDTH, RAYS, SAMPLES = 3, 2, 24, 4, 6


def inputs():
    rng = np.random.default_rng(31)
    directions = rng.normal(size=(RAYS, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    depths = np.sort(rng.uniform(2, 6, size=(RAYS, SAMPLES)), axis=-1)
    points = directions[:, None] * depths[..., None] / 6
    return tuple(a.astype("float32") for a in (points, directions, depths))


class Embedder(nn.Module):
    def __init__(self, num_freqs):
        super().__init__()
        self.register_buffer("freq_bands", 2.0 ** torch.arange(num_freqs))

    def forward(self, x):
        embed = [x]
        for freq in self.freq_bands:
            for fn in (torch.sin, torch.cos):
                embed.append(fn(x * freq))
        return torch.cat(embed, -1)


class NeRF(nn.Module):
    def __init__(self):
        super().__init__()
        xyz, view = 3 + 6 * L_XYZ, 3 + 6 * L_DIR
        self.embed_xyz, self.embed_dir = Embedder(L_XYZ), Embedder(L_DIR)
        self.pts_linears = nn.ModuleList([nn.Linear(xyz, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH + xyz, WIDTH)])
        self.alpha_linear = nn.Linear(WIDTH, 1)
        self.feature_linear = nn.Linear(WIDTH, WIDTH)
        self.views_linear = nn.Linear(WIDTH + view, WIDTH // 2)
        self.rgb_linear = nn.Linear(WIDTH // 2, 3)

    def field(self, points, directions):
        pts = self.embed_xyz(points)
        h = pts
        for i, layer in enumerate(self.pts_linears):
            h = F.relu(layer(h))
            if i == 1:
                h = torch.cat([pts, h], -1)
        alpha = self.alpha_linear(h)
        views = self.embed_dir(directions)[:, None].expand(-1, points.shape[1], -1)
        h = F.relu(self.views_linear(torch.cat([self.feature_linear(h), views], -1)))
        return torch.sigmoid(self.rgb_linear(h)), alpha[..., 0]

    def forward(self, points, directions, depths):
        rgb, sigma = self.field(points, directions)
        dists = depths[:, 1:] - depths[:, :-1]
        dists = torch.cat([dists, torch.full_like(dists[:, :1], 1e10)], -1)
        alpha = 1.0 - torch.exp(-F.relu(sigma) * dists)
        trans = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1.0 - alpha + 1e-10], -1), -1)[:, :-1]
        weights = alpha * trans
        return (weights[..., None] * rgb).sum(-2), (weights * depths).sum(-1)


def torch_side():
    torch.manual_seed(3131)
    net = NeRF()
    for p in net.parameters():
        p.data.mul_(1.6)
    net.alpha_linear.bias.data.fill_(0.4)
    return net


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return jnp.einsum("oi,...i->...o", self.weight, x) + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class RadianceField:
    trunk: list[Linear]
    density: Linear
    bottleneck: Linear
    view_layer: Linear
    colour: Linear

    def __call__(self, points, directions, depths):
        p = encode(points, L_XYZ)
        h = jax.nn.relu(self.trunk[0](p))
        h = jax.nn.relu(self.trunk[1](h))
        h = jax.nn.relu(self.trunk[2](jnp.concatenate([p, h], axis=-1)))
        sigma = self.density(h)[..., 0]
        d = jnp.broadcast_to(encode(directions, L_DIR)[:, None, :], (*points.shape[:2], 3 + 6 * L_DIR))
        h = jax.nn.relu(self.view_layer(jnp.concatenate([self.bottleneck(h), d], axis=-1)))
        return render(jax.nn.sigmoid(self.colour(h)), sigma, depths)


def encode(x, degree):
    scaled = x[..., None, :] * (2.0 ** np.arange(degree, dtype=np.float32))[:, None]
    waves = jnp.stack([jnp.sin(scaled), jnp.cos(scaled)], axis=-2)
    return jnp.concatenate([x, waves.reshape(*x.shape[:-1], -1)], axis=-1)


def render(rgb, sigma, depths):
    gaps = jnp.diff(depths, axis=-1)
    gaps = jnp.concatenate([gaps, jnp.full_like(gaps[..., :1], 1e10)], axis=-1)
    opacity = 1 - jnp.exp(-jax.nn.relu(sigma) * gaps)
    clear = jnp.cumprod(1 - opacity + 1e-10, axis=-1)
    clear = jnp.concatenate([jnp.ones_like(clear[..., :1]), clear[..., :-1]], axis=-1)
    weights = opacity * clear
    return jnp.einsum("rs,rsc->rc", weights, rgb), jnp.sum(weights * depths, axis=-1)


def convert(module):
    def lin(m):
        return Linear(jnp.asarray(m.weight.detach().numpy()), jnp.asarray(m.bias.detach().numpy()))

    return RadianceField(
        [lin(m) for m in module.pts_linears],
        *(lin(m) for m in (module.alpha_linear, module.feature_linear, module.views_linear, module.rgb_linear)),
    )


def jax_side():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.uniform(-0.4, 0.5, p.shape).astype("float32")), convert(NeRF()))


MISTAKES = [
    {
        "name": "the frequencies are multiplied by pi",
        "side": "jax",
        "old": "scaled = x[..., None, :] * (2.0 ** np.arange(degree, dtype=np.float32))[:, None]",
        "new": "scaled = x[..., None, :] * (np.float32(np.pi) * 2.0 ** np.arange(degree, dtype=np.float32))[:, None]",
        "line": 112,
    },
    {
        "name": "sines and cosines are grouped by function instead of by frequency",
        "side": "jax",
        "old": "waves = jnp.stack([jnp.sin(scaled), jnp.cos(scaled)], axis=-2)",
        "new": "waves = jnp.stack([jnp.sin(scaled), jnp.cos(scaled)], axis=-3)",
        "line": 113,
    },
    {
        "name": "the transmittance includes the sample's own opacity",
        "side": "jax",
        "old": "    clear = jnp.concatenate([jnp.ones_like(clear[..., :1]), clear[..., :-1]], axis=-1)\n",
        "new": "",
        "line": 122,
    },
    {
        "name": "the skip puts the hidden state before the encoded point",
        "side": "torch",
        "old": "h = torch.cat([pts, h], -1)",
        "new": "h = torch.cat([h, pts], -1)",
        "line": 56,
    },
]
