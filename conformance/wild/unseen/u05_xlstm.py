"""xLSTM: one sLSTM block (block-diagonal recurrence) and one mLSTM block (matrix memory), both stabilised. Loops in torch, scans over dicts in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

DIM, HEADS, INNER, KERNEL = 8, 2, 12, 3


def inputs():
    return {"x": np.random.default_rng(105).normal(size=(2, 7, DIM)).astype("float32")}


class SLSTMCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Linear(DIM, 4 * DIM)
        self.R = nn.Parameter(torch.randn(HEADS, DIM // HEADS, 4 * DIM // HEADS) * 0.5)

    def recurrent(self, h):
        raw = torch.einsum("bhd,hde->bhe", h.view(-1, HEADS, DIM // HEADS), self.R)  # each head: input, forget, cell, output
        return raw.view(-1, HEADS, 4, DIM // HEADS).transpose(1, 2).reshape(-1, 4 * DIM)

    def forward(self, x):
        h = c = n = m = x.new_zeros(x.shape[0], DIM)
        outs = []
        for wx in self.W(x).unbind(dim=1):
            i, f, z, o = (wx + self.recurrent(h)).chunk(4, dim=-1)
            log_f = F.logsigmoid(f)
            m_new = torch.maximum(log_f + m, i)
            i_gate, f_gate = torch.exp(i - m_new), torch.exp(log_f + m - m_new)
            c = f_gate * c + i_gate * torch.tanh(z)
            n = f_gate * n + i_gate
            h, m = torch.sigmoid(o) * c / n, m_new
            outs.append(h)
        return torch.stack(outs, dim=1)


class MLSTMCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.igate = nn.Linear(3 * INNER, HEADS)
        self.fgate = nn.Linear(3 * INNER, HEADS)

    def forward(self, q, k, v):
        b, t, _ = q.shape
        gates = torch.cat([q, k, v], dim=-1)
        i_pre, log_f = self.igate(gates), F.logsigmoid(self.fgate(gates))
        q, k, v = (a.view(b, t, HEADS, -1) for a in (q, k, v))
        k = k / k.shape[-1] ** 0.5
        d = k.shape[-1]
        c, n, m = q.new_zeros(b, HEADS, d, d), q.new_zeros(b, HEADS, d), q.new_zeros(b, HEADS)
        outs = []
        for s in range(t):
            m_prev, m = m, torch.maximum(log_f[:, s] + m, i_pre[:, s])
            i_act = torch.exp(i_pre[:, s] - m)[..., None]
            f_act = torch.exp(log_f[:, s] + m_prev - m)[..., None]
            c = f_act[..., None] * c + i_act[..., None] * (k[:, s, :, :, None] @ v[:, s, :, None, :])
            n = f_act * n + i_act * k[:, s]
            norm = torch.maximum((q[:, s] * n).sum(-1).abs(), torch.exp(-m))
            outs.append((q[:, s, :, None, :] @ c).squeeze(-2) / norm[..., None])
        return torch.stack(outs, dim=1).flatten(-2)


class MLSTMBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(DIM, bias=False)
        self.proj_up = nn.Linear(DIM, 2 * INNER, bias=False)
        self.conv1d = nn.Conv1d(INNER, INNER, KERNEL, padding=KERNEL - 1, groups=INNER)
        self.q_proj = nn.Linear(INNER, INNER, bias=False)
        self.k_proj = nn.Linear(INNER, INNER, bias=False)
        self.v_proj = nn.Linear(INNER, INNER, bias=False)
        self.cell = MLSTMCell()
        self.learnable_skip = nn.Parameter(torch.randn(INNER))
        self.proj_down = nn.Linear(INNER, DIM, bias=False)

    def forward(self, x):
        inner, z = self.proj_up(self.norm(x)).chunk(2, dim=-1)
        conv = F.silu(self.conv1d(inner.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        h = self.cell(self.q_proj(conv), self.k_proj(conv), self.v_proj(inner))
        h = (h + self.learnable_skip * conv) * F.silu(z)
        return x + self.proj_down(h)


class XLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.slstm_norm = nn.LayerNorm(DIM, bias=False)
        self.slstm = SLSTMCell()
        self.mlstm_block = MLSTMBlock()
        self.post_norm = nn.LayerNorm(DIM, bias=False)

    def forward(self, x):
        x = x + self.slstm(self.slstm_norm(x))
        return self.post_norm(self.mlstm_block(x))


def torch_side():
    torch.manual_seed(105)
    model = XLSTM()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.normal_(1.0, 0.2)
            elif name.endswith("proj.weight") or "gate" in name:
                p.normal_(0.0, 0.4)
    return model


def scale_norm(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return scale * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def slstm(p, xs):
    """xs: (batch, time, DIM); the gates' matrices are kept apart."""
    batch = xs.shape[0]

    def gate(name, x, h):
        by_head = jnp.einsum("bhd,hde->bhe", h.reshape(batch, HEADS, -1), p[name]["recurrent"])
        return x @ p[name]["kernel"] + p[name]["bias"] + by_head.reshape(batch, DIM)

    def step(state, x):
        h, c, n, m = state
        log_i, log_f = gate("input", x, h), jax.nn.log_sigmoid(gate("forget", x, h))
        top = jnp.maximum(log_f + m, log_i)
        forget, write = jnp.exp(log_f + m - top), jnp.exp(log_i - top)
        c = forget * c + write * jnp.tanh(gate("cell", x, h))
        n = forget * n + write
        h = jax.nn.sigmoid(gate("output", x, h)) * (c / n)
        return (h, c, n, top), h

    zero = jnp.zeros((batch, DIM), xs.dtype)
    _, hs = jax.lax.scan(step, (zero, zero, zero, zero), jnp.swapaxes(xs, 0, 1))
    return jnp.swapaxes(hs, 0, 1)


