"""RetNet: multi-scale retention with xPos-like rotations and a swish gate. Torch is the parallel form; the NNX port is recurrent."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

LOADED = False

DIM, HEADS, FFN, LAYERS, VOCAB = 16, 2, 24, 2, 13
KEY = DIM // HEADS


def inputs():
    return (np.random.default_rng(103).integers(0, VOCAB, size=(2, 8)),)


def rotate_every_two(x):
    x1, x2 = x[..., 0::2], x[..., 1::2]
    return torch.stack((-x2, x1), dim=-1).flatten(-2)


class RetNetRelPos(nn.Module):
    def __init__(self):
        super().__init__()
        angle = torch.tensor([2.0 ** -(2 * i) for i in range(KEY // 2)])
        self.register_buffer("angle", angle.repeat_interleave(2))
        self.register_buffer("decay", 1 - 2.0 ** (-2 - torch.arange(HEADS).float()))

    def forward(self, n):
        index = torch.arange(n).to(self.decay)
        sin, cos = torch.sin(index[:, None] * self.angle), torch.cos(index[:, None] * self.angle)
        distance = index[:, None] - index[None, :]
        mask = self.decay[:, None, None] ** distance.clamp(min=0)
        mask = mask.masked_fill(distance < 0, 0.0)
        mask = mask / mask.sum(dim=-1, keepdim=True).sqrt()
        return sin, cos, mask


class MultiScaleRetention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(DIM, DIM, bias=False)
        self.k_proj = nn.Linear(DIM, DIM, bias=False)
        self.v_proj = nn.Linear(DIM, DIM, bias=False)
        self.g_proj = nn.Linear(DIM, DIM, bias=False)
        self.out_proj = nn.Linear(DIM, DIM, bias=False)
        self.group_norm = nn.LayerNorm(KEY, eps=1e-4, elementwise_affine=False)

    def forward(self, x, rel_pos):
        b, n, _ = x.shape
        sin, cos, mask = rel_pos
        q, k, v = (proj(x).view(b, n, HEADS, KEY).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        k = k * KEY**-0.5
        q = q * cos + rotate_every_two(q) * sin
        k = k * cos + rotate_every_two(k) * sin
        out = (q @ k.transpose(-1, -2) * mask) @ v
        out = self.group_norm(out.transpose(1, 2)).reshape(b, n, DIM)
        return self.out_proj(nn.functional.silu(self.g_proj(x)) * out)


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.retention_layer_norm = nn.LayerNorm(DIM, eps=1e-5)
        self.retention = MultiScaleRetention()
        self.final_layer_norm = nn.LayerNorm(DIM, eps=1e-5)
        self.fc1 = nn.Linear(DIM, FFN)
        self.fc2 = nn.Linear(FFN, DIM)

    def forward(self, x, rel_pos):
        x = x + self.retention(self.retention_layer_norm(x), rel_pos)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x))))


class RetNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, DIM)
        self.rel_pos = RetNetRelPos()
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.layer_norm = nn.LayerNorm(DIM)
        self.output_projection = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        rel_pos = self.rel_pos(tokens.shape[1])
        for layer in self.layers:
            x = layer(x, rel_pos)
        return self.output_projection(self.layer_norm(x))


def torch_side():
    torch.manual_seed(103)
    model = RetNet()
    for m in model.modules():
        if isinstance(m, nn.LayerNorm) and m.elementwise_affine:
            nn.init.normal_(m.weight, 1.0, 0.2)
            nn.init.normal_(m.bias, 0.0, 0.2)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.35)
    return model.eval()


def rotary(x, position):
    """Rotates neighbouring pairs of the last axis by the position's angles."""
    theta = position * 4.0 ** -jnp.arange(KEY // 2)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = jnp.stack([even * jnp.cos(theta) - odd * jnp.sin(theta), odd * jnp.cos(theta) + even * jnp.sin(theta)], -1)
    return turned.reshape(x.shape)


class Retention(nnx.Module):
    def __init__(self, rngs):
        self.qkvg = nnx.Linear(DIM, 4 * DIM, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(DIM, DIM, use_bias=False, rngs=rngs)

    def __call__(self, x):
        batch, length, _ = x.shape
        q, k, v, gate = jnp.split(self.qkvg(x), 4, axis=-1)
        q, k, v = (jnp.moveaxis(t.reshape(batch, length, HEADS, KEY), 1, 0) for t in (q, k, v))
        gamma = 1.0 - 2.0 ** (-2.0 - np.arange(HEADS))

        def step(carry, inputs):
            memory, weight = carry
            i, qi, ki, vi = inputs
            ki = rotary(ki, i) / np.sqrt(KEY)
            memory = memory * gamma[:, None, None] + ki[..., :, None] * vi[..., None, :]
            weight = weight * gamma + 1.0
            y = jnp.einsum("bhk,bhkv->bhv", rotary(qi, i), memory) / jnp.sqrt(weight)[:, None]
            mean = y.mean(-1, keepdims=True)
            y = (y - mean) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-4)
            return (memory, weight), y

        carry = (jnp.zeros((batch, HEADS, KEY, KEY), x.dtype), jnp.zeros(HEADS, x.dtype))
        _, ys = jax.lax.scan(step, carry, (jnp.arange(length), q, k, v))
        return self.out(nnx.swish(gate) * jnp.moveaxis(ys, 0, 1).reshape(batch, length, DIM))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1 = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.mix = Retention(rngs)
        self.norm2 = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(DIM, FFN, rngs=rngs)
        self.down = nnx.Linear(FFN, DIM, rngs=rngs)

    def __call__(self, x):
        x = x + self.mix(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))


