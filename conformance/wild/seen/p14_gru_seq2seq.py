"""A GRU encoder and decoder for sequences: bidirectional encoder, bridge, decoder with teacher forcing. Port: scans over dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

VOCAB, EMB, HID = 18, 8, 10


def inputs():
    rng = np.random.default_rng(14)
    return {"src": rng.integers(0, VOCAB, size=(3, 6)), "tgt": rng.integers(0, VOCAB, size=(3, 5))}


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.src_emb = nn.Embedding(VOCAB, EMB)
        self.tgt_emb = nn.Embedding(VOCAB, EMB)
        self.encoder = nn.GRU(EMB, HID, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * HID, HID)
        self.decoder = nn.GRU(EMB, HID, batch_first=True)
        self.generator = nn.Linear(HID, VOCAB)

    def forward(self, src, tgt):
        _, h = self.encoder(self.src_emb(src))
        h = torch.tanh(self.bridge(torch.cat([h[0], h[1]], dim=-1)))
        out, _ = self.decoder(self.tgt_emb(tgt), h.unsqueeze(0))
        return torch.log_softmax(self.generator(out), dim=-1)


def torch_side():
    torch.manual_seed(14)
    model = Seq2Seq()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.6 if "weight" in name else 0.3)
    return model


def gru_step(p, h, x):
    gi = x @ p["W_i"] + p["b_i"]
    gh = h @ p["W_h"] + p["b_h"]
    r_i, z_i, n_i = jnp.split(gi, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(gh, 3, axis=-1)
    r = jax.nn.sigmoid(r_i + r_h)
    z = jax.nn.sigmoid(z_i + z_h)
    n = jnp.tanh(n_i + r * n_h)
    return (1 - z) * n + z * h


def run_gru(p, h, xs, reverse=False):
    def step(h, x):
        h = gru_step(p, h, x)
        return h, h

    return jax.lax.scan(step, h, jnp.swapaxes(xs, 0, 1), reverse=reverse)


def seq2seq(params, src, tgt):
    enc = params["encoder"]
    xs = jnp.take(enc["embedding"], src, axis=0)
    zero = jnp.zeros((src.shape[0], HID), xs.dtype)
    left, _ = run_gru(enc["forward"], zero, xs)
    right, _ = run_gru(enc["backward"], zero, xs, reverse=True)
    h = jnp.tanh(jnp.concatenate([left, right], axis=-1) @ params["bridge"]["kernel"] + params["bridge"]["bias"])
    dec = params["decoder"]
    _, hs = run_gru(dec["cell"], h, jnp.take(dec["embedding"], tgt, axis=0))
    logits = jnp.swapaxes(hs, 0, 1) @ dec["softmax"]["kernel"] + dec["softmax"]["bias"]
    return jax.nn.log_softmax(logits, axis=-1)


def convert(module):
    def j(t):
        return jnp.asarray(t.detach().numpy())

    def cell(rnn, suffix):
        return {
            "W_i": j(getattr(rnn, "weight_ih_" + suffix)).T,
            "W_h": j(getattr(rnn, "weight_hh_" + suffix)).T,
            "b_i": j(getattr(rnn, "bias_ih_" + suffix)),
            "b_h": j(getattr(rnn, "bias_hh_" + suffix)),
        }

    return seq2seq, {
        "encoder": {
            "embedding": j(module.src_emb.weight),
            "forward": cell(module.encoder, "l0"),
            "backward": cell(module.encoder, "l0_reverse"),
        },
        "bridge": {"kernel": j(module.bridge.weight).T, "bias": j(module.bridge.bias)},
        "decoder": {
            "embedding": j(module.tgt_emb.weight),
            "cell": cell(module.decoder, "l0"),
            "softmax": {"kernel": j(module.generator.weight).T, "bias": j(module.generator.bias)},
        },
    }


def jax_side():
    params = convert(Seq2Seq())[1]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    return seq2seq, jax.tree.unflatten(
        tree, [jax.random.uniform(k, a.shape, minval=-0.5, maxval=0.5) for k, a in zip(keys, leaves)]
    )


MISTAKES = [
    {
        "name": "the update gate is used the other way round",
        "side": "jax",
        "old": "return (1 - z) * n + z * h",
        "new": "return z * n + (1 - z) * h",
        "line": 53,
    },
    {
        "name": "the reset gate acts on the hidden state's part without its bias",
        "side": "jax",
        "old": "n = jnp.tanh(n_i + r * n_h)",
        "new": 'n = jnp.tanh(n_i + r * (n_h - p["b_h"][2 * HID :]) + p["b_h"][2 * HID :])',
        "line": 52,
    },
    {
        "name": "the backward encoder runs forward",
        "side": "jax",
        "old": 'run_gru(enc["backward"], zero, xs, reverse=True)',
        "new": 'run_gru(enc["backward"], zero, xs)',
        "line": 69,
    },
    {
        "name": "the bridge has no tanh",
        "side": "torch",
        "old": "h = torch.tanh(self.bridge(torch.cat([h[0], h[1]], dim=-1)))",
        "new": "h = self.bridge(torch.cat([h[0], h[1]], dim=-1))",
        "line": 31,
    },
]
