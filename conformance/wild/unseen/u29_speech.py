"""Speech to text in the manner of Whisper: log-mel scaling, two convolutions, sinusoids, cross attention, tied logits. The port is NNX."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = True

MELS, FRAMES, WIDTH, HEADS, LAYERS = 5, 14, 16, 2, 2
VOCAB, CONTEXT, TOKENS = 11, 9, 7
DECADES = 2.5


def inputs():
    rng = np.random.default_rng(201)
    mel = (10.0 ** rng.uniform(-3.0, 1.0, size=(2, MELS, FRAMES))).astype("float32")
    return {"mel": mel, "tokens": rng.integers(0, VOCAB, size=(2, TOKENS))}


def sinusoids(length, channels, dtype, max_timescale=10000):
    log_timescale_increment = math.log(max_timescale) / (channels // 2 - 1)
    inv_timescales = torch.exp(-log_timescale_increment * torch.arange(channels // 2, dtype=dtype))
    scaled_time = torch.arange(length, dtype=dtype)[:, None] * inv_timescales[None, :]
    return torch.cat([torch.sin(scaled_time), torch.cos(scaled_time)], dim=1)


class MultiHeadAttention(nn.Module):
    def __init__(self, n_state, n_head):
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_state, n_state)
        self.key = nn.Linear(n_state, n_state, bias=False)
        self.value = nn.Linear(n_state, n_state)
        self.out = nn.Linear(n_state, n_state)

    def forward(self, x, xa=None, mask=None):
        source = x if xa is None else xa
        q, k, v = self.query(x), self.key(source), self.value(source)
        scale = (q.shape[-1] // self.n_head) ** -0.25
        q = q.view(*q.shape[:2], self.n_head, -1).permute(0, 2, 1, 3) * scale
        k = k.view(*k.shape[:2], self.n_head, -1).permute(0, 2, 3, 1) * scale
        v = v.view(*v.shape[:2], self.n_head, -1).permute(0, 2, 1, 3)
        qk = q @ k
        if mask is not None:
            qk = qk + mask
        return self.out((F.softmax(qk, dim=-1) @ v).permute(0, 2, 1, 3).flatten(start_dim=2))


class ResidualAttentionBlock(nn.Module):
    def __init__(self, n_state, n_head, cross_attention=False):
        super().__init__()
        self.attn = MultiHeadAttention(n_state, n_head)
        self.attn_ln = nn.LayerNorm(n_state)
        self.cross_attn = MultiHeadAttention(n_state, n_head) if cross_attention else None
        self.cross_attn_ln = nn.LayerNorm(n_state) if cross_attention else None
        self.mlp = nn.Sequential(nn.Linear(n_state, n_state * 2), nn.GELU(), nn.Linear(n_state * 2, n_state))
        self.mlp_ln = nn.LayerNorm(n_state)

    def forward(self, x, xa=None, mask=None):
        x = x + self.attn(self.attn_ln(x), mask=mask)
        if self.cross_attn is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), xa)
        return x + self.mlp(self.mlp_ln(x))


class Whisper(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, kernel_size=3, stride=2, padding=1)
        self.encoder = nn.ModuleList([ResidualAttentionBlock(WIDTH, HEADS) for _ in range(LAYERS)])
        self.ln_post = nn.LayerNorm(WIDTH)
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.5)
        self.decoder = nn.ModuleList([ResidualAttentionBlock(WIDTH, HEADS, True) for _ in range(LAYERS)])
        self.ln = nn.LayerNorm(WIDTH)

    def forward(self, mel, tokens):
        log_spec = torch.clamp(mel, min=1e-10).log10()
        log_spec = torch.maximum(log_spec, log_spec.amax(dim=(1, 2), keepdim=True) - DECADES)
        x = F.gelu(self.conv1((log_spec + 4.0) / 4.0))
        x = F.gelu(self.conv2(x)).permute(0, 2, 1)
        x = x + sinusoids(x.shape[1], WIDTH, x.dtype)
        for block in self.encoder:
            x = block(x)
        audio = self.ln_post(x)
        length = tokens.shape[-1]
        y = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf")).triu_(diagonal=1)
        for block in self.decoder:
            y = block(y, audio, mask)
        return audio, self.ln(y) @ self.token_embedding.weight.T


def torch_side():
    torch.manual_seed(201)
    net = Whisper()
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.3)
        elif p.ndim == 1:
            nn.init.normal_(p, mean=1.0, std=0.2)
        elif p.ndim == 2:
            nn.init.normal_(p, std=0.35)
    return net


def linear(inside, outside, rngs):
    return nnx.Linear(inside, outside, rngs=rngs)


def norm(rngs):
    return nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)


def mix(queries, keys, values, visible=None):
    q, k, v = (a.reshape(*a.shape[:2], HEADS, WIDTH // HEADS) for a in (queries, keys, values))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(WIDTH // HEADS)
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v).reshape(queries.shape)


class Layer(nnx.Module):
    def __init__(self, rngs, listens):
        self.listens = listens
        self.norm_self, self.qkv, self.merge = norm(rngs), linear(WIDTH, 3 * WIDTH, rngs), linear(WIDTH, WIDTH, rngs)
        if listens:
            self.norm_audio, self.ask = norm(rngs), linear(WIDTH, WIDTH, rngs)
            self.audio_kv, self.merge_audio = linear(WIDTH, 2 * WIDTH, rngs), linear(WIDTH, WIDTH, rngs)
        self.norm_wide, self.wide, self.narrow = norm(rngs), linear(WIDTH, 2 * WIDTH, rngs), linear(2 * WIDTH, WIDTH, rngs)

    def __call__(self, x, audio=None, visible=None):
        q, k, v = jnp.split(self.qkv(self.norm_self(x)), 3, axis=-1)
        x = x + self.merge(mix(q, k, v, visible))
        if self.listens:
            k, v = jnp.split(self.audio_kv(audio), 2, axis=-1)
            x = x + self.merge_audio(mix(self.ask(self.norm_audio(x)), k, v))
        return x + self.narrow(jax.nn.gelu(self.wide(self.norm_wide(x)), approximate=False))


class Transcriber(nnx.Module):
    def __init__(self, rngs):
        self.smooth = nnx.Conv(MELS, WIDTH, 3, padding=((1, 1),), rngs=rngs)
        self.halve = nnx.Conv(WIDTH, WIDTH, 3, strides=2, padding=[(1, 1)], rngs=rngs)
        self.hearing = nnx.List([Layer(rngs, False) for _ in range(LAYERS)])
        self.heard = norm(rngs)
        self.words = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.places = nnx.Param(jnp.zeros((CONTEXT, WIDTH)))
        self.writing = nnx.List([Layer(rngs, True) for _ in range(LAYERS)])
        self.written = norm(rngs)

    def __call__(self, mel, tokens):
        level = jnp.log10(jnp.maximum(mel, 1e-10))
        level = jnp.maximum(level, jnp.max(level, axis=(1, 2), keepdims=True) - DECADES)
        x = jax.nn.gelu(self.smooth(jnp.swapaxes(level, 1, 2) / 4 + 1), approximate=False)
        x = jax.nn.gelu(self.halve(x), approximate=False)
        half = WIDTH // 2
        angle = np.outer(np.arange(x.shape[1]), 10000.0 ** (-np.arange(half) / (half - 1)))
        x = x + np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
        for layer in self.hearing:
            x = layer(x)
        audio = self.heard(x)
        place = jnp.arange(tokens.shape[1])
        y = self.words(tokens) + self.places[...][place]
        for layer in self.writing:
            y = layer(y, audio, place[:, None] >= place[None, :])
        return audio, jnp.einsum("btw,vw->btv", self.written(y), self.words.embedding[...])


def jax_side():
    source = {k: v.numpy() for k, v in torch_side().state_dict().items()}
    model = Transcriber(nnx.Rngs(0))

    def put(layer, *keys):
        layer.kernel.set_value(jnp.asarray(np.concatenate([source[k + ".weight"] for k in keys]).T))
        none = np.zeros(WIDTH, "float32")  # Whisper's keys have no bias
        layer.bias.set_value(jnp.asarray(np.concatenate([source.get(k + ".bias", none) for k in keys])))

    def put_norm(layer, key):
        layer.scale.set_value(jnp.asarray(source[key + ".weight"]))
        layer.bias.set_value(jnp.asarray(source[key + ".bias"]))

    put(model.smooth, "conv1")
    put(model.halve, "conv2")
    for layers, stack in ((model.hearing, "encoder"), (model.writing, "decoder")):
        for i, layer in enumerate(layers):
            at = f"{stack}.{i}."
            put(layer.qkv, at + "attn.query", at + "attn.key", at + "attn.value")
            put(layer.merge, at + "attn.out")
            put(layer.wide, at + "mlp.0")
            put(layer.narrow, at + "mlp.2")
            put_norm(layer.norm_self, at + "attn_ln")
            put_norm(layer.norm_wide, at + "mlp_ln")
            if layer.listens:
                put(layer.ask, at + "cross_attn.query")
                put(layer.audio_kv, at + "cross_attn.key", at + "cross_attn.value")
                put(layer.merge_audio, at + "cross_attn.out")
                put_norm(layer.norm_audio, at + "cross_attn_ln")
    put_norm(model.heard, "ln_post")
    put_norm(model.written, "ln")
    model.words.embedding.set_value(jnp.asarray(source["token_embedding.weight"]))
    model.places.set_value(jnp.asarray(source["positional_embedding"]))
    return model


MISTAKES = [
    {
        "name": "the strided convolution is padded as SAME, which is on the right only, instead of by one on either side",
        "side": "jax",
        "old": "strides=2, padding=[(1, 1)], rngs=rngs)",
        "new": 'strides=2, padding="SAME", rngs=rngs)',
        "line": 151,
    },
    {
        "name": "the sinusoids' wave lengths are spaced over half the channels instead of over half the channels less one",
        "side": "torch",
        "old": "math.log(max_timescale) / (channels // 2 - 1)",
        "new": "math.log(max_timescale) / (channels // 2)",
        "line": 27,
    },
    {
        "name": "the decoder listens to the encoder's output before its last norm",
        "side": "jax",
        "old": "y = layer(y, audio, place[:, None]",
        "new": "y = layer(y, x, place[:, None]",
        "line": 173,
    },
    {
        "name": "the causal mask is off by one: a token sees the next one",
        "side": "torch",
        "old": "triu_(diagonal=1)",
        "new": "triu_(diagonal=2)",
        "line": 95,
    },
    {
        "name": "the spectrum's logarithm is natural instead of decimal",
        "side": "jax",
        "old": "level = jnp.log10(jnp.maximum(mel, 1e-10))",
        "new": "level = jnp.log(jnp.maximum(mel, 1e-10))",
        "line": 160,
    },
]