class RetentionLM(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(DIM, VOCAB, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def jax_side():
    return RetentionLM(nnx.Rngs(103))


def convert(module):
    model = jax_side()

    def dense(new, *old):
        new.kernel[...] = jnp.concatenate([jnp.asarray(m.weight.detach().numpy()).T for m in old], axis=1)
        if new.bias is not None:
            new.bias[...] = jnp.asarray(old[0].bias.detach().numpy())

    def norm(new, old):
        new.scale[...] = jnp.asarray(old.weight.detach().numpy())
        new.bias[...] = jnp.asarray(old.bias.detach().numpy())

    model.embed.embedding[...] = jnp.asarray(module.embed_tokens.weight.detach().numpy())
    for new, old in zip(model.blocks, module.layers):
        r = old.retention
        dense(new.mix.qkvg, r.q_proj, r.k_proj, r.v_proj, r.g_proj)
        dense(new.mix.out, r.out_proj)
        dense(new.up, old.fc1)
        dense(new.down, old.fc2)
        norm(new.norm1, old.retention_layer_norm)
        norm(new.norm2, old.final_layer_norm)
    norm(model.norm, module.layer_norm)
    dense(model.head, module.output_projection)
    return model


MISTAKES = [
    {
        "name": "the heads' decay exponents start at 3 instead of 2",
        "side": "jax",
        "old": "gamma = 1.0 - 2.0 ** (-2.0 - np.arange(HEADS))",
        "new": "gamma = 1.0 - 2.0 ** (-3.0 - np.arange(HEADS))",
        "line": 124,
    },
    {
        "name": "keys are not rotated",
        "side": "jax",
        "old": "ki = rotary(ki, i) / np.sqrt(KEY)",
        "new": "ki = ki / np.sqrt(KEY)",
        "line": 129,
    },
    {
        "name": "the rotation's second halves have the wrong sign (the pairs are swapped, not turned)",
        "side": "torch",
        "old": "return torch.stack((-x2, x1), dim=-1).flatten(-2)",
        "new": "return torch.stack((x2, x1), dim=-1).flatten(-2)",
        "line": 22,
    },
    {
        "name": "the heads are normed together, over the whole width, instead of each by itself",
        "side": "torch",
        "old": "out = self.group_norm(out.transpose(1, 2)).reshape(b, n, DIM)",
        "new": "out = nn.functional.layer_norm(out.transpose(1, 2).reshape(b, n, DIM), (DIM,), eps=1e-4)",
        "line": 60,
    },
    {
        "name": "the gate is a sigmoid instead of swish",
        "side": "torch",
        "old": "nn.functional.silu(self.g_proj(x))",
        "new": "torch.sigmoid(self.g_proj(x))",
        "line": 61,
    },
]
