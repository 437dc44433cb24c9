"""A sparse mixture of experts: the two best of four experts, their gates renormalised. The port stacks the experts and uses einsum."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LOADED = False

DIM, FFN, EXPERTS, TOP_K = 16, 24, 4, 2


def inputs():
    return (np.random.default_rng(111).normal(size=(3, 7, DIM)).astype("float32"),)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Linear(DIM, FFN, bias=False)
        self.w2 = nn.Linear(FFN, DIM, bias=False)
        self.w3 = nn.Linear(DIM, FFN, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class SparseMoeBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(DIM, EXPERTS, bias=False)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def forward(self, hidden_states):
        batch, length, dim = hidden_states.shape
        tokens = hidden_states.reshape(-1, dim)
        router_logits = self.gate(tokens)
        routing = F.softmax(router_logits, dim=1)
        routing_weights, selected = torch.topk(routing, TOP_K, dim=-1)
        routing_weights = routing_weights / routing_weights.sum(dim=-1, keepdim=True)
        final = torch.zeros_like(tokens)
        expert_mask = F.one_hot(selected, num_classes=EXPERTS).permute(2, 1, 0)
        for i, expert in enumerate(self.experts):
            rank, token = torch.where(expert_mask[i])
            final = final.index_add(0, token, expert(tokens[token]) * routing_weights[token, rank, None])
        load = expert_mask.sum(1).to(routing.dtype).mean(1)
        aux_loss = EXPERTS * (load * routing.mean(0)).sum()
        return final.reshape(batch, length, dim), aux_loss


class MoELayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(DIM, bias=False)
        self.block_sparse_moe = SparseMoeBlock()

    def forward(self, x):
        y, aux = self.block_sparse_moe(self.input_layernorm(x))
        return x + y, aux


def torch_side():
    torch.manual_seed(11)
    layer = MoELayer()
    nn.init.normal_(layer.input_layernorm.weight, 1.0, 0.3)
    nn.init.normal_(layer.block_sparse_moe.gate.weight, 0.0, 0.5)
    for p in layer.block_sparse_moe.experts.parameters():
        nn.init.normal_(p, 0.0, 0.4)
    return layer


def moe(params, x):
    mean = x.mean(-1, keepdims=True)
    normed = (x - mean) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * params["norm"]
    probs = jax.nn.softmax(jnp.einsum("btd,de->bte", normed, params["router"]), axis=-1)
    top, index = jax.lax.top_k(probs, TOP_K)
    top = top / jnp.sum(top, axis=-1, keepdims=True)
    chosen = jax.nn.one_hot(index, EXPERTS)  # (B, T, k, E)
    gates = jnp.einsum("btk,btke->bte", top, chosen)
    hidden = jax.nn.silu(jnp.einsum("btd,edf->btef", normed, params["w_gate"]))
    hidden = hidden * jnp.einsum("btd,edf->btef", normed, params["w_up"])
    out = jnp.einsum("btef,efd,bte->btd", hidden, params["w_down"], gates)
    load = chosen.sum(2).mean((0, 1))
    balance = EXPERTS * jnp.sum(load * probs.mean((0, 1)))
    return x + out, balance


def jax_side():
    keys = jax.random.split(jax.random.key(11), 5)
    return moe, {
        "norm": 1 + 0.1 * jax.random.normal(keys[0], (DIM,)),
        "router": jax.random.normal(keys[1], (DIM, EXPERTS)),
        "w_gate": jax.random.normal(keys[2], (EXPERTS, DIM, FFN)),
        "w_up": jax.random.normal(keys[3], (EXPERTS, DIM, FFN)),
        "w_down": jax.random.normal(keys[4], (EXPERTS, FFN, DIM)),
    }


def convert(module):
    block = module.block_sparse_moe

    def stacked(name):
        return jnp.stack([jnp.asarray(getattr(e, name).weight.detach().numpy().T) for e in block.experts])

    return moe, {
        "norm": jnp.asarray(module.input_layernorm.weight.detach().numpy()),
        "router": jnp.asarray(block.gate.weight.detach().numpy().T),
        "w_gate": stacked("w1"),
        "w_up": stacked("w3"),
        "w_down": stacked("w2"),
    }


MISTAKES = [
    {
        "name": "the gates of the chosen experts are not renormalised",
        "side": "jax",
        "old": "    top = top / jnp.sum(top, axis=-1, keepdims=True)",
        "new": "    top = top * 1.0",
        "line": 79,
    },
    {
        "name": "the experts' gate is passed through GELU instead of SiLU",
        "side": "torch",
        "old": "self.w2(F.silu(self.w1(x)) * self.w3(x))",
        "new": "self.w2(F.gelu(self.w1(x)) * self.w3(x))",
        "line": 27,
    },
    {
        "name": "the balancing loss is not multiplied by the number of experts",
        "side": "jax",
        "old": "balance = EXPERTS * jnp.sum(",
        "new": "balance = jnp.sum(",
        "line": 86,
    },
    {
        "name": "the router reads the input before its norm",
        "side": "jax",
        "old": 'jnp.einsum("btd,de->bte", normed, params["router"])',
        "new": 'jnp.einsum("btd,de->bte", x, params["router"])',
        "line": 77,
    },
]
