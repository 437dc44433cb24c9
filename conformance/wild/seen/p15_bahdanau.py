"""A decoder of LSTM cells with Bahdanau's additive attention over encoder states, teacher forced. Port: Flax Linen."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True

EMB, ENC, HID, ATT, VOCAB = 8, 12, 10, 6, 20


def inputs():
    rng = np.random.default_rng(15)
    lengths = np.array([7, 4])
    return {
        "encoder_out": rng.normal(size=(2, 7, ENC)).astype("float32"),
        "source_mask": np.arange(7)[None, :] < lengths[:, None],
        "targets": rng.integers(0, VOCAB, size=(2, 5)),
    }


class BahdanauAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.W_query = torch.nn.Linear(HID, ATT, bias=False)
        self.W_memory = torch.nn.Linear(ENC, ATT)
        self.v = torch.nn.Linear(ATT, 1, bias=False)

    def forward(self, hidden, memory, mask):
        energy = torch.tanh(self.W_query(hidden).unsqueeze(1) + self.W_memory(memory))
        scores = self.v(energy).squeeze(2).masked_fill(~mask, float("-inf"))
        weights = torch.softmax(scores, dim=1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, EMB)
        self.init_h = torch.nn.Linear(ENC, HID)
        self.init_c = torch.nn.Linear(ENC, HID)
        self.attention = BahdanauAttention()
        self.cell = torch.nn.LSTMCell(EMB + ENC, HID)
        self.readout = torch.nn.Linear(HID + ENC + EMB, VOCAB)

    def forward(self, encoder_out, source_mask, targets):
        keep = source_mask.unsqueeze(-1)
        mean = (encoder_out * keep).sum(1) / keep.sum(1)
        h, c = torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))
        logits, alignments = [], []
        for t in range(targets.shape[1]):
            e = self.embedding(targets[:, t])
            context, a = self.attention(h, encoder_out, source_mask)
            h, c = self.cell(torch.cat([e, context], dim=1), (h, c))
            logits.append(self.readout(torch.cat([h, context, e], dim=1)))
            alignments.append(a)
        return torch.stack(logits, 1), torch.stack(alignments, 1)


def torch_side():
    torch.manual_seed(1500)
    decoder = Decoder()
    for p in decoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
        p.data = torch.round(p.data * 64) / 64  # the port adds the cell's two biases: exact in any precision
    return decoder


class AdditiveAttention(nn.Module):
    size: int

    @nn.compact
    def __call__(self, query, keys, values, mask):
        q = nn.Dense(self.size, use_bias=False, name="query_proj")(query)
        score = nn.Dense(1, use_bias=False, name="energy")(jnp.tanh(q[:, None, :] + keys))[..., 0]
        alpha = nn.softmax(jnp.where(mask, score, -1e30), axis=-1)
        return jnp.einsum("bs,bsd->bd", alpha, values), alpha


class AttentiveDecoder(nn.Module):
    def setup(self):
        self.embed = nn.Embed(VOCAB, EMB)
        self.h0 = nn.Dense(HID)
        self.c0 = nn.Dense(HID)
        self.key_proj = nn.Dense(ATT)
        self.attend = AdditiveAttention(ATT)
        self.lstm = nn.OptimizedLSTMCell(HID)
        self.out = nn.Dense(VOCAB)

    def __call__(self, encoder_out, source_mask, targets):
        m = source_mask[..., None]
        mean = jnp.sum(encoder_out * m, axis=1) / jnp.sum(m, axis=1)
        carry = (jnp.tanh(self.c0(mean)), jnp.tanh(self.h0(mean)))
        keys = self.key_proj(encoder_out)
        embedded = self.embed(targets)
        steps = []
        for t in range(targets.shape[1]):
            e = embedded[:, t]
            context, alpha = self.attend(carry[1], keys, encoder_out, source_mask)
            carry, h = self.lstm(carry, jnp.concatenate([e, context], axis=-1))
            steps.append((self.out(jnp.concatenate([h, context, e], axis=-1)), alpha))
        logits, alphas = zip(*steps)
        return jnp.stack(logits, axis=1), jnp.stack(alphas, axis=1)


def load(net):
    def arr(t):
        return jnp.asarray(t.detach().numpy())

    def dense(layer):
        d = {"kernel": arr(layer.weight).T}
        if layer.bias is not None:
            d["bias"] = arr(layer.bias)
        return d

    lstm = {}
    for i, gate in enumerate("ifgo"):
        rows = slice(i * HID, (i + 1) * HID)
        lstm["i" + gate] = {"kernel": arr(net.cell.weight_ih)[rows].T}
        lstm["h" + gate] = {
            "kernel": arr(net.cell.weight_hh)[rows].T,
            "bias": arr(net.cell.bias_ih)[rows] + arr(net.cell.bias_hh)[rows],
        }
    att = net.attention
    return {
        "embed": {"embedding": arr(net.embedding.weight)},
        "h0": dense(net.init_h),
        "c0": dense(net.init_c),
        "key_proj": dense(att.W_memory),
        "attend": {"query_proj": dense(att.W_query), "energy": dense(att.v)},
        "lstm": lstm,
        "out": dense(net.readout),
    }


def jax_side():
    return AttentiveDecoder(), {"params": load(torch_side())}


MISTAKES = [
    {
        "name": "the context comes before the embedding in the input of the cell",
        "side": "jax",
        "old": "jnp.concatenate([e, context], axis=-1)",
        "new": "jnp.concatenate([context, e], axis=-1)",
        "line": 101,
    },
    {
        "name": "attention asks with the cell state instead of the hidden state",
        "side": "jax",
        "old": "self.attend(carry[1], keys, encoder_out, source_mask)",
        "new": "self.attend(carry[0], keys, encoder_out, source_mask)",
        "line": 100,
    },
    {
        "name": "padding is masked by 0 instead of by a large negative score",
        "side": "jax",
        "old": "nn.softmax(jnp.where(mask, score, -1e30), axis=-1)",
        "new": "nn.softmax(jnp.where(mask, score, 0.0), axis=-1)",
        "line": 77,
    },
    {
        "name": "the mean of the encoder states counts the padding",
        "side": "jax",
        "old": "jnp.sum(encoder_out * m, axis=1) / jnp.sum(m, axis=1)",
        "new": "jnp.mean(encoder_out, axis=1)",
        "line": 93,
    },
    {
        "name": "the energy is not passed through tanh",
        "side": "torch",
        "old": "energy = torch.tanh(self.W_query(hidden).unsqueeze(1) + self.W_memory(memory))",
        "new": "energy = self.W_query(hidden).unsqueeze(1) + self.W_memory(memory)",
        "line": 31,
    },
]
