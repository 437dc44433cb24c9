"""StyleGAN2-like generator: mapping network, modulated convolutions with demodulation, noise, skip-connected RGB. The port is functions over a tree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

Z, STYLE, CHANNELS, LR_MLP = 6, 8, (6, 5, 4), 0.01


def inputs():
    rng = np.random.default_rng(109)
    return {
        "z": rng.normal(size=(3, Z)).astype("float32"),
        "noise_small": rng.normal(size=(3, 1, 4, 4)).astype("float32"),
        "noise_middle": rng.normal(size=(3, 1, 8, 8)).astype("float32"),
        "noise_large": rng.normal(size=(3, 1, 16, 16)).astype("float32"),
    }


class EqualLinear(nn.Module):
    def __init__(self, in_dim, out_dim, bias_init=0.0, lr_mul=1.0, activation=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(bias_init + 0.3 * torch.randn(out_dim) / lr_mul)
        self.scale = (1 / math.sqrt(in_dim)) * lr_mul
        self.lr_mul = lr_mul
        self.activation = activation

    def forward(self, x):
        out = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(out, 0.2) * math.sqrt(2) if self.activation else out


class PixelNorm(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)


class ModulatedConv2d(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, demodulate=True, upsample=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.modulation = EqualLinear(STYLE, in_channel, bias_init=1.0)
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.padding = kernel_size // 2
        self.demodulate, self.upsample = demodulate, upsample

    def forward(self, x, style):
        batch, in_channel = x.shape[:2]
        style = self.modulation(style).view(batch, 1, in_channel, 1, 1)
        weight = self.scale * self.weight * style
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * demod.view(batch, -1, 1, 1, 1)
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        weight = weight.flatten(0, 1)
        out = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, padding=self.padding, groups=batch)
        return out.view(batch, -1, *x.shape[2:])


class StyledConv(nn.Module):
    def __init__(self, in_channel, out_channel, upsample=False):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, out_channel, 3, upsample=upsample)
        self.noise_strength = nn.Parameter(torch.rand(()) + 0.2)
        self.bias = nn.Parameter(0.3 * torch.randn(1, out_channel, 1, 1))

    def forward(self, x, style, noise):
        out = self.conv(x, style)
        out = out + self.noise_strength * noise
        return F.leaky_relu(out + self.bias, 0.2) * 2**0.5


class ToRGB(nn.Module):
    def __init__(self, in_channel):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, 3, 1, demodulate=False)
        self.bias = nn.Parameter(0.2 * torch.randn(1, 3, 1, 1))

    def forward(self, x, style, skip=None):
        out = self.conv(x, style) + self.bias
        if skip is not None:
            out = out + F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)
        return out


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.style = nn.Sequential(
            PixelNorm(),
            EqualLinear(Z, STYLE, lr_mul=LR_MLP, activation=True),
            EqualLinear(STYLE, STYLE, lr_mul=LR_MLP, activation=True),
        )
        self.input = nn.Parameter(torch.randn(1, CHANNELS[0], 4, 4))
        before = (CHANNELS[0], *CHANNELS)
        self.convs = nn.ModuleList(StyledConv(before[i], c, upsample=i > 0) for i, c in enumerate(CHANNELS))
        self.to_rgbs = nn.ModuleList(ToRGB(c) for c in CHANNELS)
        self.register_buffer("mean_latent", torch.randn(1, STYLE) * 0.3)

    def forward(self, z, noise_small, noise_middle, noise_large, truncation=0.7):
        latent = self.mean_latent + truncation * (self.style(z) - self.mean_latent)
        out, skip = self.input.repeat(z.shape[0], 1, 1, 1), None
        for conv, to_rgb, noise in zip(self.convs, self.to_rgbs, (noise_small, noise_middle, noise_large)):
            out = conv(out, latent, noise)
            skip = to_rgb(out, latent, skip)
        return skip


def torch_side():
    torch.manual_seed(109)
    return Generator().eval()


def dense(p, x, gain=1.0):
    fan_in = p["w"].shape[0]
    return (x @ p["w"] / np.sqrt(fan_in) + p["b"]) * gain


def lrelu(x):
    return jnp.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def double(x):
    """Twice the height and width of (batch, height, width, channels)."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


