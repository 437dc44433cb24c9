"""Correct pairs of many kinds: a torch module and the same function in JAX, under the names that their authors gave."""

# Modules and pytrees of tests, of types that strict mode cannot know.
# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - F in everybody's models
from torch import nn

Pair = tuple[nn.Module, Any, Any]
PAIRS: dict[str, Callable[[], Pair]] = {}


def pair(make: Callable[[], Pair]) -> Callable[[], Pair]:
    PAIRS[make.__name__] = make
    return make


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def ids(*shape: int, most: int = 11) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, shape)


def dense(p: Any, x: Any) -> Any:
    return x @ p["kernel"] + p["bias"] if "bias" in p else x @ p["kernel"]


def norm(p: Any, x: Any, eps: float = 1e-5) -> Any:
    y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)
    return y * p["scale"] + p["bias"]


def rms(scale: Any, x: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def attend(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
    """(B, T, H, D) each."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v)


def heads(x: Any, count: int = 2) -> Any:
    return x.reshape(*x.shape[:-1], count, -1)


def merged(x: Any) -> Any:
    return x.reshape(*x.shape[:-2], -1)


def attend_torch(q: Any, k: Any, v: Any, *, causal: bool = False, count: int = 2) -> Any:
    q, k, v = (x.unflatten(-1, (count, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(-2)


def kernel(*shape: int, seed: int = 0, bias: bool = True) -> dict[str, np.ndarray]:
    return {"kernel": 0.3 * draw(*shape, seed=seed), **({"bias": np.zeros(shape[-1], np.float32)} if bias else {})}


def scale(size: int) -> dict[str, np.ndarray]:
    return {"scale": np.ones(size, np.float32), "bias": np.zeros(size, np.float32)}


class Named(nn.Module):
    """A module of these parts, called by a function of it."""

    def __init__(self, run: Callable[..., Any], /, **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


M, FF = 8, 24


@pair
def bert_of_two_layers_and_two_token_types() -> Pair:
    def layer(s: Any, x: Any) -> Any:
        a = attend_torch(s.attention.self.query(x), s.attention.self.key(x), s.attention.self.value(x))
        x = s.attention.output.LayerNorm(x + s.attention.output.dense(a))
        return s.output.LayerNorm(x + s.output.dense(F.gelu(s.intermediate.dense(x))))

    def make() -> nn.Module:
        inner = nn.ModuleDict({n: nn.Linear(M, M) for n in ("query", "key", "value")})
        out = nn.ModuleDict({"dense": nn.Linear(M, M), "LayerNorm": nn.LayerNorm(M)})
        end = nn.ModuleDict({"dense": nn.Linear(FF, M), "LayerNorm": nn.LayerNorm(M)})
        named = {"self": Named(layer, **inner), "output": Named(layer, **out)}
        return Named(
            layer,
            attention=Named(layer, **named),
            intermediate=Named(layer, dense=nn.Linear(M, FF)),
            output=Named(layer, **end),
        )

    def run(s: Any, i: Any, t: Any) -> Any:
        e = s.embeddings
        x = e.word_embeddings(i) + e.position_embeddings(torch.arange(i.shape[1])) + e.token_type_embeddings(t)
        x = e.LayerNorm(x)
        for each in s.encoder.layer:
            x = each(x)
        return torch.tanh(s.pooler.dense(x[:, 0]))

    embeddings = Named(
        run,
        word_embeddings=nn.Embedding(11, M),
        position_embeddings=nn.Embedding(7, M),
        token_type_embeddings=nn.Embedding(2, M),
        LayerNorm=nn.LayerNorm(M),
    )
    encoder = Named(run, layer=nn.ModuleList([make(), make()]))
    module = Named(run, embeddings=embeddings, encoder=encoder, pooler=Named(run, dense=nn.Linear(M, M)))

    def block(p: Any, x: Any) -> Any:
        a = p["attn"]
        q, k, v = (heads(dense(a[n], x)) for n in ("q", "k", "v"))
        x = norm(p["ln1"], x + dense(a["o"], merged(attend(q, k, v))))
        return norm(p["ln2"], x + dense(p["mlp"]["fc2"], jax.nn.gelu(dense(p["mlp"]["fc1"], x), approximate=False)))

    def jrun(p: Any, i: Any, t: Any) -> Any:
        x = p["word"]["embedding"][i] + p["pos"]["embedding"][: i.shape[1]] + p["token_types"]["embedding"][t]
        x = norm(p["ln_embed"], x)
        for each in p["layers"]:
            x = block(each, x)
        return jnp.tanh(dense(p["pooler"], x[:, 0]))

    def layers(seed: int) -> Any:
        attn = {n: kernel(M, M, seed=seed + at) for at, n in enumerate("qkvo")}
        mlp = {"fc1": kernel(M, FF, seed=seed), "fc2": kernel(FF, M, seed=seed)}
        return {"attn": attn, "ln1": scale(M), "mlp": mlp, "ln2": scale(M)}

    params = {
        "word": {"embedding": draw(11, M)},
        "pos": {"embedding": draw(7, M)},
        "token_types": {"embedding": draw(2, M)},
        "ln_embed": scale(M),
        "layers": [layers(20), layers(30)],
        "pooler": kernel(M, M, seed=40),
    }
    return module, (jrun, params), (ids(2, 5), ids(2, 5, most=2))


@pair
def clip_text_tower() -> Pair:
    def block(s: Any, x: Any) -> Any:
        y = s.ln_1(x)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        x = x + s.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = s.mlp.c_fc(s.ln_2(x))
        return x + s.mlp.c_proj(y * torch.sigmoid(1.702 * y))

    def make() -> nn.Module:
        mlp = Named(block, c_fc=nn.Linear(M, FF), c_proj=nn.Linear(FF, M))
        return Named(
            block, attn=nn.MultiheadAttention(M, 2, batch_first=True), ln_1=nn.LayerNorm(M), mlp=mlp, ln_2=nn.LayerNorm(M)
        )

    def run(s: Any, i: Any) -> Any:
        x = s.token_embedding(i) + s.positional_embedding
        for each in s.transformer.resblocks:
            x = each(x)
        return s.ln_final(x)[:, -1] @ s.text_projection * s.logit_scale.exp()

    module = Named(
        run,
        token_embedding=nn.Embedding(11, M),
        positional_embedding=nn.Parameter(torch.randn(5, M)),
        transformer=Named(run, resblocks=nn.ModuleList([make(), make()])),
        ln_final=nn.LayerNorm(M),
        text_projection=nn.Parameter(torch.randn(M, M)),
        logit_scale=nn.Parameter(torch.tensor(0.7)),
    )

    def jblock(p: Any, x: Any) -> Any:
        y = norm(p["LayerNorm_0"], x)
        a = p["attn"]
        q, k, v = (jnp.einsum("btm,mhd->bthd", y, a[n]["kernel"]) + a[n]["bias"] for n in ("query", "key", "value"))
        x = x + jnp.einsum("bthd,hdm->btm", attend(q, k, v, causal=True), a["out"]["kernel"]) + a["out"]["bias"]
        y = dense(p["Dense_0"], norm(p["LayerNorm_1"], x))
        return x + dense(p["Dense_1"], y * jax.nn.sigmoid(1.702 * y))

    def layer(seed: int) -> Any:
        wide = {"kernel": 0.3 * draw(M, 2, 4, seed=seed), "bias": np.zeros((2, 4), np.float32)}
        attn = {
            **dict.fromkeys(("query", "key", "value"), wide),
            "out": {"kernel": draw(2, 4, M), "bias": np.zeros(M, np.float32)},
        }
        return {
            "attn": attn,
            "LayerNorm_0": scale(M),
            "LayerNorm_1": scale(M),
            "Dense_0": kernel(M, FF),
            "Dense_1": kernel(FF, M),
        }

    def jrun(p: Any, i: Any) -> Any:
        x = p["Embed_0"]["embedding"][i] + p["pos_embed"]
        for n in range(2):
            x = jblock(p[f"ResBlock_{n}"], x)
        return norm(p["final_norm"], x)[:, -1] @ p["projection"] * jnp.exp(p["logit_scale"])

    params = {
        "Embed_0": {"embedding": draw(11, M)},
        "pos_embed": draw(5, M),
        "ResBlock_0": layer(0),
        "ResBlock_1": layer(1),
        "final_norm": scale(M),
        "projection": draw(M, M),
        "logit_scale": np.asarray(0.1, np.float32),
    }
    return module, (jrun, params), (ids(2, 5),)


@pair
def conformer_block() -> Pair:  # noqa: C901 - two models in one place
    def ff(s: Any, x: Any) -> Any:
        return s.linear2(F.silu(s.linear1(s.norm(x))))

    def conv(s: Any, x: Any) -> Any:
        y = F.glu(s.pointwise_conv1(s.norm(x).transpose(1, 2)), 1)
        return s.pointwise_conv2(F.silu(s.depthwise_conv(y))).transpose(1, 2)

    def attn(s: Any, x: Any) -> Any:
        y = s.norm(x)
        return s.mha(y, y, y, need_weights=False)[0]

    def run(s: Any, x: Any) -> Any:
        x = x + 0.5 * s.ffn1(x)
        x = x + s.self_attn(x)
        x = x + s.conv(x)
        return s.final_norm(x + 0.5 * s.ffn2(x))

    def feed() -> nn.Module:
        return Named(ff, norm=nn.LayerNorm(M), linear1=nn.Linear(M, M), linear2=nn.Linear(M, M))

    module = Named(
        run,
        ffn1=feed(),
        self_attn=Named(attn, norm=nn.LayerNorm(M), mha=nn.MultiheadAttention(M, 2, batch_first=True)),
        conv=Named(
            conv,
            norm=nn.LayerNorm(M),
            pointwise_conv1=nn.Conv1d(M, 2 * M, 1),
            depthwise_conv=nn.Conv1d(M, M, 3, padding=1, groups=M),
            pointwise_conv2=nn.Conv1d(M, M, 1),
        ),
        ffn2=feed(),
        final_norm=nn.LayerNorm(M),
    )

    def jff(p: Any, x: Any) -> Any:
        return dense(p["down"], jax.nn.silu(dense(p["up"], norm(p["norm"], x))))

    def jconv(p: Any, x: Any) -> Any:
        a, b = jnp.split(dense(p["pointwise_in"], norm(p["norm"], x)), 2, -1)
        w = p["depthwise"]["kernel"]
        y = jax.lax.conv_general_dilated(
            a * jax.nn.sigmoid(b), w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=M
        )
        return dense(p["pointwise_out"], jax.nn.silu(y + p["depthwise"]["bias"]))

    def jattn(p: Any, x: Any) -> Any:
        y = norm(p["norm"], x)
        q, k, v = (heads(dense(p[n], y)) for n in ("q_proj", "k_proj", "v_proj"))
        return dense(p["out_proj"], merged(attend(q, k, v)))

    def jrun(p: Any, x: Any) -> Any:
        x = x + 0.5 * jff(p["ffn_start"], x)
        x = x + jattn(p["attention"], x)
        x = x + jconv(p["conv"], x)
        return norm(p["norm_out"], x + 0.5 * jff(p["ffn_end"], x))

    def jfeed(seed: int) -> Any:
        return {"norm": scale(M), "up": kernel(M, M, seed=seed), "down": kernel(M, M, seed=seed + 1)}

    params = {
        "attention": {"norm": scale(M), **{f"{n}_proj": kernel(M, M, seed=9 + len(n)) for n in ("q", "k", "v", "out")}},
        "conv": {
            "norm": scale(M),
            "pointwise_in": kernel(M, 2 * M),
            "depthwise": {"kernel": draw(3, 1, M), "bias": np.zeros(M, np.float32)},
            "pointwise_out": kernel(M, M),
        },
        "ffn_start": jfeed(1),
        "ffn_end": jfeed(3),
        "norm_out": scale(M),
    }
    return module, (jrun, params), (draw(2, 6, M),)


@pair
def detr_decoder_layer() -> Pair:
    module = nn.TransformerDecoderLayer(M, 2, M, dropout=0.0, batch_first=True)

    def mha(p: Any, x: Any, y: Any) -> Any:
        q, k, v = (
            jnp.einsum("btm,mhd->bthd", z, p[n]["kernel"]) + p[n]["bias"] for n, z in (("query", x), ("key", y), ("value", y))
        )
        return jnp.einsum("bthd,hdm->btm", attend(q, k, v), p["out"]["kernel"]) + p["out"]["bias"]

    def jrun(p: Any, x: Any, y: Any) -> Any:
        x = norm(p["norm1"], x + mha(p["self_attention"], x, x))
        x = norm(p["norm2"], x + mha(p["cross_attention"], x, y))
        return norm(p["norm3"], x + dense(p["ffn"]["fc2"], jax.nn.relu(dense(p["ffn"]["fc1"], x))))

    def attn() -> Any:
        wide = {n: {"kernel": draw(M, 2, 4), "bias": np.zeros((2, 4), np.float32)} for n in ("query", "key", "value")}
        return {**wide, "out": {"kernel": draw(2, 4, M), "bias": np.zeros(M, np.float32)}}

    params = {
        "cross_attention": attn(),
        "self_attention": attn(),
        "ffn": {"fc1": kernel(M, M), "fc2": kernel(M, M)},
        **{f"norm{n}": scale(M) for n in (1, 2, 3)},
    }
    return module, (jrun, params), (draw(2, 4, M), draw(2, 6, M, seed=1))


def conv2d(p: Any, x: Any, stride: int = 1, groups: int = 1) -> Any:
    made = jax.lax.conv_general_dilated(
        x, p["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )
    return made + p["bias"] if "bias" in p else made


def ckernel(*shape: int, seed: int = 0) -> Any:
    return {"kernel": 0.3 * draw(*shape, seed=seed), "bias": np.zeros(shape[-1], np.float32)}


def nhwc(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


def nchw(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def group_norm(p: Any, x: Any, groups: int) -> Any:
    y = x.reshape(*x.shape[:3], groups, -1)
    y = (y - y.mean((1, 2, 4), keepdims=True)) * jax.lax.rsqrt(y.var((1, 2, 4), keepdims=True) + 1e-5)
    return y.reshape(x.shape) * p["scale"] + p["bias"]


@pair
def unet_of_square_channels() -> Pair:
    def res(s: Any, x: Any, t: Any) -> Any:
        h = s.conv1(F.silu(s.norm1(x))) + s.time_emb_proj(t)[:, :, None, None]
        return x + s.conv2(F.silu(s.norm2(h)))

    def block() -> nn.Module:
        conv = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]
        return Named(
            res, norm1=nn.GroupNorm(1, 3), conv1=conv[0], time_emb_proj=nn.Linear(3, 3), norm2=nn.GroupNorm(1, 3), conv2=conv[1]
        )

    def run(s: Any, x: Any, t: Any) -> Any:
        h = s.conv_in(nhwc(x))
        a = s.down[0](h, t)
        b = s.mid(F.avg_pool2d(a, 2), t)
        b = s.up[0](F.interpolate(b, scale_factor=2), t)
        return nchw(s.conv_out(b + a))

    module = Named(
        run,
        conv_in=nn.Conv2d(3, 3, 3, padding=1),
        down=nn.ModuleList([block()]),
        mid=block(),
        up=nn.ModuleList([block()]),
        conv_out=nn.Conv2d(3, 3, 3, padding=1),
    )

    def jres(p: Any, x: Any, t: Any) -> Any:
        h = conv2d(p["Conv_0"], jax.nn.silu(group_norm(p["GroupNorm_0"], x, 1))) + dense(p["Dense_0"], t)[:, None, None]
        return x + conv2d(p["Conv_1"], jax.nn.silu(group_norm(p["GroupNorm_1"], h, 1)))

    def jrun(p: Any, x: Any, t: Any) -> Any:
        a = jres(p["down_0"], conv2d(p["conv_in"], x), t)
        b = a.reshape(a.shape[0], 2, 2, 2, 2, 3).mean((2, 4))
        b = jres(p["middle"], b, t).repeat(2, 1).repeat(2, 2)
        return conv2d(p["conv_out"], jres(p["up_0"], b, t) + a)

    def jblock(seed: int) -> Any:
        names = {"Conv_0": ckernel(3, 3, 3, 3, seed=seed), "Conv_1": ckernel(3, 3, 3, 3, seed=seed + 1)}
        return {**names, "Dense_0": kernel(3, 3), "GroupNorm_0": scale(3), "GroupNorm_1": scale(3)}

    params = {
        "conv_in": ckernel(3, 3, 3, 3),
        "conv_out": ckernel(3, 3, 3, 3),
        "down_0": jblock(1),
        "middle": jblock(3),
        "up_0": jblock(5),
    }
    return module, (jrun, params), (draw(2, 4, 4, 3), draw(2, 3))


@pair
def mobilenet_with_squeeze_and_excitation() -> Pair:
    def run(s: Any, x: Any) -> Any:
        y = F.hardswish(s.expand(nhwc(x)))
        y = F.hardswish(s.depthwise(y))
        g = s.se.fc2(F.relu(s.se.fc1(y.mean((2, 3), keepdim=True))))
        return nchw(s.project(y * F.hardsigmoid(g)))

    module = Named(
        run,
        expand=nn.Conv2d(4, 6, 1),
        depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        se=Named(run, fc1=nn.Conv2d(6, 6, 1), fc2=nn.Conv2d(6, 6, 1)),
        project=nn.Conv2d(6, 4, 1),
    )

    def jrun(p: Any, x: Any) -> Any:
        y = jax.nn.hard_swish(conv2d(p["expand_conv"], x))
        y = jax.nn.hard_swish(conv2d(p["depthwise_conv"], y, groups=6))
        g = dense(p["se_expand"], jax.nn.relu(dense(p["se_reduce"], y.mean((1, 2), keepdims=True))))
        return conv2d(p["project_conv"], y * jax.nn.hard_sigmoid(g))

    params = {
        "expand_conv": ckernel(1, 1, 4, 6),
        "depthwise_conv": ckernel(3, 3, 1, 6),
        "se_reduce": kernel(6, 6),
        "se_expand": kernel(6, 6, seed=1),
        "project_conv": ckernel(1, 1, 6, 4),
    }
    return module, (jrun, params), (draw(2, 4, 4, 4),)


@pair
def mixture_of_top_two_experts() -> Pair:
    def expert(s: Any, x: Any) -> Any:
        return s.w2(F.silu(s.w1(x)) * s.w3(x))

    def run(s: Any, x: Any) -> Any:
        for layer in s.layers:
            y = layer.norm(x)
            values, index = layer.block_sparse_moe.gate(y).topk(2, -1)
            weight = torch.zeros(*y.shape[:-1], 4).scatter(-1, index, values.softmax(-1))
            every = torch.stack([e(y) for e in layer.block_sparse_moe.experts], -2)
            x = x + (every * weight[..., None]).sum(-2)
        return x

    def make() -> nn.Module:
        experts = [
            Named(expert, w1=nn.Linear(M, M, bias=False), w2=nn.Linear(M, M, bias=False), w3=nn.Linear(M, M, bias=False))
            for _ in range(4)
        ]
        moe = Named(run, gate=nn.Linear(M, 4, bias=False), experts=nn.ModuleList(experts))
        return Named(run, norm=nn.LayerNorm(M), block_sparse_moe=moe)

    module = Named(run, layers=nn.ModuleList([make(), make()]))

    def jrun(p: Any, x: Any) -> Any:
        for layer in p["layers"]:
            y = norm(layer["norm"], x)
            scores = dense(layer["moe"]["router"], y)
            values, index = jax.lax.top_k(scores, 2)
            weight = (jax.nn.one_hot(index, 4) * jax.nn.softmax(values, -1)[..., None]).sum(-2)
            e = layer["moe"]["experts"]
            h = jax.nn.silu(jnp.einsum("btm,emf->btef", y, e["w1"])) * jnp.einsum("btm,emf->btef", y, e["w3"])
            x = x + jnp.einsum("btef,efm,bte->btm", h, e["w2"], weight)
        return x

    def layer(seed: int) -> Any:
        experts = {n: 0.3 * draw(4, M, M, seed=seed + at) for at, n in enumerate(("w1", "w2", "w3"))}
        return {"norm": scale(M), "moe": {"router": kernel(M, 4, bias=False), "experts": experts}}

    return module, (jrun, {"layers": [layer(0), layer(5)]}), (draw(2, 5, M),)


def rotated(x: Any, width: int, xp: Any) -> Any:
    """(B, T, H, D): the first `width` of D are rotated, halves against each other."""
    angle = xp.arange(x.shape[1])[:, None] * xp.asarray(10000.0 ** (-np.arange(0, width, 2) / width), dtype=x.dtype)
    sin, cos = xp.sin(angle)[:, None], xp.cos(angle)[:, None]
    a, b, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


@pair
def neox_with_partial_rotary() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for each in s.layers:
            y = each.input_layernorm(x)
            qkv = each.attention.query_key_value(y).unflatten(-1, (2, 3, 4))
            q, k, v = (qkv[..., i, :] for i in range(3))
            a = attend_torch(*(z.flatten(-2) for z in (rotated(q, 2, torch), rotated(k, 2, torch), v)), causal=True)
            h = each.mlp.dense_4h_to_h(F.gelu(each.mlp.dense_h_to_4h(each.post_attention_layernorm(x))))
            x = x + each.attention.dense(a) + h
        return x

    def make() -> nn.Module:
        return Named(
            run,
            input_layernorm=nn.LayerNorm(M),
            post_attention_layernorm=nn.LayerNorm(M),
            attention=Named(run, query_key_value=nn.Linear(M, 3 * M), dense=nn.Linear(M, M)),
            mlp=Named(run, dense_h_to_4h=nn.Linear(M, FF), dense_4h_to_h=nn.Linear(FF, M)),
        )

    module = Named(run, layers=nn.ModuleList([make(), make()]))

    def jrun(p: Any, x: Any) -> Any:
        for each in p["layers"]:
            y = norm(each["input_norm"], x)
            q, k, v = (heads(dense(each["attn"][n], y)) for n in ("q", "k", "v"))
            a = merged(attend(rotated(q, 2, jnp), rotated(k, 2, jnp), v, causal=True))
            h = jax.nn.gelu(dense(each["mlp"]["up"], norm(each["mlp_norm"], x)), approximate=False)
            x = x + dense(each["attn"]["o"], a) + dense(each["mlp"]["down"], h)
        return x

    def layer(seed: int) -> Any:
        attn = {n: kernel(M, M, seed=seed + at) for at, n in enumerate("qkvo")}
        mlp = {"up": kernel(M, FF), "down": kernel(FF, M)}
        return {"input_norm": scale(M), "mlp_norm": scale(M), "attn": attn, "mlp": mlp}

    return module, (jrun, {"layers": [layer(0), layer(7)]}), (draw(2, 5, M),)


class Conv1D(nn.Module):
    """GPT-2's: inputs first."""

    def __init__(self, out: int, inner: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.3 * torch.randn(inner, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x: Any) -> Any:
        return x @ self.weight + self.bias


@pair
def gpt2_with_conv1d() -> Pair:
    def run(s: Any, i: Any) -> Any:
        x = s.wte(i) + s.wpe(torch.arange(i.shape[1]))
        for each in s.h:
            q, k, v = each.attn.c_attn(each.ln_1(x)).split(M, -1)
            x = x + each.attn.c_proj(attend_torch(q, k, v, causal=True))
            x = x + each.mlp.c_proj(F.gelu(each.mlp.c_fc(each.ln_2(x)), approximate="tanh"))
        return s.ln_f(x) @ s.wte.weight.T

    def make() -> nn.Module:
        attn = Named(run, c_attn=Conv1D(3 * M, M), c_proj=Conv1D(M, M))
        return Named(
            run, ln_1=nn.LayerNorm(M), attn=attn, ln_2=nn.LayerNorm(M), mlp=Named(run, c_fc=Conv1D(M, M), c_proj=Conv1D(M, M))
        )

    parts = {"wte": nn.Embedding(11, M), "wpe": nn.Embedding(5, M), "ln_f": nn.LayerNorm(M)}
    module = Named(run, h=nn.ModuleList([make(), make()]), **parts)

    def jrun(p: Any, i: Any) -> Any:
        x = p["wte"]["embedding"][i] + p["wpe"]["embedding"][: i.shape[1]]
        for n in range(2):
            each = p[f"GPT2Block_{n}"]
            q, k, v = (heads(z) for z in jnp.split(dense(each["attn"]["c_attn"], norm(each["ln_1"], x)), 3, -1))
            x = x + dense(each["attn"]["c_proj"], merged(attend(q, k, v, causal=True)))
            x = x + dense(each["mlp"]["c_proj"], jax.nn.gelu(dense(each["mlp"]["c_fc"], norm(each["ln_2"], x))))
        return norm(p["ln_f"], x) @ p["wte"]["embedding"].T

    def layer(seed: int) -> Any:
        attn = {"c_attn": kernel(M, 3 * M), "c_proj": kernel(M, M, seed=seed)}
        return {"ln_1": scale(M), "ln_2": scale(M), "attn": attn, "mlp": {"c_fc": kernel(M, M), "c_proj": kernel(M, M)}}

    embeds = {"wte": {"embedding": draw(11, M)}, "wpe": {"embedding": draw(5, M)}, "ln_f": scale(M)}
    return module, (jrun, {"GPT2Block_0": layer(0), "GPT2Block_1": layer(2), **embeds}), (ids(2, 5),)


@pair
def scanned_stack_with_biases() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for each in s.blocks:
            x = x + each.fc2(torch.tanh(each.fc1(each.norm(x))))
        return s.head(x)

    def make() -> nn.Module:
        return Named(run, norm=nn.LayerNorm(M), fc1=nn.Linear(M, M), fc2=nn.Linear(M, M))

    module = Named(run, blocks=nn.ModuleList([make() for _ in range(4)]), head=nn.Linear(M, M))

    def jrun(p: Any, x: Any) -> Any:
        def step(x: Any, each: Any) -> Any:
            return x + dense(each["down"], jnp.tanh(dense(each["up"], norm(each["ln"], x)))), None

        return dense(p["head"], jax.lax.scan(step, x, p["layers"])[0])

    one = {"ln": scale(M), "up": kernel(M, M), "down": kernel(M, M, seed=1)}
    return module, (jrun, {"layers": jax.tree.map(lambda x: np.stack([x] * 4), one), "head": kernel(M, M)}), (draw(3, M),)


@pair
def scan_over_pairs_of_unlike_layers() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for i, each in enumerate(s.layers):
            y = each.proj(each.norm(x))
            x = x + (torch.tanh(y) if i % 2 else F.relu(y))
        return x

    make = lambda: Named(run, norm=nn.LayerNorm(M), proj=nn.Linear(M, M))  # noqa: E731
    module = Named(run, layers=nn.ModuleList([make() for _ in range(6)]))

    def jrun(p: Any, x: Any) -> Any:
        def step(x: Any, each: Any) -> Any:
            x = x + jax.nn.relu(dense(each["block_0"]["proj"], norm(each["block_0"]["norm"], x)))
            return x + jnp.tanh(dense(each["block_1"]["proj"], norm(each["block_1"]["norm"], x))), None

        return jax.lax.scan(step, x, p["periods"])[0]

    block = {"norm": scale(M), "proj": kernel(M, M)}
    one = {"block_0": block, "block_1": block}
    return module, (jrun, {"periods": jax.tree.map(lambda x: np.stack([x] * 3), one)}), (draw(3, M),)


@pair
def gru_with_packed_gates() -> Pair:
    module = nn.GRU(4, 4, batch_first=True)

    def jrun(p: Any, x: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            a, b = jnp.split(dense(p["input"], x), 3, -1), jnp.split(dense(p["hidden"], h), 3, -1)
            r, z = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
            h = (1 - z) * jnp.tanh(a[2] + r * b[2]) + z * h
            return h, h

        h, every = jax.lax.scan(step, jnp.zeros((x.shape[0], 4)), x.swapaxes(0, 1))
        return every.swapaxes(0, 1), h[None]

    return module, (jrun, {"hidden": kernel(4, 12), "input": kernel(4, 12, seed=1)}), (draw(2, 5, 4),)


@pair
def lstm_of_flax_gates() -> Pair:
    def run(s: Any, x: Any) -> Any:
        return s.lstm(x)[0]

    module = Named(run, lstm=nn.LSTM(4, 4, batch_first=True, bias=False))

    def jrun(p: Any, x: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            c, h = carry
            i, f, g, o = (x @ p[f"i{n}"]["kernel"] + h @ p[f"h{n}"]["kernel"] for n in "ifgo")
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        zero = jnp.zeros((x.shape[0], 4))
        return jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    params = {f"{a}{n}": kernel(4, 4, seed=at, bias=False) for at, n in enumerate("ifgo") for a in "ih"}
    return module, (jrun, params), (draw(2, 5, 4),)


@pair
def tied_embedding_and_head() -> Pair:
    def run(s: Any, i: Any) -> Any:
        return s.lm_head(torch.tanh(s.proj(s.embed_tokens(i))))

    module = Named(run, embed_tokens=nn.Embedding(11, M), proj=nn.Linear(M, M), lm_head=nn.Linear(M, 11, bias=False))
    module.lm_head.weight = module.embed_tokens.weight

    def jrun(p: Any, i: Any) -> Any:
        return jnp.tanh(dense(p["proj"], p["embed"]["embedding"][i])) @ p["embed"]["embedding"].T

    return module, (jrun, {"embed": {"embedding": draw(11, M)}, "proj": kernel(M, M)}), (ids(2, 5),)


@pair
def norms_of_ones_under_misleading_names() -> Pair:
    def run(s: Any, x: Any) -> Any:
        y = s.input_layernorm(x)
        x = x + s.self_attn.o_proj(attend_torch(s.self_attn.q_proj(y), s.self_attn.k_proj(y), s.self_attn.v_proj(y)))
        return x + s.mlp.down_proj(torch.tanh(s.mlp.up_proj(s.post_attention_layernorm(x))))

    module = Named(
        run,
        input_layernorm=nn.LayerNorm(M),
        self_attn=Named(run, **{f"{n}_proj": nn.Linear(M, M) for n in "qkvo"}),
        post_attention_layernorm=nn.LayerNorm(M),
        mlp=Named(run, up_proj=nn.Linear(M, FF), down_proj=nn.Linear(FF, M)),
    )

    def jrun(p: Any, x: Any) -> Any:
        y = norm(p["self_attention_layernorm"], x)
        q, k, v = (heads(dense(p["self_attention"][n], y)) for n in ("query", "key", "value"))
        x = x + dense(p["self_attention"]["attention_output"], merged(attend(q, k, v)))
        h = dense(p["feedforward_intermediate_dense"], norm(p["feedforward_layernorm"], x))
        return x + dense(p["feedforward_output_dense"], jnp.tanh(h))

    params = {
        "feedforward_layernorm": scale(M),
        "self_attention_layernorm": scale(M),
        "self_attention": {n: kernel(M, M, seed=len(n)) for n in ("query", "key", "value", "attention_output")},
        "feedforward_intermediate_dense": kernel(M, FF),
        "feedforward_output_dense": kernel(FF, M),
    }
    return module, (jrun, params), (draw(2, 5, M),)


@pair
def nested_stages_beside_a_flat_list() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for stage in s.stages:
            for each in stage.blocks:
                x = x + each.conv2(F.relu(each.conv1(x)))
        return x

    def make() -> nn.Module:
        return Named(run, conv1=nn.Linear(M, M), conv2=nn.Linear(M, M))

    stages = [Named(run, blocks=nn.ModuleList([make() for _ in range(n)])) for n in (1, 2)]
    module = Named(run, stages=nn.ModuleList(stages))

    def jrun(p: Any, x: Any) -> Any:
        for n in range(3):
            x = x + dense(p[f"layer_{n}"]["second"], jax.nn.relu(dense(p[f"layer_{n}"]["first"], x)))
        return x

    params = {f"layer_{n}": {"first": kernel(M, M, seed=n), "second": kernel(M, M, seed=5 + n)} for n in (2, 0, 1)}
    return module, (jrun, params), (draw(3, M),)


@pair
def keras_names_by_count() -> Pair:
    module = nn.Sequential(nn.Linear(M, M), nn.ReLU(), nn.Linear(M, M), nn.LayerNorm(M), nn.Linear(M, M))

    def jrun(p: Any, x: Any) -> Any:
        x = dense(p["dense_7"], jax.nn.relu(dense(p["dense_6"], x)))
        return dense(p["dense_8"], norm(p["layer_normalization_3"], x))

    params = {
        "dense_8": kernel(M, M),
        "dense_6": kernel(M, M, seed=1),
        "dense_7": kernel(M, M, seed=2),
        "layer_normalization_3": scale(M),
    }
    return module, (jrun, params), (draw(3, M),)


@pair
def equinox_keeps_outputs_first() -> Pair:
    def run(s: Any, x: Any) -> Any:
        return s.layers[2](torch.tanh(s.layers[1](torch.tanh(s.layers[0](x)))))

    module = Named(run, layers=nn.ModuleList([nn.Linear(M, M) for _ in range(3)]))

    def jrun(p: Any, x: Any) -> Any:
        for at, each in enumerate(p["layers"]):
            x = x @ each["weight"].T + each["bias"]
            x = jnp.tanh(x) if at < 2 else x
        return x

    layers = [{"weight": 0.3 * draw(M, M, seed=at), "bias": np.zeros(M, np.float32)} for at in range(3)]
    return module, (jrun, {"layers": layers}), (draw(3, M),)


@pair
def haiku_names() -> Pair:
    def run(s: Any, x: Any) -> Any:
        return s.out(s.ln(torch.tanh(s.hidden(x))))

    module = Named(run, hidden=nn.Linear(M, M), ln=nn.LayerNorm(M), out=nn.Linear(M, M))

    def jrun(p: Any, x: Any) -> Any:
        y = jnp.tanh(x @ p["mlp/~/linear"]["w"] + p["mlp/~/linear"]["b"])
        y = norm({"scale": p["mlp/~/layer_norm"]["scale"], "bias": p["mlp/~/layer_norm"]["offset"]}, y)
        return y @ p["mlp/~/linear_1"]["w"] + p["mlp/~/linear_1"]["b"]

    linear = lambda seed: {"w": 0.3 * draw(M, M, seed=seed), "b": np.zeros(M, np.float32)}  # noqa: E731
    ln = {"scale": np.ones(M, np.float32), "offset": np.zeros(M, np.float32)}
    return module, (jrun, {"mlp/~/layer_norm": ln, "mlp/~/linear": linear(0), "mlp/~/linear_1": linear(1)}), (draw(3, M),)


@pair
def gemma_gate_and_up_in_one_einsum() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for each in s.layers:
            y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + each.norm.weight)
            x = x + each.mlp.down_proj(F.gelu(each.mlp.gate_proj(y), approximate="tanh") * each.mlp.up_proj(y))
        return x

    def make() -> nn.Module:
        mlp = {f"{n}_proj": nn.Linear(*s, bias=False) for n, s in (("gate", (M, FF)), ("up", (M, FF)), ("down", (FF, M)))}
        return Named(run, norm=Named(run, weight=nn.Parameter(torch.zeros(M))), mlp=Named(run, **mlp))

    module = Named(run, layers=nn.ModuleList([make(), make()]))

    def jrun(p: Any, x: Any) -> Any:
        for n in range(2):
            each = p[f"layer_{n}"]
            y = rms(1 + each["pre_ffw_norm"]["scale"], x)
            gate, up = jnp.einsum("btm,gmf->gbtf", y, each["mlp"]["gating_einsum"])
            x = x + jnp.einsum("btf,fm->btm", jax.nn.gelu(gate) * up, each["mlp"]["linear"])
        return x

    def layer(seed: int) -> Any:
        mlp = {"gating_einsum": 0.3 * draw(2, M, FF, seed=seed), "linear": 0.3 * draw(FF, M, seed=seed)}
        return {"pre_ffw_norm": {"scale": np.zeros(M, np.float32)}, "mlp": mlp}

    return module, (jrun, {"layer_0": layer(0), "layer_1": layer(1)}), (draw(2, 5, M),)


@pair
def lists_whose_names_say_nothing() -> Pair:
    def run(s: Any, x: Any) -> Any:
        for w in s.p[:3]:
            x = torch.tanh(x @ w.T)
        return x * s.p[3]

    module = Named(run, p=nn.ParameterList([0.3 * torch.randn(M, M) for _ in range(3)] + [torch.ones(M)]))

    def jrun(p: Any, x: Any) -> Any:
        for name in ("zeta", "alpha", "mid"):
            x = jnp.tanh(x @ p[name])
        return x * p["end"]

    params = {n: 0.3 * draw(M, M, seed=at) for at, n in enumerate(("alpha", "mid", "zeta"))}
    return module, (jrun, {**params, "end": np.ones(M, np.float32)}), (draw(3, M),)


@pair
def vision_transformer() -> Pair:
    def run(s: Any, x: Any) -> Any:
        y = s.patch_embed.proj(nhwc(x)).flatten(2).transpose(1, 2)
        y = torch.cat([s.cls_token.expand(y.shape[0], -1, -1), y], 1) + s.pos_embed
        for each in s.blocks:
            q, k, v = each.attn.qkv(each.norm1(y)).chunk(3, -1)
            y = y + each.attn.proj(attend_torch(q, k, v))
            y = y + each.mlp.fc2(F.gelu(each.mlp.fc1(each.norm2(y))))
        return s.head(s.norm(y)[:, 0])

    def make() -> nn.Module:
        attn, mlp = (
            Named(run, qkv=nn.Linear(M, 3 * M), proj=nn.Linear(M, M)),
            Named(run, fc1=nn.Linear(M, M), fc2=nn.Linear(M, M)),
        )
        return Named(run, norm1=nn.LayerNorm(M), attn=attn, norm2=nn.LayerNorm(M), mlp=mlp)

    module = Named(
        run,
        cls_token=nn.Parameter(torch.randn(1, 1, M)),
        pos_embed=nn.Parameter(torch.randn(1, 5, M)),
        patch_embed=Named(run, proj=nn.Conv2d(3, M, 2, 2)),
        blocks=nn.ModuleList([make(), make()]),
        norm=nn.LayerNorm(M),
        head=nn.Linear(M, M),
    )

    def jrun(p: Any, x: Any) -> Any:
        w = p["embedding"]
        y = (
            jax.lax.conv_general_dilated(x, w["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            + w["bias"]
        )
        y = y.reshape(x.shape[0], -1, M)
        y = jnp.concatenate([jnp.broadcast_to(p["cls"], (x.shape[0], 1, M)), y], 1) + p["posembed_input"]["pos_embedding"]
        for n in range(2):
            each = p["Transformer"][f"encoderblock_{n}"]
            a, z = each["MultiHeadDotProductAttention_0"], norm(each["LayerNorm_0"], y)
            q, k, v = (jnp.einsum("btm,mhd->bthd", z, a[i]["kernel"]) + a[i]["bias"] for i in ("query", "key", "value"))
            y = y + jnp.einsum("bthd,hdm->btm", attend(q, k, v), a["out"]["kernel"]) + a["out"]["bias"]
            mlp = each["MlpBlock_0"]
            h = jax.nn.gelu(dense(mlp["Dense_0"], norm(each["LayerNorm_1"], y)), approximate=False)
            y = y + dense(mlp["Dense_1"], h)
        return dense(p["head"], norm(p["Transformer"]["encoder_norm"], y)[:, 0])

    def layer(seed: int) -> Any:
        wide = {n: {"kernel": draw(M, 2, 4), "bias": np.zeros((2, 4), np.float32)} for n in ("query", "key", "value")}
        attn = {**wide, "out": {"kernel": draw(2, 4, M), "bias": np.zeros(M, np.float32)}}
        mlp = {"Dense_0": kernel(M, M, seed=seed), "Dense_1": kernel(M, M, seed=seed + 1)}
        return {"LayerNorm_0": scale(M), "LayerNorm_1": scale(M), "MultiHeadDotProductAttention_0": attn, "MlpBlock_0": mlp}

    params = {
        "Transformer": {"encoder_norm": scale(M), "encoderblock_0": layer(0), "encoderblock_1": layer(5)},
        "cls": draw(1, 1, M),
        "embedding": ckernel(2, 2, 3, M),
        "head": kernel(M, M),
        "posembed_input": {"pos_embedding": draw(1, 5, M)},
    }
    return module, (jrun, params), (draw(2, 4, 4, 3),)


@pair
def llama_with_numbered_kernels() -> Pair:
    def run(s: Any, i: Any) -> Any:
        x = s.tok_embeddings(i)
        for each in s.layers:
            y = each.attention_norm(x)
            a = each.attention
            x = x + a.wo(attend_torch(a.wq(y), a.wk(y), a.wv(y), causal=True))
            y = each.ffn_norm(x)
            x = x + each.feed_forward.w2(F.silu(each.feed_forward.w1(y)) * each.feed_forward.w3(y))
        return s.output(s.norm(x))

    linear = lambda: nn.Linear(M, M, bias=False)  # noqa: E731

    def make() -> nn.Module:
        attn, feed = (
            Named(run, wq=linear(), wk=linear(), wv=linear(), wo=linear()),
            Named(run, w1=linear(), w2=linear(), w3=linear()),
        )
        norms = {n: nn.RMSNorm(M, 1e-6) for n in ("attention_norm", "ffn_norm")}
        return Named(run, attention=attn, feed_forward=feed, **norms)

    parts = {"tok_embeddings": nn.Embedding(11, M), "norm": nn.RMSNorm(M, 1e-6), "output": nn.Linear(M, 11, bias=False)}
    module = Named(run, layers=nn.ModuleList([make(), make()]), **parts)

    def jrun(p: Any, i: Any) -> Any:
        x = p["embedder"]["input_embedding"][i]
        for n in range(2):
            each = p["layers"][str(n)]
            y = rms(each["input_layernorm"]["w"], x)
            q, k, v = (jnp.einsum("btm,mhd->bthd", y, each["attn"][f"{s}_proj"]["w"]) for s in "qkv")
            x = x + jnp.einsum("bthd,hdm->btm", attend(q, k, v, causal=True), each["attn"]["o_proj"]["w"])
            y = rms(each["post_attention_layernorm"]["w"], x)
            mlp = each["mlp"]
            x = x + (jax.nn.silu(y @ mlp["gate_proj"]["kernel"]) * (y @ mlp["up_proj"]["kernel"])) @ mlp["down_proj"]["kernel"]
        return rms(p["final_norm"]["w"], x) @ p["lm_head"]["w"]

    def layer(seed: int) -> Any:
        ones = lambda: {"w": np.ones(M, np.float32)}  # noqa: E731
        attn = {f"{s}_proj": {"w": draw(M, 2, 4, seed=seed)} for s in "qkv"} | {"o_proj": {"w": draw(2, 4, M, seed=seed)}}
        mlp = {f"{s}_proj": kernel(M, M, seed=seed, bias=False) for s in ("down", "gate", "up")}
        return {"attn": attn, "input_layernorm": ones(), "mlp": mlp, "post_attention_layernorm": ones()}

    ends = {
        "embedder": {"input_embedding": draw(11, M)},
        "final_norm": {"w": np.ones(M, np.float32)},
        "lm_head": {"w": draw(M, 11)},
    }
    return module, (jrun, {"layers": {"0": layer(0), "1": layer(3)}, **ends}), (ids(2, 5),)


@pair
def transposed_convolution() -> Pair:
    def run(s: Any, x: Any) -> Any:
        return nchw(s.up(F.relu(s.conv(nhwc(x)))))

    module = Named(run, conv=nn.Conv2d(3, 3, 3, padding=1), up=nn.ConvTranspose2d(3, 3, 2, 2))

    def jrun(p: Any, x: Any) -> Any:
        y = jax.nn.relu(conv2d(p["conv"], x))
        up = jax.lax.conv_transpose(
            y, p["up"]["kernel"], (2, 2), "VALID", transpose_kernel=True, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return up + p["up"]["bias"]

    return module, (jrun, {"conv": ckernel(3, 3, 3, 3), "up": ckernel(2, 2, 3, 3, seed=1)}), (draw(2, 4, 4, 3),)


@pair
def mamba_mixer() -> Pair:
    def run(s: Any, x: Any) -> Any:
        a, z = s.in_proj(x).chunk(2, -1)
        a = F.silu(s.conv1d(a.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        dt, b, c = s.x_proj(a).split([2, 3, 3], -1)
        dt, h, out = F.softplus(s.dt_proj(dt)), 0, []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t, :, None] * s.A_log.exp()) * h + (dt[:, t] * a[:, t])[..., None] * b[:, t, None]
            out.append((h * c[:, t, None]).sum(-1))
        return s.out_proj((torch.stack(out, 1) + a * s.D) * F.silu(z))

    module = Named(
        run,
        A_log=nn.Parameter(torch.randn(M, 3)),
        D=nn.Parameter(torch.ones(M)),
        in_proj=nn.Linear(M, 2 * M, bias=False),
        conv1d=nn.Conv1d(M, M, 3, padding=2, groups=M),
        x_proj=nn.Linear(M, 8, bias=False),
        dt_proj=nn.Linear(2, M),
        out_proj=nn.Linear(M, M, bias=False),
    )

    def jrun(p: Any, x: Any) -> Any:
        a, z = jnp.split(dense(p["in_proj"], x), 2, -1)
        a = jax.lax.conv_general_dilated(
            a, p["conv"]["kernel"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=M
        )
        a = jax.nn.silu(a + p["conv"]["bias"])
        dt, b, c = jnp.split(dense(p["x_proj"], a), [2, 5], -1)
        dt = jax.nn.softplus(dense(p["dt_proj"], dt))

        def step(h: Any, t: Any) -> Any:
            dt, a, b, c = t
            h = jnp.exp(-dt[..., None] * jnp.exp(p["A_log"])) * h + (dt * a)[..., None] * b[:, None]
            return h, (h * c[:, None]).sum(-1)

        every = jax.lax.scan(step, jnp.zeros((x.shape[0], M, 3)), tuple(y.swapaxes(0, 1) for y in (dt, a, b, c)))[1]
        return dense(p["out_proj"], (every.swapaxes(0, 1) + a * p["D"]) * jax.nn.silu(z))

    params = {
        "A_log": draw(M, 3),
        "D": np.ones(M, np.float32),
        "conv": {"kernel": draw(3, 1, M), "bias": np.zeros(M, np.float32)},
        "dt_proj": kernel(2, M),
        "in_proj": kernel(M, 2 * M, bias=False),
        "out_proj": kernel(M, M, bias=False),
        "x_proj": kernel(M, 8, bias=False),
    }
    return module, (jrun, params), (draw(2, 5, M),)


@pair
def frozen_and_integer_parameters() -> Pair:
    def run(s: Any, x: Any) -> Any:
        return s.fc(x[..., s.order]) * s.gain

    module = Named(
        run,
        order=nn.Parameter(torch.randperm(M), requires_grad=False),
        fc=nn.Linear(M, M),
        gain=nn.Parameter(torch.tensor(2.0)),
    )
    order = module.order.detach().numpy().copy()

    def jrun(p: Any, x: Any) -> Any:
        return dense(p["fc"], x[..., order]) * p["gain"]

    return module, (jrun, {"fc": kernel(M, M), "gain": np.ones((), np.float32)}), (draw(3, M),)
