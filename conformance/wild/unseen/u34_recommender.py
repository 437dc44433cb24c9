"""A click model of DLRM, DeepFM and DCN parts: embedding bags, pairwise dots, factorisation machine, cross layers. The port is Flax linen behind a closure."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen
from torch import nn

LOADED = False

FIELDS, DENSE, DIM, ITEMS, TAGS, CROSSES = (4, 5, 3), 5, 4, 7, 6, 2
VECTORS = len(FIELDS) + 3


def inputs():
    rng = np.random.default_rng(206)
    batch = 6
    return {
        "dense": rng.gamma(2.0, 1.5, size=(batch, DENSE)).astype("float32"),
        "cats": np.stack([rng.permutation(np.arange(batch) % n) for n in FIELDS], axis=1),
        "items": rng.permutation(np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, size=7)])),
        "item_offsets": np.array([0, 3, 4, 4, 8, 10]),
        "tags": rng.permutation(np.concatenate([np.arange(TAGS), rng.integers(0, TAGS, size=5)])),
        "tag_offsets": np.array([0, 2, 5, 6, 6, 9]),
        "tag_weights": rng.uniform(0.3, 1.7, size=11).astype("float32"),
        "click": np.array([1, 0, 0, 1, 0, 1]),
    }


class CrossNetwork(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim) for _ in range(CROSSES)])

    def forward(self, x0):
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class FactorizationMachine(nn.Module):
    def forward(self, x):  # (batch, fields, dim)
        square_of_sum = torch.sum(x, dim=1) ** 2
        sum_of_square = torch.sum(x**2, dim=1)
        return 0.5 * (square_of_sum - sum_of_square).sum(dim=1)


class ClickModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(DENSE, 12), nn.ReLU(), nn.Linear(12, DIM), nn.ReLU())
        self.embedding = nn.Embedding(sum(FIELDS), DIM)
        self.first_order = nn.Embedding(sum(FIELDS), 1)
        self.dense_order = nn.Linear(DENSE, 1, bias=False)
        self.item_bag = nn.EmbeddingBag(ITEMS, DIM, mode="mean")
        self.tag_bag = nn.EmbeddingBag(TAGS, DIM, mode="sum")
        self.fm = FactorizationMachine()
        self.cross = CrossNetwork(VECTORS * DIM)
        pairs = VECTORS * (VECTORS - 1) // 2
        self.top = nn.Sequential(nn.Linear(VECTORS * DIM + pairs, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense, cats, items, item_offsets, tags, tag_offsets, tag_weights, click):
        dense = torch.log(dense + 1)
        starts = torch.tensor([0, *np.cumsum(FIELDS)[:-1]])
        rows = cats + starts
        x = self.bottom(dense)
        fields = self.embedding(rows)
        item = self.item_bag(items, item_offsets)
        tag = self.tag_bag(tags, tag_offsets, per_sample_weights=tag_weights)
        vectors = torch.cat([x[:, None], fields, item[:, None], tag[:, None]], dim=1)
        z = torch.bmm(vectors, vectors.transpose(1, 2))
        li, lj = torch.tril_indices(VECTORS, VECTORS, offset=-1)
        crossed = self.cross(vectors.flatten(1))
        logit = self.top(torch.cat([crossed, z[:, li, lj]], dim=1)).squeeze(1)
        logit = logit + self.first_order(rows).sum(dim=(1, 2)) + self.dense_order(dense).squeeze(1)
        logit = logit + self.fm(vectors[:, 1:])
        loss = F.binary_cross_entropy_with_logits(logit, click.to(logit.dtype))
        return torch.sigmoid(logit), logit, loss


def torch_side():
    torch.manual_seed(206)
    net = ClickModel()
    for name, p in net.named_parameters():
        nn.init.normal_(p, std=0.25 if p.shape[-1] > DENSE or "bottom" in name else 0.5)
        if name in ("bottom.0.bias", "bottom.2.bias"):
            nn.init.uniform_(p, 0.4, 1.0)
    return net


class Pooled(linen.Module):
    """A sum, or a mean, of a table's rows for each run of a flat list of ids."""

    rows: int
    average: bool = False

    @linen.compact
    def __call__(self, ids, begins, weights=None):
        table = self.param("table", linen.initializers.normal(0.5), (self.rows, DIM))
        owner = jnp.searchsorted(begins, jnp.arange(ids.shape[0]), side="right") - 1
        rows = table[ids] if weights is None else table[ids] * weights[:, None]
        total = jax.ops.segment_sum(rows, owner, num_segments=begins.shape[0])
        if not self.average:
            return total
        ends = jnp.append(begins[1:], ids.shape[0])
        return total / jnp.maximum(ends - begins, 1)[:, None]


