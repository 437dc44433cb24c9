"""Causal linear attention with the feature map elu + 1, computed by running sums. Port: NamedTuple parameters and cumulative sums."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

DIM, HEADS, T = 12, 3, 9


def inputs():
    return {"x": np.random.default_rng(24).normal(size=(2, T, DIM)).astype("float32")}


class CausalLinearAttention(nn.Module):
    def __init__(self, d_model, n_heads, eps=1e-6):
        super().__init__()
        self.n_heads, self.eps = n_heads, eps
        self.query_projection = nn.Linear(d_model, d_model)
        self.key_projection = nn.Linear(d_model, d_model)
        self.value_projection = nn.Linear(d_model, d_model)
        self.out_projection = nn.Linear(d_model, d_model)

    def forward(self, x):
        N, L, D = x.shape
        Q = F.elu(self.query_projection(x).view(N, L, self.n_heads, -1)) + 1
        K = F.elu(self.key_projection(x).view(N, L, self.n_heads, -1)) + 1
        V = self.value_projection(x).view(N, L, self.n_heads, -1)
        kv = torch.zeros(N, self.n_heads, D // self.n_heads, D // self.n_heads, dtype=x.dtype)
        k_sum = torch.zeros(N, self.n_heads, D // self.n_heads, dtype=x.dtype)
        out = []
        for t in range(L):
            kv = kv + torch.einsum("nhd,nhm->nhdm", K[:, t], V[:, t])
            k_sum = k_sum + K[:, t]
            z = 1 / (torch.einsum("nhd,nhd->nh", Q[:, t], k_sum) + self.eps)
            out.append(torch.einsum("nhd,nhdm,nh->nhm", Q[:, t], kv, z))
        return self.out_projection(torch.stack(out, 1).reshape(N, L, D))


class LinearTransformerLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = CausalLinearAttention(DIM, HEADS)
        self.linear1 = nn.Linear(DIM, 2 * DIM)
        self.linear2 = nn.Linear(2 * DIM, DIM)
        self.norm1 = nn.LayerNorm(DIM)
        self.norm2 = nn.LayerNorm(DIM)

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        y = self.linear2(F.mish(self.linear1(x)))
        return self.norm2(x + y)


def torch_side():
    torch.manual_seed(24)
    layer = LinearTransformerLayer()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return layer


class Dense(NamedTuple):
    w: jax.Array
    b: jax.Array


class Norm(NamedTuple):
    g: jax.Array
    b: jax.Array


class Layer(NamedTuple):
    qkv: Dense  # w is (3, heads, in, width)
    out: Dense
    ff_in: Dense
    ff_out: Dense
    norm_a: Norm
    norm_b: Norm


def dense(p, x):
    return jnp.matmul(x, p.w) + p.b


def layer_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p.g + p.b


def feature_map(x):
    return jax.nn.elu(x) + 1.0


def apply(p, x):
    n, t, d = x.shape
    q, k, v = jnp.einsum("ntd,khde->knhte", x, p.qkv.w) + p.qkv.b[:, None, :, None, :]
    q, k = feature_map(q), feature_map(k)
    state = jnp.cumsum(k[..., :, None] * v[..., None, :], axis=2)
    norm = jnp.einsum("nhte,nhte->nht", q, jnp.cumsum(k, axis=2)) + 1e-6
    y = jnp.einsum("nhte,nhtef->nhtf", q, state) / norm[..., None]
    y = y.swapaxes(1, 2).reshape(n, t, d)
    x = layer_norm(p.norm_a, x + dense(p.out, y))
    h = dense(p.ff_in, x)
    h = h * jnp.tanh(jax.nn.softplus(h))
    return layer_norm(p.norm_b, x + dense(p.ff_out, h))


def jax_side():
    m = torch_side()

    def a(t):
        return jnp.asarray(t.detach().numpy())

    def d(layer):
        return Dense(a(layer.weight).T, a(layer.bias))

    att = m.attention
    three = (att.query_projection, att.key_projection, att.value_projection)
    w = jnp.stack([a(p.weight).T.reshape(DIM, HEADS, -1).transpose(1, 0, 2) for p in three])
    b = jnp.stack([a(p.bias).reshape(HEADS, -1) for p in three])
    norms = [Norm(a(n.weight), a(n.bias)) for n in (m.norm1, m.norm2)]
    return apply, Layer(Dense(w, b), d(att.out_projection), d(m.linear1), d(m.linear2), *norms)


MISTAKES = [
    {
        "name": "the feature map lacks its plus one and is a ReLU",
        "side": "jax",
        "old": "    return jax.nn.elu(x) + 1.0",
        "new": "    return jax.nn.relu(x)",
        "line": 99,
    },
    {
        "name": "the normaliser sums all keys, not only the past",
        "side": "jax",
        "old": 'jnp.einsum("nhte,nhte->nht", q, jnp.cumsum(k, axis=2))',
        "new": 'jnp.einsum("nhte,nhe->nht", q, jnp.sum(k, axis=2))',
        "line": 107,
    },
    {
        "name": "swish instead of mish",
        "side": "jax",
        "old": "h = h * jnp.tanh(jax.nn.softplus(h))",
        "new": "h = h * jax.nn.sigmoid(h)",
        "line": 112,
    },
    {
        "name": "the state is read before the present key is added",
        "side": "torch",
        "old": 'out.append(torch.einsum("nhd,nhdm,nh->nhm", Q[:, t], kv, z))',
        "new": 'out.append(torch.einsum("nhd,nhdm,nh->nhm", Q[:, t], kv - K[:, t, :, :, None] * V[:, t, :, None], z))',
        "line": 42,
    },
]
