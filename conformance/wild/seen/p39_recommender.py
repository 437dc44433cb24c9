"""A recommender: a factorisation machine beside a deep tower (DeepFM), trained with label smoothing and weight decay in the loss. NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False
SINGLE = True  # nnx.Embed returns float32, the type that it was made with

FIELDS, VOCAB, FACTORS, NUMERIC = (5, 7, 4), 16, 8, 3


def inputs():
    rng = np.random.default_rng(39)
    return {
        "categories": np.stack([rng.integers(0, n, size=6) for n in FIELDS], axis=1),
        "numbers": rng.normal(size=(6, NUMERIC)).astype("float32"),
        "clicked": rng.integers(0, 2, size=6).astype("float32"),
    }


class DeepFM(nn.Module):
    def __init__(self, dropout=0.2):
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, *np.cumsum(FIELDS)[:-1]]))
        self.linear = nn.Embedding(VOCAB, 1)
        self.embedding = nn.Embedding(VOCAB, FACTORS)
        self.bias = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            nn.Linear(len(FIELDS) * FACTORS + NUMERIC, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(16, 1),
        )

    def forward(self, categories, numbers, clicked):
        ids = categories + self.offsets
        e = self.embedding(ids)
        square_of_sum = e.sum(dim=1) ** 2
        sum_of_square = (e**2).sum(dim=1)
        fm = 0.5 * (square_of_sum - sum_of_square).sum(dim=1)
        deep = self.mlp(torch.cat([e.flatten(1), numbers], dim=1)).squeeze(1)
        logit = self.bias + self.linear(ids).sum(dim=(1, 2)) + fm + deep
        target = clicked * 0.9 + 0.05
        loss = nn.functional.binary_cross_entropy_with_logits(logit, target)
        penalty = 1e-2 * self.embedding(ids).pow(2).sum(dim=(1, 2)).mean()
        return {"probability": torch.sigmoid(logit), "loss": loss + penalty}


def torch_side():
    torch.manual_seed(39)
    model = DeepFM()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 0.6)
        model.bias.fill_(-0.4)
        bn = model.mlp[1]
        bn.weight.uniform_(0.5, 1.5)
        bn.bias.normal_(0, 0.3)
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.05, 0.5)
    return model.eval()


class Recommender(nnx.Module):
    def __init__(self, rngs):
        self.first_order = nnx.List([nnx.Param(jax.random.normal(rngs.params(), (n,))) for n in FIELDS])
        self.factors = nnx.List([nnx.Embed(n, FACTORS, rngs=rngs) for n in FIELDS])
        self.intercept = nnx.Param(jnp.zeros(()))
        self.hidden = nnx.Linear(len(FIELDS) * FACTORS + NUMERIC, 16, rngs=rngs)
        self.bn = nnx.BatchNorm(16, use_running_average=True, epsilon=1e-5, rngs=rngs)
        self.score = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, categories, numbers, clicked):
        columns = [categories[:, i] for i in range(len(FIELDS))]
        embedded = jnp.stack([table(ids) for table, ids in zip(self.factors, columns)], axis=1)
        linear = sum(w[...][ids] for w, ids in zip(self.first_order, columns))
        total = embedded.sum(axis=1)
        pairs = 0.5 * jnp.sum(total * total - jnp.sum(embedded * embedded, axis=1), axis=-1)
        features = jnp.concatenate([embedded.reshape(len(embedded), -1), numbers], axis=1)
        deep = self.score(nnx.relu(self.bn(self.hidden(features))))[:, 0]
        logit = self.intercept[...] + linear + pairs + deep
        target = 0.9 * clicked + 0.05
        loss = -jnp.mean(target * jax.nn.log_sigmoid(logit) + (1 - target) * jax.nn.log_sigmoid(-logit))
        decay = 0.01 * jnp.mean(jnp.sum(jnp.square(embedded), axis=(1, 2)))
        return {"probability": jax.nn.sigmoid(logit), "loss": loss + decay}


def jax_side():
    return Recommender(nnx.Rngs(39))


def convert(module):
    model = Recommender(nnx.Rngs(0))

    def a(t):
        return jnp.asarray(t.detach().numpy())

    start = 0
    for i, n in enumerate(FIELDS):
        rows = slice(start, start + n)
        model.first_order[i][...] = a(module.linear.weight)[rows, 0]
        model.factors[i].embedding[...] = a(module.embedding.weight)[rows]
        start += n
    model.intercept[...] = a(module.bias)[0]
    hidden, bn, _, _, score = module.mlp
    for ours, theirs in ((model.hidden, hidden), (model.score, score)):
        ours.kernel[...] = a(theirs.weight).T
        ours.bias[...] = a(theirs.bias)
    model.bn.scale[...], model.bn.bias[...] = a(bn.weight), a(bn.bias)
    model.bn.mean[...], model.bn.var[...] = a(bn.running_mean), a(bn.running_var)
    return model


MISTAKES = [
    {
        "name": "the pairwise term lacks its factor one half",
        "side": "jax",
        "old": "pairs = 0.5 * jnp.sum(",
        "new": "pairs = jnp.sum(",
        "line": 82,
    },
    {
        "name": "labels are not smoothed",
        "side": "jax",
        "old": "target = 0.9 * clicked + 0.05",
        "new": "target = clicked",
        "line": 86,
    },
    {
        "name": "the numbers come before the embeddings",
        "side": "torch",
        "old": "torch.cat([e.flatten(1), numbers], dim=1)",
        "new": "torch.cat([numbers, e.flatten(1)], dim=1)",
        "line": 46,
    },
    {
        "name": "batch norm uses the batch's statistics",
        "side": "jax",
        "old": "use_running_average=True",
        "new": "use_running_average=False",
        "line": 74,
    },
]
