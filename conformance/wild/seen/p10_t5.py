"""T5's encoder: RMS norm without mean, unscaled scores, a bias by bucketed relative distance shared by all layers. Port: Linen."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = False

D_MODEL, HEADS, D_KV, D_FF, VOCAB, BUCKETS, MAX_DISTANCE, T = 16, 4, 4, 32, 30, 8, 16, 24


def inputs():
    rng = np.random.default_rng(10)
    mask = np.ones((2, T), dtype=bool)
    mask[0, 20:] = False
    return {"input_ids": rng.integers(0, VOCAB, size=(2, T)), "mask": mask}


class T5LayerNorm(torch.nn.Module):
    def __init__(self, hidden_size, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(1 + 0.3 * torch.randn(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


class T5Attention(torch.nn.Module):
    def __init__(self, has_relative_attention_bias):
        super().__init__()
        self.q = torch.nn.Linear(D_MODEL, HEADS * D_KV, bias=False)
        self.k = torch.nn.Linear(D_MODEL, HEADS * D_KV, bias=False)
        self.v = torch.nn.Linear(D_MODEL, HEADS * D_KV, bias=False)
        self.o = torch.nn.Linear(HEADS * D_KV, D_MODEL, bias=False)
        if has_relative_attention_bias:
            self.relative_attention_bias = torch.nn.Embedding(BUCKETS, HEADS)

    @staticmethod
    def _relative_position_bucket(relative_position):
        num_buckets = BUCKETS // 2
        relative_buckets = (relative_position > 0).long() * num_buckets
        relative_position = relative_position.abs()
        max_exact = num_buckets // 2
        is_small = relative_position < max_exact
        large = torch.log(relative_position.clamp(min=1).double() / max_exact) / math.log(MAX_DISTANCE / max_exact)
        large = max_exact + (large * (num_buckets - max_exact)).long()
        large = large.clamp(max=num_buckets - 1)
        return relative_buckets + torch.where(is_small, relative_position, large)

    def compute_bias(self, length):
        memory = torch.arange(length)[None, :]
        context = torch.arange(length)[:, None]
        values = self.relative_attention_bias(self._relative_position_bucket(memory - context))
        return values.permute([2, 0, 1]).unsqueeze(0)

    def forward(self, x, bias):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, HEADS, D_KV).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(3, 2) + bias, dim=-1)
        return self.o((weights @ v).transpose(1, 2).reshape(b, n, -1))


class T5Block(torch.nn.Module):
    def __init__(self, first):
        super().__init__()
        self.attention = T5Attention(first)
        self.attention_norm = T5LayerNorm(D_MODEL)
        self.wi = torch.nn.Linear(D_MODEL, D_FF, bias=False)
        self.wo = torch.nn.Linear(D_FF, D_MODEL, bias=False)
        self.ff_norm = T5LayerNorm(D_MODEL)

    def forward(self, x, bias):
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.wo(torch.relu(self.wi(self.ff_norm(x))))


class T5Stack(torch.nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(VOCAB, D_MODEL)
        self.block = torch.nn.ModuleList([T5Block(i == 0) for i in range(layers)])
        self.final_layer_norm = T5LayerNorm(D_MODEL)

    def forward(self, input_ids, mask):
        h = self.embed_tokens(input_ids)
        bias = self.block[0].attention.compute_bias(input_ids.shape[1])
        bias = bias.masked_fill(~mask[:, None, None, :], -1e9)
        for block in self.block:
            h = block(h, bias)
        return self.final_layer_norm(h)


def torch_side():
    torch.manual_seed(1010)
    return T5Stack().eval()


class RMSNorm(nn.Module):
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps) * scale


def bucket(distance):
    half = BUCKETS // 2
    offset = jnp.where(distance > 0, half, 0)
    n = jnp.abs(distance)
    exact = half // 2
    far = exact + jnp.log(jnp.maximum(n, 1) / exact) / np.log(MAX_DISTANCE / exact) * (half - exact)
    far = jnp.minimum(far.astype(jnp.int32), half - 1)
    return offset + jnp.where(n < exact, n, far)


class RelativeBias(nn.Module):
    @nn.compact
    def __call__(self, n):
        table = self.param("rel_embedding", nn.initializers.normal(1.0), (HEADS, BUCKETS))
        positions = jnp.arange(n)
        ids = bucket(positions[None, :] - positions[:, None])
        return table[:, ids]


class SelfAttention(nn.Module):
    @nn.compact
    def __call__(self, x, bias):
        def heads(name):
            return nn.DenseGeneral((HEADS, D_KV), use_bias=False, name=name)(x)

        q, k, v = heads("query"), heads("key"), heads("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
        y = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits), v)
        return nn.DenseGeneral(D_MODEL, axis=(-2, -1), use_bias=False, name="out")(y)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, bias):
        x = x + SelfAttention(name="attention")(RMSNorm(name="pre_attention_norm")(x), bias)
        y = nn.Dense(D_FF, use_bias=False, name="wi")(RMSNorm(name="pre_mlp_norm")(x))
        return x + nn.Dense(D_MODEL, use_bias=False, name="wo")(nn.relu(y))


class Encoder(nn.Module):
    layers: int = 2

    @nn.compact
    def __call__(self, input_ids, mask):
        x = nn.Embed(VOCAB, D_MODEL, name="token_embedder")(input_ids)
        bias = RelativeBias(name="relpos_bias")(input_ids.shape[1])[None]
        bias = jnp.where(mask[:, None, None, :], bias, -1e9)
        for i in range(self.layers):
            x = Layer(name=f"layers_{i}")(x, bias)
        return RMSNorm(name="encoder_norm")(x)


def jax_side():
    variables = Encoder().init(jax.random.key(2), **{k: jnp.asarray(v) for k, v in inputs().items()})
    return Encoder(), variables


def convert(module):
    def val(t):
        return jnp.asarray(t.detach().numpy())

    params = {
        "token_embedder": {"embedding": val(module.embed_tokens.weight)},
        "relpos_bias": {"rel_embedding": val(module.block[0].attention.relative_attention_bias.weight).T},
        "encoder_norm": {"scale": val(module.final_layer_norm.weight)},
    }
    for i, block in enumerate(module.block):
        a = block.attention
        attention = {
            n: {"kernel": val(m.weight).T.reshape(D_MODEL, HEADS, D_KV)}
            for n, m in zip(("query", "key", "value"), (a.q, a.k, a.v))
        }
        attention["out"] = {"kernel": val(a.o.weight).T.reshape(HEADS, D_KV, D_MODEL)}
        params[f"layers_{i}"] = {
            "attention": attention,
            "pre_attention_norm": {"scale": val(block.attention_norm.weight)},
            "pre_mlp_norm": {"scale": val(block.ff_norm.weight)},
            "wi": {"kernel": val(block.wi.weight).T},
            "wo": {"kernel": val(block.wo.weight).T},
        }
    return Encoder(), {"params": params}


MISTAKES = [
    {
        "name": "the relative distance has the wrong sign",
        "side": "jax",
        "old": "bucket(positions[None, :] - positions[:, None])",
        "new": "bucket(positions[:, None] - positions[None, :])",
        "line": 128,
    },
    {
        "name": "scores are divided by the square root of the head's width, which T5 does not do",
        "side": "jax",
        "old": 'jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias',
        "new": 'jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(D_KV) + bias',
        "line": 139,
    },
    {
        "name": "the norm subtracts the mean",
        "side": "torch",
        "old": "        variance = hidden_states.pow(2)",
        "new": "        hidden_states = hidden_states - hidden_states.mean(-1, keepdim=True)\n        variance = hidden_states.pow(2)",
        "line": 30,
    },
    {
        "name": "far distances are bucketed with twice the greatest distance",
        "side": "jax",
        "old": "np.log(MAX_DISTANCE / exact)",
        "new": "np.log(2 * MAX_DISTANCE / exact)",
        "line": 118,
    },
]
