"""HiFi-GAN generator: weight-normed convolutions, transposed upsampling, multi-receptive-field fusion. The port is NNX, channels last."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

LOADED = True

MELS, WIDTH = 5, 12
UPSAMPLES = ((2, 4), (3, 7))  # rate, kernel
RESBLOCKS = ((3, (1, 2)), (5, (1, 3)))  # kernel, dilations
LRELU_SLOPE = 0.1


def inputs():
    return {"mel": np.random.default_rng(108).normal(size=(2, MELS, 6)).astype("float32")}


def get_padding(kernel_size, dilation=1):
    return (kernel_size * dilation - dilation) // 2


class ResBlock(nn.Module):
    def __init__(self, channels, kernel, dilations):
        super().__init__()
        self.convs1 = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=get_padding(kernel, d))) for d in dilations
        )
        self.convs2 = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, padding=get_padding(kernel))) for _ in dilations
        )

    def forward(self, x):
        for c1, c2 in zip(self.convs1, self.convs2):
            xt = c1(F.leaky_relu(x, LRELU_SLOPE))
            xt = c2(F.leaky_relu(xt, LRELU_SLOPE))
            x = xt + x
        return x


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(MELS, WIDTH, 7, 1, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for i, (u, k) in enumerate(UPSAMPLES):
            ch = WIDTH // 2 ** (i + 1)
            self.ups.append(weight_norm(nn.ConvTranspose1d(2 * ch, ch, k, u, padding=(k - u) // 2)))
            self.resblocks.append(nn.ModuleList(ResBlock(ch, kernel, dilations) for kernel, dilations in RESBLOCKS))
        self.conv_post = weight_norm(nn.Conv1d(ch, 1, 7, 1, padding=3))

    def forward(self, mel):
        x = self.conv_pre(mel)
        for up, blocks in zip(self.ups, self.resblocks):
            x = up(F.leaky_relu(x, LRELU_SLOPE))
            x = torch.stack([block(x) for block in blocks]).mean(dim=0)
        x = self.conv_post(F.leaky_relu(x))
        return torch.tanh(x).squeeze(1)


def torch_side():
    torch.manual_seed(108)
    model = Generator()
    for name, p in model.named_parameters():
        if name.endswith("original0"):
            nn.init.uniform_(p, 0.5, 1.5)
        elif name.endswith("original1"):
            nn.init.normal_(p, 0.0, 0.3)
        else:
            nn.init.normal_(p, 0.0, 0.1)
    return model.eval()


class NormedConv(nnx.Module):
    """A convolution of direction and gain, "same" length; `direction` is (width, in, out), the gain is per output."""

    def __init__(self, c_in, c_out, width, dilation=1):
        self.direction = nnx.Param(jnp.ones((width, c_in, c_out)))
        self.gain = nnx.Param(jnp.ones(c_out))
        self.bias = nnx.Param(jnp.zeros(c_out))
        self.reach = dilation * (width // 2)
        self.dilation = dilation

    def __call__(self, x):
        v = self.direction[...]
        kernel = v * (self.gain[...] / jnp.sqrt(jnp.sum(v * v, axis=(0, 1))))
        pads = ((self.reach, self.reach),)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,), pads, rhs_dilation=(self.dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return y + self.bias[...]


class NormedUpsample(nnx.Module):
    """The transposed convolution, as a convolution of the input with zeros put in between; the gain is per input."""

    def __init__(self, c_in, c_out, width, rate):
        self.direction = nnx.Param(jnp.ones((width, c_in, c_out)))
        self.gain = nnx.Param(jnp.ones(c_in))
        self.bias = nnx.Param(jnp.zeros(c_out))
        self.rate = rate

    def __call__(self, x):
        v = self.direction[...]
        norm = jnp.sqrt(jnp.sum(v * v, axis=(0, 2), keepdims=True))
        kernel = jnp.flip(self.gain[...][:, None] * v / norm, axis=0)
        width = kernel.shape[0]
        edge = width - 1 - (width - self.rate) // 2
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,), ((edge, edge),), lhs_dilation=(self.rate,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return y + self.bias[...]


class Residual(nnx.Module):
    def __init__(self, channels, width, dilations):
        self.dilated = nnx.List([NormedConv(channels, channels, width, d) for d in dilations])
        self.plain = nnx.List([NormedConv(channels, channels, width, 1) for _ in dilations])

    def __call__(self, x):
        for first, second in zip(self.dilated, self.plain):
            h = first(nnx.leaky_relu(x, LRELU_SLOPE))
            x = x + second(nnx.leaky_relu(h, LRELU_SLOPE))
        return x


class Vocoder(nnx.Module):
    def __init__(self):
        self.stem = NormedConv(MELS, WIDTH, 7)
        stages, c = [], WIDTH
        for rate, width in UPSAMPLES:
            branches = nnx.List([Residual(c // 2, w, d) for w, d in RESBLOCKS])
            stages.append(nnx.Dict(up=NormedUpsample(c, c // 2, width, rate), branches=branches))
            c //= 2
        self.stages = nnx.List(stages)
        self.out = NormedConv(c, 1, 7)

    def __call__(self, mel):
        x = self.stem(jnp.swapaxes(mel, 1, 2))
        for stage in self.stages:
            x = stage["up"](nnx.leaky_relu(x, LRELU_SLOPE))
            total = 0.0
            for branch in stage["branches"]:
                total = total + branch(x)
            x = total / len(RESBLOCKS)
        x = self.out(nnx.leaky_relu(x, 0.01))
        return jnp.tanh(x[..., 0])


def load(new, old, *, transposed=False):
    g, v = (getattr(old.parametrizations.weight, f"original{i}").detach().numpy() for i in (0, 1))
    new.direction[...] = jnp.asarray(v.transpose(2, 0, 1) if transposed else v.transpose(2, 1, 0))
    new.gain[...] = jnp.asarray(g[:, 0, 0])
    new.bias[...] = jnp.asarray(old.bias.detach().numpy())


def jax_side():
    source, model = torch_side(), Vocoder()
    load(model.stem, source.conv_pre)
    load(model.out, source.conv_post)
    for stage, up, blocks in zip(model.stages, source.ups, source.resblocks):
        load(stage["up"], up, transposed=True)
        for branch, block in zip(stage["branches"], blocks):
            for new, old in zip([*branch.dilated, *branch.plain], [*block.convs1, *block.convs2]):
                load(new, old)
    return model


MISTAKES = [
    {
        "name": "the slope before the last convolution is 0.1 instead of PyTorch's default 0.01",
        "side": "torch",
        "old": "x = self.conv_post(F.leaky_relu(x))",
        "new": "x = self.conv_post(F.leaky_relu(x, LRELU_SLOPE))",
        "line": 62,
    },
    {
        "name": "the residual is taken after the activation",
        "side": "torch",
        "old": "x = xt + x\n",
        "new": "x = xt + F.leaky_relu(x, LRELU_SLOPE)\n",
        "line": 42,
    },
    {
        "name": "the second convolutions of the residual blocks are dilated too",
        "side": "torch",
        "old": "weight_norm(nn.Conv1d(channels, channels, kernel, padding=get_padding(kernel))) for _ in dilations",
        "new": "weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=get_padding(kernel, d))) for d in dilations",
        "line": 35,
    },
    {
        "name": "the transposed convolution's directions are normed per output channel",
        "side": "jax",
        "old": "norm = jnp.sqrt(jnp.sum(v * v, axis=(0, 2), keepdims=True))",
        "new": "norm = jnp.sqrt(jnp.sum(v * v, axis=(0, 1), keepdims=True))",
        "line": 110,
    },
    {
        "name": "the upsampled signal lies one sample late",
        "side": "jax",
        "old": "x, kernel, (1,), ((edge, edge),), lhs_dilation",
        "new": "x, kernel, (1,), ((edge + 1, edge - 1),), lhs_dilation",
        "line": 115,
    },
]
