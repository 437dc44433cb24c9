"""A Llama model of two blocks: grouped keys and values, rotary positions by halves, RMS norms, SwiGLU. Port: Flax NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False
SINGLE = True  # jax.nn.dot_product_attention computes its scores in float32, whatever it is given

DIM, HEADS, KV, HD, FF, VOCAB, LAYERS, THETA = 16, 4, 2, 4, 24, 22, 2, 500.0


def inputs():
    return {"input_ids": np.random.default_rng(26).integers(0, VOCAB, size=(2, 11))}


class LlamaRMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def rotary(x):
    inv_freq = 1.0 / (THETA ** (torch.arange(0, HD, 2, dtype=torch.float64) / HD))
    freqs = torch.outer(torch.arange(x.shape[2], dtype=torch.float64), inv_freq)
    emb = torch.cat((freqs, freqs), dim=-1)
    return x * emb.cos().to(x.dtype) + rotate_half(x) * emb.sin().to(x.dtype)


class LlamaDecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(DIM)
        self.q_proj = nn.Linear(DIM, HEADS * HD, bias=False)
        self.k_proj = nn.Linear(DIM, KV * HD, bias=False)
        self.v_proj = nn.Linear(DIM, KV * HD, bias=False)
        self.o_proj = nn.Linear(HEADS * HD, DIM, bias=False)
        self.post_attention_layernorm = LlamaRMSNorm(DIM)
        self.gate_proj = nn.Linear(DIM, FF, bias=False)
        self.up_proj = nn.Linear(DIM, FF, bias=False)
        self.down_proj = nn.Linear(FF, DIM, bias=False)

    def attn(self, x):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, HEADS, HD).transpose(1, 2)
        k = self.k_proj(x).view(b, t, KV, HD).transpose(1, 2)
        v = self.v_proj(x).view(b, t, KV, HD).transpose(1, 2)
        q, k = rotary(q), rotary(k)
        k, v = (t_.repeat_interleave(HEADS // KV, dim=1) for t_ in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x):
        x = x + self.attn(self.input_layernorm(x))
        h = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class LlamaForCausalLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([LlamaDecoderLayer() for _ in range(LAYERS)])
        self.norm = LlamaRMSNorm(DIM)
        self.lm_head = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def torch_side():
    torch.manual_seed(2626)
    model = LlamaForCausalLM()
    for name, p in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(p, 0.4, 1.6)
        else:
            nn.init.normal_(p, std=0.08 if "embed" in name else 0.5)
    return model.eval()


class Norm(nnx.Module):
    def __init__(self):
        self.gain = nnx.Param(jnp.ones(DIM))

    def __call__(self, x):
        ms = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x / jnp.sqrt(ms + 1e-5) * self.gain[...]


def apply_rope(x, positions):
    fraction = 2 * np.arange(HD // 2) / HD
    angle = positions[:, None, None] / THETA**fraction
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class GroupedAttention(nnx.Module):
    def __init__(self, rngs):
        self.wq = nnx.Linear(DIM, HEADS * HD, use_bias=False, rngs=rngs)
        self.wkv = nnx.Linear(DIM, 2 * KV * HD, use_bias=False, rngs=rngs)
        self.wo = nnx.Linear(HEADS * HD, DIM, use_bias=False, rngs=rngs)

    def __call__(self, x):
        b, t, _ = x.shape
        positions = np.arange(t)
        q = apply_rope(self.wq(x).reshape(b, t, HEADS, HD), positions)
        k, v = jnp.split(self.wkv(x).reshape(b, t, 2 * KV, HD), 2, axis=2)
        k = apply_rope(k, positions)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.reshape(b, t, HEADS * HD))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention_norm, self.ffn_norm = Norm(), Norm()
        self.attention = GroupedAttention(rngs)
        self.w13 = nnx.Linear(DIM, 2 * FF, use_bias=False, rngs=rngs)
        self.w2 = nnx.Linear(FF, DIM, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = x + self.attention(self.attention_norm(x))
        gate, up = jnp.split(self.w13(self.ffn_norm(h)), 2, axis=-1)
        return h + self.w2(nnx.silu(gate) * up)


class Llama(nnx.Module):
    def __init__(self, rngs):
        self.tok_embeddings = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = Norm()
        self.output = nnx.Linear(DIM, VOCAB, use_bias=False, rngs=rngs)

    def __call__(self, input_ids):
        h = self.tok_embeddings(input_ids)
        for block in self.blocks:
            h = block(h)
        return self.output(self.norm(h))


def jax_side():
    return Llama(nnx.Rngs(26))


def convert(module):
    model = Llama(nnx.Rngs(0))

    def kernels(param, *linears):
        param[...] = jnp.concatenate([jnp.asarray(m.weight.detach().numpy().T) for m in linears], axis=1)

    def gain(ours, theirs):
        ours.gain[...] = jnp.asarray(theirs.weight.detach().numpy())

    model.tok_embeddings.embedding[...] = jnp.asarray(module.embed_tokens.weight.detach().numpy())
    for ours, theirs in zip(model.blocks, module.layers):
        gain(ours.attention_norm, theirs.input_layernorm)
        gain(ours.ffn_norm, theirs.post_attention_layernorm)
        kernels(ours.attention.wq.kernel, theirs.q_proj)
        kernels(ours.attention.wkv.kernel, theirs.k_proj, theirs.v_proj)
        kernels(ours.attention.wo.kernel, theirs.o_proj)
        kernels(ours.w13.kernel, theirs.gate_proj, theirs.up_proj)
        kernels(ours.w2.kernel, theirs.down_proj)
    gain(model.norm, module.norm)
    kernels(model.output.kernel, module.lm_head)
    return model


MISTAKES = [
    {
        "name": "rotary positions on interleaved pairs instead of halves",
        "side": "jax",
        "old": "    first, second = jnp.split(x, 2, axis=-1)\n    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)",
        "new": "    first, second = x[..., ::2], x[..., 1::2]\n    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)",
        "line": 111,
    },
    {
        "name": "the RMS norm's epsilon is added after the square root",
        "side": "jax",
        "old": "x / jnp.sqrt(ms + 1e-5) * self.gain[...]",
        "new": "x / (jnp.sqrt(ms) + 1e-5) * self.gain[...]",
        "line": 104,
    },
    {
        "name": "the key heads are repeated as a whole, so that groups interleave",
        "side": "torch",
        "old": "t_.repeat_interleave(HEADS // KV, dim=1)",
        "new": "t_.repeat(1, HEADS // KV, 1, 1)",
        "line": 62,
    },
    {
        "name": "the rotary base is 10000 instead of 500",
        "side": "jax",
        "old": "positions[:, None, None] / THETA**fraction",
        "new": "positions[:, None, None] / 10000.0**fraction",
        "line": 109,
    },
    {
        "name": "keys are not rotated",
        "side": "jax",
        "old": "        k = apply_rope(k, positions)\n",
        "new": "",
        "line": 126,
    },
]
