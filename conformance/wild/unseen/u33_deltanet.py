"""A language model of gated delta rule layers: short convolutions, decayed memory, gated norm, SwiGLU. The port is NamedTuples of stacked layers, scanned over."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

VOCAB, WIDTH, LAYERS, LENGTH, BATCH = 13, 16, 2, 9, 2
K_HEADS, V_HEADS, K_DIM, V_DIM, TAPS, HIDDEN = 2, 4, 5, 3, 4, 20


def inputs():
    rng = np.random.default_rng(205)
    memory = rng.normal(size=(LAYERS, BATCH, V_HEADS, K_DIM, V_DIM)).astype("float32")
    return {"tokens": rng.integers(0, VOCAB, size=(BATCH, LENGTH)), "memory": 0.5 * memory}


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class ShortConvolution(nn.Conv1d):
    def __init__(self, dim):
        super().__init__(dim, dim, TAPS, groups=dim, padding=TAPS - 1, bias=False)

    def forward(self, x):
        return F.silu(super().forward(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)


def l2norm(x):
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


class GatedDeltaNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, K_HEADS * K_DIM, bias=False)
        self.k_proj = nn.Linear(WIDTH, K_HEADS * K_DIM, bias=False)
        self.v_proj = nn.Linear(WIDTH, V_HEADS * V_DIM, bias=False)
        self.q_conv = ShortConvolution(K_HEADS * K_DIM)
        self.k_conv = ShortConvolution(K_HEADS * K_DIM)
        self.v_conv = ShortConvolution(V_HEADS * V_DIM)
        self.a_proj = nn.Linear(WIDTH, V_HEADS, bias=False)
        self.b_proj = nn.Linear(WIDTH, V_HEADS, bias=False)
        self.A_log = nn.Parameter(torch.empty(V_HEADS).uniform_(0.3, 2.0).log())
        self.dt_bias = nn.Parameter(torch.randn(V_HEADS) * 0.5 - 1.0)
        self.g_proj = nn.Linear(WIDTH, V_HEADS * V_DIM, bias=False)
        self.o_norm = RMSNorm(V_DIM)
        self.o_proj = nn.Linear(V_HEADS * V_DIM, WIDTH, bias=False)

    def forward(self, x, state):
        q = l2norm(self.q_conv(self.q_proj(x)).unflatten(-1, (K_HEADS, K_DIM))) * K_DIM**-0.5
        k = l2norm(self.k_conv(self.k_proj(x)).unflatten(-1, (K_HEADS, K_DIM)))
        v = self.v_conv(self.v_proj(x)).unflatten(-1, (V_HEADS, V_DIM))
        q, k = (a.repeat_interleave(V_HEADS // K_HEADS, dim=2) for a in (q, k))
        beta = self.b_proj(x).sigmoid()
        g = -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)
        outs = []
        for t in range(x.shape[1]):
            state = state * g[:, t].exp()[..., None, None]
            kv_mem = (state * k[:, t, :, :, None]).sum(dim=-2)
            delta = (v[:, t] - kv_mem) * beta[:, t, :, None]
            state = state + k[:, t, :, :, None] * delta[:, :, None, :]
            outs.append((state * q[:, t, :, :, None]).sum(dim=-2))
        o = torch.stack(outs, dim=1)
        gate = F.silu(self.g_proj(x)).unflatten(-1, (V_HEADS, V_DIM))
        o = self.o_norm(o) * gate
        return self.o_proj(o.flatten(2)), state


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.mlp_norm = RMSNorm(WIDTH), RMSNorm(WIDTH)
        self.attn = GatedDeltaNet()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x, state):
        out, state = self.attn(self.attn_norm(x), state)
        x = x + out
        y = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y)), state


class DeltaLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens, memory):
        x, last = self.embeddings(tokens), []
        for layer, state in zip(self.layers, memory, strict=True):
            x, state = layer(x, state)
            last.append(state)
        return self.lm_head(self.norm(x)), torch.stack(last)


def torch_side():
    torch.manual_seed(205)
    net = DeltaLM()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
        elif isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.6)
    return net


class Delta(NamedTuple):
    pre: jax.Array
    fused: jax.Array  # (width, queries + keys + values + gates)
    taps: jax.Array  # (taps, queries + keys + values)
    pace: jax.Array  # (width, heads, 2): decay, rate of writing
    log_a: jax.Array
    pace_bias: jax.Array
    post: jax.Array
    merge: jax.Array  # (heads, value size, width)
    pre_wide: jax.Array
    wide: jax.Array  # (width, 2, hidden)
    narrow: jax.Array


class Model(NamedTuple):
    table: jax.Array
    layers: Delta
    last: jax.Array
    head: jax.Array


def rms(x, scale):
    return scale * x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def unit(x):
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def remember(memory, queries, keys, values, keep, rate):
    """The delta rule of one head over one sequence."""

    def step(memory, now):
        q, k, v, keep, rate = now
        memory = keep * memory
        memory = memory + jnp.outer(k, rate * (v - k @ memory))
        return memory, q @ memory

    return jax.lax.scan(step, memory, (queries, keys, values, keep, rate))


def causal(x, taps):
    length = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (TAPS - 1, 0), (0, 0)))
    add = lambda j, y: y + taps[j] * jax.lax.dynamic_slice_in_dim(padded, j, length, axis=1)  # noqa: E731
    return jax.nn.silu(jax.lax.fori_loop(0, TAPS, add, jnp.zeros_like(x)))


def block(x, xs):
    p, memory = xs
    y = rms(x, p.pre)
    size = K_HEADS * K_DIM
    mixed, gate = jnp.split(y @ p.fused, [2 * size + V_HEADS * V_DIM], axis=-1)
    q, k, v = jnp.split(causal(mixed, p.taps), [size, 2 * size], axis=-1)
    q, k = (unit(a.reshape(*a.shape[:2], K_HEADS, K_DIM)) for a in (q, k))
    q, k = (jnp.repeat(a, V_HEADS // K_HEADS, axis=2) for a in (q, k))
    v, gate = (a.reshape(*a.shape[:2], V_HEADS, V_DIM) for a in (v, gate))
    decay, rate = jnp.moveaxis(jnp.einsum("btw,whc->bthc", y, p.pace), -1, 0)
    keep = jnp.exp(-jnp.exp(p.log_a) * jax.nn.softplus(decay + p.pace_bias))
    heads = jax.vmap(remember, in_axes=(0, 1, 1, 1, 1, 1), out_axes=(0, 1))
    memory, read = jax.vmap(heads)(memory, q / K_DIM**0.5, k, v, keep, jax.nn.sigmoid(rate))
    x = x + jnp.einsum("bthd,hdw->btw", rms(read, p.post) * jax.nn.silu(gate), p.merge)
    wide = jnp.einsum("btw,wcf->cbtf", rms(x, p.pre_wide), p.wide)
    return x + (jax.nn.silu(wide[0]) * wide[1]) @ p.narrow, memory


def forward(model, tokens, memory):
    hidden, memory = jax.lax.scan(block, jnp.take(model.table, tokens, axis=0), (model.layers, memory))
    return rms(hidden, model.last) @ model.head, memory


def jax_side():
    source = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def layer(at):
        take = lambda key: source[at + key + ".weight"].T  # noqa: E731
        mixer = at + "attn."
        return Delta(
            pre=source[at + "attn_norm.weight"],
            fused=jnp.concatenate([take(f"attn.{n}_proj") for n in "qkvg"], axis=1),
            taps=jnp.concatenate([take(f"attn.{n}_conv")[:, 0] for n in "qkv"], axis=1),
            pace=jnp.stack([take("attn.a_proj"), take("attn.b_proj")], axis=-1),
            log_a=source[mixer + "A_log"],
            pace_bias=source[mixer + "dt_bias"],
            post=source[mixer + "o_norm.weight"],
            merge=take("attn.o_proj").reshape(V_HEADS, V_DIM, WIDTH),
            pre_wide=source[at + "mlp_norm.weight"],
            wide=jnp.stack([take("gate_proj"), take("up_proj")], axis=1),
            narrow=take("down_proj"),
        )

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *[layer(f"layers.{i}.") for i in range(LAYERS)])
    model = Model(source["embeddings.weight"], stacked, source["norm.weight"], source["lm_head.weight"].T)
    return forward, model


MISTAKES = [
    {
        "name": "the short convolution's taps run the other way: the last one is on the oldest token",
        "side": "jax",
        "old": "y + taps[j] * jax.lax",
        "new": "y + taps[TAPS - 1 - j] * jax.lax",
        "line": 169,
    },
    {
        "name": "the delta's error is read from the memory before it has decayed",
        "side": "jax",
        "old": "        memory = keep * memory\n        memory = memory + jnp.outer(k, rate * (v - k @ memory))",
        "new": "        memory = keep * memory + jnp.outer(k, rate * (v - k @ memory))",
        "line": 159,
    },
    {
        "name": "the decay's bias is added behind the softplus instead of inside",
        "side": "torch",
        "old": "F.softplus(self.a_proj(x) + self.dt_bias)",
        "new": "(F.softplus(self.a_proj(x)) + self.dt_bias)",
        "line": 68,
    },
    {
        "name": "the output is gated in front of its norm instead of behind",
        "side": "torch",
        "old": "o = self.o_norm(o) * gate",
        "new": "o = self.o_norm(o * gate)",
        "line": 78,
    },
    {
        "name": "the query and key heads are tiled over the value heads instead of each being repeated",
        "side": "jax",
        "old": "(jnp.repeat(a, V_HEADS // K_HEADS, axis=2) for a in (q, k))",
        "new": "(jnp.tile(a, (1, 1, V_HEADS // K_HEADS, 1)) for a in (q, k))",
        "line": 180,
    },
]
