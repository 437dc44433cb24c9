"""Tacotron-like decoder: encoder LSTM, prenet, location-sensitive attention over padded text, teacher-forced frames. Loop in torch, scan in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

VOCAB, EMB, MELS, PRENET, ATT_RNN, DEC_RNN, ATT, LOC, LOC_K = 12, 8, 4, 6, 10, 9, 7, 3, 5


def inputs():
    rng = np.random.default_rng(107)
    return {
        "text": rng.integers(0, VOCAB, size=(3, 7)),
        "text_lengths": np.array([7, 4, 5]),
        "mels": rng.normal(size=(3, MELS, 6)).astype("float32"),
    }


class Prenet(nn.Module):
    def __init__(self, in_dim, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip([in_dim, *sizes[:-1]], sizes))

    def forward(self, x):
        for linear in self.layers:
            x = F.relu(linear(x))
        return x


class LocationSensitiveAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_layer = nn.Linear(ATT_RNN, ATT, bias=False)
        self.memory_layer = nn.Linear(EMB, ATT, bias=False)
        self.location_conv = nn.Conv1d(2, LOC, LOC_K, padding=(LOC_K - 1) // 2, bias=False)
        self.location_dense = nn.Linear(LOC, ATT, bias=False)
        self.v = nn.Linear(ATT, 1, bias=False)

    def forward(self, query, memory, processed_memory, weights_cat, mask):
        location = self.location_dense(self.location_conv(weights_cat).transpose(1, 2))
        hidden = torch.tanh(self.query_layer(query.unsqueeze(1)) + location + processed_memory)
        energies = self.v(hidden).squeeze(-1).masked_fill(mask, float("-inf"))
        weights = F.softmax(energies, dim=1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.prenet = Prenet(MELS, [PRENET, PRENET])
        self.attention_rnn = nn.LSTMCell(PRENET + EMB, ATT_RNN)
        self.attention_layer = LocationSensitiveAttention()
        self.decoder_rnn = nn.LSTMCell(ATT_RNN + EMB, DEC_RNN)
        self.linear_projection = nn.Linear(DEC_RNN + EMB, MELS)
        self.gate_layer = nn.Linear(DEC_RNN + EMB, 1)

    def forward(self, memory, mels, mask):
        B, T, _ = memory.shape
        frames = mels.permute(2, 0, 1)
        frames = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]], dim=0)
        h_att = c_att = memory.new_zeros(B, ATT_RNN)
        h_dec = c_dec = memory.new_zeros(B, DEC_RNN)
        weights = cumulative = memory.new_zeros(B, T)
        context = memory.new_zeros(B, EMB)
        processed = self.attention_layer.memory_layer(memory)
        mel_out, gate_out, alignments = [], [], []
        for frame in self.prenet(frames):
            h_att, c_att = self.attention_rnn(torch.cat([frame, context], -1), (h_att, c_att))
            previous = torch.stack([weights, cumulative], dim=1)
            context, weights = self.attention_layer(h_att, memory, processed, previous, mask)
            cumulative = cumulative + weights
            h_dec, c_dec = self.decoder_rnn(torch.cat([h_att, context], -1), (h_dec, c_dec))
            both = torch.cat([h_dec, context], dim=-1)
            mel_out.append(self.linear_projection(both))
            gate_out.append(self.gate_layer(both).squeeze(-1))
            alignments.append(weights)
        return torch.stack(mel_out, dim=-1), torch.stack(gate_out, dim=1), torch.stack(alignments, dim=1)


class Tacotron(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, EMB)
        self.encoder_conv = nn.Conv1d(EMB, EMB, 3, padding=1)
        self.decoder = Decoder()

    def forward(self, text, text_lengths, mels):
        mask = torch.arange(text.shape[1])[None, :] >= text_lengths[:, None]
        x = self.embedding(text).masked_fill(mask.unsqueeze(-1), 0.0)
        memory = torch.relu(self.encoder_conv(x.transpose(1, 2)).transpose(1, 2))
        return self.decoder(memory, mels, mask)


def torch_side():
    torch.manual_seed(107)
    model = Tacotron()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0.0, 1.0 if "embedding" in name or ".v." in name else 0.45)
    return model.eval()


def lstm(p, state, x):
    h, c = state
    i, f, g, o = jnp.split(p["b"] + p["b_rec"] + x @ p["kernel"] + h @ p["recurrent"], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def conv1d(x, kernel):
    """x: (batch, time, channels); kernel: (width, in, out), odd width, same length."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def score(p, query, keys, history, valid):
    location = conv1d(history, p["location_kernel"]) @ p["location"]
    energy = jnp.tanh(keys + location + (query @ p["query"])[:, None, :]) @ p["v"]
    return jax.nn.softmax(jnp.where(valid, energy, -jnp.inf), axis=-1)


