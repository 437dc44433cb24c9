"""A hierarchical vision encoder in the manner of SegFormer, with its all-MLP head. The port is of one image, as Equinox-like pytrees, under vmap."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

DIMS, HEADS, RATIOS, DEPTHS, EXPAND = (8, 12), (2, 3), (2, 1), (1, 2), 2
HEIGHT, WIDTH, HEAD_DIM, CLASSES = 32, 24, 10, 5


def inputs():
    rng = np.random.default_rng(203)
    return {"image": rng.normal(size=(2, 3, HEIGHT, WIDTH)).astype("float32")}


class OverlapPatchEmbed(nn.Module):
    def __init__(self, in_chans, dim, patch, stride):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch, stride=stride, padding=patch // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.proj(x)
        h, w = x.shape[2:]
        return self.norm(x.flatten(2).transpose(1, 2)), h, w


class EfficientAttention(nn.Module):
    def __init__(self, dim, num_heads, sr_ratio):
        super().__init__()
        self.num_heads, self.sr_ratio = num_heads, sr_ratio
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x, h, w):
        b, n, c = x.shape
        q = self.query(x).view(b, n, self.num_heads, -1).transpose(1, 2)
        if self.sr_ratio > 1:
            x = self.sr(x.transpose(1, 2).reshape(b, c, h, w))
            x = self.norm(x.flatten(2).transpose(1, 2))
        k = self.key(x).view(b, x.shape[1], self.num_heads, -1).transpose(1, 2)
        v = self.value(x).view(b, x.shape[1], self.num_heads, -1).transpose(1, 2)
        attn = (q @ k.transpose(-2, -1) / math.sqrt(c // self.num_heads)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class MixFFN(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x, h, w):
        x = self.fc1(x).transpose(1, 2).unflatten(2, (h, w))
        x = F.gelu(self.dwconv(x))
        return self.fc2(x.flatten(2).transpose(1, 2))


class Layer(nn.Module):
    def __init__(self, dim, num_heads, sr_ratio):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = EfficientAttention(dim, num_heads, sr_ratio)
        self.mlp = MixFFN(dim, dim * EXPAND)

    def forward(self, x, h, w):
        x = x + self.attn(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x), h, w)


class SegFormer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.ModuleList([OverlapPatchEmbed(3, DIMS[0], 7, 4), OverlapPatchEmbed(DIMS[0], DIMS[1], 3, 2)])
        each = zip(DIMS, HEADS, RATIOS, DEPTHS, strict=True)
        self.blocks = nn.ModuleList([nn.ModuleList([Layer(d, n, r) for _ in range(deep)]) for d, n, r, deep in each])
        self.norms = nn.ModuleList([nn.LayerNorm(d) for d in DIMS])
        self.linear_c = nn.ModuleList([nn.Linear(d, HEAD_DIM) for d in DIMS])
        self.linear_fuse = nn.Conv2d(HEAD_DIM * len(DIMS), HEAD_DIM, 1, bias=False)
        self.bn = nn.BatchNorm2d(HEAD_DIM)
        self.classifier = nn.Conv2d(HEAD_DIM, CLASSES, 1)

    def forward(self, image):
        x, maps = image, []
        for patch, blocks, norm in zip(self.patch, self.blocks, self.norms, strict=True):
            x, h, w = patch(x)
            for block in blocks:
                x = block(x, h, w)
            x = norm(x).transpose(1, 2).unflatten(2, (h, w))
            maps.append(x)
        size, joined = maps[0].shape[2:], []
        for feature, linear in zip(maps, self.linear_c, strict=True):
            y = linear(feature.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, feature.shape[2:])
            joined.append(F.interpolate(y, size=size, mode="bilinear", align_corners=False))
        fused = F.relu(self.bn(self.linear_fuse(torch.cat(joined[::-1], dim=1))))
        return self.classifier(fused), maps[-1]


def torch_side():
    torch.manual_seed(203)
    net = SegFormer().eval()
    for name, p in net.named_parameters():
        if p.ndim == 1:
            is_scale = name.endswith("weight")
            nn.init.normal_(p, mean=1.0 if is_scale else 0.0, std=0.3)
        elif p.ndim == 2 or "dwconv" in name:
            nn.init.normal_(p, std=0.4)
    nn.init.normal_(net.bn.running_mean, std=0.3)
    nn.init.uniform_(net.bn.running_var, 0.03, 0.3)
    return net


def module(*static):
    def register(cls):
        cls = dataclasses.dataclass(cls)
        data = [f.name for f in dataclasses.fields(cls) if f.name not in static]
        return jax.tree_util.register_dataclass(cls, data, list(static))

    return register


@module()
class Affine:
    weight: jax.Array
    bias: jax.Array | None

    def __call__(self, x):
        y = jnp.einsum("oi,...i->...o", self.weight, x)
        return y if self.bias is None else y + self.bias


@module()
class Standardise:
    gain: jax.Array
    shift: jax.Array

    def __call__(self, x):
        return jax.nn.standardize(x, axis=-1, epsilon=1e-5) * self.gain + self.shift


@module("stride", "pad", "groups")
class Filters:
    weight: jax.Array
    bias: jax.Array
    stride: int = 1
    pad: int = 0
    groups: int = 1

    def __call__(self, x):  # (height, width, channels)
        steps, pads, layout = (self.stride,) * 2, [(self.pad,) * 2] * 2, ("NHWC", "OIHW", "NHWC")
        y = jax.lax.conv_general_dilated(
            x[None], self.weight, steps, pads, dimension_numbers=layout, feature_group_count=self.groups
        )
        return y[0] + self.bias


@module("heads")
class Mixer:
    before: Standardise
    ask: Affine
    keys: Affine
    values: Affine
    merge: Affine
    reduce: Filters | None
    reduced: Standardise | None
    between: Standardise
    widen: Affine
    local: Filters
    narrow: Affine
    heads: int

    def __call__(self, x):  # (height, width, channels)
        height, width, channels = x.shape
        split = lambda a: a.reshape(-1, self.heads, channels // self.heads)  # noqa: E731
        y = self.before(x)
        memory = y if self.reduce is None else self.reduced(self.reduce(y))
        scores = jnp.einsum("nhd,mhd->hnm", split(self.ask(y)), split(self.keys(memory)))
        weights = jax.nn.softmax(scores * (channels // self.heads) ** -0.5, axis=2)
        mixed = jnp.einsum("hnm,mhd->nhd", weights, split(self.values(memory)))
        x = x + self.merge(mixed.reshape(height, width, channels))
        wide = self.widen(self.between(x).reshape(height * width, channels))
        wide = jax.nn.gelu(self.local(wide.reshape(height, width, -1)), approximate=False)
        return x + self.narrow(wide)


@module()
class Segmenter:
    patches: tuple
    stages: tuple
    heads: tuple
    fuse: jax.Array
    scale: jax.Array
    offset: jax.Array
    mean: jax.Array
    variance: jax.Array
    classes: Affine

    def one(self, image):
        x, levels = jnp.moveaxis(image, 0, -1), []
        for (cut, first), (mixers, last) in zip(self.patches, self.stages, strict=True):
            x = first(cut(x))
            for mixer in mixers:
                x = mixer(x)
            x = last(x)
            levels.append(x)
        shape = (*levels[0].shape[:2], HEAD_DIM)
        large = [jax.image.resize(head(y), shape, "linear") for head, y in zip(self.heads, levels, strict=True)]
        y = jnp.concatenate(large[::-1], axis=-1) @ self.fuse
        y = (y - self.mean) / jnp.sqrt(self.variance + 1e-5) * self.scale + self.offset
        return jnp.moveaxis(self.classes(jax.nn.relu(y)), -1, 0), jnp.moveaxis(x, -1, 0)

    def __call__(self, image):
        return jax.vmap(self.one)(image)


def convert(net):
    source = {k: jnp.asarray(v.numpy()) for k, v in net.state_dict().items()}
    affine = lambda key: Affine(source[key + ".weight"], source.get(key + ".bias"))  # noqa: E731
    norm = lambda key: Standardise(source[key + ".weight"], source[key + ".bias"])  # noqa: E731
    filters = lambda key, *more: Filters(source[key + ".weight"], source[key + ".bias"], *more)  # noqa: E731

    def mixer(at, stage):
        ratio = RATIOS[stage]
        return Mixer(
            before=norm(at + "norm1"),
            ask=affine(at + "attn.query"),
            keys=affine(at + "attn.key"),
            values=affine(at + "attn.value"),
            merge=affine(at + "attn.proj"),
            reduce=filters(at + "attn.sr", ratio) if ratio > 1 else None,
            reduced=norm(at + "attn.norm") if ratio > 1 else None,
            between=norm(at + "norm2"),
            widen=affine(at + "mlp.fc1"),
            local=filters(at + "mlp.dwconv", 1, 1, DIMS[stage] * EXPAND),
            narrow=affine(at + "mlp.fc2"),
            heads=HEADS[stage],
        )

    stages = [(tuple(mixer(f"blocks.{s}.{i}.", s) for i in range(DEPTHS[s])), norm(f"norms.{s}")) for s in range(len(DIMS))]
    weight = source["classifier.weight"][:, :, 0, 0]
    return Segmenter(
        patches=tuple((filters(f"patch.{s}.proj", (4, 2)[s], (3, 1)[s]), norm(f"patch.{s}.norm")) for s in (0, 1)),
        stages=tuple(stages),
        heads=tuple(affine(f"linear_c.{s}") for s in (0, 1)),
        fuse=source["linear_fuse.weight"][:, :, 0, 0].T,
        scale=source["bn.weight"],
        offset=source["bn.bias"],
        mean=source["bn.running_mean"],
        variance=source["bn.running_var"],
        classes=Affine(weight, source["classifier.bias"]),
    )


def jax_side():
    leaves, shape = jax.tree.flatten(convert(torch_side()))
    keys = jax.random.split(jax.random.key(203), len(leaves))
    model = jax.tree.unflatten(shape, [0.3 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])
    is_norm = lambda m: isinstance(m, Standardise)  # noqa: E731
    model = jax.tree.map(lambda m: dataclasses.replace(m, gain=1 + m.gain) if is_norm(m) else m, model, is_leaf=is_norm)
    return dataclasses.replace(model, variance=0.05 + model.variance**2, offset=0.5 + model.offset)


MISTAKES = [
    {
        "name": "the tokens are laid out as (width, height) instead of (height, width) for the depthwise convolution",
        "side": "jax",
        "old": "self.local(wide.reshape(height, width, -1))",
        "new": "self.local(wide.reshape(width, height, -1)).reshape(height, width, -1)",
        "line": 196,
    },
    {
        "name": "the head resizes with aligned corners",
        "side": "torch",
        "old": "align_corners=False",
        "new": "align_corners=True",
        "line": 108,
    },
    {
        "name": "the scores are scaled by the whole width instead of by a head's",
        "side": "jax",
        "old": "scores * (channels // self.heads) ** -0.5",
        "new": "scores * channels**-0.5",
        "line": 192,
    },
    {
        "name": "the activation is in front of the depthwise convolution instead of behind it",
        "side": "torch",
        "old": "x = F.gelu(self.dwconv(x))",
        "new": "x = self.dwconv(F.gelu(x))",
        "line": 69,
    },
    {
        "name": "the batch norm's epsilon is 1e-3 instead of 1e-5",
        "side": "jax",
        "old": "jnp.sqrt(self.variance + 1e-5)",
        "new": "jnp.sqrt(self.variance + 1e-3)",
        "line": 223,
    },
]
