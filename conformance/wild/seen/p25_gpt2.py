"""GPT-2: fused Conv1D projections, pre-norm blocks, tanh GELU, the head tied to the token embedding. Port: stacked layers and a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

N_EMBD, N_HEAD, N_LAYER, N_CTX, VOCAB = 16, 2, 3, 12, 24


def inputs():
    return {"tokens": np.random.default_rng(25).integers(0, VOCAB, size=(2, 10))}


class Conv1D(nn.Module):
    """A linear layer that keeps its weight as (in, out), as GPT-2's checkpoints do."""

    def __init__(self, nf, nx):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.3)
        self.bias = nn.Parameter(torch.randn(nf) * 0.1)

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class GPT2Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = Conv1D(3 * N_EMBD, N_EMBD)
        self.c_proj = Conv1D(N_EMBD, N_EMBD)
        self.register_buffer("bias", torch.tril(torch.ones(N_CTX, N_CTX, dtype=torch.bool)).view(1, 1, N_CTX, N_CTX))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        q, k, v = (t.view(B, T, N_HEAD, C // N_HEAD).transpose(1, 2) for t in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / (k.size(-1) ** 0.5))
        att = att.masked_fill(~self.bias[:, :, :T, :T], torch.finfo(att.dtype).min)
        y = torch.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class GPT2MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc = Conv1D(4 * N_EMBD, N_EMBD)
        self.c_proj = Conv1D(N_EMBD, 4 * N_EMBD)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


class GPT2Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(N_EMBD)
        self.attn = GPT2Attention()
        self.ln_2 = nn.LayerNorm(N_EMBD)
        self.mlp = GPT2MLP()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2LMHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(VOCAB, N_EMBD)
        self.wpe = nn.Embedding(N_CTX, N_EMBD)
        self.h = nn.ModuleList([GPT2Block() for _ in range(N_LAYER)])
        self.ln_f = nn.LayerNorm(N_EMBD)
        self.lm_head = nn.Linear(N_EMBD, VOCAB, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.size(1)))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def torch_side():
    torch.manual_seed(2525)
    model = GPT2LMHead()
    for m in model.modules():
        if isinstance(m, nn.LayerNorm):
            nn.init.normal_(m.weight, 1.0, 0.25)
            nn.init.normal_(m.bias, 0.0, 0.25)
    return model.eval()


def normalise(x, scale, bias):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5) * scale + bias


def layer(x, p):
    b, t, c = x.shape
    qkv = normalise(x, *p["norm_attention"]) @ p["qkv_w"] + p["qkv_b"]
    q, k, v = jnp.moveaxis(qkv.reshape(b, t, 3, N_HEAD, c // N_HEAD), 2, 0)
    logits = jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(c // N_HEAD)
    causal = jnp.arange(t)[:, None] >= jnp.arange(t)[None, :]
    probs = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf), axis=-1)
    context = jnp.einsum("bhij,bjhd->bihd", probs, v).reshape(b, t, c)
    x = x + context @ p["out_w"] + p["out_b"]
    hidden = jax.nn.gelu(normalise(x, *p["norm_mlp"]) @ p["fc_w"] + p["fc_b"], approximate=True)
    return x + hidden @ p["proj_w"] + p["proj_b"], None


def gpt2(params, tokens):
    x = params["embedding"][tokens] + params["positions"][: tokens.shape[1]]
    x, _ = jax.lax.scan(layer, x, params["layers"])
    x = normalise(x, *params["norm_final"])
    return x @ params["embedding"].T


def jax_side():
    sd = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def stack(name):
        return jnp.stack([sd[f"h.{i}.{name}"] for i in range(N_LAYER)])

    layers = {
        "norm_attention": (stack("ln_1.weight"), stack("ln_1.bias")),
        "qkv_w": stack("attn.c_attn.weight"),
        "qkv_b": stack("attn.c_attn.bias"),
        "out_w": stack("attn.c_proj.weight"),
        "out_b": stack("attn.c_proj.bias"),
        "norm_mlp": (stack("ln_2.weight"), stack("ln_2.bias")),
        "fc_w": stack("mlp.c_fc.weight"),
        "fc_b": stack("mlp.c_fc.bias"),
        "proj_w": stack("mlp.c_proj.weight"),
        "proj_b": stack("mlp.c_proj.bias"),
    }
    return gpt2, {
        "embedding": sd["wte.weight"],
        "positions": sd["wpe.weight"],
        "layers": layers,
        "norm_final": (sd["ln_f.weight"], sd["ln_f.bias"]),
    }


MISTAKES = [
    {
        "name": "GELU by erf instead of by tanh",
        "side": "jax",
        "old": 'p["fc_w"] + p["fc_b"], approximate=True)',
        "new": 'p["fc_w"] + p["fc_b"], approximate=False)',
        "line": 112,
    },
    {
        "name": "a query does not see its own position",
        "side": "jax",
        "old": "jnp.arange(t)[:, None] >= jnp.arange(t)[None, :]",
        "new": "(jnp.arange(t)[:, None] > jnp.arange(t)[None, :]) | (jnp.arange(t) == 0)",
        "line": 108,
    },
    {
        "name": "the fused projection is split by heads first, then into query, key and value",
        "side": "jax",
        "old": "jnp.moveaxis(qkv.reshape(b, t, 3, N_HEAD, c // N_HEAD), 2, 0)",
        "new": "jnp.moveaxis(qkv.reshape(b, t, N_HEAD, 3, c // N_HEAD), 3, 0)",
        "line": 106,
    },
    {
        "name": "the final norm is skipped before the tied head",
        "side": "torch",
        "old": "return self.lm_head(self.ln_f(x))",
        "new": "return self.lm_head(x)",
        "line": 85,
    },
    {
        "name": "the position embedding is multiplied by the square root of the width",
        "side": "jax",
        "old": 'params["embedding"][tokens] + params["positions"][: tokens.shape[1]]',
        "new": 'params["embedding"][tokens] + N_EMBD**0.5 * params["positions"][: tokens.shape[1]]',
        "line": 117,
    },
]