def mlstm(q, k, v, i_pre, f_pre):
    """One head of one sequence: q, k, v of (time, d), the gates of (time,)."""
    log_forget = -jax.nn.softplus(-f_pre)

    def step(state, now):
        memory, total, m = state
        q, k, v, i, log_f = now
        m_next = jnp.maximum(i, log_f + m)
        keep, write = jnp.exp(log_f + m - m_next), jnp.exp(i - m_next)
        memory = keep * memory + write * jnp.outer(v, k)
        total = keep * total + write * k
        bound = jnp.exp(-m_next)
        return (memory, total, m_next), memory @ q / jnp.maximum(jnp.abs(total @ q), bound)

    d = q.shape[-1]
    start = (jnp.zeros((d, d), q.dtype), jnp.zeros(d, q.dtype), jnp.zeros((), q.dtype))
    return jax.lax.scan(step, start, (q, k / jnp.sqrt(d), v, i_pre, log_forget))[1]


def causal_conv(taps, bias, x):
    padded = jnp.pad(x, ((0, 0), (KERNEL - 1, 0), (0, 0)))
    return sum(taps[j] * padded[:, j : j + x.shape[1]] for j in range(KERNEL)) + bias


def mlstm_block(p, x):
    h = scale_norm(x, p["norm"])
    inner, z = h @ p["up"], h @ p["up_gate"]
    smooth = jax.nn.silu(causal_conv(p["taps"], p["taps_bias"], inner))
    qkv = [smooth @ p["q"], smooth @ p["k"], inner @ p["v"]]
    every = jnp.concatenate(qkv, axis=-1)
    heads = [a.reshape(*a.shape[:2], HEADS, -1) for a in qkv]
    gates = [every @ p[g]["kernel"] + p[g]["bias"] for g in ("i", "f")]
    y = jax.vmap(jax.vmap(mlstm, in_axes=1, out_axes=1))(*heads, *gates).reshape(inner.shape)
    return x + ((y + p["skip"] * smooth) * jax.nn.silu(z)) @ p["down"]


def xlstm(params, x):
    x = x + slstm(params["slstm"], scale_norm(x, params["norm_in"]))
    return scale_norm(mlstm_block(params["mlstm"], x), params["norm_out"])


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def dense(m):
        return {"kernel": a(m.weight).T, "bias": a(m.bias)}

    cell, block = module.slstm, module.mlstm_block
    w, b, r = jnp.split(a(cell.W.weight), 4), jnp.split(a(cell.W.bias), 4), jnp.split(a(cell.R), 4, axis=-1)
    names = ("input", "forget", "cell", "output")
    up = a(block.proj_up.weight).T
    return xlstm, {
        "norm_in": a(module.slstm_norm.weight),
        "slstm": {g: {"kernel": w[n].T, "bias": b[n], "recurrent": r[n]} for n, g in enumerate(names)},
        "mlstm": {
            "norm": a(block.norm.weight),
            "up": up[:, :INNER],
            "up_gate": up[:, INNER:],
            "taps": a(block.conv1d.weight)[:, 0].T,
            "taps_bias": a(block.conv1d.bias),
            **{n: a(getattr(block, f"{n}_proj").weight).T for n in "qkv"},
            "i": dense(block.cell.igate),
            "f": dense(block.cell.fgate),
            "skip": a(block.learnable_skip),
            "down": a(block.proj_down.weight).T,
        },
        "norm_out": a(module.post_norm.weight),
    }


def jax_side():
    flat, tree = jax.tree.flatten(convert(XLSTM())[1])
    keys = jax.random.split(jax.random.key(105), len(flat))
    return xlstm, tree.unflatten([0.5 * jax.random.normal(k, a.shape) for k, a in zip(keys, flat)])


MISTAKES = [
    {
        "name": "the forget gate of the matrix memory is exponential instead of a sigmoid",
        "side": "jax",
        "old": "log_forget = -jax.nn.softplus(-f_pre)",
        "new": "log_forget = f_pre",
        "line": 146,
    },
    {
        "name": "the normaliser is bounded by 1 although numerator and denominator carry exp(-m)",
        "side": "jax",
        "old": "bound = jnp.exp(-m_next)",
        "new": "bound = 1.0",
        "line": 155,
    },
    {
        "name": "the recurrent part is laid out by heads where the gates are expected first",
        "side": "torch",
        "old": "return raw.view(-1, HEADS, 4, DIM // HEADS).transpose(1, 2).reshape(-1, 4 * DIM)",
        "new": "return raw.reshape(-1, 4 * DIM)",
        "line": 27,
    },
    {
        "name": "the sLSTM's normaliser is kept above one",
        "side": "torch",
        "old": "torch.sigmoid(o) * c / n, m_new",
        "new": "torch.sigmoid(o) * c / n.clamp(min=1.0), m_new",
        "line": 39,
    },
]
