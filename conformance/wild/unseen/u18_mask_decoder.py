"""A SAM-like decoder: point prompts by Fourier features, a two-way transformer, masks by hypernetworks. The port is NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

LOADED = True

C, HEADS, GRID, PATCH, DEPTH, MASKS, POINTS = 8, 2, 4, 4, 2, 3, 3
IMAGE = GRID * PATCH


def inputs():
    rng = np.random.default_rng(118)
    points = rng.uniform(0, IMAGE - 1, size=(2, POINTS, 2)).astype("float32")
    labels = np.array([[1, 0, -1], [1, 1, 0]])
    return {"image": rng.normal(size=(2, C, GRID, GRID)).astype("float32"), "points": points, "labels": labels}


class PromptEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("gaussian_matrix", torch.randn(2, C // 2))
        self.point_embeddings = nn.Embedding(3, C)  # background, foreground, not a point

    def pe(self, coords):
        """Coordinates in [0, 1] to features."""
        coords = 2 * coords - 1
        coords = 2 * np.pi * coords @ self.gaussian_matrix
        return torch.cat([torch.sin(coords), torch.cos(coords)], dim=-1)

    def dense_pe(self):
        grid = torch.ones((GRID, GRID), dtype=self.gaussian_matrix.dtype)
        y_embed = (grid.cumsum(dim=0) - 0.5) / GRID
        x_embed = (grid.cumsum(dim=1) - 0.5) / GRID
        return self.pe(torch.stack([x_embed, y_embed], dim=-1))

    def forward(self, points, labels):
        points = points + 0.5
        embedding = self.pe(points / IMAGE)
        embedding = embedding.masked_fill((labels == -1).unsqueeze(-1), 0.0)
        return embedding + self.point_embeddings(labels % 3)


class Attention(nn.Module):
    def __init__(self, downsample=1):
        super().__init__()
        self.internal = C // downsample
        self.q_proj = nn.Linear(C, self.internal)
        self.k_proj = nn.Linear(C, self.internal)
        self.v_proj = nn.Linear(C, self.internal)
        self.out_proj = nn.Linear(self.internal, C)

    def forward(self, q, k, v):
        def heads(x):
            return x.reshape(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)

        q, k, v = heads(self.q_proj(q)), heads(self.k_proj(k)), heads(self.v_proj(v))
        attn = torch.softmax(q @ k.transpose(2, 3) / (self.internal // HEADS) ** 0.5, dim=-1)
        return self.out_proj((attn @ v).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()
        self.cross_attn_token_to_image = Attention(2)
        self.cross_attn_image_to_token = Attention(2)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.ReLU(), nn.Linear(2 * C, C))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(C) for _ in range(4))

    def forward(self, queries, keys, query_pe, key_pe):
        q = queries + query_pe
        queries = self.norm1(queries + self.self_attn(q, q, queries))
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries))
        return queries, keys


class MaskDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.prompt = PromptEncoder()
        self.iou_token = nn.Embedding(1, C)
        self.mask_tokens = nn.Embedding(MASKS, C)
        self.layers = nn.ModuleList(TwoWayBlock() for _ in range(DEPTH))
        self.up = nn.ConvTranspose2d(C, C // 2, 2, stride=2)
        self.up_norm = nn.LayerNorm(C // 2, eps=1e-6)
        self.hyper = nn.ModuleList(nn.Linear(C, C // 2) for _ in range(MASKS))
        self.iou_head = nn.Linear(C, MASKS)

    def forward(self, image, points, labels):
        b = image.shape[0]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(b, -1, -1)
        tokens = torch.cat([output_tokens, self.prompt(points, labels)], dim=1)
        keys, key_pe = image.flatten(2).transpose(1, 2), self.prompt.dense_pe().flatten(0, 1)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        up = self.up(keys.transpose(1, 2).reshape(b, C, GRID, GRID)).flatten(2)
        up = nn.functional.gelu(self.up_norm(up.transpose(1, 2)))
        hyper = torch.stack([mlp(queries[:, 1 + i]) for i, mlp in enumerate(self.hyper)], dim=1)
        masks = (hyper @ up.transpose(1, 2)).view(b, MASKS, 2 * GRID, 2 * GRID)
        return masks, self.iou_head(queries[:, 0])


def torch_side():
    torch.manual_seed(118)
    net = MaskDecoder()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(torch.randn_like(p) * 0.4 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return net.eval()


class Attend(nnx.Module):
    def __init__(self, width, rngs):
        shape = (HEADS, width // HEADS)
        self.q, self.k, self.v = (nnx.LinearGeneral(C, shape, rngs=rngs) for _ in range(3))
        self.out = nnx.LinearGeneral(shape, C, axis=(-2, -1), rngs=rngs)

    def __call__(self, q, k, v):
        q, k, v = self.q(q), self.k(k), self.v(v)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k))
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, v))


class TwoWay(nnx.Module):
    def __init__(self, rngs):
        self.within = Attend(C, rngs)
        self.to_image = Attend(C // 2, rngs)
        self.to_tokens = Attend(C // 2, rngs)
        self.wide = nnx.Linear(C, 2 * C, rngs=rngs)
        self.narrow = nnx.Linear(2 * C, C, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(C, epsilon=1e-5, rngs=rngs) for _ in range(4)])

    def __call__(self, x, places, x_pe, places_pe):
        x = self.norms[0](x + self.within(x + x_pe, x + x_pe, x))
        x = self.norms[1](x + self.to_image(x + x_pe, places + places_pe, places))
        x = self.norms[2](x + self.narrow(nnx.relu(self.wide(x))))
        return x, self.norms[3](places + self.to_tokens(places + places_pe, x + x_pe, x))


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.frequencies = nnx.Variable(jax.random.normal(rngs.params(), (2, C // 2)))
        self.tokens = nnx.Param(jnp.zeros((1 + MASKS, C)))
        self.kinds = nnx.Param(jnp.zeros((3, C)))  # background, foreground, padding
        self.blocks = nnx.List([TwoWay(rngs) for _ in range(DEPTH)])
        self.up = nnx.ConvTranspose(C, C // 2, (2, 2), strides=(2, 2), transpose_kernel=True, rngs=rngs)
        self.up_norm = nnx.LayerNorm(C // 2, epsilon=1e-6, rngs=rngs)
        self.hyper = nnx.Dict(w=nnx.Param(jnp.zeros((MASKS, C, C // 2))), b=nnx.Param(jnp.zeros((MASKS, C // 2))))
        self.iou = nnx.Linear(C, MASKS, rngs=rngs)

    def fourier(self, xy):
        angles = 2.0 * jnp.pi * ((2.0 * xy - 1.0) @ self.frequencies[...])
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def prompts(self, points, labels):
        positions = self.fourier((points + 0.5) / IMAGE)
        return jnp.where(labels[..., None] < 0, 0.0, positions) + self.kinds[...][labels]  # -1 takes the last row

    def __call__(self, image, points, labels):
        b = image.shape[0]
        start = jnp.broadcast_to(self.tokens[...], (b, 1 + MASKS, C))
        pe = jnp.concatenate([start, self.prompts(points, labels)], axis=1)
        centres = (jnp.arange(GRID, dtype=image.dtype) + 0.5) / GRID
        grid = self.fourier(jnp.stack(jnp.meshgrid(centres, centres), axis=-1)).reshape(-1, C)
        x, places = pe, jnp.moveaxis(image, 1, -1).reshape(b, -1, C)
        for block in self.blocks:
            x, places = block(x, places, pe, grid)
        fine = nnx.gelu(self.up_norm(self.up(places.reshape(b, GRID, GRID, C))), approximate=False)
        weights = jnp.einsum("bmc,mcd->bmd", x[:, 1 : 1 + MASKS], self.hyper["w"][...]) + self.hyper["b"][...]
        return jnp.einsum("bmd,bhwd->bmhw", weights, fine), self.iou(x[:, 0])


def jax_side():
    sd = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}
    out = Decoder(nnx.Rngs(0))

    def linear(to, key):
        to.kernel.set_value(sd[key + ".weight"].T.reshape(to.kernel.shape))
        to.bias.set_value(sd[key + ".bias"].reshape(to.bias.shape))

    def norm(to, key):
        to.scale.set_value(sd[key + ".weight"])
        to.bias.set_value(sd[key + ".bias"])

    def attend(to, key):
        for part, name in ((to.q, "q_proj"), (to.k, "k_proj"), (to.v, "v_proj"), (to.out, "out_proj")):
            linear(part, f"{key}.{name}")

    out.frequencies.set_value(sd["prompt.gaussian_matrix"])
    out.tokens.set_value(jnp.concatenate([sd["iou_token.weight"], sd["mask_tokens.weight"]]))
    out.kinds.set_value(sd["prompt.point_embeddings.weight"])
    for i, block in enumerate(out.blocks):
        attend(block.within, f"layers.{i}.self_attn")
        attend(block.to_image, f"layers.{i}.cross_attn_token_to_image")
        attend(block.to_tokens, f"layers.{i}.cross_attn_image_to_token")
        linear(block.wide, f"layers.{i}.mlp.0")
        linear(block.narrow, f"layers.{i}.mlp.2")
        for j, layer_norm in enumerate(block.norms):
            norm(layer_norm, f"layers.{i}.norm{j + 1}")
    norm(out.up_norm, "up_norm")
    linear(out.iou, "iou_head")
    out.up.kernel.set_value(sd["up.weight"].transpose(2, 3, 1, 0))
    out.up.bias.set_value(sd["up.bias"])

    out.hyper["w"].set_value(jnp.stack([sd[f"hyper.{i}.weight"].T for i in range(MASKS)]))
    out.hyper["b"].set_value(jnp.stack([sd[f"hyper.{i}.bias"] for i in range(MASKS)]))
    return out


MISTAKES = [
    {
        "name": "the points are not moved to the pixels' centres",
        "side": "torch",
        "old": "points = points + 0.5",
        "new": "points = points + 0.0",
        "line": 42,
    },
    {
        "name": "the image attends to the tokens without their position encoding",
        "side": "torch",
        "old": "self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)",
        "new": "self.cross_attn_image_to_token(keys + key_pe, queries, queries)",
        "line": 80,
    },
    {
        "name": "the grid of image positions has rows and columns exchanged",
        "side": "jax",
        "old": "jnp.stack(jnp.meshgrid(centres, centres), axis=-1)",
        "new": 'jnp.stack(jnp.meshgrid(centres, centres, indexing="ij"), axis=-1)',
        "line": 172,
    },
    {
        "name": "padding points keep their position features",
        "side": "torch",
        "old": """        embedding = embedding.masked_fill((labels == -1).unsqueeze(-1), 0.0)
        return embedding + self""",
        "new": """        return embedding + self""",
        "line": 44,
    },
    {
        "name": "the masks' weights come from the tokens one too early, the first from the IoU token",
        "side": "jax",
        "old": "x[:, 1 : 1 + MASKS], self.hyper",
        "new": "x[:, :MASKS], self.hyper",
        "line": 177,
    },
]
