"""A ConvNeXt stage: patchify stem, depthwise 7x7 blocks with layer scale, downsampling. The port is plain functions on nested dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False


def inputs():
    rng = np.random.default_rng(3)
    return (rng.normal(size=(2, 3, 16, 16)).astype(np.float32),)


class LayerNorm2d(nn.Module):
    """Layer norm over channels of an NCHW map."""

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(0.5 * torch.randn(dim))

    def forward(self, x):
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(F.gelu(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        return shortcut + x.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, dims=(8, 16), depths=(2, 1), num_classes=5):
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0])),
                nn.Sequential(LayerNorm2d(dims[0]), nn.Conv2d(dims[0], dims[1], 2, stride=2)),
            ]
        )
        self.stages = nn.ModuleList([nn.Sequential(*[Block(d) for _ in range(n)]) for d, n in zip(dims, depths)])
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x):
        for down, stage in zip(self.downsample_layers, self.stages):
            x = stage(down(x))
        return self.head(self.norm(x.mean([-2, -1])))


def torch_side():
    torch.manual_seed(33)
    model = ConvNeXt()
    for module in model.modules():
        if isinstance(module, (LayerNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
    return model.eval()


def layer_norm(p, x, eps=1e-6):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return (x - mu) * jax.lax.rsqrt(var + eps) * p["scale"] + p["offset"]


def conv2d(p, x, stride=1, pad=0, groups=1):
    y = jax.lax.conv_general_dilated(
        x,
        p["w"],
        window_strides=(stride, stride),
        padding=[(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + p["b"]


def block_fn(p, x):
    h = conv2d(p["depthwise"], x, pad=3, groups=x.shape[-1])
    h = layer_norm(p["ln"], h)
    h = h @ p["expand"]["w"] + p["expand"]["b"]
    h = jax.nn.gelu(h, approximate=False)
    h = h @ p["project"]["w"] + p["project"]["b"]
    return x + p["layer_scale"] * h


def convnext(params, x):
    x = jnp.transpose(x, (0, 2, 3, 1))
    x = layer_norm(params["stem"]["ln"], conv2d(params["stem"]["conv"], x, stride=4))
    for p in params["stage0"]:
        x = block_fn(p, x)
    x = conv2d(params["reduce"]["conv"], layer_norm(params["reduce"]["ln"], x), stride=2)
    for p in params["stage1"]:
        x = block_fn(p, x)
    x = layer_norm(params["final_ln"], x.mean(axis=(1, 2)))
    return x @ params["classifier"]["w"] + params["classifier"]["b"]


def convert(module):
    def arr(t):
        return jnp.asarray(t.detach().numpy())

    def ln(m):
        return {"scale": arr(m.weight), "offset": arr(m.bias)}

    def conv(m):
        return {"w": arr(m.weight.permute(2, 3, 1, 0)), "b": arr(m.bias)}

    def dense(m):
        return {"w": arr(m.weight.t()), "b": arr(m.bias)}

    def block(m):
        return {
            "depthwise": conv(m.dwconv),
            "ln": ln(m.norm),
            "expand": dense(m.pwconv1),
            "project": dense(m.pwconv2),
            "layer_scale": arr(m.gamma),
        }

    stem, reduce = module.downsample_layers
    return convnext, {
        "stem": {"conv": conv(stem[0]), "ln": ln(stem[1])},
        "stage0": [block(b) for b in module.stages[0]],
        "reduce": {"ln": ln(reduce[0]), "conv": conv(reduce[1])},
        "stage1": [block(b) for b in module.stages[1]],
        "final_ln": ln(module.norm),
        "classifier": dense(module.head),
    }


def jax_side():
    shapes = jax.tree.map(lambda a: a.shape, convert(ConvNeXt())[1])
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return convnext, jax.tree.unflatten(tree, [0.3 * jax.random.normal(k, s) for k, s in zip(keys, leaves)])


MISTAKES = [
    {
        "name": "GELU by tanh instead of by erf",
        "side": "jax",
        "old": "jax.nn.gelu(h, approximate=False)",
        "new": "jax.nn.gelu(h)",
        "line": 104,
    },
    {
        "name": "layer scale is forgotten",
        "side": "jax",
        "old": 'return x + p["layer_scale"] * h',
        "new": "return x + h",
        "line": 106,
    },
    {
        "name": "the final norm comes before the global pooling, not after it",
        "side": "torch",
        "old": "self.head(self.norm(x.mean([-2, -1])))",
        "new": "self.head(self.norm(x.permute(0, 2, 3, 1)).mean([1, 2]))",
        "line": 67,
    },
    {
        "name": "the depthwise convolution is padded at one side only",
        "side": "jax",
        "old": "padding=[(pad, pad), (pad, pad)],",
        "new": "padding=[(2 * pad, 0), (2 * pad, 0)],",
        "line": 93,
    },
]
