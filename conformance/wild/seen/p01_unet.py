"""A small U-Net: two levels, skip connections by concatenation, transposed convolutions on the way up. The port is Flax Linen, NHWC."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True


def inputs():
    return {"image": np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype("float32")}


class DoubleConv(torch.nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.block = torch.nn.Sequential(
            torch.nn.Conv2d(c_in, c_out, 3, padding=1),
            torch.nn.GroupNorm(2, c_out),
            torch.nn.ReLU(),
            torch.nn.Conv2d(c_out, c_out, 3, padding=1),
            torch.nn.LeakyReLU(0.1),
        )

    def forward(self, x):
        return self.block(x)


class UNet(torch.nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.inc = DoubleConv(3, width)
        self.down1 = DoubleConv(width, 2 * width)
        self.down2 = DoubleConv(2 * width, 2 * width)
        self.pool = torch.nn.MaxPool2d(2)
        self.up1 = torch.nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2)
        self.dec1 = DoubleConv(4 * width, width)
        self.up2 = torch.nn.ConvTranspose2d(width, width, 2, stride=2)
        self.dec2 = DoubleConv(2 * width, width)
        self.outc = torch.nn.Conv2d(width, classes, 1)

    def forward(self, image):
        x1 = self.inc(image)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        y = self.dec1(torch.cat([x2, self.up1(x3)], dim=1))
        y = self.dec2(torch.cat([x1, self.up2(y)], dim=1))
        return self.outc(y)


def torch_side():
    torch.manual_seed(11)
    net = UNet()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if ".1.weight" in name else 0.0))
    return net.eval()


class ConvBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.features, (3, 3), padding="SAME", name="conv_a")(x)
        x = nn.GroupNorm(num_groups=2, epsilon=1e-5, name="norm")(x)
        x = nn.relu(x)
        x = nn.Conv(self.features, (3, 3), padding="SAME", name="conv_b")(x)
        return nn.leaky_relu(x, negative_slope=0.1)


class FlaxUNet(nn.Module):
    width: int = 8
    classes: int = 3

    @nn.compact
    def __call__(self, image):
        w = self.width
        x = jnp.transpose(image, (0, 2, 3, 1))
        skips = []
        for i, features in enumerate((w, 2 * w)):
            x = ConvBlock(features, name=f"encoder_{i}")(x)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = ConvBlock(2 * w, name="bottleneck")(x)
        for i in (1, 0):
            x = nn.ConvTranspose(x.shape[-1], (2, 2), strides=(2, 2), transpose_kernel=True, name=f"upsample_{i}")(x)
            x = jnp.concatenate([skips[i], x], axis=-1)
            x = ConvBlock(w, name=f"decoder_{i}")(x)
        logits = nn.Conv(self.classes, (1, 1), name="head")(x)
        return jnp.transpose(logits, (0, 3, 1, 2))


def port_weights(state):
    v = {k: jnp.asarray(t.detach().numpy()) for k, t in state.items()}

    def conv(prefix):
        return {"kernel": v[prefix + ".weight"].transpose(2, 3, 1, 0), "bias": v[prefix + ".bias"]}

    def block(prefix):
        norm = {"scale": v[prefix + ".block.1.weight"], "bias": v[prefix + ".block.1.bias"]}
        return {"conv_a": conv(prefix + ".block.0"), "norm": norm, "conv_b": conv(prefix + ".block.3")}

    def up(prefix):  # torch keeps (in, out, kh, kw); transpose_kernel=True wants (kh, kw, out, in)
        return {"kernel": v[prefix + ".weight"].transpose(2, 3, 1, 0), "bias": v[prefix + ".bias"]}

    return {
        "encoder_0": block("inc"),
        "encoder_1": block("down1"),
        "bottleneck": block("down2"),
        "upsample_1": up("up1"),
        "decoder_1": block("dec1"),
        "upsample_0": up("up2"),
        "decoder_0": block("dec2"),
        "head": conv("outc"),
    }


def jax_side():
    return FlaxUNet(), {"params": jax.tree.map(jnp.asarray, port_weights(torch_side().state_dict()))}


MISTAKES = [
    {
        "name": "the skip connection is concatenated after the upsampled map instead of before it",
        "side": "jax",
        "old": "jnp.concatenate([skips[i], x], axis=-1)",
        "new": "jnp.concatenate([x, skips[i]], axis=-1)",
        "line": 91,
    },
    {
        "name": "leaky ReLU with Flax's default slope 0.01 instead of 0.1",
        "side": "jax",
        "old": "nn.leaky_relu(x, negative_slope=0.1)",
        "new": "nn.leaky_relu(x)",
        "line": 72,
    },
    {
        "name": "average pooling instead of max pooling",
        "side": "jax",
        "old": "nn.max_pool(x, (2, 2), strides=(2, 2))",
        "new": "nn.avg_pool(x, (2, 2), strides=(2, 2))",
        "line": 87,
    },
    {
        "name": "the transposed convolution's kernel is not flipped (transpose_kernel left at False)",
        "side": "jax",
        "old": "strides=(2, 2), transpose_kernel=True, name",
        "new": "strides=(2, 2), transpose_kernel=False, name",
        "line": 90,
    },
]
