"""A decoder-only language model after a soft prompt: multi-query attention, ALiBi, SwiGLU, tied embeddings. The port scans stacked parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

VOCAB, WIDTH, HEADS, HEAD_DIM, HIDDEN, LAYERS, PROMPT, PAD = 17, 24, 6, 5, 20, 3, 4, 0


def inputs():
    rng = np.random.default_rng(202)
    tokens = rng.integers(1, VOCAB, size=(2, 9))
    tokens[1, 6:] = PAD
    return {"prompt": rng.normal(size=(2, PROMPT, WIDTH)).astype("float32"), "tokens": tokens}


def get_slopes(n):
    def power_of_2(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_2(n)
    closest = 2 ** math.floor(math.log2(n))
    return power_of_2(closest) + get_slopes(2 * closest)[0::2][: n - closest]


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class MultiQueryAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = HEAD_DIM**-0.5
        self.to_q = nn.Linear(WIDTH, HEADS * HEAD_DIM, bias=False)
        self.to_kv = nn.Linear(WIDTH, 2 * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.register_buffer("slopes", torch.tensor(get_slopes(HEADS)).view(HEADS, 1, 1), persistent=False)

    def forward(self, x):
        b, n, _ = x.shape
        q = self.to_q(x).view(b, n, HEADS, HEAD_DIM).transpose(1, 2) * self.scale
        k, v = self.to_kv(x).chunk(2, dim=-1)
        sim = torch.matmul(q, k.unsqueeze(1).transpose(-1, -2))
        pos = torch.arange(n)
        sim = sim + self.slopes * (pos[None, :] - pos[:, None]).to(x.dtype)
        causal = torch.ones(n, n, dtype=torch.bool).triu(1)
        attn = sim.masked_fill(causal, -torch.finfo(sim.dtype).max).softmax(dim=-1)
        out = torch.matmul(attn, v.unsqueeze(1))
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.wi = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        self.wo = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        x, gate = self.wi(x).chunk(2, dim=-1)
        return self.wo(F.silu(gate) * x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(WIDTH), MultiQueryAttention()
        self.ff_norm, self.ff = RMSNorm(WIDTH), SwiGLU()

    def forward(self, x):
        x = x + self.attn(self.attn_norm(x))
        return x + self.ff(self.ff_norm(x))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = RMSNorm(WIDTH)

    def forward(self, prompt, tokens):
        x = torch.cat([prompt, self.embed(tokens) * WIDTH**0.5], dim=1)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed.weight)
        predicted = logits[:, PROMPT - 1 : -1].reshape(-1, VOCAB)
        loss = F.cross_entropy(predicted, tokens.reshape(-1), ignore_index=PAD)
        return logits[:, PROMPT:], loss


def torch_side():
    torch.manual_seed(202)
    net = Decoder()
    nn.init.normal_(net.embed.weight, std=0.3)
    for name, p in net.named_parameters():
        if "norm" in name:
            nn.init.uniform_(p, 0.5, 1.5)
        elif "blocks" in name:
            nn.init.normal_(p, std=0.25)
    # slopes are powers of two, so exact in float32
    return net


def rms(x, gain):
    return x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5) * gain


def alibi_slopes():
    """2^(-8 i / p) for the p heads of the largest power of two, then every other of those for 2 p."""
    p = 1 << (HEADS.bit_length() - 1)
    first = 2.0 ** (-8.0 * np.arange(1, p + 1) / p)
    rest = 2.0 ** (-8.0 * np.arange(1, 2 * (HEADS - p), 2) / (2 * p))
    return np.concatenate([first, rest])


def layer(x, p):
    """One block's output, in the form of lax.scan's body."""
    h = rms(x, p["gain_a"])
    q = jnp.einsum("btd,dnk->btnk", h, p["query"])
    k, v = h @ p["key"], h @ p["value"]
    length = x.shape[1]
    behind = np.subtract.outer(np.arange(length), np.arange(length))
    score = jnp.einsum("btnk,bsk->bnts", q, k) / np.sqrt(HEAD_DIM)
    score -= jnp.asarray(alibi_slopes()[:, None, None] * behind, x.dtype)
    weight = jax.nn.softmax(score, axis=-1, where=behind >= 0)
    x = x + jnp.einsum("bnts,bsk,nkd->btd", weight, v, p["mix"])
    h = rms(x, p["gain_f"])
    return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"], None


def language_model(params, prompt, tokens):
    table = params["table"]
    x = jnp.concatenate([prompt, table[tokens] * np.sqrt(WIDTH)], axis=1)
    x, _ = jax.lax.scan(layer, x, params["layers"])
    logits = jnp.einsum("btd,vd->btv", rms(x, params["gain"]), table)
    logp = jax.nn.log_softmax(jax.lax.slice_in_dim(logits, PROMPT - 1, logits.shape[1] - 1, axis=1))
    counts = (tokens != PAD).astype(logits.dtype)
    picked = jnp.take_along_axis(logp, tokens[..., None], axis=-1).squeeze(-1)
    return logits[:, PROMPT:], -jnp.sum(picked * counts) / jnp.sum(counts)


def jax_side():
    state = {k: v.numpy() for k, v in torch_side().state_dict().items()}

    def every(key, change=lambda w: w.T):
        return jnp.stack([jnp.asarray(change(state[f"blocks.{i}.{key}"])) for i in range(LAYERS)])

    layers = {
        "gain_a": every("attn_norm.weight"),
        "query": every("attn.to_q.weight", lambda w: w.T.reshape(WIDTH, HEADS, HEAD_DIM)),
        "key": every("attn.to_kv.weight", lambda w: w[:HEAD_DIM].T),
        "value": every("attn.to_kv.weight", lambda w: w[HEAD_DIM:].T),
        "mix": every("attn.to_out.weight", lambda w: w.T.reshape(HEADS, HEAD_DIM, WIDTH)),
        "gain_f": every("ff_norm.weight"),
        "up": every("ff.wi.weight", lambda w: w[:HIDDEN].T),
        "gate": every("ff.wi.weight", lambda w: w[HIDDEN:].T),
        "down": every("ff.wo.weight"),
    }
    return language_model, {
        "table": jnp.asarray(state["embed.weight"]),
        "layers": layers,
        "gain": jnp.asarray(state["norm.weight"]),
    }


MISTAKES = [
    {
        "name": "the ALiBi slopes are the geometric series for six heads, as if six were a power of two",
        "side": "jax",
        "old": "return np.concatenate([first, rest])",
        "new": "return 2.0 ** (-8.0 * np.arange(1, HEADS + 1) / HEADS)",
        "line": 128,
    },
    {
        "name": "SwiGLU's SiLU is on the other half",
        "side": "jax",
        "old": 'jax.nn.silu(h @ p["gate"]) * (h @ p["up"])',
        "new": '(h @ p["gate"]) * jax.nn.silu(h @ p["up"])',
        "line": 143,
    },
    {
        "name": "the RMS norm multiplies by one plus its weight",
        "side": "jax",
        "old": "keepdims=True) + 1e-5) * gain",
        "new": "keepdims=True) + 1e-5) * (1.0 + gain)",
        "line": 120,
    },
    {
        "name": "the queries are scaled by the width divided by the number of heads, which is not the size of a head",
        "side": "torch",
        "old": "self.scale = HEAD_DIM**-0.5",
        "new": "self.scale = (WIDTH // HEADS) ** -0.5",
        "line": 48,
    },
    {
        "name": "the loss also counts padding",
        "side": "torch",
        "old": "tokens.reshape(-1), ignore_index=PAD)",
        "new": "tokens.reshape(-1))",
        "line": 102,
    },
]
