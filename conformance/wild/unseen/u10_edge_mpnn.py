"""Message passing with edge features: gated messages, mean aggregation, GRU updates shared over the steps, attention pooling per graph. Port: NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = False

NODE_IN, EDGE_IN, HIDDEN, EDGE_HIDDEN, STEPS, TARGETS, GRAPHS = 5, 3, 8, 6, 3, 2, 3
CUTOFF = 4.0


def inputs():
    rng = np.random.default_rng(110)
    sizes, start, pairs = (4, 3, 5), 0, []
    for n in sizes:
        pairs.append(start + rng.integers(0, n, size=(2, 3 * n - 2)))
        start += n
    edges = np.concatenate(pairs, axis=1)
    return {
        "x": rng.normal(size=(start, NODE_IN)).astype("float32"),
        "edge_index": edges,
        "edge_attr": rng.normal(size=(edges.shape[1], EDGE_IN)).astype("float32"),
        "distance": rng.uniform(0.5, CUTOFF - 0.2, size=edges.shape[1]).astype("float32"),
        "batch": np.repeat(np.arange(GRAPHS), sizes),
    }


class RadialBasis(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = CUTOFF / (EDGE_HIDDEN - 1)

    def forward(self, distance):
        offset = distance[:, None] - torch.linspace(0.0, CUTOFF, EDGE_HIDDEN, dtype=distance.dtype)
        return torch.exp(-0.5 * (offset / self.width) ** 2)


class MessageLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.edge_mlp = nn.Sequential(nn.Linear(EDGE_IN + EDGE_HIDDEN, EDGE_HIDDEN), nn.ELU())
        self.lin_f = nn.Linear(2 * HIDDEN + EDGE_HIDDEN, HIDDEN)
        self.lin_s = nn.Linear(2 * HIDDEN + EDGE_HIDDEN, HIDDEN)

    def forward(self, h, edge_index, edge_attr, envelope):
        src, dst = edge_index
        e = self.edge_mlp(edge_attr)
        z = torch.cat([h[dst], h[src], e], dim=-1)
        messages = torch.sigmoid(self.lin_f(z)) * F.softplus(self.lin_s(z)) * envelope[:, None]
        out = torch.zeros_like(h).index_add(0, dst, messages)
        degree = torch.bincount(dst, minlength=h.shape[0]).clamp(min=1)
        return out / degree[:, None]


class AttentionPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_nn = nn.Linear(HIDDEN, 1)

    def forward(self, h, batch):
        gate = self.gate_nn(h).squeeze(-1)
        same = batch[None, :] == torch.arange(GRAPHS)[:, None]
        weights = torch.softmax(gate.masked_fill(~same, float("-inf")), dim=-1)
        return weights @ h


class EdgeMPNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.rbf = RadialBasis()
        self.lin_in = nn.Linear(NODE_IN, HIDDEN)
        self.message = MessageLayer()
        self.gru = nn.GRUCell(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.pool = AttentionPool()
        self.out = nn.Linear(2 * HIDDEN, TARGETS)

    def forward(self, x, edge_index, edge_attr, distance, batch):
        h = torch.tanh(self.lin_in(x))
        edge_attr = torch.cat([edge_attr, self.rbf(distance)], dim=-1)
        envelope = 0.5 * (torch.cos(torch.pi * distance / CUTOFF) + 1.0)
        for _ in range(STEPS):
            m = self.message(self.norm(h), edge_index, edge_attr, envelope)
            h = self.gru(m, h)
        total = torch.zeros(GRAPHS, HIDDEN, dtype=h.dtype).index_add(0, batch, h)
        return self.out(torch.cat([self.pool(h, batch), total], dim=-1))


def torch_side():
    torch.manual_seed(110)
    model = EdgeMPNN()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if name == "norm.weight" else 0.0, 0.4)
    return model.eval()


def gaussians(r):
    centres, spacing = jnp.linspace(0.0, CUTOFF, EDGE_HIDDEN, retstep=True)
    return jnp.exp(-jnp.square(r[:, None] - centres) / (2 * spacing**2))


class Gated(nnx.Module):
    def __init__(self, rngs):
        self.edge = nnx.Linear(EDGE_IN + EDGE_HIDDEN, EDGE_HIDDEN, rngs=rngs)
        self.both = nnx.Linear(2 * HIDDEN + EDGE_HIDDEN, 2 * HIDDEN, rngs=rngs)

    def __call__(self, nodes, senders, receivers, edges, weight):
        edges = nnx.elu(self.edge(edges))
        pair = jnp.concatenate([nodes[receivers], nodes[senders], edges], axis=1)
        filters, core = jnp.split(self.both(pair), 2, axis=1)
        sent = nnx.sigmoid(filters) * nnx.softplus(core) * weight[:, None]
        number = nodes.shape[0]
        summed = jax.ops.segment_sum(sent, receivers, num_segments=number)
        count = jax.ops.segment_sum(jnp.ones_like(weight), receivers, num_segments=number)
        return summed / jnp.maximum(count, 1.0)[:, None]


class Gru(nnx.Module):
    def __init__(self, rngs):
        self.from_input = nnx.Linear(HIDDEN, 3 * HIDDEN, rngs=rngs)
        self.from_state = nnx.Linear(HIDDEN, 3 * HIDDEN, rngs=rngs)

    def __call__(self, state, x):
        xr, xz, xn = jnp.split(self.from_input(x), 3, axis=-1)
        hr, hz, hn = jnp.split(self.from_state(state), 3, axis=-1)
        update = nnx.sigmoid(xz + hz)
        new = jnp.tanh(xn + nnx.sigmoid(xr + hr) * hn)
        return update * state + (1.0 - update) * new


class GraphRegressor(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(NODE_IN, HIDDEN, rngs=rngs)
        self.gated = Gated(rngs)
        self.update = Gru(rngs)
        self.norm = nnx.LayerNorm(HIDDEN, epsilon=1e-5, rngs=rngs)
        self.score = nnx.Linear(HIDDEN, 1, rngs=rngs)
        self.head = nnx.Linear(2 * HIDDEN, TARGETS, rngs=rngs)

    def pooled(self, nodes, graph):
        logits = self.score(nodes)[:, 0]
        top = jax.ops.segment_max(logits, graph, num_segments=GRAPHS)
        e = jnp.exp(logits - jax.lax.stop_gradient(top)[graph])
        share = e / jax.ops.segment_sum(e, graph, num_segments=GRAPHS)[graph]
        return jax.ops.segment_sum(share[:, None] * nodes, graph, num_segments=GRAPHS)

    def __call__(self, x, edge_index, edge_attr, distance, batch):
        nodes = jnp.tanh(self.embed(x))
        edges = jnp.concatenate([edge_attr, gaussians(distance)], axis=1)
        fade = jnp.square(jnp.cos(jnp.pi * distance / (2 * CUTOFF)))
        senders, receivers = edge_index[0], edge_index[1]
        for _ in range(STEPS):
            incoming = self.gated(self.norm(nodes), senders, receivers, edges, fade)
            nodes = self.update(nodes, incoming)
        sums = jax.ops.segment_sum(nodes, batch, num_segments=GRAPHS)
        return self.head(jnp.concatenate([self.pooled(nodes, batch), sums], axis=1))


def jax_side():
    return GraphRegressor(nnx.Rngs(110))


def convert(module):
    model = jax_side()

    def put(new, *old):
        new.kernel[...] = jnp.concatenate([jnp.asarray(w.detach().numpy()).T for w, _ in old], axis=1)
        new.bias[...] = jnp.concatenate([jnp.asarray(b.detach().numpy()) for _, b in old])

    def both(linear):
        return linear.weight, linear.bias

    put(model.embed, both(module.lin_in))
    put(model.gated.edge, both(module.message.edge_mlp[0]))
    put(model.gated.both, both(module.message.lin_f), both(module.message.lin_s))
    put(model.update.from_input, (module.gru.weight_ih, module.gru.bias_ih))
    put(model.update.from_state, (module.gru.weight_hh, module.gru.bias_hh))
    put(model.score, both(module.pool.gate_nn))
    put(model.head, both(module.out))
    model.norm.scale[...] = jnp.asarray(module.norm.weight.detach().numpy())
    model.norm.bias[...] = jnp.asarray(module.norm.bias.detach().numpy())
    return model


MISTAKES = [
    {
        "name": "senders and receivers are swapped",
        "side": "jax",
        "old": "senders, receivers = edge_index[0], edge_index[1]",
        "new": "receivers, senders = edge_index[0], edge_index[1]",
        "line": 157,
    },
    {
        "name": "the count of incoming edges is increased by one instead of being at least one",
        "side": "jax",
        "old": "return summed / jnp.maximum(count, 1.0)[:, None]",
        "new": "return summed / (count + 1.0)[:, None]",
        "line": 121,
    },
    {
        "name": "the GRU takes the state for its input and the message for its state",
        "side": "torch",
        "old": "h = self.gru(m, h)",
        "new": "h = self.gru(h, m)",
        "line": 89,
    },
    {
        "name": "the attention pooling is a softmax over all nodes of the batch, not over those of each graph",
        "side": "torch",
        "old": 'weights = torch.softmax(gate.masked_fill(~same, float("-inf")), dim=-1)',
        "new": "weights = torch.softmax(gate, dim=-1) * same",
        "line": 68,
    },
    {
        "name": "the Gaussians' width enters without being squared",
        "side": "torch",
        "old": "return torch.exp(-0.5 * (offset / self.width) ** 2)",
        "new": "return torch.exp(-0.5 * offset**2 / self.width)",
        "line": 40,
    },
]
