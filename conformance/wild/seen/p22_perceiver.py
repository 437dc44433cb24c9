"""A Perceiver: latents read a long input by cross attention, think by self-attention, and are averaged. Port: a registered dataclass."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

DATA, LATENTS, DIM, HEADS, DEPTH, CLASSES = 12, 6, 16, 2, 2, 4


def inputs():
    rng = np.random.default_rng(22)
    mask = np.ones((2, 20), dtype=bool)
    mask[1, 13:] = False
    return {"data": rng.normal(size=(2, 20, DATA)).astype("float32"), "mask": mask}


class PreNormAttention(nn.Module):
    def __init__(self, query_dim, context_dim=None):
        super().__init__()
        self.norm = nn.LayerNorm(query_dim)
        self.norm_context = nn.LayerNorm(context_dim) if context_dim else None
        context_dim = context_dim or query_dim
        self.to_q = nn.Linear(query_dim, DIM, bias=False)
        self.to_kv = nn.Linear(context_dim, DIM * 2, bias=False)
        self.to_out = nn.Linear(DIM, query_dim)

    def forward(self, x, context=None, mask=None):
        x = self.norm(x)
        context = x if context is None else self.norm_context(context)
        q = self.to_q(x)
        k, v = self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        sim = torch.einsum("bhid,bhjd->bhij", q, k) * (DIM // HEADS) ** -0.5
        if mask is not None:
            sim.masked_fill_(~mask[:, None, None, :], -torch.finfo(sim.dtype).max)
        out = torch.einsum("bhij,bhjd->bhid", sim.softmax(dim=-1), v)
        return self.to_out(out.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def forward(self, x):
        x, gates = x.chunk(2, dim=-1)
        return x * nn.functional.gelu(gates)


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim * 4), GEGLU(), nn.Linear(dim * 2, dim))

    def forward(self, x):
        return self.net(x)


class Perceiver(nn.Module):
    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(LATENTS, DIM))
        self.layers = nn.ModuleList(
            [
                nn.ModuleList([PreNormAttention(DIM, DATA), FeedForward(DIM), PreNormAttention(DIM), FeedForward(DIM)])
                for _ in range(DEPTH)
            ]
        )
        self.to_logits = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES))

    def forward(self, data, mask):
        x = self.latents.expand(data.shape[0], -1, -1)
        for cross_attn, cross_ff, self_attn, self_ff in self.layers:
            x = cross_attn(x, context=data, mask=mask) + x
            x = cross_ff(x) + x
            x = self_attn(x) + x
            x = self_ff(x) + x
        return self.to_logits(x.mean(dim=1))


def torch_side():
    torch.manual_seed(2222)
    net = Perceiver()
    for m in net.modules():
        if isinstance(m, nn.LayerNorm):
            m.weight.data.normal_(1, 0.3)
            m.bias.data.normal_(0, 0.3)
        elif isinstance(m, nn.Linear):
            m.weight.data.mul_(2)
    return net.eval()


class_ = partial(dataclass, frozen=True)


@jax.tree_util.register_dataclass
@class_()
class Norm:
    gamma: jax.Array
    beta: jax.Array

    def __call__(self, x):
        mu = jnp.mean(x, axis=-1, keepdims=True)
        return (x - mu) / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True) + 1e-5) * self.gamma + self.beta


@jax.tree_util.register_dataclass
@class_()
class Affine:
    w: jax.Array
    b: jax.Array | None = None

    def __call__(self, x):
        y = x @ self.w
        return y if self.b is None else y + self.b


@jax.tree_util.register_dataclass
@class_()
class Attend:
    query_norm: Norm
    query: Affine
    key: Affine
    value: Affine
    out: Affine
    context_norm: Norm | None = None

    def __call__(self, x, context=None, mask=None):
        x = self.query_norm(x)
        context = x if context is None else self.context_norm(context)

        def heads(y):
            return y.reshape(*y.shape[:-1], HEADS, DIM // HEADS)

        q, k, v = heads(self.query(x)), heads(self.key(context)), heads(self.value(context))
        bias = None if mask is None else jnp.where(mask, 0.0, -1e9)[:, None, None, :]
        logits = jnp.einsum("bihd,bjhd->bhij", q, k) / jnp.sqrt(DIM // HEADS)
        weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)
        return self.out(jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(*x.shape[:-1], DIM))


@jax.tree_util.register_dataclass
@class_()
class Gated:
    norm: Norm
    wide: Affine
    narrow: Affine

    def __call__(self, x):
        value, gate = jnp.split(self.wide(self.norm(x)), 2, axis=-1)
        return self.narrow(value * jax.nn.gelu(gate, approximate=False))


@jax.tree_util.register_dataclass
@class_()
class Model:
    latents: jax.Array
    rounds: tuple
    final_norm: Norm
    classify: Affine

    def __call__(self, data, mask):
        x = jnp.tile(self.latents, (data.shape[0], 1, 1))
        for read, digest, think, refine in self.rounds:
            x = x + read(x, data, mask)
            x = x + digest(x)
            x = x + think(x)
            x = x + refine(x)
        return self.classify(self.final_norm(x.mean(axis=1)))


def convert(module):
    def norm(m):
        return Norm(jnp.asarray(m.weight.detach().numpy()), jnp.asarray(m.bias.detach().numpy()))

    def affine(w, b=None):
        return Affine(jnp.asarray(w.detach().numpy().T), None if b is None else jnp.asarray(b.detach().numpy()))

    def attend(m):
        k, v = m.to_kv.weight.chunk(2)
        context = None if m.norm_context is None else norm(m.norm_context)
        return Attend(
            norm(m.norm), affine(m.to_q.weight), affine(k), affine(v), affine(m.to_out.weight, m.to_out.bias), context
        )

    def gated(m):
        return Gated(norm(m.net[0]), affine(m.net[1].weight, m.net[1].bias), affine(m.net[3].weight, m.net[3].bias))

    return Model(
        jnp.asarray(module.latents.detach().numpy()),
        tuple((attend(a), gated(f), attend(s), gated(g)) for a, f, s, g in module.layers),
        norm(module.to_logits[0]),
        affine(module.to_logits[1].weight, module.to_logits[1].bias),
    )


def jax_side():
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.4, p.shape).astype("float32")), convert(Perceiver()))


MISTAKES = [
    {
        "name": "the norm comes before the mean over the latents",
        "side": "jax",
        "old": "self.classify(self.final_norm(x.mean(axis=1)))",
        "new": "self.classify(self.final_norm(x).mean(axis=1))",
        "line": 172,
    },
    {
        "name": "the GEGLU gates with its first half instead of its second",
        "side": "jax",
        "old": "self.narrow(value * jax.nn.gelu(gate, approximate=False))",
        "new": "self.narrow(gate * jax.nn.gelu(value, approximate=False))",
        "line": 154,
    },
    {
        "name": "the context is not normed",
        "side": "torch",
        "old": "context = x if context is None else self.norm_context(context)\n        q = ",
        "new": "context = x if context is None else context\n        q = ",
        "line": 36,
    },
    {
        "name": "the mask is inverted",
        "side": "jax",
        "old": "jnp.where(mask, 0.0, -1e9)",
        "new": "jnp.where(mask, -1e9, 0.0)",
        "line": 139,
    },
]
