"""A denoiser: sinusoidal time embedding, residual blocks with group norm modulated by scale and shift (FiLM), upsampling. Port: NNX."""

import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

CH, GROUPS, TDIM, SIDE = 8, 4, 16, 8


def inputs():
    rng = np.random.default_rng(36)
    return {"x": rng.normal(size=(2, 1, SIDE, SIDE)).astype("float32"), "timesteps": np.array([3.0, 40.0], dtype="float32")}


class ResnetBlock2D(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(TDIM, 2 * channels)
        self.norm2 = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, temb):
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        scale, shift = self.time_emb_proj(nn.functional.silu(temb))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return x + self.conv2(nn.functional.silu(h))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TDIM, TDIM), nn.SiLU(), nn.Linear(TDIM, TDIM))
        self.conv_in = nn.Conv2d(1, CH, 3, padding=1)
        self.down = nn.Conv2d(CH, CH, 3, stride=2, padding=1)
        self.mid = nn.ModuleList([ResnetBlock2D(CH), ResnetBlock2D(CH)])
        self.conv_out = nn.Conv2d(CH, 1, 3, padding=1)

    def embed(self, t):
        half = TDIM // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=t.dtype) / half)
        args = t[:, None] * freqs[None]
        return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)

    def forward(self, x, timesteps):
        temb = self.time_mlp(self.embed(timesteps))
        skip = self.conv_in(x)
        h = self.down(skip)
        for block in self.mid:
            h = block(h, temb)
        h = nn.functional.interpolate(h, scale_factor=2, mode="nearest")
        return self.conv_out(nn.functional.silu(h + skip))


def torch_side():
    torch.manual_seed(36)
    net = Denoiser()
    for m in net.modules():
        if isinstance(m, nn.GroupNorm):
            nn.init.uniform_(m.weight, 0.6, 1.5)
            nn.init.normal_(m.bias, std=0.3)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.4)
    return net.eval()


def conv3(rngs, cin, cout, strides=1):
    return nnx.Conv(cin, cout, (3, 3), strides=(strides, strides), padding=1, rngs=rngs)


class FiLMBlock(nnx.Module):
    def __init__(self, rngs):
        self.gn_a = nnx.GroupNorm(CH, num_groups=GROUPS, epsilon=1e-6, rngs=rngs)
        self.conv_a = conv3(rngs, CH, CH)
        self.film = nnx.Linear(TDIM, 2 * CH, rngs=rngs)
        self.gn_b = nnx.GroupNorm(CH, num_groups=GROUPS, epsilon=1e-6, rngs=rngs)
        self.conv_b = conv3(rngs, CH, CH)

    def __call__(self, x, emb):
        h = self.conv_a(nnx.silu(self.gn_a(x)))
        gamma, beta = jnp.split(self.film(nnx.silu(emb))[:, None, None, :], 2, axis=-1)
        h = self.gn_b(h) * (1.0 + gamma) + beta
        return x + self.conv_b(nnx.silu(h))


class DiffusionNet(nnx.Module):
    def __init__(self, rngs):
        self.fc_a = nnx.Linear(TDIM, TDIM, rngs=rngs)
        self.fc_b = nnx.Linear(TDIM, TDIM, rngs=rngs)
        self.first = conv3(rngs, 1, CH)
        self.reduce = conv3(rngs, CH, CH, strides=2)
        self.block1 = FiLMBlock(rngs)
        self.block2 = FiLMBlock(rngs)
        self.last = conv3(rngs, CH, 1)

    def __call__(self, x, timesteps):
        exponent = -np.log(10000) * np.arange(TDIM // 2) / (TDIM // 2)
        phase = timesteps[:, None] * np.exp(exponent).astype(timesteps.dtype)
        emb = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)
        emb = self.fc_b(nnx.silu(self.fc_a(emb)))
        early = self.first(x.transpose(0, 2, 3, 1))
        h = self.block2(self.block1(self.reduce(early), emb), emb)
        b, height, width, c = h.shape
        h = jax.image.resize(h, (b, 2 * height, 2 * width, c), method="nearest")
        return self.last(nnx.silu(h + early)).transpose(0, 3, 1, 2)


def jax_side():
    return DiffusionNet(nnx.Rngs(36))


def convert(module):
    net = DiffusionNet(nnx.Rngs(0))

    def put(ours, theirs):
        w = theirs.weight.detach().numpy()
        if w.ndim == 1:
            ours.scale[...] = jnp.asarray(w)
        else:
            ours.kernel[...] = jnp.asarray(w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T)
        ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())

    put(net.fc_a, module.time_mlp[0])
    put(net.fc_b, module.time_mlp[2])
    put(net.first, module.conv_in)
    put(net.reduce, module.down)
    put(net.last, module.conv_out)
    for ours, theirs in ((net.block1, module.mid[0]), (net.block2, module.mid[1])):
        for a, b in (
            (ours.gn_a, theirs.norm1),
            (ours.conv_a, theirs.conv1),
            (ours.film, theirs.time_emb_proj),
            (ours.gn_b, theirs.norm2),
            (ours.conv_b, theirs.conv2),
        ):
            put(a, b)
    return net


MISTAKES = [
    {
        "name": "sines come before cosines in the time embedding",
        "side": "jax",
        "old": "emb = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)",
        "new": "emb = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)",
        "line": 107,
    },
    {
        "name": "the scale of the modulation lacks its plus one",
        "side": "jax",
        "old": "h = self.gn_b(h) * (1.0 + gamma) + beta",
        "new": "h = self.gn_b(h) * gamma + beta",
        "line": 90,
    },
    {
        "name": "group norm with twice the number of groups",
        "side": "jax",
        "old": "self.gn_a = nnx.GroupNorm(CH, num_groups=GROUPS,",
        "new": "self.gn_a = nnx.GroupNorm(CH, num_groups=2 * GROUPS,",
        "line": 81,
    },
    {
        "name": "bilinear upsampling instead of nearest",
        "side": "torch",
        "old": 'scale_factor=2, mode="nearest")',
        "new": 'scale_factor=2, mode="bilinear")',
        "line": 59,
    },
    {
        "name": "the frequencies are spread so that the last is exactly 1/10000",
        "side": "jax",
        "old": "np.arange(TDIM // 2) / (TDIM // 2)",
        "new": "np.arange(TDIM // 2) / (TDIM // 2 - 1)",
        "line": 105,
    },
]
