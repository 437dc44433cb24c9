"""A graph transformer over edge lists: edge features in the scores, Laplacian positions of either sign, degree buckets. The port is NNX with segment sums."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = False

NODE, EDGE, POS, WIDTH, HEADS, LAYERS, TARGETS = 5, 3, 3, 12, 3, 2, 2
SIZES = (5, 4)
BOUNDS = (0, 1, 3)
CLIP = 2.0


def inputs():
    rng = np.random.default_rng(207)
    sources, targets, places = [], [], []
    for first, size in zip((0, SIZES[0]), SIZES, strict=True):
        pairs = [(i, j) for i in range(size) for j in range(size) if i != j and (j == 1 or rng.random() < 0.4) and j != 2]
        sources += [first + i for i, _ in pairs]
        targets += [first + j for _, j in pairs]
        linked = np.zeros((size, size))
        for i, j in pairs:
            linked[i, j] = linked[j, i] = 1.0
        root = 1 / np.sqrt(np.maximum(linked.sum(1), 1))
        _, vectors = np.linalg.eigh(np.eye(size) - root[:, None] * linked * root)
        places.append(vectors[:, 1 : POS + 1])
    return {
        "nodes": rng.normal(size=(sum(SIZES), NODE)).astype("float32"),
        "edges": rng.normal(size=(len(sources), EDGE)).astype("float32"),
        "positions": np.concatenate(places).astype("float32"),
        "edge_index": np.array([sources, targets]),
        "batch": np.repeat(np.arange(len(SIZES)), SIZES),
    }


class MultiHeadAttentionLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.Q = nn.Linear(dim, dim, bias=False)
        self.K = nn.Linear(dim, dim, bias=False)
        self.V = nn.Linear(dim, dim, bias=False)
        self.proj_e = nn.Linear(dim, dim, bias=False)

    def forward(self, h, e, src, dst):
        n, d = h.shape[0], h.shape[1] // HEADS
        q, k, v = (layer(h).view(n, HEADS, d) for layer in (self.Q, self.K, self.V))
        score = k[src] * q[dst] / math.sqrt(d)
        score = score * self.proj_e(e).view(-1, HEADS, d)
        weight = torch.exp(score.sum(-1, keepdim=True).clamp(-CLIP, CLIP))
        wv = torch.zeros_like(v).index_add(0, dst, v[src] * weight)
        z = v.new_zeros(n, HEADS, 1).index_add(0, dst, weight)
        return wv / (z + 1e-6), score


class GraphTransformerLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attention = MultiHeadAttentionLayer(dim)
        self.O_h, self.O_e = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm1_h, self.norm1_e = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn_h = nn.Sequential(nn.Linear(dim, dim * 2), nn.ReLU(), nn.Linear(dim * 2, dim))
        self.ffn_e = nn.Sequential(nn.Linear(dim, dim * 2), nn.ReLU(), nn.Linear(dim * 2, dim))
        self.norm2_h, self.norm2_e = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, h, e, src, dst):
        h_attn, e_attn = self.attention(h, e, src, dst)
        h = self.norm1_h(h + self.O_h(h_attn.flatten(1)))
        e = self.norm1_e(e + self.O_e(e_attn.flatten(1)))
        h = self.norm2_h(h + self.ffn_h(h))
        return h, self.norm2_e(e + self.ffn_e(e))


class GraphTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_h = nn.Linear(NODE, WIDTH, bias=False)
        self.embedding_e = nn.Linear(EDGE, WIDTH)
        self.embedding_degree = nn.Embedding(len(BOUNDS) + 1, WIDTH)
        self.phi = nn.Sequential(nn.Linear(POS, 8), nn.ELU(), nn.Linear(8, WIDTH))
        self.layers = nn.ModuleList([GraphTransformerLayer(WIDTH) for _ in range(LAYERS)])
        self.readout = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, TARGETS))

    def forward(self, nodes, edges, positions, edge_index, batch):
        src, dst = edge_index
        degree = torch.bincount(dst, minlength=nodes.shape[0])
        bucket = torch.bucketize(degree, torch.tensor(BOUNDS))
        h = self.embedding_h(nodes) + self.embedding_degree(bucket)
        h = h + self.phi(positions) + self.phi(-positions)
        e = self.embedding_e(edges)
        for layer in self.layers:
            h, e = layer(h, e, src, dst)
        total = h.new_zeros(len(SIZES), WIDTH).index_add(0, batch, h)
        mean = total / torch.bincount(batch, minlength=len(SIZES))[:, None]
        return h, e, self.readout(mean)


def torch_side():
    torch.manual_seed(207)
    net = GraphTransformer()
    for name, p in net.named_parameters():
        scale = "norm" in name and name.endswith("weight")
        nn.init.normal_(
            p, mean=1.0 if scale else 0.5 if "ffn" in name and p.ndim == 1 else 0.0, std=0.45 if p.ndim == 2 else 0.3
        )
    return net


class EdgeAttention(nnx.Module):
    def __init__(self, rngs):
        per_head = lambda: nnx.LinearGeneral(WIDTH, (HEADS, WIDTH // HEADS), use_bias=False, rngs=rngs)  # noqa: E731
        merge = lambda: nnx.LinearGeneral((HEADS, WIDTH // HEADS), WIDTH, axis=(-2, -1), rngs=rngs)  # noqa: E731
        self.seek, self.offer, self.carry, self.relate = per_head(), per_head(), per_head(), per_head()
        self.merge_nodes, self.merge_edges = merge(), merge()

    def __call__(self, nodes, edges, senders, receivers):
        gather = lambda a: jax.ops.segment_sum(a, receivers, num_segments=nodes.shape[0])  # noqa: E731
        agreement = self.seek(nodes)[receivers] * self.offer(nodes)[senders] * self.relate(edges)
        agreement = agreement / np.sqrt(WIDTH // HEADS)
        weights = jnp.exp(jnp.clip(jnp.sum(agreement, axis=-1), -CLIP, CLIP))
        sums = gather(jnp.einsum("mh,mhd->mhd", weights, self.carry(nodes)[senders]))
        update = sums / (gather(weights) + 1e-6)[..., None]
        return self.merge_nodes(update), self.merge_edges(agreement)


class Feed(nnx.Module):
    """A residual pair of layers between two norms, for nodes or for edges."""

    def __init__(self, rngs):
        self.first = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.second = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)

    def __call__(self, x, update):
        x = self.first(x + update)
        return self.second(x + self.down(nnx.relu(self.up(x))))


class Graphs(nnx.Module):
    def __init__(self, rngs):
        self.node = nnx.Linear(NODE, WIDTH, use_bias=False, rngs=rngs)
        self.edge = nnx.Linear(EDGE, WIDTH, rngs=rngs)
        self.degrees = nnx.Embed(len(BOUNDS) + 1, WIDTH, rngs=rngs)
        self.place0, self.place1 = nnx.Linear(POS, 8, rngs=rngs), nnx.Linear(8, WIDTH, rngs=rngs)
        self.attend = nnx.List([EdgeAttention(rngs) for _ in range(LAYERS)])
        self.feed_nodes = nnx.List([Feed(rngs) for _ in range(LAYERS)])
        self.feed_edges = nnx.List([Feed(rngs) for _ in range(LAYERS)])
        self.score0, self.score1 = nnx.Linear(WIDTH, 8, rngs=rngs), nnx.Linear(8, TARGETS, rngs=rngs)

    def __call__(self, nodes, edges, positions, edge_index, batch):
        senders, receivers = edge_index[0], edge_index[1]
        incoming = jnp.zeros(nodes.shape[0], jnp.int32).at[receivers].add(1)
        x = self.node(nodes) + self.degrees(jnp.digitize(incoming, jnp.array(BOUNDS), right=True))
        either = jnp.stack([positions, -positions])
        x = x + self.place1(nnx.elu(self.place0(either))).sum(axis=0)
        y = self.edge(edges)
        for attend, feed_nodes, feed_edges in zip(self.attend, self.feed_nodes, self.feed_edges, strict=True):
            to_nodes, to_edges = attend(x, y, senders, receivers)
            x, y = feed_nodes(x, to_nodes), feed_edges(y, to_edges)
        member = jax.nn.one_hot(batch, len(SIZES), axis=0, dtype=x.dtype)
        pooled = (member @ x) / member.sum(axis=1, keepdims=True)
        return x, y, self.score1(jnp.tanh(self.score0(pooled)))


def jax_side():
    model = Graphs(nnx.Rngs(207))
    graph, state = nnx.split(model)
    leaves, shape = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    leaves = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(shape, leaves))


def convert(net):
    source = {k: jnp.asarray(v.numpy()) for k, v in net.state_dict().items()}
    model = Graphs(nnx.Rngs(0))

    def put(layer, key):
        layer.kernel.set_value(source[key + ".weight"].T.reshape(layer.kernel.shape))
        if key + ".bias" in source:
            layer.bias.set_value(source[key + ".bias"])

    def put_norm(layer, key):
        layer.scale.set_value(source[key + ".weight"])
        layer.bias.set_value(source[key + ".bias"])

    put(model.node, "embedding_h")
    put(model.edge, "embedding_e")
    model.degrees.embedding.set_value(source["embedding_degree.weight"])
    for layer, key in (
        (model.place0, "phi.0"),
        (model.place1, "phi.2"),
        (model.score0, "readout.0"),
        (model.score1, "readout.2"),
    ):
        put(layer, key)
    for i in range(LAYERS):
        attend, at = model.attend[i], f"layers.{i}."
        for layer, key in ((attend.seek, "Q"), (attend.offer, "K"), (attend.carry, "V"), (attend.relate, "proj_e")):
            put(layer, at + "attention." + key)
        put(attend.merge_nodes, at + "O_h")
        put(attend.merge_edges, at + "O_e")
        for feed, kind in ((model.feed_nodes[i], "h"), (model.feed_edges[i], "e")):
            put_norm(feed.first, at + "norm1_" + kind)
            put_norm(feed.second, at + "norm2_" + kind)
            put(feed.up, at + f"ffn_{kind}.0")
            put(feed.down, at + f"ffn_{kind}.2")
    return model


MISTAKES = [
    {
        "name": "a degree that is on a bucket's bound goes to the next bucket",
        "side": "jax",
        "old": "jnp.array(BOUNDS), right=True)",
        "new": "jnp.array(BOUNDS), right=False)",
        "line": 160,
    },
    {
        "name": "the first norm of the nodes is on the update instead of on the residual sum",
        "side": "torch",
        "old": "h = self.norm1_h(h + self.O_h(h_attn.flatten(1)))",
        "new": "h = h + self.norm1_h(self.O_h(h_attn.flatten(1)))",
        "line": 74,
    },
    {
        "name": "the attention is summed at the edges' senders instead of at their receivers",
        "side": "jax",
        "old": "jax.ops.segment_sum(a, receivers, num",
        "new": "jax.ops.segment_sum(a, senders, num",
        "line": 123,
    },
    {
        "name": "the scores are clipped from above only",
        "side": "torch",
        "old": ".clamp(-CLIP, CLIP)",
        "new": ".clamp(max=CLIP)",
        "line": 56,
    },
    {
        "name": "the positions of the other sign are missing their minus",
        "side": "jax",
        "old": "jnp.stack([positions, -positions])",
        "new": "jnp.stack([positions, positions])",
        "line": 161,
    },
]
