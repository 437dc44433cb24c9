"""PatchTST: reversible instance norm, overlapping patches, channel independence, attention scores carried from layer to layer,
batch norm after each sublayer. The port is Linen; its layers are an nn.scan over stacked parameters."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

SERIES, LENGTH, HORIZON = 3, 22, 5
PATCH, STRIDE, D, HEADS, LAYERS, FF = 6, 4, 12, 2, 3, 20
PATCHES = (LENGTH - PATCH) // STRIDE + 2


def inputs():
    series = np.random.default_rng(114).normal(size=(2, LENGTH, SERIES)).cumsum(axis=1)
    return {"series": series.astype("float32")}


class RevIN(nn.Module):
    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.affine_weight = nn.Parameter(torch.ones(num_features))
        self.affine_bias = nn.Parameter(torch.zeros(num_features))

    def norm(self, x):
        self_mean = x.mean(dim=1, keepdim=True).detach()
        self_std = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + self.eps).detach()
        return (x - self_mean) / self_std * self.affine_weight + self.affine_bias, (self_mean, self_std)

    def denorm(self, x, stats):
        mean, std = stats
        x = (x - self.affine_bias) / (self.affine_weight + self.eps * self.eps)
        return x * std + mean


class ResAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_Q = nn.Linear(D, D)
        self.W_K = nn.Linear(D, D)
        self.W_V = nn.Linear(D, D)
        self.to_out = nn.Linear(D, D)
        self.scale = (D // HEADS) ** -0.5

    def forward(self, x, prev=None):
        bs = x.size(0)
        q = self.W_Q(x).view(bs, -1, HEADS, D // HEADS).transpose(1, 2)
        k = self.W_K(x).view(bs, -1, HEADS, D // HEADS).permute(0, 2, 3, 1)
        v = self.W_V(x).view(bs, -1, HEADS, D // HEADS).transpose(1, 2)
        scores = torch.matmul(q, k) * self.scale
        if prev is not None:
            scores = scores + prev
        output = torch.matmul(torch.softmax(scores, dim=-1), v)
        return self.to_out(output.transpose(1, 2).contiguous().view(bs, -1, D)), scores


class EncoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = ResAttention()
        self.norm_attn = nn.BatchNorm1d(D)
        self.ff = nn.Sequential(nn.Linear(D, FF), nn.GELU(), nn.Linear(FF, D))
        self.norm_ffn = nn.BatchNorm1d(D)

    def forward(self, src, prev):
        src2, scores = self.self_attn(src, prev)
        src = self.norm_attn((src + src2).transpose(1, 2)).transpose(1, 2)
        src = src + self.ff(src)
        return self.norm_ffn(src.transpose(1, 2)).transpose(1, 2), scores


class PatchTST(nn.Module):
    def __init__(self):
        super().__init__()
        self.revin = RevIN(SERIES)
        self.pad = nn.ReplicationPad1d((0, STRIDE))
        self.W_P = nn.Linear(PATCH, D)
        self.W_pos = nn.Parameter(torch.randn(PATCHES, D) * 0.3)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.head = nn.Linear(D * PATCHES, HORIZON)

    def forward(self, series):
        z, stats = self.revin.norm(series)
        z = self.pad(z.transpose(1, 2)).unfold(dimension=-1, size=PATCH, step=STRIDE)
        u = self.W_P(z).reshape(-1, PATCHES, D) + self.W_pos
        scores = None
        for mod in self.layers:
            u, scores = mod(u, scores)
        u = u.view(-1, SERIES, PATCHES, D).permute(0, 1, 3, 2)  # bs, series, d_model, patches
        return self.revin.denorm(self.head(u.flatten(start_dim=-2)).transpose(1, 2), stats)


def torch_side():
    torch.manual_seed(114)
    model = PatchTST()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.weight.uniform_(0.7, 1.3)
                m.bias.normal_(0, 0.2)
                m.running_mean.normal_(0, 0.2)
                m.running_var.uniform_(0.6, 1.5)
        model.revin.affine_weight.uniform_(0.6, 1.4)
        model.revin.affine_bias.normal_(0, 0.3)
    return model.eval()


class Layer(linen.Module):
    @linen.compact
    def __call__(self, carry, _):
        x, logits = carry
        heads = (HEADS, D // HEADS)
        q, k, v = (linen.DenseGeneral(heads, name=n)(x) for n in ("query", "key", "value"))
        logits = logits + jnp.einsum("nqhd,nkhd->nhqk", q, k) / jnp.sqrt(D // HEADS)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", linen.softmax(logits, axis=-1), v)
        x = x + linen.DenseGeneral(D, axis=(-2, -1), name="out")(mixed)
        x = linen.BatchNorm(use_running_average=True, name="bn_attention")(x)
        h = linen.gelu(linen.Dense(FF, name="wide")(x), approximate=False)
        x = linen.BatchNorm(use_running_average=True, name="bn_mlp")(x + linen.Dense(D, name="narrow")(h))
        return (x, logits), None


class Forecaster(linen.Module):
    @linen.compact
    def __call__(self, series):
        gain = self.param("gain", linen.initializers.ones, (SERIES,))
        shift = self.param("shift", linen.initializers.zeros, (SERIES,))
        centre, spread = jax.lax.stop_gradient((series.mean(1, keepdims=True), jnp.sqrt(series.var(1, keepdims=True) + 1e-5)))
        x = jnp.swapaxes(gain * (series - centre) / spread + shift, 1, 2)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, STRIDE)), mode="edge")
        starts = STRIDE * jnp.arange(PATCHES)
        patches = x[..., starts[:, None] + jnp.arange(PATCH)]
        x = linen.Dense(D, name="embed")(patches) + self.param("positions", linen.initializers.normal(0.02), (PATCHES, D))
        x = x.reshape(-1, PATCHES, D)
        stacked = linen.scan(Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=LAYERS)
        (x, _), _ = stacked(name="layers")((x, jnp.zeros((x.shape[0], HEADS, PATCHES, PATCHES), x.dtype)), None)
        x = jnp.swapaxes(x, 1, 2).reshape(series.shape[0], SERIES, D * PATCHES)
        y = jnp.swapaxes(linen.Dense(HORIZON, name="forecast")(x), 1, 2)
        return (y - shift) / (gain + 1e-10) * spread + centre


def convert(module):
    sd = {k: jnp.asarray(v.detach().numpy()) for k, v in module.state_dict().items()}

    def stack(key, change=lambda a: a):
        return jnp.stack([change(sd[f"layers.{i}.{key}"]) for i in range(LAYERS)])

    def heads(key):
        split = (HEADS, D // HEADS)
        kernel = stack(f"self_attn.{key}.weight", lambda a: a.T.reshape(D, *split))
        return {"kernel": kernel, "bias": stack(f"self_attn.{key}.bias", lambda a: a.reshape(split))}

    def dense(key):
        return {"kernel": stack(key + ".weight", jnp.transpose), "bias": stack(key + ".bias")}

    out = {
        "kernel": stack("self_attn.to_out.weight", lambda a: a.T.reshape(HEADS, D // HEADS, D)),
        "bias": stack("self_attn.to_out.bias"),
    }
    layers = {"query": heads("W_Q"), "key": heads("W_K"), "value": heads("W_V"), "out": out}
    layers |= {"wide": dense("ff.0"), "narrow": dense("ff.2")}
    stats = {}
    for name, key in (("bn_attention", "norm_attn"), ("bn_mlp", "norm_ffn")):
        layers[name] = {"scale": stack(key + ".weight"), "bias": stack(key + ".bias")}
        stats[name] = {"mean": stack(key + ".running_mean"), "var": stack(key + ".running_var")}
    params = {
        "gain": sd["revin.affine_weight"],
        "shift": sd["revin.affine_bias"],
        "embed": {"kernel": sd["W_P.weight"].T, "bias": sd["W_P.bias"]},
        "positions": sd["W_pos"],
        "layers": layers,
        "forecast": {"kernel": sd["head.weight"].T, "bias": sd["head.bias"]},
    }
    return Forecaster(), {"params": params, "batch_stats": {"layers": stats}}


def jax_side():
    model = Forecaster()
    return model, model.init(jax.random.key(14), jnp.zeros((1, LENGTH, SERIES)))


MISTAKES = [
    {
        "name": "the instance's variance is the unbiased one",
        "side": "torch",
        "old": "torch.var(x, dim=1, keepdim=True, unbiased=False)",
        "new": "torch.var(x, dim=1, keepdim=True)",
        "line": 32,
    },
    {
        "name": "the end of the series is padded with zeros instead of with its last value",
        "side": "torch",
        "old": "nn.ReplicationPad1d((0, STRIDE))",
        "new": "nn.ConstantPad1d((0, STRIDE), 0.0)",
        "line": 81,
    },
    {
        "name": "the carried attention scores are the layer's own, without the sum of those before",
        "side": "jax",
        "old": """        logits = logits + jnp.einsum("nqhd,nkhd->nhqk", q, k) / jnp.sqrt(D // HEADS)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", linen.softmax(logits, axis=-1), v)
""",
        "new": """        own = jnp.einsum("nqhd,nkhd->nhqk", q, k) / jnp.sqrt(D // HEADS)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", linen.softmax(logits + own, axis=-1), v)
        logits = own
""",
        "line": 119,
    },
    {
        "name": "the forecast is denormalised before the affine map is undone",
        "side": "torch",
        "old": """        x = (x - self.affine_bias) / (self.affine_weight + self.eps * self.eps)
        return x * std + mean
""",
        "new": """        x = x * std + mean
        return (x - self.affine_bias) / (self.affine_weight + self.eps * self.eps)
""",
        "line": 37,
    },
    {
        "name": "the head flattens (patch, channel) instead of (channel, patch)",
        "side": "jax",
        "old": "x = jnp.swapaxes(x, 1, 2).reshape(series.shape[0], SERIES, D * PATCHES)",
        "new": "x = x.reshape(series.shape[0], SERIES, D * PATCHES)",
        "line": 142,
    },
]
