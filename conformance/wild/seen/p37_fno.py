"""A Fourier neural operator in one dimension: lowest modes multiplied by complex weights, bypass convolutions. Port: functions, a list."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

WIDTH, MODES, GRID, LAYERS = 8, 5, 16, 2


def inputs():
    t = np.linspace(0, 1, GRID, endpoint=False)
    rng = np.random.default_rng(37)
    waves = rng.normal(size=(3, 4)) @ np.sin(2 * np.pi * np.outer(np.arange(1, 5), t) + rng.uniform(0, 6, size=(4, 1)))
    return {"a": (waves + 0.3 * rng.normal(size=waves.shape)).astype("float32")}


class SpectralConv1d(nn.Module):
    def __init__(self, in_channels, out_channels, modes):
        super().__init__()
        self.modes = modes
        scale = 1 / in_channels**0.5
        self.weight_re = nn.Parameter(scale * torch.randn(in_channels, out_channels, modes))
        self.weight_im = nn.Parameter(scale * torch.randn(in_channels, out_channels, modes))

    def forward(self, x):
        x_ft = torch.fft.rfft(x)
        low = torch.einsum("bix,iox->box", x_ft[:, :, : self.modes], torch.complex(self.weight_re, self.weight_im))
        out_ft = F.pad(low, (0, x_ft.shape[-1] - self.modes))
        return torch.fft.irfft(out_ft, n=x.size(-1))


class FNO1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc0 = nn.Linear(2, WIDTH)
        self.convs = nn.ModuleList([SpectralConv1d(WIDTH, WIDTH, MODES) for _ in range(LAYERS)])
        self.ws = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(LAYERS)])
        self.fc1 = nn.Linear(WIDTH, 16)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, a):
        grid = torch.arange(GRID, dtype=a.dtype).expand(a.shape[0], -1) / GRID
        x = self.fc0(torch.stack([a, grid], dim=-1)).permute(0, 2, 1)
        for i, (conv, w) in enumerate(zip(self.convs, self.ws)):
            x = conv(x) + w(x)
            if i < LAYERS - 1:
                x = F.gelu(x)
        return self.fc2(F.gelu(self.fc1(x.permute(0, 2, 1)))).squeeze(-1)


def torch_side():
    torch.manual_seed(37)
    return FNO1d()


def spectral(x, kernel):
    """x (B, N, C); kernel (modes, C, D), complex."""
    spectrum = jnp.fft.rfft(x, axis=1)
    low = jnp.einsum("bmc,mcd->bmd", spectrum[:, :MODES], kernel)
    return jnp.fft.irfft(low, n=x.shape[1], axis=1)


def fno(params, a):
    grid = jnp.broadcast_to(np.arange(GRID) / GRID, a.shape).astype(a.dtype)
    lift, blocks, (w1, b1, w2, b2) = params
    x = jnp.stack([a, grid], axis=-1) @ lift["w"] + lift["b"]
    for depth, p in enumerate(blocks):
        x = spectral(x, jax.lax.complex(p["re"], p["im"])) + x @ p["w"] + p["b"]
        if depth + 1 < len(blocks):
            x = jax.nn.gelu(x, approximate=False)
    h = jax.nn.gelu(x @ w1 + b1, approximate=False)
    return (h @ w2 + b2)[..., 0]


def jax_side():
    net = torch_side()

    def a(t):
        return jnp.asarray(t.detach().numpy())

    blocks = [
        {
            "re": a(conv.weight_re).transpose(2, 0, 1),
            "im": a(conv.weight_im).transpose(2, 0, 1),
            "w": a(w.weight)[:, :, 0].T,
            "b": a(w.bias),
        }
        for conv, w in zip(net.convs, net.ws)
    ]
    tail = (a(net.fc1.weight).T, a(net.fc1.bias), a(net.fc2.weight).T, a(net.fc2.bias))
    return fno, [{"w": a(net.fc0.weight).T, "b": a(net.fc0.bias)}, blocks, tail]


MISTAKES = [
    {
        "name": "the inverse transform is orthonormal while the forward one is not",
        "side": "jax",
        "old": "jnp.fft.irfft(low, n=x.shape[1], axis=1)",
        "new": 'jnp.fft.irfft(low, n=x.shape[1], axis=1, norm="ortho")',
        "line": 65,
    },
    {
        "name": "the complex weights are conjugated",
        "side": "jax",
        "old": 'jax.lax.complex(p["re"], p["im"])',
        "new": 'jax.lax.complex(p["re"], -p["im"])',
        "line": 73,
    },
    {
        "name": "the grid runs to 1 inclusive",
        "side": "jax",
        "old": "jnp.broadcast_to(np.arange(GRID) / GRID, a.shape)",
        "new": "jnp.broadcast_to(np.linspace(0, 1, GRID), a.shape)",
        "line": 69,
    },
    {
        "name": "the activation follows the last block too",
        "side": "torch",
        "old": "            if i < LAYERS - 1:\n                x = F.gelu(x)",
        "new": "            x = F.gelu(x)",
        "line": 51,
    },
]
