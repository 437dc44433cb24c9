"""A graph attention network on edge lists: softmax over the incoming edges of a node by segment operations, two layers. Port: NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

NODES, FEATS, HEADS, OUT, CLASSES = 9, 10, 4, 4, 3


def inputs():
    rng = np.random.default_rng(18)
    src = rng.integers(0, NODES, size=22)
    dst = rng.integers(0, NODES, size=22)
    loops = np.arange(NODES)
    edges = np.stack([np.concatenate([src, loops]), np.concatenate([dst, loops])])
    return {"x": rng.normal(size=(NODES, FEATS)).astype("float32"), "edge_index": edges}


class GATConv(nn.Module):
    def __init__(self, in_channels, out_channels, heads, concat=True):
        super().__init__()
        self.heads, self.out_channels, self.concat = heads, out_channels, concat
        self.lin = nn.Linear(in_channels, heads * out_channels, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        self.bias = nn.Parameter(torch.empty(heads * out_channels if concat else out_channels))
        nn.init.xavier_uniform_(self.att_src)
        nn.init.xavier_uniform_(self.att_dst)
        nn.init.normal_(self.bias, std=0.2)

    def forward(self, x, edge_index):
        n = x.shape[0]
        src, dst = edge_index
        h = self.lin(x).view(n, self.heads, self.out_channels)
        alpha = (h * self.att_src).sum(-1)[src] + (h * self.att_dst).sum(-1)[dst]
        alpha = F.leaky_relu(alpha, 0.2)
        index = dst[:, None].expand_as(alpha)
        top = torch.full((n, self.heads), -torch.inf, dtype=alpha.dtype).scatter_reduce(0, index, alpha.detach(), "amax")
        alpha = torch.exp(alpha - top[dst])
        total = torch.zeros(n, self.heads, dtype=alpha.dtype).index_add(0, dst, alpha)
        alpha = alpha / total[dst]
        out = torch.zeros_like(h).index_add(0, dst, h[src] * alpha.unsqueeze(-1))
        out = out.reshape(n, -1) if self.concat else out.mean(dim=1)
        return out + self.bias


class GAT(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GATConv(FEATS, OUT, HEADS)
        self.conv2 = GATConv(HEADS * OUT, CLASSES, HEADS, concat=False)

    def forward(self, x, edge_index):
        x = F.elu(self.conv1(x, edge_index))
        return F.log_softmax(self.conv2(x, edge_index), dim=1)


def torch_side():
    torch.manual_seed(18)
    net = GAT()
    for conv in (net.conv1, net.conv2):
        conv.lin.weight.data.mul_(2)
        conv.att_src.data.mul_(2)
    return net


class GraphAttention(nnx.Module):
    def __init__(self, fin, fout, heads, average, rngs):
        self.heads, self.features, self.average = heads, fout, average
        self.project = nnx.LinearGeneral(fin, (heads, fout), use_bias=False, rngs=rngs)
        self.sender = nnx.Param(jnp.zeros((heads, fout)))
        self.receiver = nnx.Param(jnp.zeros((heads, fout)))
        self.bias = nnx.Param(jnp.zeros(fout if average else heads * fout))

    def __call__(self, x, senders, receivers):
        n = x.shape[0]
        h = self.project(x)
        logit = jnp.einsum("nhf,hf->nh", h, self.sender[...])[senders]
        logit = logit + jnp.einsum("nhf,hf->nh", h, self.receiver[...])[receivers]
        logit = nnx.leaky_relu(logit, negative_slope=0.2)
        peak = jax.ops.segment_max(logit, receivers, num_segments=n)
        weight = jnp.exp(logit - jax.lax.stop_gradient(peak)[receivers])
        weight = weight / jax.ops.segment_sum(weight, receivers, num_segments=n)[receivers]
        y = jax.ops.segment_sum(h[senders] * weight[..., None], receivers, num_segments=n)
        y = y.mean(1) if self.average else y.reshape(n, -1)
        return y + self.bias[...]


class GraphNet(nnx.Module):
    def __init__(self, rngs):
        self.first = GraphAttention(FEATS, OUT, HEADS, False, rngs)
        self.second = GraphAttention(HEADS * OUT, CLASSES, HEADS, True, rngs)

    def __call__(self, x, edge_index):
        senders, receivers = edge_index[0], edge_index[1]
        x = nnx.elu(self.first(x, senders, receivers))
        return nnx.log_softmax(self.second(x, senders, receivers))


def jax_side():
    source, net = torch_side(), GraphNet(nnx.Rngs(0))
    for ours, theirs in ((net.first, source.conv1), (net.second, source.conv2)):
        ours.project.kernel[...] = jnp.asarray(theirs.lin.weight.detach().numpy().T).reshape(ours.project.kernel.shape)
        ours.sender[...] = jnp.asarray(theirs.att_src.detach().numpy()[0])
        ours.receiver[...] = jnp.asarray(theirs.att_dst.detach().numpy()[0])
        ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
    return net


MISTAKES = [
    {
        "name": "senders and receivers are exchanged",
        "side": "jax",
        "old": "senders, receivers = edge_index[0], edge_index[1]",
        "new": "receivers, senders = edge_index[0], edge_index[1]",
        "line": 101,
    },
    {
        "name": "leaky ReLU with the default slope 0.01 instead of 0.2",
        "side": "jax",
        "old": "nnx.leaky_relu(logit, negative_slope=0.2)",
        "new": "nnx.leaky_relu(logit)",
        "line": 86,
    },
    {
        "name": "the softmax is normalised over the outgoing edges",
        "side": "jax",
        "old": "weight / jax.ops.segment_sum(weight, receivers, num_segments=n)[receivers]",
        "new": "weight / jax.ops.segment_sum(weight, senders, num_segments=n)[senders]",
        "line": 89,
    },
    {
        "name": "the heads of the last layer are summed instead of averaged",
        "side": "torch",
        "old": "out.mean(dim=1)",
        "new": "out.sum(dim=1)",
        "line": 49,
    },
]
