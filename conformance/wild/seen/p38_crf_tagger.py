"""A tagger: a two-layer LSTM, emission scores, and a linear-chain CRF's log likelihood with masks. Port: scans, NamedTuples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

VOCAB, EMB, HID, TAGS, T = 15, 8, 8, 5, 7


def inputs():
    rng = np.random.default_rng(38)
    lengths = np.array([7, 5, 2])
    return {
        "words": rng.integers(0, VOCAB, size=(3, T)),
        "tags": rng.integers(0, TAGS, size=(3, T)),
        "mask": np.arange(T) < lengths[:, None],
    }


class CRF(nn.Module):
    def __init__(self, num_tags):
        super().__init__()
        self.start_transitions = nn.Parameter(torch.randn(num_tags))
        self.end_transitions = nn.Parameter(torch.randn(num_tags))
        self.transitions = nn.Parameter(torch.randn(num_tags, num_tags))

    def score(self, emissions, tags, mask):
        rows = torch.arange(tags.shape[0])
        score = self.start_transitions[tags[:, 0]] + emissions[rows, 0, tags[:, 0]]
        for i in range(1, tags.shape[1]):
            step = self.transitions[tags[:, i - 1], tags[:, i]] + emissions[rows, i, tags[:, i]]
            score = score + step * mask[:, i]
        last = mask.long().sum(1) - 1
        return score + self.end_transitions[tags[rows, last]]

    def normalizer(self, emissions, mask):
        score = self.start_transitions + emissions[:, 0]
        for i in range(1, emissions.shape[1]):
            following = score.unsqueeze(2) + self.transitions + emissions[:, i].unsqueeze(1)
            score = torch.where(mask[:, i].unsqueeze(1), torch.logsumexp(following, dim=1), score)
        return torch.logsumexp(score + self.end_transitions, dim=1)

    def forward(self, emissions, tags, mask):
        return self.score(emissions, tags, mask) - self.normalizer(emissions, mask)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, EMB)
        self.lstm = nn.LSTM(EMB, HID, num_layers=2, batch_first=True)
        self.hidden2tag = nn.Linear(HID, TAGS)
        self.crf = CRF(TAGS)

    def forward(self, words, tags, mask):
        emissions = self.hidden2tag(self.lstm(self.embed(words))[0])
        llh = self.crf(emissions, tags, mask)
        return emissions, -llh.sum() / mask.sum()


def torch_side():
    torch.manual_seed(38)
    tagger = Tagger()
    for p in tagger.lstm.parameters():
        nn.init.uniform_(p, -0.8, 0.8)
    return tagger


class Cell(NamedTuple):
    kernel: jax.Array  # (input + hidden, 4 * hidden), as TensorFlow keeps it
    bias_in: jax.Array
    bias_rec: jax.Array


class Chain(NamedTuple):
    first: jax.Array
    step: jax.Array
    last: jax.Array


def lstm(cell, xs):
    def step(carry, x):
        h, c = carry
        gates = jnp.concatenate([x, h], axis=-1) @ cell.kernel + cell.bias_in + cell.bias_rec
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((xs.shape[1], HID), xs.dtype)
    return jax.lax.scan(step, (zero, zero), xs)[1]


def log_likelihood(chain, unary, tags, mask):
    """Of one sentence: unary (T, tags), tags (T,), mask (T,)."""
    picked = jnp.take_along_axis(unary, tags[:, None], axis=1)[:, 0]
    pairs = chain.step[tags[:-1], tags[1:]]
    path = chain.first[tags[0]] + jnp.sum(picked * mask) + jnp.sum(pairs * mask[1:])
    path = path + chain.last[tags[jnp.sum(mask) - 1]]

    def step(alpha, inputs):
        scores, valid = inputs
        new = jax.nn.logsumexp(alpha[:, None] + chain.step, axis=0) + scores
        return jnp.where(valid, new, alpha), None

    alpha, _ = jax.lax.scan(step, chain.first + unary[0], (unary[1:], mask[1:]))
    return path - jax.nn.logsumexp(alpha + chain.last)


def tagger(params, words, tags, mask):
    h = params["lookup"][words.T]
    for cell in params["cells"]:
        h = lstm(cell, h)
    unary = jnp.swapaxes(h, 0, 1) @ params["emit"]["w"] + params["emit"]["b"]
    llh = jax.vmap(log_likelihood, in_axes=(None, 0, 0, 0))(params["chain"], unary, tags, mask)
    return unary, -jnp.sum(llh) / jnp.sum(mask)


def jax_side():
    m = torch_side()

    def a(t):
        return jnp.asarray(t.detach().numpy())

    def cell(i):
        w = [a(getattr(m.lstm, f"weight_{kind}_l{i}")).T for kind in ("ih", "hh")]
        return Cell(jnp.concatenate(w), a(getattr(m.lstm, f"bias_ih_l{i}")), a(getattr(m.lstm, f"bias_hh_l{i}")))

    return tagger, {
        "lookup": a(m.embed.weight),
        "cells": [cell(0), cell(1)],
        "emit": {"w": a(m.hidden2tag.weight).T, "b": a(m.hidden2tag.bias)},
        "chain": Chain(a(m.crf.start_transitions), a(m.crf.transitions), a(m.crf.end_transitions)),
    }


MISTAKES = [
    {
        "name": "the gates are read in the order input, cell, forget, output",
        "side": "jax",
        "old": "i, f, g, o = jnp.split(gates, 4, axis=-1)",
        "new": "i, g, f, o = jnp.split(gates, 4, axis=-1)",
        "line": 91,
    },
    {
        "name": "the forward recursion adds the scores along the next tag instead of the previous one",
        "side": "jax",
        "old": "jax.nn.logsumexp(alpha[:, None] + chain.step, axis=0) + scores",
        "new": "jax.nn.logsumexp(alpha[None, :] + chain.step, axis=0) + scores",
        "line": 109,
    },
    {
        "name": "the end transition is taken from the last column, padding included",
        "side": "jax",
        "old": "chain.last[tags[jnp.sum(mask) - 1]]",
        "new": "chain.last[tags[-1]]",
        "line": 105,
    },
    {
        "name": "the loss is divided by the number of sentences instead of tokens",
        "side": "torch",
        "old": "-llh.sum() / mask.sum()",
        "new": "-llh.mean()",
        "line": 64,
    },
    {
        "name": "the forget gate has an extra bias of 1",
        "side": "jax",
        "old": "c = jax.nn.sigmoid(f) * c",
        "new": "c = jax.nn.sigmoid(f + 1.0) * c",
        "line": 92,
    },
]
