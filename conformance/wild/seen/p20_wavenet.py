"""WaveNet: dilated causal convolutions with gates, residual and skip outputs. The port is plain functions on a list of tuples, NWC."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

CLASSES, RES, SKIP, DILATIONS = 16, 8, 12, (1, 2, 4, 1, 2)


def inputs():
    return {"samples": np.random.default_rng(20).integers(0, CLASSES, size=(2, 20))}


class CausalConv1d(nn.Conv1d):
    def __init__(self, cin, cout, kernel_size, dilation=1):
        super().__init__(cin, cout, kernel_size, dilation=dilation)
        self.left = (kernel_size - 1) * dilation

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (self.left, 0)))


class ResidualLayer(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        self.dilated = CausalConv1d(RES, 2 * RES, 2, dilation)
        self.res = nn.Conv1d(RES, RES, 1)
        self.skip = nn.Conv1d(RES, SKIP, 1)

    def forward(self, x):
        filt, gate = self.dilated(x).chunk(2, dim=1)
        z = torch.tanh(filt) * torch.sigmoid(gate)
        return (x + self.res(z)) * 0.5**0.5, self.skip(z)


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = CausalConv1d(CLASSES, RES, 2)
        self.stack = nn.ModuleList([ResidualLayer(d) for d in DILATIONS])
        self.end1 = nn.Conv1d(SKIP, SKIP, 1)
        self.end2 = nn.Conv1d(SKIP, CLASSES, 1)

    def forward(self, samples):
        x = nn.functional.one_hot(samples, CLASSES).transpose(1, 2).to(self.start.weight.dtype)
        x = self.start(x)
        total = 0
        for layer in self.stack:
            x, s = layer(x)
            total = total + s
        return self.end2(torch.relu(self.end1(torch.relu(total)))).transpose(1, 2)


def torch_side():
    torch.manual_seed(2020)
    net = WaveNet()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


def dilated_conv(x, kernel, bias, dilation):
    past = jnp.pad(x, ((0, 0), (dilation, 0), (0, 0)))[:, : x.shape[1]]
    return past @ kernel[0] + x @ kernel[1] + bias


def wavenet(params, samples):
    first, blocks, (w1, b1), (w2, b2) = params
    one_hot = jax.nn.one_hot(samples, CLASSES, dtype=w1.dtype)
    x = dilated_conv(one_hot, *first, 1)
    skips = []
    for (kernel, bias, w_res, b_res, w_skip, b_skip), dilation in zip(blocks, DILATIONS):
        h = dilated_conv(x, kernel, bias, dilation)
        h = jnp.tanh(h[..., :RES]) * jax.nn.sigmoid(h[..., RES:])
        x = (x + h @ w_res + b_res) * np.sqrt(0.5)
        skips.append(h @ w_skip + b_skip)
    y = jax.nn.relu(sum(skips))
    y = jax.nn.relu(y @ w1 + b1)
    return y @ w2 + b2


def convert(module):
    def conv(m):  # (out, in, width) -> (width, in, out)
        return jnp.asarray(m.weight.detach().numpy().transpose(2, 1, 0)), jnp.asarray(m.bias.detach().numpy())

    def pointwise(m):
        kernel, bias = conv(m)
        return kernel[0], bias

    blocks = [(*conv(m.dilated), *pointwise(m.res), *pointwise(m.skip)) for m in module.stack]
    return wavenet, [conv(module.start), blocks, pointwise(module.end1), pointwise(module.end2)]


def jax_side():
    rng = np.random.default_rng(21)
    params = convert(WaveNet())[1]
    return wavenet, jax.tree.map(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape).astype("float32")), params)


MISTAKES = [
    {
        "name": "tanh and sigmoid of the gate are exchanged",
        "side": "jax",
        "old": "jnp.tanh(h[..., :RES]) * jax.nn.sigmoid(h[..., RES:])",
        "new": "jax.nn.sigmoid(h[..., :RES]) * jnp.tanh(h[..., RES:])",
        "line": 78,
    },
    {
        "name": "the residual sum is not scaled by the square root of one half",
        "side": "jax",
        "old": "x = (x + h @ w_res + b_res) * np.sqrt(0.5)",
        "new": "x = x + h @ w_res + b_res",
        "line": 79,
    },
    {
        "name": "the padding ignores the dilation",
        "side": "jax",
        "old": "past = jnp.pad(x, ((0, 0), (dilation, 0), (0, 0)))",
        "new": "past = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))",
        "line": 67,
    },
    {
        "name": "the skip output is taken from the layer's output instead of the gated activation",
        "side": "torch",
        "old": "return (x + self.res(z)) * 0.5**0.5, self.skip(z)",
        "new": "return (x + self.res(z)) * 0.5**0.5, self.skip((x + self.res(z)) * 0.5**0.5)",
        "line": 37,
    },
]
