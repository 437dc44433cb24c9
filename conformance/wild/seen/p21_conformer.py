"""A Conformer block: half-step feed-forward, self-attention, convolution module with GLU and batch norm, half-step. Port: NNX."""

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False
SINGLE = True  # nnx.MultiHeadAttention computes its scores in float32, whatever it is given

D, HEADS, KERNEL, T = 16, 4, 5, 11


def inputs():
    return {"x": np.random.default_rng(21).normal(size=(2, T, D)).astype("float32")}


class FeedForwardModule(nn.Module):
    def __init__(self, dim, mult=2):
        super().__init__()
        self.sequential = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim * mult), nn.SiLU(), nn.Linear(dim * mult, dim))

    def forward(self, x):
        return self.sequential(x)


class ConvolutionModule(nn.Module):
    def __init__(self, dim, kernel_size):
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=(kernel_size - 1) // 2, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise2 = nn.Conv1d(dim, dim, 1)

    def forward(self, x):
        x = self.layer_norm(x).transpose(1, 2)
        x = nn.functional.glu(self.pointwise1(x), dim=1)
        x = nn.functional.silu(self.batch_norm(self.depthwise(x)))
        return self.pointwise2(x).transpose(1, 2)


class ConformerLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ffn1 = FeedForwardModule(D)
        self.self_attn_layer_norm = nn.LayerNorm(D)
        self.self_attn = nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.conv_module = ConvolutionModule(D, KERNEL)
        self.ffn2 = FeedForwardModule(D)
        self.final_layer_norm = nn.LayerNorm(D)

    def forward(self, x):
        x = x + 0.5 * self.ffn1(x)
        h = self.self_attn_layer_norm(x)
        x = x + self.self_attn(h, h, h, need_weights=False)[0]
        x = x + self.conv_module(x)
        x = x + 0.5 * self.ffn2(x)
        return self.final_layer_norm(x)


def torch_side():
    torch.manual_seed(2100)
    layer = ConformerLayer()
    with torch.no_grad():
        for m in layer.modules():
            if isinstance(m, (nn.LayerNorm, nn.BatchNorm1d)):
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(0, 0.3)
        layer.conv_module.batch_norm.running_mean.normal_(0, 0.3)
        layer.conv_module.batch_norm.running_var.uniform_(0.02, 0.3)
        layer.self_attn.in_proj_bias.normal_(0, 0.3)
    return layer.eval()


class Macaron(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.wide = nnx.Linear(D, 2 * D, rngs=rngs)
        self.narrow = nnx.Linear(2 * D, D, rngs=rngs)

    def __call__(self, x):
        return self.narrow(nnx.silu(self.wide(self.norm(x))))


class ConvModule(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.expand = nnx.Linear(D, 2 * D, rngs=rngs)
        self.depthwise = nnx.Conv(D, D, (KERNEL,), feature_group_count=D, padding="SAME", use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(D, use_running_average=True, epsilon=1e-5, rngs=rngs)
        self.contract = nnx.Linear(D, D, rngs=rngs)

    def __call__(self, x):
        value, gate = jnp.split(self.expand(self.norm(x)), 2, axis=-1)
        x = value * nnx.sigmoid(gate)
        return self.contract(nnx.silu(self.bn(self.depthwise(x))))


class Conformer(nnx.Module):
    def __init__(self, rngs):
        self.macaron_in = Macaron(rngs)
        self.attn_norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(HEADS, D, decode=False, rngs=rngs)
        self.conv = ConvModule(rngs)
        self.macaron_out = Macaron(rngs)
        self.out_norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        x = x + self.macaron_in(x) / 2
        x = x + self.attn(self.attn_norm(x))
        x = x + self.conv(x)
        x = x + self.macaron_out(x) / 2
        return self.out_norm(x)


def jax_side():
    return Conformer(nnx.Rngs(7))


def convert(module):
    model = Conformer(nnx.Rngs(0))

    def put(param, tensor):
        param[...] = jnp.asarray(tensor.detach().numpy()).reshape(param.shape)

    def norm(ours, theirs):
        put(ours.scale, theirs.weight)
        put(ours.bias, theirs.bias)

    def linear(ours, weight, bias):
        put(ours.kernel, weight.reshape(weight.shape[0], -1).T)
        put(ours.bias, bias)

    for ours, theirs in ((model.macaron_in, module.ffn1), (model.macaron_out, module.ffn2)):
        norm(ours.norm, theirs.sequential[0])
        linear(ours.wide, theirs.sequential[1].weight, theirs.sequential[1].bias)
        linear(ours.narrow, theirs.sequential[3].weight, theirs.sequential[3].bias)
    norm(model.attn_norm, module.self_attn_layer_norm)
    norm(model.out_norm, module.final_layer_norm)
    mha = module.self_attn
    for name, w, b in zip(("query", "key", "value"), mha.in_proj_weight.chunk(3), mha.in_proj_bias.chunk(3)):
        linear(getattr(model.attn, name), w, b)
    linear(model.attn.out, mha.out_proj.weight, mha.out_proj.bias)
    conv, theirs = model.conv, module.conv_module
    norm(conv.norm, theirs.layer_norm)
    linear(conv.expand, theirs.pointwise1.weight, theirs.pointwise1.bias)
    put(conv.depthwise.kernel, theirs.depthwise.weight.permute(2, 1, 0))
    norm(conv.bn, theirs.batch_norm)
    put(conv.bn.mean, theirs.batch_norm.running_mean)
    put(conv.bn.var, theirs.batch_norm.running_var)
    linear(conv.contract, theirs.pointwise2.weight, theirs.pointwise2.bias)
    return model


MISTAKES = [
    {
        "name": "the second half-step feed-forward is added in full",
        "side": "jax",
        "old": "x = x + self.macaron_out(x) / 2",
        "new": "x = x + self.macaron_out(x)",
        "line": 114,
    },
    {
        "name": "the gated linear unit gates the second half by the first",
        "side": "jax",
        "old": "x = value * nnx.sigmoid(gate)",
        "new": "x = nnx.sigmoid(value) * gate",
        "line": 97,
    },
    {
        "name": "the depthwise convolution is causal",
        "side": "jax",
        "old": 'feature_group_count=D, padding="SAME"',
        "new": 'feature_group_count=D, padding="CAUSAL"',
        "line": 91,
    },
    {
        "name": "the residual of the attention is the normed input",
        "side": "torch",
        "old": "        x = x + self.self_attn(h, h, h",
        "new": "        x = h + self.self_attn(h, h, h",
        "line": 57,
    },
    {
        "name": "batch norm with epsilon 1e-3",
        "side": "jax",
        "old": "use_running_average=True, epsilon=1e-5",
        "new": "use_running_average=True, epsilon=1e-3",
        "line": 92,
    },
]
