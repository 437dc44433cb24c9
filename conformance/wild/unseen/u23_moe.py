"""A transformer layer with a sparse mixture of experts: top-2 routing, a load-balancing loss and a router z-loss. The port is linen."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen
from torch import nn

LOADED = False

WIDTH, HEADS, HIDDEN, EXPERTS, CHOSEN = 12, 3, 10, 5, 2


def inputs():
    rng = np.random.default_rng(203)
    keep = np.ones((2, 7), bool)
    keep[0, 5:] = False
    return {"x": rng.normal(size=(2, 7, WIDTH)).astype("float32"), "keep": keep}


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class SparseMoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def forward(self, hidden_states, keep):
        batch, length, dim = hidden_states.shape
        flat = hidden_states.reshape(-1, dim)
        router_logits = self.gate(flat)
        routing = F.softmax(router_logits, dim=1)
        weights, selected = torch.topk(routing, CHOSEN, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, slot = torch.where(selected == index)
            current = expert(flat[rows]) * weights[rows, slot].unsqueeze(-1)
            out = out.index_add(0, rows, current)
        return out.view(batch, length, dim), *self.losses(router_logits, routing, selected, keep.reshape(-1))

    def losses(self, router_logits, routing, selected, keep):
        real = keep.to(routing.dtype).unsqueeze(-1)
        expert_mask = F.one_hot(selected, EXPERTS).sum(dim=1).to(routing.dtype)
        tokens_per_expert = (expert_mask * real).sum(dim=0) / (real.sum() * CHOSEN)
        prob_per_expert = (routing * real).sum(dim=0) / real.sum()
        balance = EXPERTS * (tokens_per_expert * prob_per_expert).sum()
        z = (torch.logsumexp(router_logits, dim=-1).pow(2) * real.squeeze(-1)).sum() / real.sum()
        return balance, z


class MoELayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, bias=False, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.moe = SparseMoE()

    def forward(self, x, keep):
        h = self.norm1(x)
        x = x + self.self_attn(h, h, h, key_padding_mask=~keep, need_weights=False)[0]
        h = self.norm2(x)
        out, balance, z = self.moe(h, keep)
        return x + out, balance, z


def torch_side():
    torch.manual_seed(203)
    net = MoELayer()
    for name, p in net.named_parameters():
        if "norm" in name and "weight" in name:
            nn.init.uniform_(p, 0.5, 1.5)
        else:
            nn.init.normal_(p, std=0.8 if "experts" in name else 0.4)
    return net


class ExpertBank(linen.Module):
    """Every expert on every token, summed with the router's weights, which are zero but for the chosen two."""

    @linen.compact
    def __call__(self, tokens, combine):
        normal = linen.initializers.normal(0.4)
        w_up = self.param("w_up", normal, (EXPERTS, WIDTH, HIDDEN))
        b_up = self.param("b_up", normal, (EXPERTS, HIDDEN))
        w_down = self.param("w_down", normal, (EXPERTS, HIDDEN, WIDTH))
        b_down = self.param("b_down", normal, (EXPERTS, WIDTH))

        def one(up, shift, down, out_shift):
            return jax.nn.gelu(tokens @ up + shift, approximate=False) @ down + out_shift

        every = jax.vmap(one)(w_up, b_up, w_down, b_down)
        return jnp.einsum("ebtd,bte->btd", every, combine)


class Router(linen.Module):
    @linen.compact
    def __call__(self, tokens, keep):
        logits = linen.Dense(EXPERTS, use_bias=False, kernel_init=linen.initializers.normal(0.4), name="score")(tokens)
        probs = jax.nn.softmax(logits, axis=-1)
        best, index = jax.lax.top_k(probs, CHOSEN)
        best = best / jnp.sum(best, axis=-1, keepdims=True)
        onehot = jax.nn.one_hot(index, EXPERTS, dtype=tokens.dtype)  # (batch, time, choice, expert)
        combine = jnp.einsum("btk,btke->bte", best, onehot)
        valid = keep[..., None]
        load = jnp.mean(onehot, axis=(0, 1, 2), where=valid[..., None])
        importance = jnp.mean(probs, axis=(0, 1), where=valid)
        balance = EXPERTS * jnp.vdot(load, importance)
        z = jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)), where=keep)
        return combine, balance, z


