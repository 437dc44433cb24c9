"""A hypernetwork: a task embedding generates the weights of a small network that is then applied to the task's points. Functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

TASKS, EMB, IN, HID, OUT = 5, 6, 3, 8, 2


def inputs():
    rng = np.random.default_rng(32)
    return {"task": rng.integers(0, TASKS, size=(3,)), "x": rng.normal(size=(3, 7, IN)).astype("float32")}


class HyperNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.task_embedding = nn.Embedding(TASKS, EMB)
        self.trunk = nn.Sequential(nn.Linear(EMB, 16), nn.SELU())
        self.head_w1 = nn.Linear(16, HID * IN)
        self.head_b1 = nn.Linear(16, HID)
        self.head_w2 = nn.Linear(16, OUT * HID)
        self.head_b2 = nn.Linear(16, OUT)
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, task, x):
        h = self.trunk(self.task_embedding(task))
        w1 = self.head_w1(h).view(-1, HID, IN)
        w2 = self.head_w2(h).view(-1, OUT, HID) / HID**0.5
        y = torch.einsum("bni,bhi->bnh", x, w1) + self.head_b1(h).unsqueeze(1)
        y = torch.sin(self.gain * y)
        return torch.baddbmm(self.head_b2(h).unsqueeze(1), y, w2.transpose(1, 2))


def torch_side():
    torch.manual_seed(32)
    net = HyperNetwork()
    for p in net.parameters():
        if p.dim() > 1:
            nn.init.kaiming_normal_(p)
        elif p.dim() == 1:
            nn.init.normal_(p, std=0.3)
    return net


SIZES = {"w1": (IN, HID), "b1": (HID,), "w2": (HID, OUT), "b2": (OUT,)}


def generate(params, embedding):
    """The small network's parameters, as a dict, from one task's embedding."""
    h = jax.nn.selu(embedding @ params["trunk"]["w"] + params["trunk"]["b"])
    flat = h @ params["generator"]["w"] + params["generator"]["b"]
    out, start = {}, 0
    for name, shape in SIZES.items():
        size = int(np.prod(shape))
        piece = flat[start : start + size]
        out[name] = piece.reshape(shape[::-1]).T if len(shape) == 2 else piece
        start += size
    return out


def small_network(p, gain, x):
    h = jnp.sin(gain * (x @ p["w1"] + p["b1"]))
    return h @ p["w2"] / HID**0.5 + p["b2"]


def hyper(params, task, x):
    def one(task, x):
        return small_network(generate(params, params["tasks"][task]), params["gain"], x)

    return jax.vmap(one)(task, x)


def jax_side():
    total = sum(int(np.prod(s)) for s in SIZES.values())
    k = jax.random.split(jax.random.key(32), 3)
    return hyper, {
        "tasks": jax.random.normal(k[0], (TASKS, EMB)),
        "trunk": {"w": jax.random.normal(k[1], (EMB, 16)) * 0.4, "b": jnp.zeros(16)},
        "generator": {"w": jax.random.normal(k[2], (16, total)) * 0.2, "b": jnp.zeros(total)},
        "gain": jnp.array(1.0),
    }


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    heads = (module.head_w1, module.head_b1, module.head_w2, module.head_b2)
    return hyper, {
        "tasks": a(module.task_embedding.weight),
        "trunk": {"w": a(module.trunk[0].weight).T, "b": a(module.trunk[0].bias)},
        "generator": {
            "w": jnp.concatenate([a(m.weight).T for m in heads], axis=1),
            "b": jnp.concatenate([a(m.bias) for m in heads]),
        },
        "gain": a(module.gain),
    }


MISTAKES = [
    {
        "name": "generated matrices are reshaped in the wrong order",
        "side": "jax",
        "old": "piece.reshape(shape[::-1]).T if len(shape) == 2 else piece",
        "new": "piece.reshape(shape) if len(shape) == 2 else piece",
        "line": 61,
    },
    {
        "name": "ELU instead of SELU",
        "side": "jax",
        "old": "jax.nn.selu(",
        "new": "jax.nn.elu(",
        "line": 55,
    },
    {
        "name": "the generated second layer is not divided by the square root of its width",
        "side": "torch",
        "old": "w2 = self.head_w2(h).view(-1, OUT, HID) / HID**0.5",
        "new": "w2 = self.head_w2(h).view(-1, OUT, HID)",
        "line": 33,
    },
    {
        "name": "the gain multiplies before the bias is added",
        "side": "jax",
        "old": 'jnp.sin(gain * (x @ p["w1"] + p["b1"]))',
        "new": 'jnp.sin(gain * (x @ p["w1"]) + p["b1"])',
        "line": 67,
    },
]
