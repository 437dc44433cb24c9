"""EfficientNet-like: inverted bottlenecks with depthwise convolutions, squeeze-excite and SiLU, inference mode. The port is Flax Linen."""

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

STEM, HEAD, CLASSES = 6, 20, 5
STAGES = ((1, 3, 1, 6, 1), (3, 3, 2, 8, 2), (4, 5, 1, 10, 2))  # expansion, kernel, stride, channels, repeats


def inputs():
    return {"image": np.random.default_rng(101).normal(size=(2, 3, 16, 16)).astype("float32")}


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        gate = x.mean((2, 3), keepdim=True)
        gate = self.conv_expand(F.silu(self.conv_reduce(gate)))
        return x * gate.sigmoid()


def batch_norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class MBConv(nn.Module):
    def __init__(self, c_in, c_out, kernel, stride, expand):
        super().__init__()
        mid = c_in * expand
        self.has_skip = stride == 1 and c_in == c_out
        self.conv_pw = nn.Conv2d(c_in, mid, 1, bias=False) if expand != 1 else nn.Identity()
        self.bn1 = batch_norm(mid) if expand != 1 else nn.Identity()
        self.act1 = nn.SiLU() if expand != 1 else nn.Identity()
        self.conv_dw = nn.Conv2d(mid, mid, kernel, stride, padding=kernel // 2, groups=mid, bias=False)
        self.bn2 = batch_norm(mid)
        self.se = SqueezeExcite(mid, max(2, c_in // 4))
        self.conv_pwl = nn.Conv2d(mid, c_out, 1, bias=False)
        self.bn3 = batch_norm(c_out)

    def forward(self, x):
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = F.silu(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(self.se(y)))
        return x + y if self.has_skip else y


class EfficientNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = batch_norm(STEM)
        blocks, width = [], STEM
        for expand, kernel, stride, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(MBConv(width, channels, kernel, stride if i == 0 else 1, expand))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(width, HEAD, 1, bias=False)
        self.bn2 = batch_norm(HEAD)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, image):
        x = F.silu(self.bn1(self.conv_stem(image)))
        x = F.silu(self.bn2(self.conv_head(self.blocks(x))))
        return self.classifier(x.mean(dim=(-2, -1)))


def torch_side():
    torch.manual_seed(101)
    model = EfficientNet()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.6, 1.6)
            nn.init.normal_(m.bias, 0.0, 0.3)
            nn.init.normal_(m.running_mean, 0.0, 0.2)
            nn.init.uniform_(m.running_var, 0.1, 0.6)
    return model.eval()


class ConvNorm(fnn.Module):
    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    activate: bool = True

    @fnn.compact
    def __call__(self, x):
        p = self.kernel // 2
        x = fnn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=((p, p), (p, p)),
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            name="conv",
        )(x)
        x = fnn.BatchNorm(use_running_average=True, epsilon=1e-3, name="norm")(x)
        return fnn.swish(x) if self.activate else x


class InvertedResidual(fnn.Module):
    features: int
    kernel: int
    stride: int
    expand: int

    @fnn.compact
    def __call__(self, x):
        c = x.shape[-1]
        h = ConvNorm(c * self.expand, name="expand")(x) if self.expand > 1 else x
        h = ConvNorm(h.shape[-1], self.kernel, self.stride, depthwise=True, name="depthwise")(h)
        s = fnn.swish(fnn.Dense(max(2, c // 4), name="squeeze")(jnp.mean(h, axis=(1, 2))))
        s = fnn.sigmoid(fnn.Dense(h.shape[-1], name="excite")(s))
        h = ConvNorm(self.features, activate=False, name="project")(h * s[:, None, None, :])
        if self.stride == 1 and c == self.features:
            h = h + x
        return h


class FlaxEfficientNet(fnn.Module):
    @fnn.compact
    def __call__(self, image):
        x = ConvNorm(STEM, 3, 2, name="stem")(jnp.moveaxis(image, 1, -1))
        n = 0
        for expand, kernel, stride, features, repeats in STAGES:
            for s in [stride] + [1] * (repeats - 1):
                x = InvertedResidual(features, kernel, s, expand, name=f"block{n}")(x)
                n += 1
        x = ConvNorm(HEAD, name="top")(x)
        return fnn.Dense(CLASSES, name="predictions")(x.mean(axis=(1, 2)))


def variables(module):
    v = {k: jnp.asarray(t.numpy()) for k, t in module.state_dict().items()}
    params, stats = {}, {}

    def conv_norm(where, conv, norm):
        p, s = params, stats
        for name in where[:-1]:
            p, s = p.setdefault(name, {}), s.setdefault(name, {})
        p[where[-1]] = {
            "conv": {"kernel": v[f"{conv}.weight"].transpose(2, 3, 1, 0)},
            "norm": {"scale": v[f"{norm}.weight"], "bias": v[f"{norm}.bias"]},
        }
        s[where[-1]] = {"norm": {"mean": v[f"{norm}.running_mean"], "var": v[f"{norm}.running_var"]}}

    conv_norm(("stem",), "conv_stem", "bn1")
    conv_norm(("top",), "conv_head", "bn2")
    for n in range(len(module.blocks)):
        t, f = f"blocks.{n}", f"block{n}"
        if f"{t}.conv_pw.weight" in v:
            conv_norm((f, "expand"), f"{t}.conv_pw", f"{t}.bn1")
        conv_norm((f, "depthwise"), f"{t}.conv_dw", f"{t}.bn2")
        conv_norm((f, "project"), f"{t}.conv_pwl", f"{t}.bn3")
        for new, old in (("squeeze", "conv_reduce"), ("excite", "conv_expand")):
            params[f][new] = {"kernel": v[f"{t}.se.{old}.weight"][:, :, 0, 0].T, "bias": v[f"{t}.se.{old}.bias"]}
    params["predictions"] = {"kernel": v["classifier.weight"].T, "bias": v["classifier.bias"]}
    return {"params": params, "batch_stats": stats}


def jax_side():
    return FlaxEfficientNet(), jax.tree.map(jnp.asarray, variables(torch_side()))


MISTAKES = [
    {
        "name": "the stem pads only after the image, as TensorFlow's SAME does with stride 2",
        "side": "torch",
        "old": "x = F.silu(self.bn1(self.conv_stem(image)))",
        "new": "x = F.silu(self.bn1(F.conv2d(F.pad(image, (0, 1, 0, 1)), self.conv_stem.weight, stride=2)))",
        "line": 74,
    },
    {
        "name": "the batch norms keep PyTorch's default epsilon 1e-5 instead of 1e-3",
        "side": "torch",
        "old": "return nn.BatchNorm2d(channels, eps=1e-3)",
        "new": "return nn.BatchNorm2d(channels)",
        "line": 34,
    },
    {
        "name": "the gate of squeeze-excite is a hard sigmoid, as in MobileNetV3",
        "side": "jax",
        "old": 's = fnn.sigmoid(fnn.Dense(h.shape[-1], name="excite")(s))',
        "new": 's = fnn.hard_sigmoid(fnn.Dense(h.shape[-1], name="excite")(s))',
        "line": 126,
    },
    {
        "name": "the projection of a block is followed by the activation too",
        "side": "jax",
        "old": "ConvNorm(self.features, activate=False, name",
        "new": "ConvNorm(self.features, activate=True, name",
        "line": 127,
    },
]