class Layer(linen.Module):
    @linen.compact
    def __call__(self, x, keep):
        def norm(name):
            near_one, near_zero = (
                (lambda k, s, d=jnp.float32: 1 + 0.3 * jax.random.normal(k, s, d)),
                linen.initializers.normal(0.4),
            )
            return linen.LayerNorm(epsilon=1e-5, scale_init=near_one, bias_init=near_zero, name=name)

        attend = linen.MultiHeadDotProductAttention(num_heads=HEADS, use_bias=False, name="attend")
        h = norm("before_attention")(x)
        x = x + attend(h, h, mask=keep[:, None, None, :])
        h = norm("before_experts")(x)
        combine, balance, z = Router(name="router")(h, keep)
        return x + ExpertBank(name="bank")(h, combine), balance, z


def program(params):
    layer = Layer()
    return lambda p, x, keep: layer.apply({"params": p}, x, keep), params


def jax_side():
    given = inputs()
    return program(Layer().init(jax.random.key(3), jnp.asarray(given["x"]), jnp.asarray(given["keep"]))["params"])


def convert(net):
    state = {k: jnp.asarray(v.detach().numpy()) for k, v in net.state_dict().items()}
    experts = {
        key: jnp.stack([state[f"moe.experts.{e}.{name}"].T for e in range(EXPERTS)])
        for key, name in (("w_up", "fc1.weight"), ("b_up", "fc1.bias"), ("w_down", "fc2.weight"), ("b_down", "fc2.bias"))
    }
    packed = jnp.split(state["self_attn.in_proj_weight"], 3)
    attend = {n: {"kernel": w.T.reshape(WIDTH, HEADS, -1)} for n, w in zip(("query", "key", "value"), packed, strict=True)}
    attend["out"] = {"kernel": state["self_attn.out_proj.weight"].T.reshape(HEADS, -1, WIDTH)}
    return program(
        {
            "before_attention": {"scale": state["norm1.weight"], "bias": state["norm1.bias"]},
            "attend": attend,
            "before_experts": {"scale": state["norm2.weight"], "bias": state["norm2.bias"]},
            "router": {"score": {"kernel": state["moe.gate.weight"].T}},
            "bank": experts,
        }
    )


MISTAKES = [
    {
        "name": "the weights of the two chosen experts are not renormalised to sum to one",
        "side": "jax",
        "old": "        best = best / jnp.sum(best, axis=-1, keepdims=True)\n",
        "new": "",
        "line": 115,
    },
    {
        "name": "the experts' GELU is the tanh approximation",
        "side": "jax",
        "old": "approximate=False) @ down",
        "new": "approximate=True) @ down",
        "line": 103,
    },
    {
        "name": "the router's mean probabilities in the load-balancing loss count padding too",
        "side": "jax",
        "old": "importance = jnp.mean(probs, axis=(0, 1), where=valid)",
        "new": "importance = jnp.mean(probs, axis=(0, 1))",
        "line": 120,
    },
    {
        "name": "the share of tokens per expert counts the first choice only",
        "side": "torch",
        "old": "expert_mask = F.one_hot(selected, EXPERTS).sum(dim=1).to(routing.dtype)",
        "new": "expert_mask = F.one_hot(selected[:, 0], EXPERTS).to(routing.dtype)",
        "line": 56,
    },
    {
        "name": "the residual around the experts starts from the normed state",
        "side": "torch",
        "old": "return x + out, balance, z",
        "new": "return h + out, balance, z",
        "line": 77,
    },
]
