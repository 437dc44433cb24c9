"""A normalising flow in the manner of Glow, with its log-likelihood in bits. The port is functions of a dict of stacked parameters, scanned over."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

CHANNELS, HEIGHT, WIDTH, FLOWS, FILTERS, BINS = 2, 8, 4, 2, 10, 32


def inputs():
    rng = np.random.default_rng(204)
    pixels = rng.integers(0, BINS, size=(3, CHANNELS, HEIGHT, WIDTH)).astype("float32")
    return pixels, rng.uniform(size=pixels.shape).astype("float32")


class ActNorm(nn.Module):
    def __init__(self, in_channel):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(1, in_channel, 1, 1) * 0.3)
        self.scale = nn.Parameter(torch.empty(1, in_channel, 1, 1).uniform_(0.5, 1.2))

    def forward(self, x):
        _, _, height, width = x.shape
        logdet = height * width * torch.sum(torch.log(torch.abs(self.scale)))
        return self.scale * (x + self.loc), logdet


class InvConv2dLU(nn.Module):
    def __init__(self, in_channel):
        super().__init__()
        self.register_buffer("w_p", torch.eye(in_channel)[torch.randperm(in_channel)])
        self.register_buffer("s_sign", torch.sign(torch.randn(in_channel)))
        self.w_l = nn.Parameter(torch.randn(in_channel, in_channel) * 0.2)
        self.w_u = nn.Parameter(torch.randn(in_channel, in_channel) * 0.2)
        self.w_s = nn.Parameter(torch.randn(in_channel) * 0.3)

    def forward(self, x):
        _, _, height, width = x.shape
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        lower = torch.tril(self.w_l, -1) + eye
        upper = torch.triu(self.w_u, 1) + torch.diag(self.s_sign * torch.exp(self.w_s))
        weight = self.w_p @ lower @ upper
        return F.conv2d(x, weight[:, :, None, None]), height * width * torch.sum(self.w_s)


class ZeroConv2d(nn.Module):
    def __init__(self, in_channel, out_channel):
        super().__init__()
        self.conv = nn.Conv2d(in_channel, out_channel, 3, padding=0)
        self.scale = nn.Parameter(torch.randn(1, out_channel, 1, 1) * 0.1)

    def forward(self, x):
        out = self.conv(F.pad(x, [1, 1, 1, 1], value=1))
        return out * torch.exp(self.scale * 3)


class AffineCoupling(nn.Module):
    def __init__(self, in_channel):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_channel // 2, FILTERS, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FILTERS, FILTERS, 1),
            nn.ReLU(inplace=True),
            ZeroConv2d(FILTERS, in_channel),
        )

    def forward(self, x):
        in_a, in_b = x.chunk(2, 1)
        log_s, t = self.net(in_a).chunk(2, 1)
        s = torch.sigmoid(log_s + 2)
        out_b = (in_b + t) * s
        logdet = torch.sum(torch.log(s).view(x.shape[0], -1), 1)
        return torch.cat([in_a, out_b], 1), logdet


def gaussian_log_p(x, mean, log_sd):
    return -0.5 * math.log(2 * math.pi) - log_sd - 0.5 * (x - mean) ** 2 / torch.exp(2 * log_sd)


class Block(nn.Module):
    def __init__(self, in_channel, split):
        super().__init__()
        dim = in_channel * 4
        self.flows = nn.ModuleList([nn.ModuleList([ActNorm(dim), InvConv2dLU(dim), AffineCoupling(dim)]) for _ in range(FLOWS)])
        self.prior = ZeroConv2d(dim // 2, dim) if split else None
        self.top = None if split else nn.Parameter(torch.randn(2, dim) * 0.3)

    def forward(self, x):
        b, c, h, w = x.shape
        out = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        out = out.reshape(b, c * 4, h // 2, w // 2)
        logdet = 0.0
        for flow in self.flows:
            for step in flow:
                out, det = step(out)
                logdet = logdet + det
        if self.prior is not None:
            out, z_new = out.chunk(2, 1)
            mean, log_sd = self.prior(out).chunk(2, 1)
        else:
            z_new = out
            mean, log_sd = self.top[:, None, :, None, None]
        return out, logdet, gaussian_log_p(z_new, mean, log_sd).flatten(1).sum(1), z_new


class Glow(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(CHANNELS, True), Block(CHANNELS * 2, False)])

    def forward(self, pixels, noise):
        x = (pixels + noise) / BINS - 0.5
        n_pixel = x[0].numel()
        total, latents = -math.log(BINS) * n_pixel, []
        for block in self.blocks:
            x, logdet, log_p, z = block(x)
            total = total + logdet + log_p
            latents.append(z)
        return -total / (math.log(2) * n_pixel), latents


def torch_side():
    torch.manual_seed(204)
    net = Glow()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.25)
            nn.init.normal_(module.bias, std=0.2)
    return net


def convolve(x, p):
    return p["bias"] + jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gated_convolve(x, p):
    ringed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    return convolve(ringed, p)[:, 1:-1, 1:-1] * jnp.exp(3 * p["gate"])


def flow_step(carry, p):
    x, volume = carry
    area = x.shape[1] * x.shape[2]
    x = p["gain"] * (x + p["shift"])
    volume = volume + area * jnp.log(jnp.abs(p["gain"])).sum()
    low = jnp.eye(x.shape[-1], dtype=x.dtype) + jnp.tril(p["low"], -1)
    high = jnp.diag(p["sign"] * jnp.exp(p["log_diagonal"])) + jnp.triu(p["high"], 1)
    x = jnp.einsum("oj,jk,ki,bhwi->bhwo", p["order"], low, high, x)
    volume = volume + area * p["log_diagonal"].sum()
    fixed, moved = jnp.split(x, 2, axis=-1)
    y = jax.nn.relu(convolve(fixed, p["conv0"]))
    y = gated_convolve(jax.nn.relu(convolve(y, p["conv1"])), p["conv2"])
    half = moved.shape[-1]
    log_rate = jax.nn.log_sigmoid(y[..., :half] + 2.0)
    moved = (moved + y[..., half:]) * jnp.exp(log_rate)
    return (jnp.concatenate([fixed, moved], axis=-1), volume + log_rate.sum(axis=(1, 2, 3))), None


def to_depth(x):
    batch, height, width, channels = x.shape
    tiles = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.einsum("bhiwjc->bhwcij", tiles).reshape(batch, height // 2, width // 2, 4 * channels)


def log_normal(x, mean, log_deviation):
    return jax.scipy.stats.norm.logpdf(x, mean, jnp.exp(log_deviation)).sum(axis=(1, 2, 3))


def bits(params, pixels, noise):
    x = jnp.moveaxis((pixels + noise) / BINS - 0.5, 1, -1)
    count = math.prod(x.shape[1:])
    likelihood, latents = jnp.full(x.shape[:1], -count * math.log(BINS), x.dtype), []
    for level in params:
        (x, likelihood), _ = jax.lax.scan(flow_step, (to_depth(x), likelihood), level["flows"])
        if "prior" in level:
            x, latent = jnp.split(x, 2, axis=-1)
            mean, log_deviation = jnp.split(gated_convolve(x, level["prior"]), 2, axis=-1)
        else:
            latent, (mean, log_deviation) = x, level["top"]
        likelihood = likelihood + log_normal(latent, mean, log_deviation)
        latents.append(jnp.moveaxis(latent, -1, 1))
    return -likelihood / count / math.log(2.0), latents


def jax_side():
    source = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def conv(key):
        return {"kernel": source[key + ".weight"].transpose(2, 3, 1, 0), "bias": source[key + ".bias"]}

    def gated(key):
        return {**conv(key + ".conv"), "gate": source[key + ".scale"].ravel()}

    def flow(key):
        names = {"order": "1.w_p", "sign": "1.s_sign", "low": "1.w_l", "high": "1.w_u", "log_diagonal": "1.w_s"}
        made = {ours: source[key + theirs] for ours, theirs in names.items()}
        made |= {"gain": source[key + "0.scale"].ravel(), "shift": source[key + "0.loc"].ravel()}
        return made | {"conv0": conv(key + "2.net.0"), "conv1": conv(key + "2.net.2"), "conv2": gated(key + "2.net.4")}

    levels = []
    for i in range(2):
        flows = [flow(f"blocks.{i}.flows.{j}.") for j in range(FLOWS)]
        levels.append({"flows": jax.tree.map(lambda *a: jnp.stack(a), *flows)})
    levels[0]["prior"] = gated("blocks.0.prior")
    levels[1]["top"] = source["blocks.1.top"]
    return bits, levels


MISTAKES = [
    {
        "name": "the actnorm's log-determinant is not multiplied by the number of places",
        "side": "jax",
        "old": "volume = volume + area * jnp.log(jnp.abs(",
        "new": "volume = volume + jnp.log(jnp.abs(",
        "line": 153,
    },
    {
        "name": "the zero-initialised convolution is padded with zeros instead of ones",
        "side": "jax",
        "old": "(0, 0)), constant_values=1.0)",
        "new": "(0, 0)))",
        "line": 145,
    },
    {
        "name": "the coupling scales first and shifts then",
        "side": "torch",
        "old": "out_b = (in_b + t) * s",
        "new": "out_b = in_b * s + t",
        "line": 79,
    },
    {
        "name": "the Gaussian's exponent divides by the standard deviation instead of the variance",
        "side": "torch",
        "old": "/ torch.exp(2 * log_sd)",
        "new": "/ torch.exp(log_sd)",
        "line": 85,
    },
    {
        "name": "the squeeze has the channels innermost, as space to depth, instead of outermost",
        "side": "jax",
        "old": '"bhiwjc->bhwcij"',
        "new": '"bhiwjc->bhwijc"',
        "line": 170,
    },
]