def decode(p, memory, frames, valid):
    batch, length, _ = memory.shape
    keys = memory @ p["attention"]["key"]

    def step(carry, frame):
        att, dec, context, last, total = carry
        att = lstm(p["attention_lstm"], att, jnp.concatenate([frame, context], -1))
        history = jnp.stack([last, total], axis=-1)
        align = score(p["attention"], att[0], keys, history, valid)
        context = jnp.einsum("bt,btd->bd", align, memory)
        dec = lstm(p["decoder_lstm"], dec, jnp.concatenate([att[0], context], -1))
        out = jnp.concatenate([dec[0], context], -1) @ p["out"]["kernel"] + p["out"]["bias"]
        return (att, dec, context, align, total + align), (out, align)

    def zeros(*sizes):
        return tuple(jnp.zeros((batch, n), memory.dtype) for n in sizes)

    carry = (zeros(ATT_RNN, ATT_RNN), zeros(DEC_RNN, DEC_RNN), *zeros(EMB, length, length))
    _, (outs, aligns) = jax.lax.scan(step, carry, frames)
    outs = jnp.moveaxis(outs, 0, 1)
    return jnp.swapaxes(outs[..., :MELS], 1, 2), outs[..., MELS], jnp.moveaxis(aligns, 0, 1)


def tacotron(params, text, text_lengths, mels):
    valid = jnp.arange(text.shape[1]) < text_lengths[:, None]
    x = jnp.where(valid[..., None], params["embedding"][text], 0.0)
    memory = jax.nn.relu(conv1d(x, params["encoder"]["kernel"]) + params["encoder"]["bias"])
    frames = jnp.moveaxis(mels, 2, 0)
    frames = jnp.pad(frames, ((1, 0), (0, 0), (0, 0)))[:-1]
    for w in params["prenet"]:
        frames = jax.nn.relu(frames @ w)
    return decode(params["decoder"], memory, frames, valid)


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def cell(m):
        return {"kernel": a(m.weight_ih).T, "recurrent": a(m.weight_hh).T, "b": a(m.bias_ih), "b_rec": a(m.bias_hh)}

    dec = module.decoder
    att, heads = dec.attention_layer, (dec.linear_projection, dec.gate_layer)
    return tacotron, {
        "embedding": a(module.embedding.weight),
        "encoder": {"kernel": a(module.encoder_conv.weight).transpose(2, 1, 0), "bias": a(module.encoder_conv.bias)},
        "prenet": [a(m.weight).T for m in dec.prenet.layers],
        "decoder": {
            "attention_lstm": cell(dec.attention_rnn),
            "decoder_lstm": cell(dec.decoder_rnn),
            "attention": {
                "query": a(att.query_layer.weight).T,
                "key": a(att.memory_layer.weight).T,
                "location_kernel": a(att.location_conv.weight).transpose(2, 1, 0),
                "location": a(att.location_dense.weight).T,
                "v": a(att.v.weight)[0],
            },
            "out": {
                "kernel": jnp.concatenate([a(m.weight).T for m in heads], axis=1),
                "bias": jnp.concatenate([a(m.bias) for m in heads]),
            },
        },
    }


def jax_side():
    flat, tree = jax.tree.flatten(convert(Tacotron())[1])
    keys = jax.random.split(jax.random.key(107), len(flat))
    return tacotron, tree.unflatten([0.4 * jax.random.normal(k, a.shape) for k, a in zip(keys, flat)])


MISTAKES = [
    {
        "name": "the go frame is a copy of the first frame instead of zeros",
        "side": "torch",
        "old": "frames = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]], dim=0)",
        "new": "frames = torch.cat([frames[:1], frames[:-1]], dim=0)",
        "line": 65,
    },
    {
        "name": "the cumulative weights are replaced at every step instead of added up",
        "side": "torch",
        "old": "cumulative = cumulative + weights",
        "new": "cumulative = weights",
        "line": 76,
    },
    {
        "name": "the channels of the location features are in the other order",
        "side": "jax",
        "old": "history = jnp.stack([last, total], axis=-1)",
        "new": "history = jnp.stack([total, last], axis=-1)",
        "line": 133,
    },
    {
        "name": "one padded position more is seen as valid",
        "side": "jax",
        "old": "valid = jnp.arange(text.shape[1]) < text_lengths[:, None]",
        "new": "valid = jnp.arange(text.shape[1]) <= text_lengths[:, None]",
        "line": 150,
    },
    {
        "name": "the decoder sees the attention network's cell state instead of its hidden state",
        "side": "jax",
        "old": 'lstm(p["decoder_lstm"], dec, jnp.concatenate([att[0], context], -1))',
        "new": 'lstm(p["decoder_lstm"], dec, jnp.concatenate([att[1], context], -1))',
        "line": 136,
    },
]
