"""CLIP's text tower: causal transformer, quick GELU, the end token's state projected and compared with image features. Port: NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

VOCAB, CONTEXT, WIDTH, HEADS, EMBED = 40, 10, 16, 2, 12


def inputs():
    rng = np.random.default_rng(5)
    tokens = rng.integers(1, VOCAB - 1, size=(3, CONTEXT))
    for row, end in enumerate((9, 6, 4)):
        tokens[row, end] = VOCAB - 1  # the end token has the highest id
        tokens[row, end + 1 :] = 0
    return {"text": tokens, "image_features": rng.normal(size=(3, EMBED)).astype("float32")}


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, d_model, n_head):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_head)
        self.ln_1 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(d_model, d_model * 4))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(d_model * 4, d_model))
        self.ln_2 = nn.LayerNorm(d_model)

    def forward(self, x, attn_mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class CLIPText(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_embedding = nn.Parameter(0.2 * torch.randn(CONTEXT, WIDTH))
        self.resblocks = nn.ModuleList([ResidualAttentionBlock(WIDTH, HEADS) for _ in range(layers)])
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(WIDTH**-0.5 * torch.randn(WIDTH, EMBED))
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def encode_text(self, text):
        x = self.token_embedding(text) + self.positional_embedding
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu_(1).to(x.dtype)
        x = x.permute(1, 0, 2)
        for block in self.resblocks:
            x = block(x, mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, text, image_features):
        text_features = self.encode_text(text)
        text_features = text_features / text_features.norm(dim=1, keepdim=True)
        image_features = image_features / image_features.norm(dim=1, keepdim=True)
        return self.logit_scale.exp() * image_features @ text_features.t()


def torch_side():
    torch.manual_seed(55)
    model = CLIPText()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                p.add_(0.25 * torch.randn_like(p))
    return model


class TextBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def attention(self, x):
        b, t, _ = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(b, t, 3, HEADS, WIDTH // HEADS), 2, 0)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(WIDTH // HEADS)
        allowed = jnp.tril(jnp.ones((t, t), dtype=bool))
        weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1)
        return self.out(jnp.einsum("bhts,bshd->bthd", weights, v).reshape(b, t, WIDTH))

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        h = self.up(self.norm2(x))
        h = h * jax.nn.sigmoid(1.702 * h)
        return x + self.down(h)


class TextTower(nnx.Module):
    def __init__(self, rngs, depth=2):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.pos = nnx.Param(jnp.zeros((CONTEXT, WIDTH)))
        self.blocks = nnx.List([TextBlock(rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.proj = nnx.Linear(WIDTH, EMBED, use_bias=False, rngs=rngs)
        self.log_temperature = nnx.Param(jnp.zeros(()))

    def __call__(self, text, image_features):
        x = self.embed(text) + self.pos[...]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        end = jnp.argmax(text, axis=-1)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        t = self.proj(pooled)
        t = t / jnp.linalg.norm(t, axis=-1, keepdims=True)
        i = image_features / jnp.linalg.norm(image_features, axis=-1, keepdims=True)
        return jnp.exp(self.log_temperature[...]) * i @ t.T


def jax_side():
    source = torch_side()
    tower = TextTower(nnx.Rngs(0))

    def put(param, tensor):
        param[...] = jnp.asarray(tensor.detach().numpy())

    def put_linear(layer, weight, bias):
        put(layer.kernel, weight.t())
        put(layer.bias, bias)

    def put_norm(layer, norm):
        put(layer.scale, norm.weight)
        put(layer.bias, norm.bias)

    put(tower.embed.embedding, source.token_embedding.weight)
    put(tower.pos, source.positional_embedding)
    put(tower.proj.kernel, source.text_projection)
    put(tower.log_temperature, source.logit_scale)
    put_norm(tower.norm, source.ln_final)
    for ours, theirs in zip(tower.blocks, source.resblocks):
        put_norm(ours.norm1, theirs.ln_1)
        put_norm(ours.norm2, theirs.ln_2)
        put_linear(ours.qkv, theirs.attn.in_proj_weight, theirs.attn.in_proj_bias)
        put_linear(ours.out, theirs.attn.out_proj.weight, theirs.attn.out_proj.bias)
        put_linear(ours.up, theirs.mlp.c_fc.weight, theirs.mlp.c_fc.bias)
        put_linear(ours.down, theirs.mlp.c_proj.weight, theirs.mlp.c_proj.bias)
    return tower


MISTAKES = [
    {
        "name": "ordinary GELU instead of quick GELU",
        "side": "jax",
        "old": "h = h * jax.nn.sigmoid(1.702 * h)",
        "new": "h = jax.nn.gelu(h, approximate=False)",
        "line": 102,
    },
    {
        "name": "the last position is pooled instead of the end token's",
        "side": "jax",
        "old": "end = jnp.argmax(text, axis=-1)",
        "new": "end = jnp.full(text.shape[:1], text.shape[1] - 1)",
        "line": 120,
    },
    {
        "name": "the logit scale is not exponentiated",
        "side": "torch",
        "old": "self.logit_scale.exp() * image_features",
        "new": "self.logit_scale * image_features",
        "line": 69,
    },
    {
        "name": "the causal mask hides the diagonal's successor one step too late",
        "side": "jax",
        "old": "jnp.tril(jnp.ones((t, t), dtype=bool))",
        "new": "jnp.tril(jnp.ones((t, t), dtype=bool), k=1)",
        "line": 95,
    },
    {
        "name": "image features are normalised over the batch",
        "side": "jax",
        "old": "jnp.linalg.norm(image_features, axis=-1, keepdims=True)",
        "new": "jnp.linalg.norm(image_features, axis=0, keepdims=True)",
        "line": 124,
    },
]
