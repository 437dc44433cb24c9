"""DETR's decoder: learned object queries added to queries and keys, positions added to the memory's keys, post-norm. Port: NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

D, H, Q, S = 16, 4, 6, 12


def inputs():
    rng = np.random.default_rng(70)
    memory = rng.normal(size=(2, S, D)).astype(np.float32)
    pos = rng.normal(size=(2, S, D)).astype(np.float32)
    pad = np.zeros((2, S), dtype=bool)
    pad[1, 9:] = True
    return {"memory": memory, "pos": pos, "padding": pad}


class DetrDecoderLayer(nn.Module):
    def __init__(self, d_model, nhead, dim_feedforward=32):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d_model, nhead, batch_first=True)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)

    def forward(self, tgt, memory, pos, query_pos, padding):
        q = k = tgt + query_pos
        tgt = self.norm1(tgt + self.self_attn(q, k, value=tgt)[0])
        attended = self.multihead_attn(tgt + query_pos, memory + pos, value=memory, key_padding_mask=padding)[0]
        tgt = self.norm2(tgt + attended)
        return self.norm3(tgt + self.linear2(torch.relu(self.linear1(tgt))))


class DetrHead(nn.Module):
    def __init__(self, num_layers=2, classes=4):
        super().__init__()
        self.query_embed = nn.Embedding(Q, D)
        self.layers = nn.ModuleList([DetrDecoderLayer(D, H) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(D)
        self.class_embed = nn.Linear(D, classes + 1)
        self.bbox_embed = nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 4)])

    def forward(self, memory, pos, padding):
        query_pos = self.query_embed.weight.unsqueeze(0).expand(memory.shape[0], -1, -1)
        tgt = torch.zeros_like(query_pos)
        for layer in self.layers:
            tgt = layer(tgt, memory, pos, query_pos, padding)
        hs = box = self.norm(tgt)
        for i, layer in enumerate(self.bbox_embed):
            box = layer(box) if i == 2 else torch.relu(layer(box))
        return {"pred_logits": self.class_embed(hs), "pred_boxes": box.sigmoid()}


def torch_side():
    torch.manual_seed(7)
    model = DetrHead().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape) * 0.2)
    return model


class Attention(nnx.Module):
    def __init__(self, *, rngs):
        self.query = nnx.LinearGeneral(D, (H, D // H), rngs=rngs)
        self.key = nnx.LinearGeneral(D, (H, D // H), rngs=rngs)
        self.value = nnx.LinearGeneral(D, (H, D // H), rngs=rngs)
        self.out = nnx.LinearGeneral((H, D // H), D, axis=(-2, -1), rngs=rngs)

    def __call__(self, q_in, k_in, v_in, keep=None):
        q, k, v = self.query(q_in), self.key(k_in), self.value(v_in)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q * (D // H) ** -0.5, k)
        if keep is not None:
            logits = jnp.where(keep[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v))


class DecoderLayer(nnx.Module):
    def __init__(self, *, rngs):
        self.attn = Attention(rngs=rngs)
        self.cross = Attention(rngs=rngs)
        self.fc_in = nnx.Linear(D, 32, rngs=rngs)
        self.fc_out = nnx.Linear(32, D, rngs=rngs)
        self.ln_self = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.ln_cross = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.ln_mlp = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)

    def __call__(self, x, memory, pos, queries, keep):
        x = self.ln_self(x + self.attn(x + queries, x + queries, x))
        x = self.ln_cross(x + self.cross(x + queries, memory + pos, memory, keep))
        return self.ln_mlp(x + self.fc_out(nnx.relu(self.fc_in(x))))


class Detr(nnx.Module):
    def __init__(self, *, rngs, depth=2, classes=4):
        self.object_queries = nnx.Param(jax.random.normal(rngs.params(), (Q, D)))
        self.decoder = nnx.List([DecoderLayer(rngs=rngs) for _ in range(depth)])
        self.final_norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.classes = nnx.Linear(D, classes + 1, rngs=rngs)
        self.box1 = nnx.Linear(D, D, rngs=rngs)
        self.box2 = nnx.Linear(D, D, rngs=rngs)
        self.box3 = nnx.Linear(D, 4, rngs=rngs)

    def __call__(self, memory, pos, padding):
        queries = jnp.broadcast_to(self.object_queries[...], (memory.shape[0], Q, D))
        x = jnp.zeros_like(queries)
        for layer in self.decoder:
            x = layer(x, memory, pos, queries, ~padding)
        x = self.final_norm(x)
        boxes = self.box3(nnx.relu(self.box2(nnx.relu(self.box1(x)))))
        return {"pred_logits": self.classes(x), "pred_boxes": nnx.sigmoid(boxes)}


def jax_side():
    return Detr(rngs=nnx.Rngs(1))


def convert(module):
    model = Detr(rngs=nnx.Rngs(0))

    def fill(param, tensor):
        param[...] = jnp.asarray(tensor.detach().numpy()).reshape(param.shape)

    def fill_linear(ours, weight, bias):
        fill(ours.kernel, weight.T)
        fill(ours.bias, bias)

    def fill_attention(ours, theirs):
        for name, w, b in zip(("query", "key", "value"), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)):
            fill_linear(getattr(ours, name), w, b)
        fill_linear(ours.out, theirs.out_proj.weight, theirs.out_proj.bias)

    def fill_norm(ours, theirs):
        fill(ours.scale, theirs.weight)
        fill(ours.bias, theirs.bias)

    fill(model.object_queries, module.query_embed.weight)
    for ours, theirs in zip(model.decoder, module.layers):
        fill_attention(ours.attn, theirs.self_attn)
        fill_attention(ours.cross, theirs.multihead_attn)
        fill_linear(ours.fc_in, theirs.linear1.weight, theirs.linear1.bias)
        fill_linear(ours.fc_out, theirs.linear2.weight, theirs.linear2.bias)
        for a, b in ((ours.ln_self, theirs.norm1), (ours.ln_cross, theirs.norm2), (ours.ln_mlp, theirs.norm3)):
            fill_norm(a, b)
    fill_norm(model.final_norm, module.norm)
    heads = [(model.classes, module.class_embed), *zip((model.box1, model.box2, model.box3), module.bbox_embed)]
    for ours, theirs in heads:
        fill_linear(ours, theirs.weight, theirs.bias)
    return model


MISTAKES = [
    {
        "name": "positions are added to the memory's values as well as to its keys",
        "side": "jax",
        "old": "self.cross(x + queries, memory + pos, memory, keep)",
        "new": "self.cross(x + queries, memory + pos, memory + pos, keep)",
        "line": 100,
    },
    {
        "name": "the padding mask is not inverted",
        "side": "jax",
        "old": "x = layer(x, memory, pos, queries, ~padding)",
        "new": "x = layer(x, memory, pos, queries, padding)",
        "line": 118,
    },
    {
        "name": "cross attention forgets the query positions",
        "side": "torch",
        "old": "self.multihead_attn(tgt + query_pos, memory + pos",
        "new": "self.multihead_attn(tgt, memory + pos",
        "line": 38,
    },
    {
        "name": "the boxes are not passed through the sigmoid",
        "side": "jax",
        "old": '"pred_boxes": nnx.sigmoid(boxes)}',
        "new": '"pred_boxes": boxes}',
        "line": 121,
    },
]
