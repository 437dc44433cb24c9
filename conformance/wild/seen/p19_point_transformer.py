"""A point transformer layer: vector attention over the k nearest neighbours, with a learned encoding of relative positions. Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

LOADED = False

N, K, C = 10, 4, 16


def inputs():
    rng = np.random.default_rng(19)
    xyz = rng.uniform(-1, 1, size=(2, N, 3)).astype("float32")
    return {"xyz": xyz, "features": rng.normal(size=(2, N, C)).astype("float32")}


def index_points(points, idx):
    batch = torch.arange(points.shape[0]).view(-1, 1, 1)
    return points[batch, idx]


class PointTransformerLayer(torch.nn.Module):
    def __init__(self, channels, k):
        super().__init__()
        self.k = k
        self.fc1 = torch.nn.Linear(channels, channels)
        self.fc2 = torch.nn.Linear(channels, channels)
        self.fc_delta = torch.nn.Sequential(torch.nn.Linear(3, channels), torch.nn.ReLU(), torch.nn.Linear(channels, channels))
        self.fc_gamma = torch.nn.Sequential(
            torch.nn.Linear(channels, channels), torch.nn.ReLU(), torch.nn.Linear(channels, channels)
        )
        self.w_qs = torch.nn.Linear(channels, channels, bias=False)
        self.w_ks = torch.nn.Linear(channels, channels, bias=False)
        self.w_vs = torch.nn.Linear(channels, channels, bias=False)

    def forward(self, xyz, features):
        dists = ((xyz[:, :, None] - xyz[:, None]) ** 2).sum(-1)
        knn_idx = dists.argsort()[:, :, : self.k]
        knn_xyz = index_points(xyz, knn_idx)
        pre = features
        x = self.fc1(features)
        q, k, v = self.w_qs(x), index_points(self.w_ks(x), knn_idx), index_points(self.w_vs(x), knn_idx)
        pos_enc = self.fc_delta(xyz[:, :, None] - knn_xyz)
        attn = self.fc_gamma(q[:, :, None] - k + pos_enc)
        attn = F.softmax(attn / np.sqrt(k.size(-1)), dim=-2)
        res = torch.einsum("bmnf,bmnf->bmf", attn, v + pos_enc)
        return self.fc2(res) + pre


def torch_side():
    torch.manual_seed(190)
    layer = PointTransformerLayer(C, K)
    for m in layer.modules():
        if isinstance(m, torch.nn.Linear):
            torch.nn.init.xavier_normal_(m.weight, gain=1.7)
            if m.bias is not None:
                torch.nn.init.normal_(m.bias, std=0.2)
    return layer


class MLP(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.width)(x)


class VectorAttention(nn.Module):
    channels: int = C
    neighbours: int = K

    @nn.compact
    def __call__(self, xyz, features):
        offset = xyz[:, :, None, :] - xyz[:, None, :, :]
        distance = jnp.sum(jnp.square(offset), axis=-1)
        _, near = jax.lax.top_k(-distance, self.neighbours)
        gather = jax.vmap(lambda points, index: points[index])
        x = nn.Dense(self.channels, name="lift")(features)
        query = nn.Dense(self.channels, use_bias=False, name="to_query")(x)
        key = gather(nn.Dense(self.channels, use_bias=False, name="to_key")(x), near)
        value = gather(nn.Dense(self.channels, use_bias=False, name="to_value")(x), near)
        relative = jnp.take_along_axis(offset, near[..., None], axis=2)
        position = MLP(self.channels, name="position_mlp")(relative)
        score = MLP(self.channels, name="score_mlp")(query[:, :, None, :] - key + position)
        weight = nn.softmax(score / self.channels**0.5, axis=2)
        pooled = jnp.sum(weight * (value + position), axis=2)
        return features + nn.Dense(self.channels, name="drop")(pooled)


def jax_side():
    given = {k: jnp.asarray(v) for k, v in inputs().items()}
    return VectorAttention(), VectorAttention().init(jax.random.key(19), **given)


def convert(module):
    def dense(m):
        bias = {} if m.bias is None else {"bias": jnp.asarray(m.bias.detach().numpy())}
        return {"kernel": jnp.asarray(m.weight.detach().numpy().T), **bias}

    def two(seq):
        return {"Dense_0": dense(seq[0]), "Dense_1": dense(seq[2])}

    return VectorAttention(), {
        "params": {
            "lift": dense(module.fc1),
            "to_query": dense(module.w_qs),
            "to_key": dense(module.w_ks),
            "to_value": dense(module.w_vs),
            "position_mlp": two(module.fc_delta),
            "score_mlp": two(module.fc_gamma),
            "drop": dense(module.fc2),
        }
    }


MISTAKES = [
    {
        "name": "the softmax runs over channels instead of over neighbours",
        "side": "jax",
        "old": "nn.softmax(score / self.channels**0.5, axis=2)",
        "new": "nn.softmax(score / self.channels**0.5, axis=-1)",
        "line": 91,
    },
    {
        "name": "the position encoding is not added to the values",
        "side": "jax",
        "old": "jnp.sum(weight * (value + position), axis=2)",
        "new": "jnp.sum(weight * value, axis=2)",
        "line": 92,
    },
    {
        "name": "relative positions run from the point to its neighbour instead of back",
        "side": "torch",
        "old": "self.fc_delta(xyz[:, :, None] - knn_xyz)",
        "new": "self.fc_delta(knn_xyz - xyz[:, :, None])",
        "line": 47,
    },
    {
        "name": "the farthest points are taken instead of the nearest",
        "side": "jax",
        "old": "jax.lax.top_k(-distance, self.neighbours)",
        "new": "jax.lax.top_k(distance, self.neighbours)",
        "line": 82,
    },
]
