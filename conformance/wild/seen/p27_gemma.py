"""A Gemma-2 block: norms that multiply by one plus their weight, norms after each sublayer, soft caps, scaled embedding. Functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

DIM, HEADS, KV, HEAD_DIM, FF, VOCAB, LAYERS = 16, 4, 2, 8, 32, 20, 2
ATTN_CAP, FINAL_CAP, QUERY_SCALAR = 5.0, 3.0, 16


def inputs():
    return (np.random.default_rng(27).integers(0, VOCAB, size=(2, 8)),)


class GemmaRMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        output = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return output * (1.0 + self.weight)


def rotate_half(x):
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


class GemmaAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(DIM, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(DIM, KV * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(DIM, KV * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, DIM, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, HEADS, HEAD_DIM).transpose(1, 2)
        k = self.k_proj(x).view(b, t, KV, HEAD_DIM).transpose(1, 2)
        v = self.v_proj(x).view(b, t, KV, HEAD_DIM).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = k.repeat_interleave(HEADS // KV, dim=1), v.repeat_interleave(HEADS // KV, dim=1)
        scores = q @ k.transpose(2, 3) * QUERY_SCALAR**-0.5
        scores = torch.tanh(scores / ATTN_CAP) * ATTN_CAP
        scores = scores + torch.full((t, t), -1e9, dtype=x.dtype).triu(1)
        out = scores.softmax(-1) @ v
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class GemmaLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = GemmaAttention()
        self.gate_proj = nn.Linear(DIM, FF, bias=False)
        self.up_proj = nn.Linear(DIM, FF, bias=False)
        self.down_proj = nn.Linear(FF, DIM, bias=False)
        self.input_layernorm = GemmaRMSNorm(DIM)
        self.post_attention_layernorm = GemmaRMSNorm(DIM)
        self.pre_feedforward_layernorm = GemmaRMSNorm(DIM)
        self.post_feedforward_layernorm = GemmaRMSNorm(DIM)

    def forward(self, x, cos, sin):
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cos, sin))
        h = self.pre_feedforward_layernorm(x)
        h = self.down_proj(F.gelu(self.gate_proj(h), approximate="tanh") * self.up_proj(h))
        return x + self.post_feedforward_layernorm(h)


class Gemma(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([GemmaLayer() for _ in range(LAYERS)])
        self.norm = GemmaRMSNorm(DIM)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids) * DIM**0.5
        inv_freq = 1.0 / 10000 ** (torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
        angles = torch.arange(input_ids.shape[1])[:, None] * inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return FINAL_CAP * torch.tanh(logits / FINAL_CAP)


def torch_side():
    torch.manual_seed(27)
    model = Gemma()
    for name, p in model.named_parameters():
        nn.init.normal_(p, std=0.3 if "norm" in name or "embed" in name else 0.5)
    return model.eval()


def rms(x, w):
    return (1 + w) * x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def soft_cap(x, cap):
    return cap * jnp.tanh(x / cap)


def rope(x, positions):
    half = x.shape[-1] // 2
    timescale = 10000.0 ** (np.arange(half) / half)
    angle = positions[:, None, None] / timescale
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attention(p, x):
    positions = np.arange(x.shape[1])
    q = rope(jnp.einsum("btd,dhk->bthk", x, p["q"]), positions)
    k, v = jnp.einsum("bsd,cdgk->cbsgk", x, p["kv"])
    k = rope(k, positions)
    q = q.reshape(*q.shape[:2], KV, HEADS // KV, HEAD_DIM)
    logits = soft_cap(jnp.einsum("btgrk,bsgk->bgrts", q, k) / np.sqrt(QUERY_SCALAR), ATTN_CAP)
    logits = jnp.where(positions[:, None] >= positions, logits, -1e9)
    out = jnp.einsum("bgrts,bsgk->btgrk", jax.nn.softmax(logits, axis=-1), v)
    return jnp.einsum("bthk,hkd->btd", out.reshape(*x.shape[:2], HEADS, HEAD_DIM), p["o"])


def gemma(params, input_ids):
    table = params["embedder"]
    x = table[input_ids] * np.sqrt(DIM).astype(np.float32)
    for p in params["blocks"]:
        x = x + rms(attention(p["attn"], rms(x, p["pre_attn"])), p["post_attn"])
        h = rms(x, p["pre_ffw"])
        gate, up = jnp.einsum("btd,cdf->cbtf", h, p["gating"])
        h = jax.nn.gelu(gate) * up
        x = x + rms(h @ p["linear"], p["post_ffw"])
    logits = rms(x, params["final_norm"]) @ table.T
    return soft_cap(logits, FINAL_CAP)


def convert(module):
    def a(p):
        return jnp.asarray(p.weight.detach().numpy())

    def heads(p):
        return a(p).T.reshape(DIM, -1, HEAD_DIM)

    def block(m):
        s = m.self_attn
        return {
            "attn": {
                "q": heads(s.q_proj),
                "kv": jnp.stack([heads(s.k_proj), heads(s.v_proj)]),
                "o": a(s.o_proj).T.reshape(HEADS, HEAD_DIM, DIM),
            },
            "gating": jnp.stack([a(m.gate_proj).T, a(m.up_proj).T]),
            "linear": a(m.down_proj).T,
            "pre_attn": a(m.input_layernorm),
            "post_attn": a(m.post_attention_layernorm),
            "pre_ffw": a(m.pre_feedforward_layernorm),
            "post_ffw": a(m.post_feedforward_layernorm),
        }

    return gemma, {
        "embedder": a(module.embed_tokens),
        "blocks": [block(m) for m in module.layers],
        "final_norm": a(module.norm),
    }


def jax_side():
    rng = np.random.default_rng(5)
    return gemma, jax.tree.map(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape).astype("float32")), convert(Gemma())[1])


MISTAKES = [
    {
        "name": "the norm multiplies by its weight instead of one plus it",
        "side": "jax",
        "old": "return (1 + w) * x / jnp.sqrt(",
        "new": "return w * x / jnp.sqrt(",
        "line": 105,
    },
    {
        "name": "the embedding is not scaled by the square root of the width",
        "side": "jax",
        "old": "x = table[input_ids] * np.sqrt(DIM).astype(np.float32)",
        "new": "x = table[input_ids]",
        "line": 135,
    },
    {
        "name": "the scores are not capped",
        "side": "torch",
        "old": "        scores = torch.tanh(scores / ATTN_CAP) * ATTN_CAP\n",
        "new": "",
        "line": 52,
    },
    {
        "name": "key heads are tiled instead of repeated: grouped the wrong way",
        "side": "jax",
        "old": "    q = q.reshape(*q.shape[:2], KV, HEADS // KV, HEAD_DIM)",
        "new": "    q = q.reshape(*q.shape[:2], HEADS // KV, KV, HEAD_DIM).swapaxes(2, 3)",
        "line": 126,
    },
    {
        "name": "the final logits are capped at the attention's cap",
        "side": "jax",
        "old": "return soft_cap(logits, FINAL_CAP)",
        "new": "return soft_cap(logits, ATTN_CAP)",
        "line": 143,
    },
]