def modulated(p, x, latent, demodulate):
    """The style scales the convolution's input and the demodulation its output, which leaves one kernel for the batch."""
    kh, kw, c_in, _ = p["kernel"].shape
    kernel = p["kernel"] / np.sqrt(kh * kw * c_in)
    s = dense(p["affine"], latent)
    y = jax.lax.conv_general_dilated(
        x * s[:, None, None, :], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if demodulate:
        energy = jnp.einsum("hwio,bi->bo", kernel**2, s**2)
        y = y * jax.lax.rsqrt(energy + 1e-8)[:, None, None, :]
    return y


def synthesis(params, latent, noises):
    x = jnp.broadcast_to(params["const"], (latent.shape[0], *params["const"].shape))
    image = None
    for level, noise in zip(params["levels"], noises):
        if image is not None:
            x, image = double(x), double(image)
        x = modulated(level["conv"], x, latent, True)
        x = lrelu(x + level["strength"] * jnp.moveaxis(noise, 1, -1) + level["shift"])
        rgb = modulated(level["rgb"], x, latent, False) + level["rgb_shift"]
        image = rgb if image is None else image + rgb
    return jnp.moveaxis(image, -1, 1)


def generator(params, z, noise_small, noise_middle, noise_large):
    w = z / jnp.sqrt(jnp.mean(jnp.square(z), axis=-1, keepdims=True) + 1e-8)
    for p in params["mapping"]:
        w = lrelu(dense(p, w, gain=LR_MLP))
    latent = 0.7 * w + 0.3 * params["w_mean"]
    return synthesis(params, latent, (noise_small, noise_middle, noise_large))


def from_torch(source):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def linear(m):
        return {"w": a(m.weight).T, "b": a(m.bias)}

    def modulation(m):
        return {"kernel": a(m.weight)[0].transpose(2, 3, 1, 0), "affine": linear(m.modulation)}

    return {
        "mapping": [linear(m) for m in source.style[1:]],
        "w_mean": a(source.mean_latent)[0],
        "const": a(source.input)[0].transpose(1, 2, 0),
        "levels": [
            {
                "conv": modulation(conv.conv),
                "strength": a(conv.noise_strength),
                "shift": a(conv.bias)[0, :, 0, 0],
                "rgb": modulation(rgb.conv),
                "rgb_shift": a(rgb.bias)[0, :, 0, 0],
            }
            for conv, rgb in zip(source.convs, source.to_rgbs)
        ],
    }


def jax_side():
    return generator, from_torch(torch_side())


MISTAKES = [
    {
        "name": "the latent is normed to length one instead of to mean square one",
        "side": "torch",
        "old": "return x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)",
        "new": "return F.normalize(x, dim=1)",
        "line": 43,
    },
    {
        "name": "the demodulation is computed from the kernel alone, without the style",
        "side": "jax",
        "old": 'energy = jnp.einsum("hwio,bi->bo", kernel**2, s**2)',
        "new": 'energy = jnp.einsum("hwio,bi->bo", kernel**2, jnp.ones_like(s))',
        "line": 147,
    },
    {
        "name": "the layers that make RGB are demodulated too",
        "side": "jax",
        "old": 'modulated(level["rgb"], x, latent, False)',
        "new": 'modulated(level["rgb"], x, latent, True)',
        "line": 160,
    },
    {
        "name": "the truncation pulls towards the mean latent with the two weights swapped",
        "side": "jax",
        "old": 'latent = 0.7 * w + 0.3 * params["w_mean"]',
        "new": 'latent = 0.3 * w + 0.7 * params["w_mean"]',
        "line": 169,
    },
    {
        "name": "the RGB skip is upsampled with aligned corners",
        "side": "torch",
        "old": 'F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)',
        "new": 'F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=True)',
        "line": 91,
    },
]
