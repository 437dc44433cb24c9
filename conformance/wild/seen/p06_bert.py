"""BERT: word, position and token-type embeddings, two post-norm layers, pooler. The port scans over stacked layers; plain functions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

HIDDEN, HEADS, LAYERS, INTER, VOCAB, MAXPOS = 16, 4, 2, 64, 50, 16


def inputs():
    rng = np.random.default_rng(6)
    ids = rng.integers(0, VOCAB, size=(2, 9))
    types = np.zeros((2, 9), dtype=np.int64)
    types[:, 5:] = 1
    mask = np.ones((2, 9), dtype=np.int64)
    mask[1, 7:] = 0
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


class BertEmbeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCAB, HIDDEN)
        self.position_embeddings = nn.Embedding(MAXPOS, HIDDEN)
        self.token_type_embeddings = nn.Embedding(2, HIDDEN)
        self.LayerNorm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def forward(self, input_ids, token_type_ids):
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        e = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(e + self.position_embeddings(positions))


class BertLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(HIDDEN, HIDDEN)
        self.key = nn.Linear(HIDDEN, HIDDEN)
        self.value = nn.Linear(HIDDEN, HIDDEN)
        self.attn_out = nn.Linear(HIDDEN, HIDDEN)
        self.attn_norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.intermediate = nn.Linear(HIDDEN, INTER)
        self.output = nn.Linear(INTER, HIDDEN)
        self.out_norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def split(self, x):
        return x.view(x.size(0), x.size(1), HEADS, HIDDEN // HEADS).permute(0, 2, 1, 3)

    def forward(self, h, bias):
        q, k, v = self.split(self.query(h)), self.split(self.key(h)), self.split(self.value(h))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HIDDEN // HEADS)
        probs = torch.softmax(scores + bias, dim=-1)
        ctx = torch.matmul(probs, v).permute(0, 2, 1, 3).reshape(h.shape)
        h = self.attn_norm(self.attn_out(ctx) + h)
        return self.out_norm(self.output(nn.functional.gelu(self.intermediate(h))) + h)


class BertModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = BertEmbeddings()
        self.layer = nn.ModuleList([BertLayer() for _ in range(LAYERS)])
        self.pooler = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, input_ids, token_type_ids, attention_mask):
        bias = (1.0 - attention_mask[:, None, None, :]) * -10000.0
        h = self.embeddings(input_ids, token_type_ids)
        for layer in self.layer:
            h = layer(h, bias)
        return h, torch.tanh(self.pooler(h[:, 0]))


def torch_side():
    torch.manual_seed(606)
    model = BertModel()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.Linear):
                m.weight.normal_(0, 0.4)
                m.bias.normal_(0, 0.1)
            elif isinstance(m, nn.LayerNorm):
                m.weight.normal_(1, 0.2)
                m.bias.normal_(0, 0.2)
    return model.eval()


def ln(x, g, b):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-12) * g + b


def encoder_layer(h, lp, bias):
    b, t, _ = h.shape
    qkv = h @ lp["wqkv"] + lp["bqkv"]
    q, k, v = (a.reshape(b, t, HEADS, -1) for a in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(HIDDEN // HEADS)
    probs = jax.nn.softmax(scores + bias, axis=-1)
    ctx = jnp.einsum("bhts,bshd->bthd", probs, v).reshape(b, t, HIDDEN)
    h = ln(ctx @ lp["wo"] + lp["bo"] + h, lp["g1"], lp["b1"])
    ffn = jax.nn.gelu(h @ lp["wi"] + lp["bi"], approximate=False) @ lp["wf"] + lp["bf"]
    return ln(ffn + h, lp["g2"], lp["b2"])


def bert(params, input_ids, token_type_ids, attention_mask):
    emb = params["emb"]
    t = input_ids.shape[1]
    h = emb["word"][input_ids] + emb["type"][token_type_ids] + emb["pos"][:t]
    h = ln(h, emb["g"], emb["b"])
    bias = jnp.where(attention_mask[:, None, None, :] > 0, 0.0, -1e4)

    def body(h, lp):
        return encoder_layer(h, lp, bias), None

    h, _ = jax.lax.scan(body, h, params["layers"])
    return h, jnp.tanh(h[:, 0] @ params["pool"]["w"] + params["pool"]["b"])


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def one(m):
        qkv = (m.query, m.key, m.value)
        return {
            "wqkv": jnp.concatenate([a(x.weight).T for x in qkv], axis=1),
            "bqkv": jnp.concatenate([a(x.bias) for x in qkv]),
            "wo": a(m.attn_out.weight).T,
            "bo": a(m.attn_out.bias),
            "g1": a(m.attn_norm.weight),
            "b1": a(m.attn_norm.bias),
            "wi": a(m.intermediate.weight).T,
            "bi": a(m.intermediate.bias),
            "wf": a(m.output.weight).T,
            "bf": a(m.output.bias),
            "g2": a(m.out_norm.weight),
            "b2": a(m.out_norm.bias),
        }

    e = module.embeddings
    emb = {"word": e.word_embeddings, "pos": e.position_embeddings, "type": e.token_type_embeddings}
    return bert, {
        "emb": {**{k: a(m.weight) for k, m in emb.items()}, "g": a(e.LayerNorm.weight), "b": a(e.LayerNorm.bias)},
        "layers": jax.tree.map(lambda *x: jnp.stack(x), *[one(m) for m in module.layer]),
        "pool": {"w": a(module.pooler.weight).T, "b": a(module.pooler.bias)},
    }


def jax_side():
    rng = np.random.default_rng(0)
    return bert, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape).astype("float32") * 0.3), convert(BertModel())[1])


MISTAKES = [
    {
        "name": "token types are not embedded",
        "side": "jax",
        "old": 'h = emb["word"][input_ids] + emb["type"][token_type_ids] + emb["pos"][:t]',
        "new": 'h = emb["word"][input_ids] + emb["pos"][:t]',
        "line": 113,
    },
    {
        "name": "GELU by tanh instead of by erf",
        "side": "jax",
        "old": 'jax.nn.gelu(h @ lp["wi"] + lp["bi"], approximate=False)',
        "new": 'jax.nn.gelu(h @ lp["wi"] + lp["bi"])',
        "line": 106,
    },
    {
        "name": "positions start at 1",
        "side": "jax",
        "old": 'emb["pos"][:t]',
        "new": 'emb["pos"][1 : t + 1]',
        "line": 113,
    },
    {
        "name": "scores are divided by the square root of the model's width instead of the head's",
        "side": "torch",
        "old": "torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HIDDEN // HEADS)",
        "new": "torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HIDDEN)",
        "line": 57,
    },
    {
        "name": "the feed-forward's residual is the attention's context, not the normed sum",
        "side": "jax",
        "old": '    return ln(ffn + h, lp["g2"], lp["b2"])',
        "new": '    return ln(ffn + ctx, lp["g2"], lp["b2"])',
        "line": 107,
    },
]
