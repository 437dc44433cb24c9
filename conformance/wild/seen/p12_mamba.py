"""A Mamba block: gated causal depthwise convolution and a selective state space scan. The port uses an associative scan; a dict."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

D_MODEL, D_INNER, D_STATE, D_CONV, DT_RANK, L = 8, 16, 4, 4, 2, 9


def inputs():
    return {"hidden_states": np.random.default_rng(12).normal(size=(2, L, D_MODEL)).astype("float32")}


class MambaMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_proj = nn.Linear(D_MODEL, 2 * D_INNER, bias=False)
        self.conv1d = nn.Conv1d(D_INNER, D_INNER, D_CONV, groups=D_INNER, padding=D_CONV - 1)
        self.x_proj = nn.Linear(D_INNER, DT_RANK + 2 * D_STATE, bias=False)
        self.dt_proj = nn.Linear(DT_RANK, D_INNER)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, D_STATE + 1).float()).repeat(D_INNER, 1))
        self.D = nn.Parameter(torch.ones(D_INNER))
        self.out_proj = nn.Linear(D_INNER, D_MODEL, bias=False)

    def forward(self, hidden_states):
        length = hidden_states.shape[1]
        x, gate = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        x = F.silu(self.conv1d(x)[..., :length])
        ssm = self.x_proj(x.transpose(1, 2))
        dt, B, C = torch.split(ssm, [DT_RANK, D_STATE, D_STATE], dim=-1)
        dt = F.softplus(self.dt_proj(dt)).transpose(1, 2)
        A = -torch.exp(self.A_log)
        dA = torch.exp(A[None, :, None, :] * dt[:, :, :, None])
        dBx = dt[:, :, :, None] * B[:, None, :, :] * x[:, :, :, None]
        state = torch.zeros_like(dBx[:, :, 0])
        ys = []
        for i in range(length):
            state = dA[:, :, i] * state + dBx[:, :, i]
            ys.append(torch.matmul(state, C[:, i, :].unsqueeze(-1))[:, :, 0])
        y = torch.stack(ys, dim=-1) + x * self.D[None, :, None]
        return self.out_proj((y * F.silu(gate)).transpose(1, 2))


class MambaBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(D_MODEL, eps=1e-5)
        self.mixer = MambaMixer()

    def forward(self, hidden_states):
        return hidden_states + self.mixer(self.norm(hidden_states))


def torch_side():
    torch.manual_seed(1212)
    block = MambaBlock()
    nn.init.uniform_(block.norm.weight, 0.5, 1.5)
    nn.init.normal_(block.mixer.D, 1.0, 0.4)
    nn.init.normal_(block.mixer.x_proj.weight, 0.0, 0.6)
    nn.init.normal_(block.mixer.dt_proj.bias, -1.0, 0.5)
    block.mixer.A_log.data += 0.2 * torch.randn(D_INNER, D_STATE)
    return block


def selective_scan(decay, drive):
    def combine(left, right):
        a1, b1 = left
        a2, b2 = right
        return a1 * a2, a2 * b1 + b2

    return jax.lax.associative_scan(combine, (decay, drive), axis=1)[1]


def mamba(p, hidden_states):
    u = hidden_states
    u = u * jax.lax.rsqrt(jnp.mean(u**2, -1, keepdims=True) + 1e-5) * p["rms"]
    x, z = u @ p["W_x"], u @ p["W_z"]
    padded = jnp.pad(x, ((0, 0), (D_CONV - 1, 0), (0, 0)))
    x = sum(padded[:, i : i + x.shape[1]] * p["conv"]["taps"][i] for i in range(D_CONV)) + p["conv"]["bias"]
    x = jax.nn.silu(x)
    B, C = x @ p["W_B"], x @ p["W_C"]
    delta = jax.nn.softplus(x @ p["W_dt"] @ p["W_rank"] + p["dt_bias"])
    A = -jnp.exp(p["A_log"])
    decay = jnp.exp(delta[..., None] * A)
    drive = (delta * x)[..., None] * B[:, :, None, :]
    states = selective_scan(decay, drive)
    y = jnp.einsum("blds,bls->bld", states, C) + p["skip"] * x
    return hidden_states + (y * jax.nn.silu(z)) @ p["W_out"]


def jax_side():
    m = torch_side()

    def t(x):
        return jnp.asarray(x.detach().numpy())

    w_in, w_ssm = t(m.mixer.in_proj.weight), t(m.mixer.x_proj.weight)
    params = {
        "rms": t(m.norm.weight),
        "W_x": w_in[:D_INNER].T,
        "W_z": w_in[D_INNER:].T,
        "conv": {"taps": t(m.mixer.conv1d.weight)[:, 0].T, "bias": t(m.mixer.conv1d.bias)},
        "W_dt": w_ssm[:DT_RANK].T,
        "W_B": w_ssm[DT_RANK : DT_RANK + D_STATE].T,
        "W_C": w_ssm[DT_RANK + D_STATE :].T,
        "W_rank": t(m.mixer.dt_proj.weight).T,
        "dt_bias": t(m.mixer.dt_proj.bias),
        "A_log": t(m.mixer.A_log),
        "skip": t(m.mixer.D),
        "W_out": t(m.mixer.out_proj.weight).T,
    }
    return mamba, params


MISTAKES = [
    {
        "name": "the short convolution sees the future: padded at the end instead of the start",
        "side": "jax",
        "old": "jnp.pad(x, ((0, 0), (D_CONV - 1, 0), (0, 0)))",
        "new": "jnp.pad(x, ((0, 0), (0, D_CONV - 1), (0, 0)))",
        "line": 83,
    },
    {
        "name": "the step is not passed through softplus",
        "side": "torch",
        "old": "dt = F.softplus(self.dt_proj(dt)).transpose(1, 2)",
        "new": "dt = self.dt_proj(dt).transpose(1, 2)",
        "line": 36,
    },
    {
        "name": "the input of the state is not multiplied by the step",
        "side": "jax",
        "old": "drive = (delta * x)[..., None]",
        "new": "drive = x[..., None]",
        "line": 90,
    },
    {
        "name": "the skip of the state space model is forgotten",
        "side": "jax",
        "old": 'jnp.einsum("blds,bls->bld", states, C) + p["skip"] * x',
        "new": 'jnp.einsum("blds,bls->bld", states, C)',
        "line": 92,
    },
    {
        "name": "the gate uses a sigmoid instead of a silu",
        "side": "jax",
        "old": "(y * jax.nn.silu(z))",
        "new": "(y * jax.nn.sigmoid(z))",
        "line": 93,
    },
]
