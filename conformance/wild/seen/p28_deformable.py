"""Deformable sampling: predicted offsets move a regular grid, the map is sampled bilinearly there (grid_sample), then mixed. Functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

C, H, W, POINTS = 8, 7, 7, 3


def inputs():
    return (np.random.default_rng(28).normal(size=(2, C, H, W)).astype("float32"),)


class DeformableBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset_conv = nn.Conv2d(C, 2 * POINTS, 3, padding=1)
        self.weight_conv = nn.Conv2d(C, POINTS, 1)
        self.value = nn.Conv2d(C, C, 1)
        self.out = nn.Conv2d(C, C, 1)

    def forward(self, x):
        b = x.shape[0]
        ys = torch.linspace(-1, 1, H, dtype=torch.float64)
        xs = torch.linspace(-1, 1, W, dtype=torch.float64)
        gy, gx = torch.meshgrid(ys, xs, indexing="ij")
        base = torch.stack([gx, gy], dim=-1).to(x.dtype)
        offsets = torch.tanh(self.offset_conv(x)).view(b, POINTS, 2, H, W)
        weights = self.weight_conv(x).softmax(dim=1)
        value = self.value(x)
        total = torch.zeros_like(value)
        for p in range(POINTS):
            grid = base + 0.6 * offsets[:, p].permute(0, 2, 3, 1)
            sampled = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            total = total + weights[:, p : p + 1] * sampled
        return F.relu6(x + self.out(total))


def torch_side():
    torch.manual_seed(28)
    block = DeformableBlock()
    for conv in block.children():
        nn.init.xavier_normal_(conv.weight, gain=2.0)
        nn.init.normal_(conv.bias, std=0.3)
    return block


def pointwise(p, x):
    return jnp.einsum("bhwi,io->bhwo", x, p["kernel"]) + p["bias"]


def bilinear(image, yx):
    """Samples one (H, W, C) image at (..., 2) pixel positions; what lies outside is 0."""
    corner = jnp.floor(yx)
    frac = yx - corner
    corner = corner.astype(jnp.int32)
    out = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = corner[..., 0] + dy, corner[..., 1] + dx
            inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
            weight = jnp.where(dy, frac[..., 0], 1 - frac[..., 0]) * jnp.where(dx, frac[..., 1], 1 - frac[..., 1])
            texel = image[jnp.clip(y, 0, H - 1), jnp.clip(x, 0, W - 1)]
            out = out + jnp.where(inside, weight, 0.0)[..., None] * texel
    return out


def deformable(params, x):
    x = jnp.transpose(x, (0, 2, 3, 1))
    offsets = jax.lax.conv_general_dilated(
        x, params["offsets"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    offsets = 0.6 * jnp.tanh(offsets + params["offsets"]["bias"]).reshape(-1, H, W, POINTS, 2)
    base = np.stack(np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij"), axis=-1)
    grid = base[:, :, None].astype(x.dtype) + offsets[..., ::-1]  # torch's grids are (x, y)
    pixels = (grid + 1) / 2 * (np.array([H, W]) - 1)
    attention = jax.nn.softmax(pointwise(params["attention"], x), axis=-1)
    value = pointwise(params["value"], x)
    sampled = jax.vmap(bilinear)(value, pixels.astype(x.dtype))
    mixed = jnp.einsum("bhwp,bhwpc->bhwc", attention, sampled)
    y = jnp.clip(x + pointwise(params["out"], mixed), 0, 6)
    return jnp.transpose(y, (0, 3, 1, 2))


def jax_side():
    m = torch_side()

    def one_by_one(conv):
        return {
            "kernel": jnp.asarray(conv.weight.detach().numpy()[:, :, 0, 0].T),
            "bias": jnp.asarray(conv.bias.detach().numpy()),
        }

    offset = {
        "kernel": jnp.asarray(m.offset_conv.weight.detach().numpy().transpose(2, 3, 1, 0)),
        "bias": jnp.asarray(m.offset_conv.bias.detach().numpy()),
    }
    return deformable, {
        "offsets": offset,
        "attention": one_by_one(m.weight_conv),
        "value": one_by_one(m.value),
        "out": one_by_one(m.out),
    }


MISTAKES = [
    {
        "name": "offsets are read as (y, x) instead of (x, y)",
        "side": "jax",
        "old": "grid = base[:, :, None].astype(x.dtype) + offsets[..., ::-1]",
        "new": "grid = base[:, :, None].astype(x.dtype) + offsets",
        "line": 80,
    },
    {
        "name": "corners are not aligned in the sampling",
        "side": "torch",
        "old": 'padding_mode="zeros", align_corners=True',
        "new": 'padding_mode="zeros", align_corners=False',
        "line": 39,
    },
    {
        "name": "positions outside the map take the border's value",
        "side": "jax",
        "old": "out = out + jnp.where(inside, weight, 0.0)[..., None] * texel",
        "new": "out = out + weight[..., None] * texel",
        "line": 69,
    },
    {
        "name": "the attention weights are normalised over the width instead of over the points",
        "side": "jax",
        "old": 'jax.nn.softmax(pointwise(params["attention"], x), axis=-1)',
        "new": 'jax.nn.softmax(pointwise(params["attention"], x), axis=-2)',
        "line": 82,
    },
]
