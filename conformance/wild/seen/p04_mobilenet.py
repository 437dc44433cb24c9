"""MobileNetV3 blocks: expansion, depthwise convolution, squeeze-and-excitation, hard swish, linear projection. Port: Flax Linen."""

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True


def inputs():
    return {"x": 2 * np.random.default_rng(44).normal(size=(2, 8, 10, 10)).astype("float32")}


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeeze):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x):
        scale = nn.functional.adaptive_avg_pool2d(x, 1)
        scale = torch.relu(self.fc1(scale))
        return nn.functional.hardsigmoid(self.fc2(scale)) * x


class InvertedResidual(nn.Module):
    def __init__(self, inp, hidden, oup, stride):
        super().__init__()
        self.use_res_connect = stride == 1 and inp == oup
        self.expand = nn.Sequential(nn.Conv2d(inp, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=0.001), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden, eps=0.001),
            nn.Hardswish(),
        )
        self.se = SqueezeExcitation(hidden, 8)
        self.project = nn.Sequential(nn.Conv2d(hidden, oup, 1, bias=False), nn.BatchNorm2d(oup, eps=0.001))

    def forward(self, x):
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.use_res_connect else y


def torch_side():
    torch.manual_seed(4)
    net = nn.Sequential()
    net.add_module("b0", InvertedResidual(8, 16, 8, 1))
    net.add_module("b1", InvertedResidual(8, 24, 12, 2))

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = net

        def forward(self, x):
            return self.features(x)

    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.8, 1.6)
            nn.init.normal_(m.bias, 0.0, 0.4)
            nn.init.normal_(m.running_mean, 0.0, 0.3)
            nn.init.uniform_(m.running_var, 0.02, 0.5)
        elif isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.normal_(m.bias, 0.0, 0.5)
    return Features().eval()


class MBConv(linen.Module):
    filters: int
    expanded: int
    strides: int = 1
    act: Any = linen.hard_swish

    @linen.compact
    def __call__(self, inputs):
        def bn(name):
            return linen.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)

        x = linen.Conv(self.expanded, (1, 1), use_bias=False, name="expand_conv")(inputs)
        x = self.act(bn("expand_bn")(x))
        x = linen.Conv(
            self.expanded,
            (3, 3),
            strides=self.strides,
            padding=1,
            feature_group_count=self.expanded,
            use_bias=False,
            name="dw_conv",
        )(x)
        x = self.act(bn("dw_bn")(x))
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = linen.relu(linen.Dense(8, name="se_reduce")(s))
        x = x * linen.hard_sigmoid(linen.Dense(self.expanded, name="se_expand")(s))
        x = bn("project_bn")(linen.Conv(self.filters, (1, 1), use_bias=False, name="project_conv")(x))
        if self.strides == 1 and inputs.shape[-1] == self.filters:
            x = x + inputs
        return x


class MobileFeatures(linen.Module):
    def setup(self):
        self.block1 = MBConv(8, 16)
        self.block2 = MBConv(12, 24, strides=2)

    def __call__(self, x):
        x = self.block2(self.block1(jnp.moveaxis(x, 1, -1)))
        return jnp.moveaxis(x, -1, 1)


def jax_side():
    params, stats = {}, {}
    for ours, theirs in (("block1", "b0"), ("block2", "b1")):
        block = torch_side().features.get_submodule(theirs)
        p, s = params.setdefault(ours, {}), stats.setdefault(ours, {})
        for stage, prefix in ((block.expand, "expand"), (block.depthwise, "dw"), (block.project, "project")):
            p[prefix + "_conv"] = {"kernel": stage[0].weight.detach().numpy().transpose(2, 3, 1, 0)}
            p[prefix + "_bn"] = {"scale": stage[1].weight.detach().numpy(), "bias": stage[1].bias.detach().numpy()}
            s[prefix + "_bn"] = {"mean": stage[1].running_mean.numpy(), "var": stage[1].running_var.numpy()}
        for layer, name in ((block.se.fc1, "se_reduce"), (block.se.fc2, "se_expand")):
            p[name] = {"kernel": layer.weight.detach().numpy()[:, :, 0, 0].T, "bias": layer.bias.detach().numpy()}
    return MobileFeatures(), jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats})


MISTAKES = [
    {
        "name": "the excitation uses the logistic sigmoid instead of the hard one",
        "side": "jax",
        "old": "x = x * linen.hard_sigmoid(",
        "new": "x = x * linen.sigmoid(",
        "line": 99,
    },
    {
        "name": "swish instead of hard swish",
        "side": "jax",
        "old": "act: Any = linen.hard_swish",
        "new": "act: Any = linen.swish",
        "line": 78,
    },
    {
        "name": "batch norm with epsilon 1e-5 instead of 1e-3",
        "side": "jax",
        "old": "linen.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)",
        "new": "linen.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)",
        "line": 83,
    },
    {
        "name": "an activation after the projection, which should be linear",
        "side": "torch",
        "old": "y = self.project(self.se(self.depthwise(self.expand(x))))",
        "new": "y = torch.relu(self.project(self.se(self.depthwise(self.expand(x)))))",
        "line": 45,
    },
]
