"""A ResNet of two basic blocks with batch norm in evaluation mode, a strided shortcut and global average pooling. Port: Flax NNX."""

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn

LOADED = False


def inputs():
    return (np.random.default_rng(2).normal(size=(2, 3, 12, 12)).astype("float32"),)


class BasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = BasicBlock(8, 8)
        self.layer2 = BasicBlock(8, 16, stride=2)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(x.mean(dim=(2, 3)), 1))


def torch_side():
    gen = torch.Generator().manual_seed(22)
    torch.manual_seed(22)
    net = ResNet()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5, generator=gen)
            m.bias.data.normal_(0, 0.3, generator=gen)
            m.running_mean.normal_(0, 0.2, generator=gen)
            m.running_var.uniform_(0.3, 1.2, generator=gen)
    return net.eval()


def norm(features, rngs):
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)


class ResidualBlock(nnx.Module):
    def __init__(self, cin, cout, stride, rngs):
        conv = dict(padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
        self.conv_a = nnx.Conv(cin, cout, (3, 3), strides=(stride, stride), **conv)
        self.norm_a = norm(cout, rngs)
        self.conv_b = nnx.Conv(cout, cout, (3, 3), **conv)
        self.norm_b = norm(cout, rngs)
        self.strided = stride > 1
        if self.strided:
            self.projection = nnx.Conv(cin, cout, (1, 1), strides=(stride, stride), padding="VALID", use_bias=False, rngs=rngs)
            self.norm_p = norm(cout, rngs)

    def __call__(self, x):
        residual = x
        y = nnx.relu(self.norm_a(self.conv_a(x)))
        y = self.norm_b(self.conv_b(y))
        if self.strided:
            residual = self.norm_p(self.projection(x))
        return nnx.relu(y + residual)


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
        self.stem_norm = norm(8, rngs)
        self.block1 = ResidualBlock(8, 8, 1, rngs)
        self.block2 = ResidualBlock(8, 16, 2, rngs)
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = self.block2(self.block1(x))
        return self.head(jnp.mean(x, axis=(1, 2)))


def jax_side():
    return Classifier(nnx.Rngs(3))


def convert(module):
    net = Classifier(nnx.Rngs(0))

    def conv(ours, theirs):
        ours.kernel[...] = jnp.asarray(theirs.weight.detach().permute(2, 3, 1, 0).numpy())

    def bn(ours, theirs):
        ours.scale[...] = jnp.asarray(theirs.weight.detach().numpy())
        ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
        ours.mean[...] = jnp.asarray(theirs.running_mean.numpy())
        ours.var[...] = jnp.asarray(theirs.running_var.numpy())

    conv(net.stem, module.conv1)
    bn(net.stem_norm, module.bn1)
    for ours, theirs in ((net.block1, module.layer1), (net.block2, module.layer2)):
        conv(ours.conv_a, theirs.conv1)
        bn(ours.norm_a, theirs.bn1)
        conv(ours.conv_b, theirs.conv2)
        bn(ours.norm_b, theirs.bn2)
    conv(net.block2.projection, module.layer2.downsample[0])
    bn(net.block2.norm_p, module.layer2.downsample[1])
    net.head.kernel[...] = jnp.asarray(module.fc.weight.detach().numpy().T)
    net.head.bias[...] = jnp.asarray(module.fc.bias.detach().numpy())
    return net


MISTAKES = [
    {
        "name": "strided convolution padded as SAME, which pads at the far side only",
        "side": "jax",
        "old": "conv = dict(padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)",
        "new": 'conv = dict(padding="SAME", use_bias=False, rngs=rngs)',
        "line": 71,
    },
    {
        "name": "batch norm with epsilon 1e-3, Keras's default",
        "side": "jax",
        "old": "momentum=0.9, epsilon=1e-5, rngs=rngs)",
        "new": "momentum=0.9, epsilon=1e-3, rngs=rngs)",
        "line": 66,
    },
    {
        "name": "batch norm left in training mode",
        "side": "jax",
        "old": "nnx.BatchNorm(features, use_running_average=True,",
        "new": "nnx.BatchNorm(features, use_running_average=False,",
        "line": 66,
    },
    {
        "name": "ReLU is applied before the residual is added",
        "side": "torch",
        "old": "        out = out + identity\n        return self.relu(out)",
        "new": "        out = self.relu(out)\n        return out + identity",
        "line": 32,
    },
]
