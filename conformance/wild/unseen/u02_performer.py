"""Performer: causal attention by positive random features (FAVOR+). Torch keeps cumulative sums; the port scans over positions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

DIM, HEADS, FEATURES, DEPTH, VOCAB, LENGTH = 12, 2, 10, 2, 15, 9
DIM_HEAD = DIM // HEADS


def inputs():
    return {"ids": np.random.default_rng(102).integers(0, VOCAB, size=(2, LENGTH))}


def softmax_kernel(data, projection, is_query, eps=1e-3):
    data = data * data.shape[-1] ** -0.25
    dash = torch.einsum("bhnd,md->bhnm", data, projection)
    diag = (data**2).sum(-1, keepdim=True) / 2.0
    stabilizer = dash.amax(dim=-1 if is_query else (-1, -2), keepdim=True)
    return projection.shape[0] ** -0.5 * (torch.exp(dash - diag - stabilizer.detach()) + eps)


def causal_linear_attention(q, k, v):
    k_cumsum = k.cumsum(dim=-2)
    context = torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(dim=-3)
    d_inv = 1.0 / torch.einsum("bhnd,bhnd->bhn", q, k_cumsum)
    return torch.einsum("bhnde,bhnd,bhn->bhne", context, q, d_inv)


class FastAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(DIM, DIM, bias=False)
        self.to_k = nn.Linear(DIM, DIM, bias=False)
        self.to_v = nn.Linear(DIM, DIM, bias=False)
        self.to_out = nn.Linear(DIM, DIM)
        self.register_buffer("projection_matrix", torch.randn(FEATURES, DIM_HEAD))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, HEADS, DIM_HEAD).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        q = softmax_kernel(q, self.projection_matrix, is_query=True)
        k = softmax_kernel(k, self.projection_matrix, is_query=False)
        out = causal_linear_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, DIM))


class PreNorm(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.fn = fn

    def forward(self, x):
        return self.fn(self.norm(x))


class PerformerLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_emb = nn.Embedding(VOCAB, DIM)
        self.pos_emb = nn.Parameter(torch.randn(LENGTH, DIM) * 0.5)
        self.layers = nn.ModuleList()
        for _ in range(DEPTH):
            ff = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
            self.layers.append(nn.ModuleList([PreNorm(FastAttention()), PreNorm(ff)]))
        self.norm = nn.LayerNorm(DIM)
        self.to_logits = nn.Linear(DIM, VOCAB)

    def forward(self, ids):
        x = self.token_emb(ids) + self.pos_emb[: ids.shape[1]]
        for attention, ff in self.layers:
            x = x + attention(x)
            x = x + ff(x)
        return self.to_logits(self.norm(x))


def torch_side():
    torch.manual_seed(102)
    model = PerformerLM()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(0.3 * torch.randn_like(p) + (1.0 if "norm.weight" in name else 0.0))
            elif "layers" in name:
                p.mul_(2.0)
    return model.eval()


def layer_norm(p, x):
    mean = x.mean(-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["g"] + p["b"]


def features(omega, x, *, axes):
    """Positive random features of (length, d): (length, m)."""
    m, d = omega.shape
    x = x / d**0.25
    logits = x @ omega.T
    top = jax.lax.stop_gradient(logits.max(axis=axes, keepdims=True))
    half_norm = 0.5 * jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return (jnp.exp(logits - half_norm - top) + 1e-3) / jnp.sqrt(m)


def attend(omega, q, k, v):
    """One head of one sequence."""
    phi_q = features(omega, q, axes=(1,))
    phi_k = features(omega, k, axes=(0, 1))

    def step(state, qkv):
        kv, z = state
        qi, ki, vi = qkv
        kv = kv + jnp.outer(ki, vi)
        z = z + ki
        return (kv, z), (qi @ kv) / (qi @ z)

    start = (jnp.zeros((omega.shape[0], v.shape[-1]), v.dtype), jnp.zeros(omega.shape[0], v.dtype))
    return jax.lax.scan(step, start, (phi_q, phi_k, v))[1]


def block(p, x):
    h = layer_norm(p["ln_a"], x)
    q, k, v = (jnp.stack(jnp.split(h @ p[w], HEADS, axis=-1)) for w in ("wq", "wk", "wv"))
    heads = jax.vmap(partial(attend, p["omega"]))(q, k, v)
    x = x + jnp.concatenate(list(heads), axis=-1) @ p["wo"] + p["bo"]
    h = layer_norm(p["ln_f"], x)
    return x + jax.nn.gelu(h @ p["w1"] + p["b1"], approximate=False) @ p["w2"] + p["b2"]


def performer(params, ids):
    def one(tokens):
        x = params["embed"][tokens] + params["pos"][: tokens.shape[0]]
        for p in params["blocks"]:
            x = block(p, x)
        return layer_norm(params["ln"], x) @ params["head"] + params["head_bias"]

    return jax.vmap(one)(ids)


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def ln(m):
        return {"g": a(m.weight), "b": a(m.bias)}

    blocks = []
    for attention, ff in module.layers:
        f, net = attention.fn, ff.fn
        p = {"wq": a(f.to_q.weight).T, "wk": a(f.to_k.weight).T, "wv": a(f.to_v.weight).T}
        p |= {"wo": a(f.to_out.weight).T, "bo": a(f.to_out.bias), "omega": a(f.projection_matrix)}
        p |= {"w1": a(net[0].weight).T, "b1": a(net[0].bias), "w2": a(net[2].weight).T, "b2": a(net[2].bias)}
        blocks.append(p | {"ln_a": ln(attention.norm), "ln_f": ln(ff.norm)})
    return performer, {
        "embed": a(module.token_emb.weight),
        "pos": a(module.pos_emb),
        "blocks": blocks,
        "ln": ln(module.norm),
        "head": a(module.to_logits.weight).T,
        "head_bias": a(module.to_logits.bias),
    }


def jax_side():
    shapes = convert(PerformerLM())[1]
    flat, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(102), len(flat))
    return performer, tree.unflatten([0.4 * jax.random.normal(k, x.shape) for k, x in zip(keys, flat)])


MISTAKES = [
    {
        "name": "queries and keys are each scaled by the inverse square root of the width instead of its fourth root",
        "side": "torch",
        "old": "data = data * data.shape[-1] ** -0.25",
        "new": "data = data * data.shape[-1] ** -0.5",
        "line": 22,
    },
    {
        "name": "the squared norm in the exponent is not halved",
        "side": "torch",
        "old": "diag = (data**2).sum(-1, keepdim=True) / 2.0",
        "new": "diag = (data**2).sum(-1, keepdim=True)",
        "line": 24,
    },
    {
        "name": "the keys' largest exponent is taken per position, which then weighs the keys anew",
        "side": "jax",
        "old": "phi_k = features(omega, k, axes=(0, 1))",
        "new": "phi_k = features(omega, k, axes=(1,))",
        "line": 115,
    },
    {
        "name": "a position reads the sum of keys and values before its own are added",
        "side": "jax",
        "old": "return (kv, z), (qi @ kv) / (qi @ z)",
        "new": "return (kv, z), (qi @ state[0]) / (qi @ z)",
        "line": 122,
    },
    {
        "name": "the residual of the feed-forward adds the normalised input",
        "side": "jax",
        "old": "return x + jax.nn.gelu(",
        "new": "return h + jax.nn.gelu(",
        "line": 134,
    },
]
