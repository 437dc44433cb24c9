"""A feature-tokenizer transformer for tables: numbers and categories as tokens, ReGLU, a class token. The port is a tree of dataclasses, vmapped over rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = False

NUMBERS, CARDINALITIES, WIDTH, HEADS, HIDDEN, LAYERS, CLASSES = 4, (5, 7, 3), 12, 3, 10, 2, 6


def inputs():
    rng = np.random.default_rng(206)
    codes = np.stack([rng.integers(0, c, size=8) for c in CARDINALITIES], axis=1)
    return {"numbers": rng.normal(size=(8, NUMBERS)).astype("float32"), "codes": codes}


class FeatureTokenizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(NUMBERS, WIDTH))
        self.bias = nn.Parameter(torch.empty(NUMBERS + len(CARDINALITIES), WIDTH))
        self.category_embeddings = nn.Embedding(sum(CARDINALITIES), WIDTH)
        offsets = torch.tensor([0, *CARDINALITIES[:-1]]).cumsum(0)
        self.register_buffer("category_offsets", offsets, persistent=False)

    def forward(self, x_num, x_cat):
        tokens = self.weight[None] * x_num[:, :, None]
        categories = self.category_embeddings(x_cat + self.category_offsets[None])
        return torch.cat([tokens, categories], dim=1) + self.bias[None]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_q = nn.Linear(WIDTH, WIDTH)
        self.W_k = nn.Linear(WIDTH, WIDTH, bias=False)
        self.W_v = nn.Linear(WIDTH, WIDTH)
        self.W_out = nn.Linear(WIDTH, WIDTH)

    def _reshape(self, x):
        b, n, d = x.shape
        return x.reshape(b, n, HEADS, d // HEADS).transpose(1, 2).reshape(b * HEADS, n, d // HEADS)

    def forward(self, x):
        q, k, v = self.W_q(x), self.W_k(x), self.W_v(x)
        b, n, d = q.shape
        q, k, v = self._reshape(q), self._reshape(k), self._reshape(v)
        attention = F.softmax(torch.bmm(q, k.transpose(1, 2)) / (d // HEADS) ** 0.5, dim=-1)
        x = torch.bmm(attention, v).reshape(b, HEADS, n, d // HEADS).transpose(1, 2).reshape(b, n, d)
        return self.W_out(x), attention.reshape(b, HEADS, n, n)


class ReGLU(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, dim=-1)
        return a * F.relu(b)


class FTTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokenizer = FeatureTokenizer()
        self.cls = nn.Parameter(torch.empty(WIDTH))
        self.blocks = nn.ModuleList()
        for i in range(LAYERS):
            block = nn.ModuleDict({"attention": Attention(), "ffn_norm": nn.LayerNorm(WIDTH)})
            block["ffn"] = nn.Sequential(nn.Linear(WIDTH, 2 * HIDDEN), ReGLU(), nn.Linear(HIDDEN, WIDTH))
            if i:  # the first block's attention has no norm
                block["attention_norm"] = nn.LayerNorm(WIDTH)
            self.blocks.append(block)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, numbers, codes):
        x = self.tokenizer(numbers, codes)
        x = torch.cat([x, self.cls.expand(len(x), 1, -1)], dim=1)
        importance = []
        for block in self.blocks:
            x_residual = block["attention_norm"](x) if "attention_norm" in block else x
            x_residual, attention = block["attention"](x_residual)
            importance.append(attention[:, :, -1, :-1].mean(dim=1))
            x = x + x_residual
            x = x + block["ffn"](block["ffn_norm"](x))
        return self.head(x[:, -1]), torch.stack(importance).mean(dim=0)


def torch_side():
    torch.manual_seed(206)
    net = FTTransformer()
    for name, p in net.named_parameters():
        if name.endswith(("norm.weight", "head.0.weight")):
            nn.init.uniform_(p, 0.6, 1.4)
        else:
            nn.init.normal_(p, std=0.8 if "tokenizer" in name or name == "cls" else 0.35)
    return net


def tree(cls):
    """A frozen dataclass whose fields are all leaves or trees."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@tree
class Norm:
    gain: jax.Array
    shift: jax.Array

    def __call__(self, x):
        centred = x - x.mean()
        return centred / jnp.sqrt(jnp.var(x) + 1e-5) * self.gain + self.shift


@tree
class Dense:
    """One vector in, one out."""

    matrix: jax.Array
    offset: jax.Array

    def __call__(self, x):
        return self.matrix @ x + self.offset


@tree
class Mixer:
    """Self-attention of a set of tokens: the three projections are one array, (3, head, unit, width)."""

    project: jax.Array
    query_shift: jax.Array
    value_shift: jax.Array
    out: Dense

    def __call__(self, tokens):
        query, key, value = jnp.einsum("phuw,tw->phtu", self.project, tokens)
        query, value = query + self.query_shift[:, None], value + self.value_shift[:, None]
        logits = jax.vmap(lambda q, k: q @ k.T)(query, key)
        share = jax.nn.softmax(logits * query.shape[-1] ** -0.5, axis=-1)
        mixed = jnp.einsum("hts,hsu->thu", share, value)
        return jax.vmap(self.out)(mixed.reshape(len(tokens), -1)), share


