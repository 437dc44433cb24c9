"""Slot attention over a feature grid, with a spatial broadcast decoder mixed by alpha masks. Port: functions and a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

ROWS, COLS, FEAT, SLOTS, DIM, ITERS = 3, 4, 8, 4, 10, 3


def inputs():
    rng = np.random.default_rng(111)
    features = rng.normal(size=(2, ROWS * COLS, FEAT)).astype("float32")
    return {"features": features, "noise": rng.normal(size=(2, SLOTS, DIM)).astype("float32")}


def position_grid():
    """(rows * cols, 4): distances to the four borders."""
    y, x = np.meshgrid(np.linspace(0.0, 1.0, ROWS), np.linspace(0.0, 1.0, COLS), indexing="ij")
    grid = np.stack([y, x], axis=-1).reshape(-1, 2)
    return np.concatenate([grid, 1.0 - grid], axis=-1).astype("float32")


class SoftPositionEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(4, width)
        self.register_buffer("grid", torch.from_numpy(position_grid()))

    def forward(self, x):
        return x + self.dense(self.grid)


class SlotAttention(nn.Module):
    def __init__(self, eps=1e-8):
        super().__init__()
        self.eps = eps
        self.scale = DIM**-0.5
        self.slots_mu = nn.Parameter(torch.zeros(1, 1, DIM))
        self.slots_logsigma = nn.Parameter(torch.zeros(1, 1, DIM))
        self.to_q = nn.Linear(DIM, DIM, bias=False)
        self.to_k = nn.Linear(FEAT, DIM, bias=False)
        self.to_v = nn.Linear(FEAT, DIM, bias=False)
        self.gru = nn.GRUCell(DIM, DIM)
        self.fc1 = nn.Linear(DIM, 2 * DIM)
        self.fc2 = nn.Linear(2 * DIM, DIM)
        self.norm_input = nn.LayerNorm(FEAT, eps=1e-3)
        self.norm_slots = nn.LayerNorm(DIM, eps=1e-3)
        self.norm_pre_ff = nn.LayerNorm(DIM, eps=1e-3)

    def forward(self, inputs, noise):
        b = inputs.shape[0]
        slots = self.slots_mu + self.slots_logsigma.exp() * noise
        inputs = self.norm_input(inputs)
        k, v = self.to_k(inputs), self.to_v(inputs)
        for _ in range(ITERS):
            slots_prev = slots
            q = self.to_q(self.norm_slots(slots))
            dots = torch.einsum("bid,bjd->bij", q, k) * self.scale
            attn = dots.softmax(dim=1) + self.eps
            attn = attn / attn.sum(dim=-1, keepdim=True)
            updates = torch.einsum("bjd,bij->bid", v, attn)
            slots = self.gru(updates.reshape(-1, DIM), slots_prev.reshape(-1, DIM)).reshape(b, -1, DIM)
            slots = slots + self.fc2(torch.relu(self.fc1(self.norm_pre_ff(slots))))
        return slots


class SlotAutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_in = SoftPositionEmbed(FEAT)
        self.slot_attention = SlotAttention()
        self.embed_out = SoftPositionEmbed(DIM)
        self.decoder = nn.Sequential(nn.Linear(DIM, 16), nn.ReLU(), nn.Linear(16, 3 + 1))

    def forward(self, features, noise):
        slots = self.slot_attention(self.embed_in(features), noise)
        broadcast = slots.unsqueeze(2).expand(-1, -1, ROWS * COLS, -1)
        rgb, alpha = self.decoder(self.embed_out(broadcast)).split([3, 1], dim=-1)
        masks = torch.softmax(alpha, dim=1)
        return {"image": (rgb * masks).sum(dim=1), "masks": masks.squeeze(-1), "slots": slots}


def torch_side():
    torch.manual_seed(111)
    net = SlotAutoEncoder()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(torch.randn_like(p) * 0.4 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return net


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def layer_norm(p, x, eps=1e-3):
    mean = x.mean(-1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + eps) * p["scale"] + p["offset"]


def gru(p, h, x):
    r_x, z_x, n_x = jnp.split(dense(p["input"], x), 3, axis=-1)
    r_h, z_h, n_h = jnp.split(dense(p["hidden"], h), 3, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    return z * h + (1.0 - z) * jnp.tanh(n_x + r * n_h)


def infer_slots(p, features, noise):
    x = layer_norm(p["norm_in"], features)
    keys, values = x @ p["k"], x @ p["v"]

    def iterate(slots, _):
        queries = layer_norm(p["norm_slots"], slots) @ p["q"] / np.sqrt(DIM)
        weights = jax.nn.softmax(keys @ jnp.swapaxes(queries, 1, 2), axis=-1) + 1e-8  # (b, inputs, slots)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        slots = gru(p["gru"], slots, jnp.einsum("bns,bnd->bsd", weights, values))
        hidden = jax.nn.relu(dense(p["mlp_in"], layer_norm(p["norm_mlp"], slots)))
        return slots + dense(p["mlp_out"], hidden), None

    first = p["mean"] + jnp.exp(p["log_sigma"]) * noise
    return jax.lax.scan(iterate, first, None, length=ITERS)[0]


def autoencoder(p, features, noise):
    grid = jnp.asarray(position_grid(), features.dtype)
    slots = infer_slots(p["slots"], features + dense(p["position_in"], grid), noise)
    tiled = slots[:, :, None, :] + dense(p["position_out"], grid)
    out = dense(p["decode_2"], jax.nn.relu(dense(p["decode_1"], tiled)))
    colours, masks = out[..., :3], jax.nn.softmax(out[..., 3], axis=1)
    return {"image": jnp.einsum("bsnc,bsn->bnc", colours, masks), "masks": masks, "slots": slots}


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def linear(m):
        return {"kernel": a(m.weight).T, "bias": a(m.bias)}

    def norm(m):
        return {"scale": a(m.weight), "offset": a(m.bias)}

    s = module.slot_attention
    hidden = {"kernel": a(s.gru.weight_hh).T, "bias": a(s.gru.bias_hh)}
    slots = {
        "norm_in": norm(s.norm_input),
        "norm_slots": norm(s.norm_slots),
        "norm_mlp": norm(s.norm_pre_ff),
        "q": a(s.to_q.weight).T,
        "k": a(s.to_k.weight).T,
        "v": a(s.to_v.weight).T,
        "gru": {"input": {"kernel": a(s.gru.weight_ih).T, "bias": a(s.gru.bias_ih)}, "hidden": hidden},
        "mlp_in": linear(s.fc1),
        "mlp_out": linear(s.fc2),
        "mean": a(s.slots_mu)[0],
        "log_sigma": a(s.slots_logsigma)[0],
    }
    return autoencoder, {
        "slots": slots,
        "position_in": linear(module.embed_in.dense),
        "position_out": linear(module.embed_out.dense),
        "decode_1": linear(module.decoder[0]),
        "decode_2": linear(module.decoder[2]),
    }


def jax_side():
    leaves, tree = jax.tree.flatten(convert(SlotAutoEncoder())[1])
    keys = jax.random.split(jax.random.key(11), len(leaves))
    return autoencoder, jax.tree.unflatten(
        tree, [jax.random.normal(k, a.shape) * 0.3 for k, a in zip(keys, leaves, strict=True)]
    )


MISTAKES = [
    {
        "name": "the attention is normalised by its sum over the slots instead of over the inputs (no weighted mean)",
        "side": "torch",
        "old": "attn = attn / attn.sum(dim=-1, keepdim=True)",
        "new": "attn = attn / attn.sum(dim=1, keepdim=True)",
        "line": 64,
    },
    {
        "name": "the alpha masks are a softmax over the pixels instead of over the slots",
        "side": "torch",
        "old": "masks = torch.softmax(alpha, dim=1)",
        "new": "masks = torch.softmax(alpha, dim=2)",
        "line": 83,
    },
    {
        "name": "layer norm with epsilon 1e-5 instead of 1e-3",
        "side": "jax",
        "old": "def layer_norm(p, x, eps=1e-3):",
        "new": "def layer_norm(p, x, eps=1e-5):",
        "line": 100,
    },
    {
        "name": "the GRU's state and input are swapped",
        "side": "jax",
        "old": 'gru(p["gru"], slots, jnp.einsum("bns,bnd->bsd", weights, values))',
        "new": 'gru(p["gru"], jnp.einsum("bns,bnd->bsd", weights, values), slots)',
        "line": 121,
    },
    {
        "name": "the slots' log standard deviation is used without the exponential",
        "side": "torch",
        "old": "self.slots_mu + self.slots_logsigma.exp() * noise",
        "new": "self.slots_mu + self.slots_logsigma * noise",
        "line": 56,
    },
]