class Clicks(linen.Module):
    @linen.compact
    def __call__(self, counts, fields, bought, bought_at, labels, labels_at, strengths):
        normal = linen.initializers.normal(0.4)
        counts = jnp.log1p(counts)
        ids = fields + np.concatenate([[0], np.cumsum(FIELDS[:-1])])
        hidden = linen.relu(linen.Dense(12, name="bottom0")(counts))
        hidden = linen.relu(linen.Dense(DIM, name="bottom1")(hidden))
        factors = linen.Embed(sum(FIELDS), DIM, embedding_init=normal, name="factors")(ids)
        linear = self.param("linear", normal, (sum(FIELDS),))[ids].sum(axis=-1)
        linear += jnp.einsum("bd,d->b", counts, self.param("slopes", normal, (DENSE,)))
        bags = [Pooled(ITEMS, True, name="bought")(bought, bought_at)]
        bags.append(Pooled(TAGS, name="labels")(labels, labels_at, strengths))
        every = jnp.concatenate([hidden[:, None], factors, jnp.stack(bags, axis=1)], axis=1)
        alike = jnp.einsum("bid,bjd->bij", every, every)
        pairs = [alike[:, i, j] for i in range(VECTORS) for j in range(i)]
        rest = every[:, 1:]
        machine = jnp.sum(jnp.square(rest.sum(axis=1)) - jnp.square(rest).sum(axis=1), axis=-1) / 2
        base = every.reshape(every.shape[0], -1)
        crossed = base
        for i in range(CROSSES):
            crossed = crossed + base * linen.Dense(VECTORS * DIM, name=f"cross{i}")(crossed)
        joined = jnp.concatenate([crossed, jnp.stack(pairs, axis=1)], axis=1)
        joined = linen.relu(linen.Dense(16, name="top0")(joined))
        return linen.Dense(1, name="top1")(joined)[:, 0] + linear + machine


def click_loss(params, dense, cats, items, item_offsets, tags, tag_offsets, tag_weights, click):
    logits = Clicks().apply({"params": params}, dense, cats, items, item_offsets, tags, tag_offsets, tag_weights)
    chance = jax.nn.sigmoid(logits)
    return chance, logits, jnp.mean(jax.nn.softplus(logits) - click * logits)


def jax_side():
    given = dict(inputs())
    del given["click"]
    params = Clicks().init(jax.random.key(206), *given.values())["params"]
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    params = jax.tree.map(lambda p, k: p + 0.2 * jax.random.normal(k, p.shape), params, keys)
    for name in ("bottom0", "bottom1", "top0"):
        params[name]["bias"] += 0.6  # keeps the units alive
    return click_loss, params


def convert(net):
    source = {k: jnp.asarray(v.numpy()) for k, v in net.state_dict().items()}
    layers = {"bottom0": "bottom.0", "bottom1": "bottom.2", "top0": "top.0", "top1": "top.2"}
    layers |= {f"cross{i}": f"cross.layers.{i}" for i in range(CROSSES)}
    params = {k: {"kernel": source[v + ".weight"].T, "bias": source[v + ".bias"]} for k, v in layers.items()}
    params["factors"] = {"embedding": source["embedding.weight"]}
    params["bought"] = {"table": source["item_bag.weight"]}
    params["labels"] = {"table": source["tag_bag.weight"]}
    params |= {"linear": source["first_order.weight"][:, 0], "slopes": source["dense_order.weight"][0]}
    return click_loss, params


MISTAKES = [
    {
        "name": "a bag's first id is counted to the bag before it",
        "side": "jax",
        "old": 'side="right") - 1',
        "new": 'side="left") - 1',
        "line": 103,
    },
    {
        "name": "the factorisation machine sums over the embedding's entries where it should over the fields",
        "side": "torch",
        "old": "        square_of_sum = torch.sum(x, dim=1) ** 2\n        sum_of_square = torch.sum(x**2, dim=1)",
        "new": "        square_of_sum = torch.sum(x, dim=2) ** 2\n        sum_of_square = torch.sum(x**2, dim=2)",
        "line": 46,
    },
    {
        "name": "a cross layer multiplies by the layer's input instead of by the first one's",
        "side": "jax",
        "old": "crossed = crossed + base * linen.Dense",
        "new": "crossed = crossed + crossed * linen.Dense",
        "line": 133,
    },
    {
        "name": "the fields' ids are not moved to the rows of their field",
        "side": "torch",
        "old": "rows = cats + starts",
        "new": "rows = cats",
        "line": 68,
    },
    {
        "name": "the factorisation machine is not halved",
        "side": "jax",
        "old": "jnp.square(rest).sum(axis=1), axis=-1) / 2",
        "new": "jnp.square(rest).sum(axis=1), axis=-1)",
        "line": 129,
    },
]