@tree
class Block:
    pre: Norm | None
    mixer: Mixer
    middle: Norm
    up: Dense
    down: Dense

    def __call__(self, tokens):
        change, share = self.mixer(tokens if self.pre is None else jax.vmap(self.pre)(tokens))
        tokens = tokens + change

        def feed(token):
            linear, gate = jnp.split(self.up(self.middle(token)), 2)
            return token + self.down(linear * jax.nn.relu(gate))

        return jax.vmap(feed)(tokens), share


@tree
class Tabular:
    slopes: jax.Array
    base: jax.Array
    table: jax.Array
    label: jax.Array
    blocks: tuple[Block, ...]
    last: Norm
    head: Dense

    def row(self, numbers, codes):
        starts = np.cumsum(CARDINALITIES) - np.asarray(CARDINALITIES)
        features = jnp.concatenate([numbers[:, None] * self.slopes, self.table[codes + starts]])
        tokens = jnp.vstack([self.label, features + self.base])  # the class token comes first here
        seen = []
        for block in self.blocks:
            tokens, share = block(tokens)
            seen.append(share[:, 0, 1:])
        return self.head(jax.nn.relu(self.last(tokens[0]))), jnp.mean(jnp.stack(seen), axis=(0, 1))

    def __call__(self, numbers, codes):
        return jax.vmap(self.row)(numbers, codes)


def convert(net):
    state = {k: jnp.asarray(v.detach().numpy()) for k, v in net.state_dict().items()}

    def norm(key):
        return Norm(state[key + ".weight"], state[key + ".bias"])

    def dense(key):
        return Dense(state[key + ".weight"], state[key + ".bias"])

    def block(i):
        own = f"blocks.{i}.attention.W_"
        project = jnp.stack([state[own + n + ".weight"].reshape(HEADS, -1, WIDTH) for n in "qkv"])
        shifts = (state[own + n + ".bias"].reshape(HEADS, -1) for n in "qv")
        pre = norm(f"blocks.{i}.attention_norm") if i else None
        mixer = Mixer(project, *shifts, dense(own + "out"))
        return Block(pre, mixer, norm(f"blocks.{i}.ffn_norm"), dense(f"blocks.{i}.ffn.0"), dense(f"blocks.{i}.ffn.2"))

    return Tabular(
        slopes=state["tokenizer.weight"],
        base=state["tokenizer.bias"],
        table=state["tokenizer.category_embeddings.weight"],
        label=state["cls"],
        blocks=tuple(block(i) for i in range(LAYERS)),
        last=norm("head.0"),
        head=dense("head.2"),
    )


def jax_side():
    rng = np.random.default_rng(6)

    def draw(*shape, std=0.35, mean=0.0):
        return jnp.asarray(mean + std * rng.normal(size=shape), jnp.float32)

    def norm():
        return Norm(draw(WIDTH, mean=1.0, std=0.2), draw(WIDTH))

    def dense(n_in, n_out):
        return Dense(draw(n_out, n_in), draw(n_out))

    def block(i):
        unit = WIDTH // HEADS
        mixer = Mixer(draw(3, HEADS, unit, WIDTH), draw(HEADS, unit), draw(HEADS, unit), dense(WIDTH, WIDTH))
        return Block(norm() if i else None, mixer, norm(), dense(WIDTH, 2 * HIDDEN), dense(HIDDEN, WIDTH))

    return Tabular(
        slopes=draw(NUMBERS, WIDTH, std=0.8),
        base=draw(NUMBERS + len(CARDINALITIES), WIDTH, std=0.8),
        table=draw(sum(CARDINALITIES), WIDTH, std=0.8),
        label=draw(WIDTH, std=0.8),
        blocks=tuple(block(i) for i in range(LAYERS)),
        last=norm(),
        head=dense(WIDTH, CLASSES),
    )


MISTAKES = [
    {
        "name": "the categories' codes are not shifted to their own rows of the shared table",
        "side": "jax",
        "old": "self.table[codes + starts]",
        "new": "self.table[codes]",
        "line": 178,
    },
    {
        "name": "the layer norm divides by the unbiased standard deviation",
        "side": "jax",
        "old": "jnp.sqrt(jnp.var(x) + 1e-5)",
        "new": "jnp.sqrt(jnp.var(x, ddof=1) + 1e-5)",
        "line": 115,
    },
    {
        "name": "ReGLU's ReLU is on the first half instead of on the second",
        "side": "jax",
        "old": "self.down(linear * jax.nn.relu(gate))",
        "new": "self.down(jax.nn.relu(linear) * gate)",
        "line": 161,
    },
    {
        "name": "the head reads the first token, a number's, instead of the class token, which is the last",
        "side": "torch",
        "old": "return self.head(x[:, -1]),",
        "new": "return self.head(x[:, 0]),",
        "line": 89,
    },
    {
        "name": "the heads are merged without moving them behind the tokens",
        "side": "torch",
        "old": ".reshape(b, HEADS, n, d // HEADS).transpose(1, 2).reshape(b, n, d)",
        "new": ".reshape(b, n, d)",
        "line": 55,
    },
]
