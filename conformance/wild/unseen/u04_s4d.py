"""S4D: diagonal state spaces applied as FFT convolutions, GLU outputs, residual blocks, mean pooling. The port is NNX and materialises no complex weights."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = True

D_IN, D_MODEL, N_HALF, DEPTH, D_OUT = 2, 6, 4, 2, 3


def inputs():
    return {"u": np.random.default_rng(104).normal(size=(2, 14, D_IN)).astype("float32")}


class S4DKernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_dt = nn.Parameter(torch.rand(D_MODEL) * 2.0 - 3.0)
        self.C = nn.Parameter(torch.randn(D_MODEL, N_HALF, 2))
        self.log_A_real = nn.Parameter(torch.log(0.5 * torch.ones(D_MODEL, N_HALF)) + 0.3 * torch.randn(D_MODEL, N_HALF))
        self.A_imag = nn.Parameter(torch.pi * torch.arange(N_HALF).repeat(D_MODEL, 1) + 0.1 * torch.randn(D_MODEL, N_HALF))

    def forward(self, L):
        dt = torch.exp(self.log_dt)
        C = torch.view_as_complex(self.C)
        A = -torch.exp(self.log_A_real) + 1j * self.A_imag
        dtA = A * dt.unsqueeze(-1)
        K = dtA.unsqueeze(-1) * torch.arange(L)
        C = C * (torch.exp(dtA) - 1.0) / A
        return 2 * torch.einsum("hn,hnl->hl", C, torch.exp(K)).real


class S4D(nn.Module):
    def __init__(self):
        super().__init__()
        self.D = nn.Parameter(torch.randn(D_MODEL))
        self.kernel = S4DKernel()
        self.output_linear = nn.Sequential(nn.Conv1d(D_MODEL, 2 * D_MODEL, kernel_size=1), nn.GLU(dim=-2))

    def forward(self, u):
        L = u.size(-1)
        k = self.kernel(L=L)
        k_f = torch.fft.rfft(k, n=2 * L)
        u_f = torch.fft.rfft(u, n=2 * L)
        y = torch.fft.irfft(u_f * k_f, n=2 * L)[..., :L]
        y = y + u * self.D.unsqueeze(-1)
        return self.output_linear(F.gelu(y))


class S4Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(D_IN, D_MODEL)
        self.s4_layers = nn.ModuleList([S4D() for _ in range(DEPTH)])
        self.norms = nn.ModuleList([nn.LayerNorm(D_MODEL) for _ in range(DEPTH)])
        self.decoder = nn.Linear(D_MODEL, D_OUT)

    def forward(self, u):
        x = self.encoder(u).transpose(-1, -2)
        for layer, norm in zip(self.s4_layers, self.norms):
            x = x + layer(x)
            x = norm(x.transpose(-1, -2)).transpose(-1, -2)
        return self.decoder(x.mean(dim=-1))


def torch_side():
    torch.manual_seed(104)
    model = S4Model()
    for norm in model.norms:
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    return model


class DiagonalSSM(nnx.Module):
    """One state space per channel; zero-order hold."""

    def __init__(self, channels, states):
        self.log_step = nnx.Param(jnp.zeros(channels))
        self.log_decay = nnx.Param(jnp.zeros((channels, states)))
        self.frequency = nnx.Param(jnp.zeros((channels, states)))
        self.c_re = nnx.Param(jnp.zeros((channels, states)))
        self.c_im = nnx.Param(jnp.zeros((channels, states)))
        self.skip = nnx.Param(jnp.zeros(channels))

    def impulse_response(self, length):
        lam = jax.lax.complex(-jnp.exp(self.log_decay[...]), self.frequency[...])
        step = jnp.exp(self.log_step[...])[:, None]
        discrete = jnp.exp(lam * step)
        b = (discrete - 1.0) / lam
        weights = jax.lax.complex(self.c_re[...], self.c_im[...]) * b
        powers = discrete[..., None] ** np.arange(length)
        return 2.0 * jnp.real(jnp.sum(weights[..., None] * powers, axis=1))

    def __call__(self, x):
        length = x.shape[1]
        kernel = self.impulse_response(length).T
        size = 2 * length
        spectrum = jnp.fft.rfft(x, size, axis=1) * jnp.fft.rfft(kernel, size, axis=0)
        return jnp.fft.irfft(spectrum, size, axis=1)[:, :length] + x * self.skip[...]


class Layer(nnx.Module):
    def __init__(self, channels, states, rngs):
        self.ssm = DiagonalSSM(channels, states)
        self.mix = nnx.Linear(channels, 2 * channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        y = self.mix(nnx.gelu(self.ssm(x), approximate=False))
        value, gate = jnp.split(y, 2, axis=-1)
        return self.norm(x + value * nnx.sigmoid(gate))


class SequenceClassifier(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(D_IN, D_MODEL, rngs=rngs)
        self.layers = nnx.List([Layer(D_MODEL, N_HALF, rngs) for _ in range(DEPTH)])
        self.readout = nnx.Linear(D_MODEL, D_OUT, rngs=rngs)

    def __call__(self, u):
        x = self.embed(u)
        for layer in self.layers:
            x = layer(x)
        return self.readout(jnp.mean(x, axis=1))


def jax_side():
    model, source = SequenceClassifier(nnx.Rngs(0)), torch_side()

    def put(param, tensor):
        param[...] = jnp.asarray(tensor.detach().numpy())

    def linear(new, weight, bias):
        put(new.kernel, weight.T)
        put(new.bias, bias)

    linear(model.embed, source.encoder.weight, source.encoder.bias)
    linear(model.readout, source.decoder.weight, source.decoder.bias)
    for new, old, norm in zip(model.layers, source.s4_layers, source.norms):
        kernel = old.kernel
        put(new.ssm.log_step, kernel.log_dt)
        put(new.ssm.log_decay, kernel.log_A_real)
        put(new.ssm.frequency, kernel.A_imag)
        put(new.ssm.c_re, kernel.C[..., 0])
        put(new.ssm.c_im, kernel.C[..., 1])
        put(new.ssm.skip, old.D)
        linear(new.mix, old.output_linear[0].weight[..., 0], old.output_linear[0].bias)
        put(new.norm.scale, norm.weight)
        put(new.norm.bias, norm.bias)
    return model


MISTAKES = [
    {
        "name": "the convolution is circular: the transforms are not padded to twice the length",
        "side": "jax",
        "old": "size = 2 * length",
        "new": "size = length",
        "line": 103,
    },
    {
        "name": "the gate and the value of the GLU are swapped",
        "side": "jax",
        "old": "value, gate = jnp.split(y, 2, axis=-1)",
        "new": "gate, value = jnp.split(y, 2, axis=-1)",
        "line": 116,
    },
    {
        "name": "the input is discretised by Euler's rule (dt B) instead of zero-order hold",
        "side": "torch",
        "old": "C = C * (torch.exp(dtA) - 1.0) / A",
        "new": "C = C * dt.unsqueeze(-1)",
        "line": 34,
    },
    {
        "name": "the kernel counts its lags from one",
        "side": "torch",
        "old": "K = dtA.unsqueeze(-1) * torch.arange(L)",
        "new": "K = dtA.unsqueeze(-1) * torch.arange(1, L + 1)",
        "line": 33,
    },
]
