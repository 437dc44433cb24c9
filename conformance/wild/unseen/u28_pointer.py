"""A summariser with pointer-generator copying and a coverage loss: a bidirectional LSTM, a decoder over an extended vocabulary. The port is linen."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LOADED = True

VOCAB, EXTRA, WORD, CUES, HIDDEN, PAD, START, UNKNOWN = 13, 3, 6, 2, 7, 0, 1, 2
COVERAGE_WEIGHT = 1.5


def inputs():
    rng = np.random.default_rng(208)
    article = rng.integers(3, VOCAB + EXTRA, size=(3, 9))
    article[:, 4] = article[:, 1]  # a word that repeats
    summary = np.stack([rng.permutation(row[:6])[:5] for row in article])
    lengths = np.array([9, 6, 7])
    article[np.arange(9) >= lengths[:, None]] = PAD
    summary[1, 3:] = PAD
    cues = rng.normal(size=(3, 9, CUES)).astype("float32")
    return {"article": article, "cues": cues, "lengths": lengths, "summary": summary}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WORD + CUES, HIDDEN, batch_first=True, bidirectional=True)
        self.reduce_h = nn.Linear(2 * HIDDEN, HIDDEN)
        self.reduce_c = nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, (h, c) = self.lstm(packed)
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=x.size(1))
        h, c = (s.transpose(0, 1).reshape(-1, 2 * HIDDEN) for s in (h, c))
        return output, (F.relu(self.reduce_h(h)), F.relu(self.reduce_c(c)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_h = nn.Linear(2 * HIDDEN, 2 * HIDDEN, bias=False)
        self.W_c = nn.Linear(1, 2 * HIDDEN, bias=False)
        self.decode_proj = nn.Linear(2 * HIDDEN, 2 * HIDDEN)
        self.v = nn.Linear(2 * HIDDEN, 1, bias=False)

    def forward(self, state, encoded, mask, coverage):
        features = self.W_h(encoded) + self.decode_proj(state).unsqueeze(1) + self.W_c(coverage.unsqueeze(2))
        scores = self.v(torch.tanh(features)).squeeze(2)
        weights = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=1)
        context = torch.bmm(weights.unsqueeze(1), encoded).squeeze(1)
        return context, weights, coverage + weights


class Summariser(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WORD)
        self.encoder = Encoder()
        self.attention = Attention()
        self.x_context = nn.Linear(2 * HIDDEN + WORD, WORD)
        self.cell = nn.LSTMCell(WORD, HIDDEN)
        self.p_gen = nn.Linear(4 * HIDDEN + WORD, 1)
        self.out1 = nn.Linear(3 * HIDDEN, HIDDEN)
        self.out2 = nn.Linear(HIDDEN, VOCAB)

    def step(self, word, state, context, encoded, mask, coverage, article):
        x = self.x_context(torch.cat([context, self.embedding(word)], dim=1))
        h, c = self.cell(x, state)
        context, attn, next_coverage = self.attention(torch.cat([h, c], dim=1), encoded, mask, coverage)
        p_gen = torch.sigmoid(self.p_gen(torch.cat([context, h, c, x], dim=1)))
        vocab_dist = F.softmax(self.out2(self.out1(torch.cat([h, context], dim=1))), dim=1)
        extended = torch.cat([p_gen * vocab_dist, vocab_dist.new_zeros(len(word), EXTRA)], dim=1)
        final = extended.scatter_add(1, article, (1 - p_gen) * attn)
        return final, (h, c), context, attn, next_coverage

    def forward(self, article, cues, lengths, summary):
        known = article.masked_fill(article >= VOCAB, UNKNOWN)
        mask = article != PAD
        encoded, state = self.encoder(torch.cat([self.embedding(known), cues], dim=2), lengths)
        given = torch.cat([torch.full_like(summary[:, :1], START), summary[:, :-1]], dim=1)
        given = given.masked_fill(given >= VOCAB, UNKNOWN)
        context = encoded.new_zeros(len(article), 2 * HIDDEN)
        coverage = encoded.new_zeros(article.shape)
        finals, losses = [], []
        for t in range(summary.size(1)):
            final, state, context, attn, next_coverage = self.step(
                given[:, t], state, context, encoded, mask, coverage, article
            )
            gold = final.gather(1, summary[:, t : t + 1]).squeeze(1)
            coverage_loss = torch.min(attn, coverage).sum(dim=1)
            losses.append(-torch.log(gold + 1e-8) + COVERAGE_WEIGHT * coverage_loss)
            coverage = next_coverage
            finals.append(final)
        real = (summary != PAD).to(encoded.dtype)
        per_summary = (torch.stack(losses, dim=1) * real).sum(dim=1) / real.sum(dim=1)
        return torch.stack(finals, dim=1), coverage, per_summary.mean()


def torch_side():
    torch.manual_seed(208)
    net = Summariser()
    for name, p in net.named_parameters():
        nn.init.normal_(p, std=0.4)
        if "bias_" in name:  # in 64ths, so that the sum of an LSTM's two biases is exact
            p.data.mul_(64).round_().div_(64)
    nn.init.normal_(net.embedding.weight, std=0.8)
    return net


def lstm(carry, gates):
    """The cell, given the four gates (input, forget, candidate, output) before their activations."""
    h, c = carry
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


class Reader(linen.Module):
    """One direction over (batch, time, feature); padding leaves the state alone and reads as zero."""

    backwards: bool

    @linen.compact
    def __call__(self, x, valid):
        zero = jnp.zeros((x.shape[0], HIDDEN), x.dtype)
        w = self.param("recurrent", linen.initializers.orthogonal(), (HIDDEN, 4 * HIDDEN))
        gates = linen.Dense(4 * HIDDEN, name="input")(x)

        def advance(carry, now):
            gate, live = now
            fresh = lstm(carry, gate + carry[0] @ w)
            carry = jax.tree.map(lambda new, old: jnp.where(live[:, None], new, old), fresh, carry)
            return carry, jnp.where(live[:, None], carry[0], 0.0)

        steps = (jnp.swapaxes(gates, 0, 1), valid.T)
        last, every = jax.lax.scan(advance, (zero, zero), steps, reverse=self.backwards)
        return last, jnp.swapaxes(every, 0, 1)


class PointerNetwork(linen.Module):
    def setup(self):
        self.words = linen.Embed(VOCAB, WORD)
        self.left, self.right = Reader(backwards=False), Reader(backwards=True)
        self.bridge_h, self.bridge_c = linen.Dense(HIDDEN), linen.Dense(HIDDEN)
        self.keys, self.query = linen.Dense(2 * HIDDEN, use_bias=False), linen.Dense(2 * HIDDEN)
        self.covered = self.param("covered", linen.initializers.normal(), (2 * HIDDEN,))
        self.energy = self.param("energy", linen.initializers.normal(), (2 * HIDDEN,))
        self.feed, self.gates = linen.Dense(WORD), linen.Dense(4 * HIDDEN)
        self.switch, self.shrink, self.vocabulary = linen.Dense(1), linen.Dense(HIDDEN), linen.Dense(VOCAB)

    def __call__(self, article, cues, lengths, summary):
        def embed(ids):
            return self.words(jnp.where(ids < VOCAB, ids, UNKNOWN))

        valid = jnp.arange(article.shape[1]) < lengths[:, None]
        x = jnp.concatenate([embed(article), cues], axis=-1)
        (h_left, c_left), left = self.left(x, valid)
        (h_right, c_right), right = self.right(x, valid)
        memory = jnp.concatenate([left, right], axis=-1)
        h = linen.relu(self.bridge_h(jnp.concatenate([h_left, h_right], axis=-1)))
        c = linen.relu(self.bridge_c(jnp.concatenate([c_left, c_right], axis=-1)))
        keys = self.keys(memory)
        previous = embed(jnp.pad(summary[:, :-1], ((0, 0), (1, 0)), constant_values=START))
        copied = jax.nn.one_hot(article, VOCAB + EXTRA, dtype=memory.dtype)
        seen = jnp.zeros(article.shape, memory.dtype)
        context = jnp.zeros_like(memory[:, 0])
        mixtures, overlaps = [], []
        for t in range(summary.shape[1]):
            inp = self.feed(jnp.concatenate([context, previous[:, t]], axis=-1))
            h, c = lstm((h, c), self.gates(jnp.concatenate([inp, h], axis=-1)))
            query = self.query(jnp.concatenate([h, c], axis=-1))
            score = jnp.tanh(keys + query[:, None] + seen[..., None] * self.covered) @ self.energy
            focus = jax.nn.softmax(jnp.where(valid, score, -jnp.inf), axis=-1)
            overlaps.append(jnp.minimum(focus, seen).sum(axis=-1))
            seen = seen + focus
            context = jnp.einsum("bs,bsd->bd", focus, memory)
            own = linen.sigmoid(self.switch(jnp.concatenate([context, h, c, inp], axis=-1)))
            words = linen.softmax(self.vocabulary(self.shrink(jnp.concatenate([h, context], axis=-1))))
            copy = jnp.einsum("bs,bsv->bv", focus, copied)
            mixtures.append(own * jnp.pad(words, ((0, 0), (0, EXTRA))) + (1.0 - own) * copy)
        mixtures, overlaps = jnp.stack(mixtures, axis=1), jnp.stack(overlaps, axis=1)
        gold = jnp.take_along_axis(mixtures, summary[..., None], axis=-1)[..., 0]
        cost = COVERAGE_WEIGHT * overlaps - jnp.log(gold + 1e-8)
        return mixtures, seen, jnp.mean(jnp.mean(cost, axis=1, where=summary != PAD))


def jax_side():
    state = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def dense(key):
        return {n: state[f"{key}.{m}"].T for n, m in (("kernel", "weight"), ("bias", "bias")) if f"{key}.{m}" in state}

    def reader(end):
        own = {n: state[f"encoder.lstm.{n}_l0{end}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        entry = {"kernel": own["weight_ih"].T, "bias": own["bias_ih"] + own["bias_hh"]}
        return {"input": entry, "recurrent": own["weight_hh"].T}

    names = {
        "bridge_h": "encoder.reduce_h",
        "bridge_c": "encoder.reduce_c",
        "keys": "attention.W_h",
        "query": "attention.decode_proj",
        "feed": "x_context",
        "switch": "p_gen",
        "shrink": "out1",
        "vocabulary": "out2",
    }
    params = {name: dense(key) for name, key in names.items()}
    params |= {"left": reader(""), "right": reader("_reverse"), "words": {"embedding": state["embedding.weight"]}}
    params |= {"covered": state["attention.W_c.weight"][:, 0], "energy": state["attention.v.weight"][0]}
    joined = jnp.concatenate([state["cell.weight_ih"], state["cell.weight_hh"]], axis=1).T
    params["gates"] = {"kernel": joined, "bias": state["cell.bias_ih"] + state["cell.bias_hh"]}
    return PointerNetwork(), {"params": params}


MISTAKES = [
    {
        "name": "the coverage that the loss compares with includes the current step's attention",
        "side": "jax",
        "old": """            overlaps.append(jnp.minimum(focus, seen).sum(axis=-1))
            seen = seen + focus
