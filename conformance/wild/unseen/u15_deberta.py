"""DeBERTa: disentangled attention between contents and bucketed relative positions, a padding mask, shared position table.
The port: functions over a tree of stacked layers, and a scan."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

VOCAB, HIDDEN, HEADS, LAYERS, BUCKETS, MAX_POS, EPS = 20, 12, 2, 2, 4, 16, 1e-7


def inputs():
    rng = np.random.default_rng(115)
    mask = np.ones((2, 11), dtype=np.int64)
    mask[1, 8:] = 0
    return {"input_ids": rng.integers(0, VOCAB, size=(2, 11)), "attention_mask": mask}


def make_log_bucket_position(relative_pos, bucket_size, max_position):
    sign = np.sign(relative_pos)
    mid = bucket_size // 2
    abs_pos = np.where((relative_pos < mid) & (relative_pos > -mid), mid - 1, np.abs(relative_pos))
    log_pos = np.ceil(np.log(abs_pos / mid) / np.log((max_position - 1) / mid) * (mid - 1)) + mid
    return np.where(abs_pos <= mid, relative_pos, log_pos * sign).astype(np.int64)


def build_relative_position(size):
    ids = np.arange(size)
    return torch.from_numpy(make_log_bucket_position(ids[:, None] - ids[None, :], BUCKETS, MAX_POS))


class DisentangledSelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.head_dim = HIDDEN // HEADS
        self.query_proj = nn.Linear(HIDDEN, HIDDEN)
        self.key_proj = nn.Linear(HIDDEN, HIDDEN)
        self.value_proj = nn.Linear(HIDDEN, HIDDEN)

    def heads(self, x):
        return x.view(x.size(0), x.size(1), HEADS, self.head_dim).transpose(1, 2)

    def forward(self, x, mask, rel_embeddings, relative_pos):
        q, k, v = self.heads(self.query_proj(x)), self.heads(self.key_proj(x)), self.heads(self.value_proj(x))
        scale = math.sqrt(self.head_dim * 3)
        scores = torch.matmul(q, k.transpose(-1, -2)) / scale
        scores = scores + self.disentangled_bias(q, k, relative_pos, rel_embeddings, scale)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        probs = torch.softmax(scores, dim=-1).masked_fill(~mask, 0.0)
        return torch.matmul(probs, v).transpose(1, 2).reshape(x.size())

    def disentangled_bias(self, q, k, relative_pos, rel_embeddings, scale):
        b, h, n, _ = q.shape
        pos_key = self.heads(self.key_proj(rel_embeddings).unsqueeze(0))
        pos_query = self.heads(self.query_proj(rel_embeddings).unsqueeze(0))
        c2p_att = torch.matmul(q, pos_key.transpose(-1, -2))
        c2p_pos = torch.clamp(relative_pos + BUCKETS, 0, 2 * BUCKETS - 1)
        score = torch.gather(c2p_att, -1, c2p_pos.expand(b, h, n, n)) / scale
        p2c_pos = torch.clamp(-relative_pos + BUCKETS, 0, 2 * BUCKETS - 1)
        p2c_att = torch.matmul(k, pos_query.transpose(-1, -2))
        p2c_att = torch.gather(p2c_att, -1, p2c_pos.expand(b, h, n, n)).transpose(-1, -2)
        return score + p2c_att / scale


class DebertaLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = DisentangledSelfAttention()
        self.attention_output = nn.Linear(HIDDEN, HIDDEN)
        self.attention_norm = nn.LayerNorm(HIDDEN, eps=EPS)
        self.intermediate = nn.Linear(HIDDEN, 2 * HIDDEN)
        self.output = nn.Linear(2 * HIDDEN, HIDDEN)
        self.output_norm = nn.LayerNorm(HIDDEN, eps=EPS)

    def forward(self, x, mask, rel_embeddings, relative_pos):
        x = self.attention_norm(x + self.attention_output(self.attention(x, mask, rel_embeddings, relative_pos)))
        return self.output_norm(x + self.output(nn.functional.gelu(self.intermediate(x))))


class DebertaModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCAB, HIDDEN)
        self.embedding_norm = nn.LayerNorm(HIDDEN, eps=EPS)
        self.rel_embeddings = nn.Embedding(2 * BUCKETS, HIDDEN)
        self.rel_norm = nn.LayerNorm(HIDDEN, eps=EPS)
        self.layer = nn.ModuleList(DebertaLayer() for _ in range(LAYERS))

    def forward(self, input_ids, attention_mask):
        x = self.embedding_norm(self.word_embeddings(input_ids))
        x = x * attention_mask.unsqueeze(-1).to(x.dtype)
        mask = (attention_mask[:, None, None, :] * attention_mask[:, None, :, None]).bool()
        relative_pos = build_relative_position(input_ids.size(1))
        rel_embeddings = self.rel_norm(self.rel_embeddings.weight)
        for layer_module in self.layer:
            x = layer_module(x, mask, rel_embeddings, relative_pos)
        return x


def torch_side():
    torch.manual_seed(115)
    model = DebertaModel()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.5 if p.ndim > 1 else 0.2) + (1.0 if name.endswith("norm.weight") else 0.0))
    return model.eval()


def bucket(distance):
    """Signed log buckets of distances: exact below the middle, logarithmic up to MAX_POS."""
    middle = BUCKETS // 2
    far = np.maximum(np.abs(distance), middle)
    steps = middle + np.ceil((middle - 1) * np.log(far / middle) / np.log((MAX_POS - 1) / middle)).astype(int)
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * steps)


def norm(x, scale, bias):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True) + EPS) * scale + bias


def project(p, name, x):
    y = x @ p[name + "_kernel"] + p[name + "_bias"]
    return y.reshape(*y.shape[:-1], HEADS, HIDDEN // HEADS)


def attend(p, x, allowed, table):
    q, k, v = project(p, "q", x), project(p, "k", x), project(p, "v", x)
    place = np.arange(x.shape[1])
    index = np.clip(bucket(place[:, None] - place[None, :]) + BUCKETS, 0, 2 * BUCKETS - 1)
    mirrored = np.clip(BUCKETS - bucket(place[:, None] - place[None, :]), 0, 2 * BUCKETS - 1)
    logits = jnp.einsum("bihd,bjhd->bhij", q, k)
    logits += jnp.einsum("bihd,ijhd->bhij", q, project(p, "k", table)[index])
    logits += jnp.einsum("bjhd,ijhd->bhij", k, project(p, "q", table)[mirrored.T])
    logits = jnp.where(allowed, logits / np.sqrt(3 * HIDDEN / HEADS), -1e30)
    probs = jnp.where(allowed, jax.nn.softmax(logits, axis=-1), 0.0)
    return jnp.einsum("bhij,bjhd->bihd", probs, v).reshape(x.shape)


def deberta(params, input_ids, attention_mask):
    present = attention_mask > 0
    allowed = present[:, None, None, :] & present[:, None, :, None]
    table = norm(params["relative"], *params["relative_norm"])

    def block(x, p):
        x = norm(x + attend(p, x, allowed, table) @ p["o_kernel"] + p["o_bias"], p["norm1_scale"], p["norm1_bias"])
        hidden = jax.nn.gelu(x @ p["up_kernel"] + p["up_bias"], approximate=False)
        return norm(x + hidden @ p["down_kernel"] + p["down_bias"], p["norm2_scale"], p["norm2_bias"]), None

    x = norm(params["words"][input_ids], *params["words_norm"]) * present[..., None]
    return jax.lax.scan(block, x, params["blocks"])[0]


NAMES = {
    "q": "attention.query_proj",
    "k": "attention.key_proj",
    "v": "attention.value_proj",
    "o": "attention_output",
    "up": "intermediate",
    "down": "output",
}


def jax_side():
    sd = {k: v.numpy() for k, v in torch_side().state_dict().items()}

    def stack(key, transposed=False):
        each = [sd[f"layer.{i}.{key}"] for i in range(LAYERS)]
        return jnp.stack([jnp.asarray(a.T if transposed else a) for a in each])

    blocks = {f"{short}_kernel": stack(name + ".weight", transposed=True) for short, name in NAMES.items()}
    blocks |= {f"{short}_bias": stack(name + ".bias") for short, name in NAMES.items()}
    for short, name in (("norm1", "attention_norm"), ("norm2", "output_norm")):
        blocks |= {f"{short}_scale": stack(name + ".weight"), f"{short}_bias": stack(name + ".bias")}
    return deberta, {
        "words": jnp.asarray(sd["word_embeddings.weight"]),
        "words_norm": (jnp.asarray(sd["embedding_norm.weight"]), jnp.asarray(sd["embedding_norm.bias"])),
        "relative": jnp.asarray(sd["rel_embeddings.weight"]),
        "relative_norm": (jnp.asarray(sd["rel_norm.weight"]), jnp.asarray(sd["rel_norm.bias"])),
        "blocks": blocks,
    }


MISTAKES = [
    {
        "name": "scores are divided by the square root of the head size, not of three times it",
        "side": "torch",
        "old": "scale = math.sqrt(self.head_dim * 3)",
        "new": "scale = math.sqrt(self.head_dim)",
        "line": 50,
    },
    {
        "name": "the position-to-content scores are not transposed back to (query, key)",
        "side": "torch",
        "old": "torch.gather(p2c_att, -1, p2c_pos.expand(b, h, n, n)).transpose(-1, -2)",
        "new": "torch.gather(p2c_att, -1, p2c_pos.expand(b, h, n, n))",
        "line": 66,
    },
    {
        "name": "the bucket's logarithm is rounded down instead of up",
        "side": "jax",
        "old": "steps = middle + np.ceil(",
        "new": "steps = middle + np.floor(",
        "line": 118,
    },
    {
        "name": "the table of relative positions is not normalised",
        "side": "jax",
        "old": 'table = norm(params["relative"], *params["relative_norm"])',
        "new": 'table = params["relative"]',
        "line": 148,
    },
    {
        "name": "GELU by tanh instead of by erf",
        "side": "jax",
        "old": 'p["up_bias"], approximate=False)',
        "new": 'p["up_bias"])',
        "line": 152,
    },
]
