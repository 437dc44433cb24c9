"""Axial attention on a feature map: attention along rows, then along columns, with axial position vectors added. Port: Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True

H, W, C, HEADS = 6, 6, 8, 2


def inputs():
    return (np.random.default_rng(23).normal(size=(2, C, H, W)).astype("float32"),)


class SelfAttention1d(torch.nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = torch.nn.Linear(dim, dim, bias=False)
        self.to_kv = torch.nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = torch.nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        e = d // self.heads
        q, k, v = self.to_q(x), *self.to_kv(x).chunk(2, dim=-1)
        q, k, v = (t.reshape(b, n, self.heads, e).transpose(1, 2) for t in (q, k, v))
        dots = torch.einsum("bhie,bhje->bhij", q, k) * e**-0.5
        out = torch.einsum("bhij,bhje->bhie", dots.softmax(dim=-1), v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, d))


class AxialBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_h = torch.nn.Parameter(torch.randn(1, C, H, 1))
        self.pos_w = torch.nn.Parameter(torch.randn(1, C, 1, W))
        self.row_attn = SelfAttention1d(C, HEADS)
        self.col_attn = SelfAttention1d(C, HEADS)
        self.conv = torch.nn.Conv2d(C, C, 3, padding=1, padding_mode="circular")

    def along(self, attn, x):
        b, h, w, c = x.shape
        return attn(x.reshape(b * h, w, c)).reshape(b, h, w, c)

    def forward(self, fmap):
        x = (fmap + self.pos_h + self.pos_w).permute(0, 2, 3, 1)
        x = x + self.along(self.row_attn, x)
        x = x + self.along(self.col_attn, x.transpose(1, 2)).transpose(1, 2)
        return torch.nn.functional.elu(self.conv(x.permute(0, 3, 1, 2)))


def torch_side():
    torch.manual_seed(230)
    block = AxialBlock()
    for p in block.parameters():
        if p.ndim == 2:
            torch.nn.init.orthogonal_(p, gain=1.5)
    return block


class LineAttention(nn.Module):
    """Attention along the second-to-last axis, whatever stands before it."""

    heads: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1] // self.heads
        q = nn.DenseGeneral((self.heads, width), use_bias=False, name="q")(x)
        k = nn.DenseGeneral((self.heads, width), use_bias=False, name="k")(x)
        v = nn.DenseGeneral((self.heads, width), use_bias=False, name="v")(x)
        y = nn.dot_product_attention(q, k, v)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="o")(y)


class Axial(nn.Module):
    @nn.compact
    def __call__(self, fmap):
        x = jnp.einsum("bchw->bhwc", fmap)
        rows = self.param("row_embedding", nn.initializers.normal(), (H, C))
        cols = self.param("column_embedding", nn.initializers.normal(), (W, C))
        x = x + rows[:, None, :] + cols[None, :, :]
        x = x + LineAttention(HEADS, name="width")(x)
        y = LineAttention(HEADS, name="height")(jnp.swapaxes(x, 1, 2))
        x = x + jnp.swapaxes(y, 1, 2)
        x = nn.Conv(C, (3, 3), padding="CIRCULAR", name="mix")(x)
        return jnp.einsum("bhwc->bchw", nn.elu(x))


def translate(block):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def attention(m):
        heads = (C, HEADS, C // HEADS)
        k, v = m.to_kv.weight.chunk(2)
        return {
            "q": {"kernel": a(m.to_q.weight).T.reshape(heads)},
            "k": {"kernel": a(k).T.reshape(heads)},
            "v": {"kernel": a(v).T.reshape(heads)},
            "o": {"kernel": a(m.to_out.weight).T.reshape(HEADS, C // HEADS, C), "bias": a(m.to_out.bias)},
        }

    return {
        "row_embedding": a(block.pos_h)[0, :, :, 0].T,
        "column_embedding": a(block.pos_w)[0, :, 0, :].T,
        "width": attention(block.row_attn),
        "height": attention(block.col_attn),
        "mix": {"kernel": a(block.conv.weight).transpose(2, 3, 1, 0), "bias": a(block.conv.bias)},
    }


def jax_side():
    return Axial(), {"params": jax.tree.map(jnp.asarray, translate(torch_side()))}


MISTAKES = [
    {
        "name": "row and column positions are exchanged (the map is square, so nothing complains)",
        "side": "jax",
        "old": "x = x + rows[:, None, :] + cols[None, :, :]",
        "new": "x = x + rows[None, :, :] + cols[:, None, :]",
        "line": 86,
    },
    {
        "name": "the second attention runs along the width again",
        "side": "jax",
        "old": '        y = LineAttention(HEADS, name="height")(jnp.swapaxes(x, 1, 2))\n        x = x + jnp.swapaxes(y, 1, 2)',
        "new": '        y = LineAttention(HEADS, name="height")(x)\n        x = x + y',
        "line": 88,
    },
    {
        "name": "the convolution pads with zeros instead of around the edge",
        "side": "jax",
        "old": 'padding="CIRCULAR"',
        "new": 'padding="SAME"',
        "line": 90,
    },
    {
        "name": "the scale uses the model's width",
        "side": "torch",
        "old": 'torch.einsum("bhie,bhje->bhij", q, k) * e**-0.5',
        "new": 'torch.einsum("bhie,bhje->bhij", q, k) * d**-0.5',
        "line": 31,
    },
]
