"""RWKV-4: time mixing by a numerically stable weighted average over the past, and channel mixing. Port: NamedTuple parameters, a scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

C, HID = 12, 24


def inputs():
    return {"x": np.random.default_rng(13).normal(size=(2, 8, C)).astype("float32")}


class TimeMix(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_decay = nn.Parameter(torch.linspace(-2, 1, C))
        self.time_first = nn.Parameter(torch.randn(C))
        self.time_mix_k = nn.Parameter(torch.rand(C))
        self.time_mix_v = nn.Parameter(torch.rand(C))
        self.time_mix_r = nn.Parameter(torch.rand(C))
        self.time_shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.key = nn.Linear(C, C, bias=False)
        self.value = nn.Linear(C, C, bias=False)
        self.receptance = nn.Linear(C, C, bias=False)
        self.output = nn.Linear(C, C, bias=False)

    def wkv(self, k, v):
        w = -torch.exp(self.time_decay)
        num, den, top = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], -1e38)
        outs = []
        for t in range(k.shape[1]):
            kk, vv = k[:, t], v[:, t]
            q = torch.maximum(top, self.time_first + kk)
            e1, e2 = torch.exp(top - q), torch.exp(self.time_first + kk - q)
            outs.append((e1 * num + e2 * vv) / (e1 * den + e2))
            q = torch.maximum(top + w, kk)
            e1, e2 = torch.exp(top + w - q), torch.exp(kk - q)
            num, den, top = e1 * num + e2 * vv, e1 * den + e2, q
        return torch.stack(outs, dim=1)

    def forward(self, x):
        xx = self.time_shift(x)
        k = self.key(x * self.time_mix_k + xx * (1 - self.time_mix_k))
        v = self.value(x * self.time_mix_v + xx * (1 - self.time_mix_v))
        r = self.receptance(x * self.time_mix_r + xx * (1 - self.time_mix_r))
        return self.output(torch.sigmoid(r) * self.wkv(k, v))


class ChannelMix(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_mix_k = nn.Parameter(torch.rand(C))
        self.time_mix_r = nn.Parameter(torch.rand(C))
        self.time_shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.key = nn.Linear(C, HID, bias=False)
        self.receptance = nn.Linear(C, C, bias=False)
        self.value = nn.Linear(HID, C, bias=False)

    def forward(self, x):
        xx = self.time_shift(x)
        k = self.key(x * self.time_mix_k + xx * (1 - self.time_mix_k))
        r = self.receptance(x * self.time_mix_r + xx * (1 - self.time_mix_r))
        return torch.sigmoid(r) * self.value(torch.square(torch.relu(k)))


class RWKVBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1 = nn.LayerNorm(C)
        self.ln2 = nn.LayerNorm(C)
        self.att = TimeMix()
        self.ffn = ChannelMix()

    def forward(self, x):
        x = x + self.att(self.ln1(x))
        return x + self.ffn(self.ln2(x))


def torch_side():
    torch.manual_seed(131)
    block = RWKVBlock()
    for ln in (block.ln1, block.ln2):
        ln.weight.data = F.softplus(torch.randn(C))
        ln.bias.data.normal_(0, 0.3)
    return block


class Params(NamedTuple):
    norms: tuple
    decay: jax.Array
    bonus: jax.Array
    mix: jax.Array  # key, value, receptance of the time mixing; then key, receptance of the channel mixing
    Wk: jax.Array
    Wv: jax.Array
    Wr: jax.Array
    Wo: jax.Array
    Uk: jax.Array
    Uv: jax.Array
    Ur: jax.Array


def norm(x, gain, shift):
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + shift


def shifted(x):
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def lerp(x, m):
    return x * m + shifted(x) * (1 - m)


def weighted_average(k, v, decay, bonus):
    rate = -jnp.exp(decay)

    def step(carry, kv):
        a, b, m = carry
        k_t, v_t = kv
        now = jnp.maximum(m, bonus + k_t)
        past, present = jnp.exp(m - now), jnp.exp(bonus + k_t - now)
        y = (past * a + present * v_t) / (past * b + present)
        new = jnp.maximum(m + rate, k_t)
        past, present = jnp.exp(m + rate - new), jnp.exp(k_t - new)
        return (past * a + present * v_t, past * b + present, new), y

    zeros = jnp.zeros_like(k[:, 0])
    start = (zeros, zeros, zeros - 1e38)
    _, ys = jax.lax.scan(step, start, (k.swapaxes(0, 1), v.swapaxes(0, 1)))
    return ys.swapaxes(0, 1)


def rwkv(p: Params, x):
    h = norm(x, *p.norms[0])
    k, v, r = lerp(h, p.mix[0]) @ p.Wk, lerp(h, p.mix[1]) @ p.Wv, lerp(h, p.mix[2]) @ p.Wr
    x = x + (jax.nn.sigmoid(r) * weighted_average(k, v, p.decay, p.bonus)) @ p.Wo
    h = norm(x, *p.norms[1])
    k, r = lerp(h, p.mix[3]) @ p.Uk, lerp(h, p.mix[4]) @ p.Ur
    return x + jax.nn.sigmoid(r) * (jnp.square(jax.nn.relu(k)) @ p.Uv)


def jax_side():
    t = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}
    mixes = ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_k", "ffn.time_mix_r")
    return rwkv, Params(
        norms=tuple((t[f"{n}.weight"], t[f"{n}.bias"]) for n in ("ln1", "ln2")),
        decay=t["att.time_decay"],
        bonus=t["att.time_first"],
        mix=jnp.stack([t[n] for n in mixes]),
        Wk=t["att.key.weight"].T,
        Wv=t["att.value.weight"].T,
        Wr=t["att.receptance.weight"].T,
        Wo=t["att.output.weight"].T,
        Uk=t["ffn.key.weight"].T,
        Uv=t["ffn.value.weight"].T,
        Ur=t["ffn.receptance.weight"].T,
    )


MISTAKES = [
    {
        "name": "the mixing weights of the present and the previous token are exchanged",
        "side": "jax",
        "old": "    return x * m + shifted(x) * (1 - m)",
        "new": "    return shifted(x) * m + x * (1 - m)",
        "line": 120,
    },
    {
        "name": "ReLU is not squared in the channel mixing",
        "side": "jax",
        "old": "(jnp.square(jax.nn.relu(k)) @ p.Uv)",
        "new": "(jax.nn.relu(k) @ p.Uv)",
        "line": 148,
    },
    {
        "name": "the decay is not exponentiated",
        "side": "torch",
        "old": "w = -torch.exp(self.time_decay)",
        "new": "w = -self.time_decay.abs()",
        "line": 36,
    },
    {
        "name": "the bonus of the present token is carried on into the state",
        "side": "jax",
        "old": "past, present = jnp.exp(m + rate - new), jnp.exp(k_t - new)",
        "new": "past, present = jnp.exp(m + rate - new), jnp.exp(bonus + k_t - new)",
        "line": 133,
    },
]
