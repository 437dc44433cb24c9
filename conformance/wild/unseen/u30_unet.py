"""A U-Net that predicts the noise: timestep embedding, scale and shift after GroupNorm, self attention in the middle. The port is Flax linen."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen
from torch import nn

LOADED = True

CHANNELS, BASE, EMB, GROUPS, HEADS, STEPS = 3, 8, 16, 4, 2, 40
CLIP = 1.5


def inputs():
    rng = np.random.default_rng(202)
    noisy = rng.normal(size=(2, CHANNELS, 8, 6)).astype("float32")
    return noisy, np.array([5, 31])


def timestep_embedding(timesteps, dim, dtype, max_period=100):
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=dtype) / half)
    args = timesteps[:, None].to(dtype) * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


class ResBlock(nn.Module):
    def __init__(self, channels, out_channels):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.emb_proj = nn.Linear(EMB, 2 * out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb_proj(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class AttentionBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(x))
        ch = c // HEADS
        q, k, v = qkv.reshape(b * HEADS, ch * 3, -1).split(ch, dim=1)
        scale = 1 / math.sqrt(math.sqrt(ch))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        a = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return (x + self.proj_out(a)).reshape(b, c, *spatial)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(BASE, EMB), nn.SiLU(), nn.Linear(EMB, EMB))
        self.conv_in = nn.Conv2d(CHANNELS, BASE, 3, padding=1)
        self.down = ResBlock(BASE, BASE)
        self.downsample = nn.Conv2d(BASE, BASE, 3, stride=2, padding=1)
        self.mid1 = ResBlock(BASE, 2 * BASE)
        self.attn = AttentionBlock(2 * BASE)
        self.mid2 = ResBlock(2 * BASE, 2 * BASE)
        self.upsample = nn.Conv2d(2 * BASE, 2 * BASE, 3, padding=1)
        self.up = ResBlock(3 * BASE, BASE)
        self.norm_out = nn.GroupNorm(GROUPS, BASE)
        self.conv_out = nn.Conv2d(BASE, CHANNELS, 3, padding=1)

    def forward(self, x, timesteps):
        emb = self.time_embed(timestep_embedding(timesteps, BASE, x.dtype))
        skip = self.down(self.conv_in(x), emb)
        h = self.downsample(skip)
        h = self.mid2(self.attn(self.mid1(h, emb)), emb)
        h = self.upsample(F.interpolate(h, scale_factor=2, mode="nearest"))
        h = self.up(torch.cat([h, skip], dim=1), emb)
        eps = self.conv_out(F.silu(self.norm_out(h)))
        alphas_cumprod = torch.cumprod(1.0 - torch.linspace(1e-3, 0.1, STEPS, dtype=x.dtype), dim=0)
        abar = alphas_cumprod[timesteps][:, None, None, None]
        x_start = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        return eps, x_start.clamp(-CLIP, CLIP)


def torch_side():
    torch.manual_seed(202)
    net = UNet()
    for name, p in net.named_parameters():
        if "norm" in name:
            nn.init.normal_(p, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
        elif name.endswith("bias"):
            nn.init.normal_(p, std=0.2)
        elif "qkv" in name or "emb_proj" in name or "time_embed" in name:
            nn.init.normal_(p, std=0.4)
    return net


def conv(features, name, stride=1):
    return linen.Conv(features, (3, 3), strides=stride, padding=1, name=name)


def group_norm(name):
    return linen.GroupNorm(num_groups=GROUPS, epsilon=1e-5, name=name)


class Residual(linen.Module):
    features: int

    @linen.compact
    def __call__(self, x, time):
        y = conv(self.features, "first")(linen.swish(group_norm("before")(x)))
        both = linen.Dense(2 * self.features, name="modulation")(linen.swish(time))
        gain, offset = both[:, None, None, : self.features], both[:, None, None, self.features :]
        y = group_norm("between")(y) * (1 + gain) + offset
        y = conv(self.features, "second")(linen.swish(y))
        return y + (x if x.shape[-1] == self.features else linen.Dense(self.features, name="shortcut")(x))


class Looking(linen.Module):
    @linen.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        packed = linen.Dense(3 * channels, name="packed")(group_norm("before")(x))
        packed = packed.reshape(batch, height * width, HEADS, 3, channels // HEADS)
        q, k, v = jnp.moveaxis(packed, 3, 0)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) * (channels // HEADS) ** -0.5
        seen = jnp.einsum("bhij,bjhd->bihd", linen.softmax(scores), v)
        return x + linen.Dense(channels, name="merge")(seen.reshape(x.shape))


class Denoiser(linen.Module):
    @linen.compact
    def __call__(self, image, step):
        half = BASE // 2
        phase = jnp.outer(step.astype(image.dtype), 100.0 ** (-np.arange(half) / half))
        time = linen.Dense(EMB, name="time0")(jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=1))
        time = linen.Dense(EMB, name="time1")(linen.swish(time))
        kept = Residual(BASE, name="down")(conv(BASE, "stem")(image.transpose(0, 2, 3, 1)), time)
        x = Residual(2 * BASE, name="low0")(conv(BASE, "shrink", 2)(kept), time)
        x = Residual(2 * BASE, name="low1")(Looking(name="look")(x), time)
        x = jax.image.resize(x, (*kept.shape[:3], x.shape[-1]), method="nearest")
        x = jnp.concatenate([conv(2 * BASE, "grow")(x), kept], axis=-1)
        x = Residual(BASE, name="up")(x, time)
        noise = conv(CHANNELS, "paint")(linen.swish(group_norm("last")(x))).transpose(0, 3, 1, 2)
        signal = np.cumprod(1.0 - np.linspace(1e-3, 0.1, STEPS))
        signal = jnp.asarray(signal, image.dtype)[step].reshape(-1, 1, 1, 1)
        clean = (image - jnp.sqrt(1 - signal) * noise) * jax.lax.rsqrt(signal)
        return noise, jnp.clip(clean, -CLIP, CLIP)


def jax_side():
    source = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def filters(key):
        return {"kernel": source[key + ".weight"].transpose(2, 3, 1, 0), "bias": source[key + ".bias"]}

    def dense(key):
        weight = source[key + ".weight"]
        return {"kernel": weight.reshape(weight.shape[:2]).T, "bias": source[key + ".bias"]}

    def affine(key):
        return {"scale": source[key + ".weight"], "bias": source[key + ".bias"]}

    def residual(key):
        made = {"before": affine(key + ".norm1"), "first": filters(key + ".conv1"), "modulation": dense(key + ".emb_proj")}
        made |= {"between": affine(key + ".norm2"), "second": filters(key + ".conv2")}
        return made | ({"shortcut": dense(key + ".skip")} if key + ".skip.weight" in source else {})

    params = {"time0": dense("time_embed.0"), "time1": dense("time_embed.2"), "last": affine("norm_out")}
    for name, key in (("stem", "conv_in"), ("shrink", "downsample"), ("grow", "upsample"), ("paint", "conv_out")):
        params[name] = filters(key)
    for name, key in (("down", "down"), ("low0", "mid1"), ("low1", "mid2"), ("up", "up")):
        params[name] = residual(key)
    params["look"] = {"before": affine("attn.norm"), "packed": dense("attn.qkv"), "merge": dense("attn.proj_out")}
    model = Denoiser()
    return (lambda p, image, step: model.apply({"params": p}, image, step)), params


MISTAKES = [
    {
        "name": "the timestep embedding is sines, then cosines",
        "side": "jax",
        "old": "[jnp.cos(phase), jnp.sin(phase)]",
        "new": "[jnp.sin(phase), jnp.cos(phase)]",
        "line": 148,
    },
    {
        "name": "the first half of the embedding's projection is taken for the shift and the second for the scale",
        "side": "torch",
        "old": "scale, shift = self.emb_proj",
        "new": "shift, scale = self.emb_proj",
        "line": 44,
    },
    {
        "name": "the packed queries, keys and values are read with the three outside of the heads instead of inside each head",
        "side": "jax",
        "old": "packed = packed.reshape(batch, height * width, HEADS, 3, channels // HEADS)",
        "new": "packed = packed.reshape(batch, height * width, 3, HEADS, channels // HEADS).swapaxes(2, 3)",
        "line": 136,
    },
    {
        "name": "the embedding has no activation in front of the blocks' projection",
        "side": "torch",
        "old": "self.emb_proj(F.silu(emb))",
        "new": "self.emb_proj(emb)",
        "line": 44,
    },
    {
        "name": "the upsampling is bilinear instead of nearest",
        "side": "jax",
        "old": 'method="nearest"',
        "new": 'method="bilinear"',
        "line": 153,
    },
]
