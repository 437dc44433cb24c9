"""A vision transformer: patches by a strided convolution, class token, learned positions, pre-norm blocks. Port: Flax Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True

PATCH, DIM, DEPTH, HEADS = 4, 16, 2, 2


def inputs():
    return (np.random.default_rng(88).uniform(-1, 1, size=(2, 3, 12, 12)).astype("float32"),)


class Attention(torch.nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = torch.nn.Linear(dim, dim * 3)
        self.proj = torch.nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        x = attn.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Block(torch.nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = torch.nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = torch.nn.Linear(dim, 2 * dim)
        self.fc2 = torch.nn.Linear(2 * dim, dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(torch.nn.functional.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = torch.nn.Conv2d(3, DIM, kernel_size=PATCH, stride=PATCH)
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, DIM))
        self.pos_embed = torch.nn.Parameter(0.5 * torch.randn(1, 10, DIM))
        self.blocks = torch.nn.Sequential(*[Block(DIM, HEADS) for _ in range(DEPTH)])
        self.norm = torch.nn.LayerNorm(DIM, eps=1e-6)
        self.head = torch.nn.Linear(DIM, 5)

    def forward(self, img):
        x = self.patch_embed(img).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0])


def torch_side():
    torch.manual_seed(8)
    vit = VisionTransformer()
    for name, p in vit.named_parameters():
        if "norm" in name:
            p.data += 0.3 * torch.randn(p.shape)
        if name.endswith(("fc1.weight", "qkv.weight")):
            p.data *= 3
    return vit.eval()


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.hidden)(x)
        y = nn.gelu(y, approximate=False)
        return nn.Dense(x.shape[-1])(y)


class Encoder1DBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=1e-6)(x)
        y = nn.MultiHeadDotProductAttention(num_heads=HEADS, name="MultiHeadAttention")(y, y)
        x = x + y
        y = nn.LayerNorm(epsilon=1e-6)(x)
        return x + MlpBlock(2 * DIM)(y)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, img):
        x = jnp.transpose(img, (0, 2, 3, 1))
        x = nn.Conv(DIM, (PATCH, PATCH), strides=(PATCH, PATCH), padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, DIM)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, DIM))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, x.shape[1], DIM))
        for i in range(DEPTH):
            x = Encoder1DBlock(name=f"encoderblock_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="encoder_norm")(x)
        return nn.Dense(5, name="head")(x[:, 0])


def to_flax(sd):
    sd = {k: np.asarray(v) for k, v in sd.items()}

    def dense(k):
        return {"kernel": sd[k + ".weight"].T, "bias": sd[k + ".bias"]}

    def norm(k):
        return {"scale": sd[k + ".weight"], "bias": sd[k + ".bias"]}

    out = {
        "embedding": {"kernel": sd["patch_embed.weight"].transpose(2, 3, 1, 0), "bias": sd["patch_embed.bias"]},
        "cls": sd["cls_token"],
        "pos_embedding": sd["pos_embed"],
        "encoder_norm": norm("norm"),
        "head": dense("head"),
    }
    for i in range(DEPTH):
        b = f"blocks.{i}"
        w = sd[f"{b}.attn.qkv.weight"].reshape(3, HEADS, DIM // HEADS, DIM)
        c = sd[f"{b}.attn.qkv.bias"].reshape(3, HEADS, DIM // HEADS)
        attn = {n: {"kernel": w[j].transpose(2, 0, 1), "bias": c[j]} for j, n in enumerate(("query", "key", "value"))}
        proj = sd[f"{b}.attn.proj.weight"].reshape(DIM, HEADS, DIM // HEADS).transpose(1, 2, 0)
        attn["out"] = {"kernel": proj, "bias": sd[f"{b}.attn.proj.bias"]}
        out[f"encoderblock_{i}"] = {
            "LayerNorm_0": norm(f"{b}.norm1"),
            "MultiHeadAttention": attn,
            "LayerNorm_1": norm(f"{b}.norm2"),
            "MlpBlock_0": {"Dense_0": dense(f"{b}.fc1"), "Dense_1": dense(f"{b}.fc2")},
        }
    return out


def jax_side():
    return ViT(), {"params": jax.tree.map(jnp.asarray, to_flax(torch_side().state_dict()))}


MISTAKES = [
    {
        "name": "the patches are flattened column by column",
        "side": "jax",
        "old": "        x = x.reshape(x.shape[0], -1, DIM)",
        "new": "        x = x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1, DIM)",
        "line": 101,
    },
    {
        "name": "quick GELU instead of GELU",
        "side": "jax",
        "old": "nn.gelu(y, approximate=False)",
        "new": "y * nn.sigmoid(1.702 * y)",
        "line": 82,
    },
    {
        "name": "the head reads the mean of the tokens instead of the class token",
        "side": "jax",
        "old": 'name="head")(x[:, 0])',
        "new": 'name="head")(x.mean(axis=1))',
        "line": 108,
    },
    {
        "name": "the class token is put last while its position stays first",
        "side": "torch",
        "old": "torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)",
        "new": "torch.cat((x, self.cls_token.expand(x.shape[0], -1, -1)), dim=1)",
        "line": 60,
    },
    {
        "name": "the attention's residual adds the normed input",
        "side": "torch",
        "old": "        x = x + self.attn(self.norm1(x))",
        "new": "        x = self.norm1(x) + self.attn(self.norm1(x))",
        "line": 44,
    },
]