""",
        "new": """            seen = seen + focus
            overlaps.append(jnp.minimum(focus, seen).sum(axis=-1))
""",
        "line": 181,
    },
    {
        "name": "a word that repeats in the article gets the attention of its last place only, instead of the sum",
        "side": "jax",
        "old": 'copy = jnp.einsum("bs,bsv->bv", focus, copied)',
        "new": "copy = jnp.zeros_like(copied[:, 0]).at[jnp.arange(len(article))[:, None], article].set(focus)",
        "line": 186,
    },
    {
        "name": "the LSTM's gates are split in the order input, forget, output, candidate",
        "side": "jax",
        "old": "i, f, g, o = jnp.split(gates, 4, axis=-1)",
        "new": "i, f, o, g = jnp.split(gates, 4, axis=-1)",
        "line": 120,
    },
    {
        "name": "the generation probability weighs the copying, and its complement the vocabulary",
        "side": "torch",
        "old": """torch.cat([p_gen * vocab_dist, vocab_dist.new_zeros(len(word), EXTRA)], dim=1)
        final = extended.scatter_add(1, article, (1 - p_gen) * attn)""",
        "new": """torch.cat([(1 - p_gen) * vocab_dist, vocab_dist.new_zeros(len(word), EXTRA)], dim=1)
        final = extended.scatter_add(1, article, p_gen * attn)""",
        "line": 79,
    },
    {
        "name": "the loss is averaged over all words at once instead of per summary first",
        "side": "torch",
        "old": "per_summary = (torch.stack(losses, dim=1) * real).sum(dim=1) / real.sum(dim=1)",
        "new": "per_summary = (torch.stack(losses, dim=1) * real).sum() / real.sum()",
        "line": 102,
    },
]
