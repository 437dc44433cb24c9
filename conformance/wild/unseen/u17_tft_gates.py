"""A temporal fusion transformer: gated residual networks, variable selection, LSTM, interpretable attention. The port is NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = False

VARS, STATIC, HID, HEADS, PAST, FUTURE, QUANTILES = 3, 4, 8, 2, 6, 3, 3


def inputs():
    rng = np.random.default_rng(117)
    series = rng.normal(size=(2, PAST + FUTURE, VARS)).astype("float32")
    return {"series": series, "static": rng.normal(size=(2, STATIC)).astype("float32")}


class GateAddNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, 2 * size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x, skip):
        return self.norm(F.glu(self.fc(x), dim=-1) + skip)


class GatedResidualNetwork(nn.Module):
    def __init__(self, size_in, size_out=HID):
        super().__init__()
        self.resample = nn.Linear(size_in, size_out) if size_in != size_out else nn.Identity()
        self.fc1 = nn.Linear(size_in, HID)
        self.fc2 = nn.Linear(HID, size_out)
        self.gate_norm = GateAddNorm(size_out)

    def forward(self, x):
        return self.gate_norm(self.fc2(F.elu(self.fc1(x))), self.resample(x))


class VariableSelection(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_vectors = nn.Parameter(torch.zeros(VARS, HID))
        self.embed_bias = nn.Parameter(torch.zeros(VARS, HID))
        self.single = nn.ModuleList(GatedResidualNetwork(HID) for _ in range(VARS))
        self.flattened = GatedResidualNetwork(VARS * HID, VARS)

    def forward(self, series):
        embedded = series.unsqueeze(-1) * self.embed_vectors + self.embed_bias
        weights = F.softmax(self.flattened(embedded.flatten(-2)), dim=-1)
        outputs = torch.stack([grn(embedded[..., i, :]) for i, grn in enumerate(self.single)], dim=-1)
        return (outputs * weights.unsqueeze(-2)).sum(dim=-1), weights


class InterpretableAttention(nn.Module):
    """Heads with their own queries and keys, one value projection for all; the heads are averaged."""

    def __init__(self):
        super().__init__()
        self.d = HID // HEADS
        self.q_layer = nn.Linear(HID, HID)
        self.k_layer = nn.Linear(HID, HID)
        self.v_layer = nn.Linear(HID, self.d)
        self.w_h = nn.Linear(self.d, HID, bias=False)

    def forward(self, q, kv):
        v = self.v_layer(kv)
        future = torch.arange(PAST, PAST + FUTURE)[:, None] < torch.arange(PAST + FUTURE)[None, :]
        heads = []
        for qh, kh in zip(self.q_layer(q).split(self.d, dim=-1), self.k_layer(kv).split(self.d, dim=-1)):
            scores = qh @ kh.transpose(1, 2) / self.d**0.5
            heads.append(torch.softmax(scores.masked_fill(future, -1e9), dim=-1) @ v)
        return self.w_h(torch.stack(heads).mean(dim=0))


class TemporalFusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.static_encoder = nn.Linear(STATIC, HID)
        self.selection = VariableSelection()
        self.lstm = nn.LSTM(HID, HID, batch_first=True)
        self.post_lstm = GateAddNorm(HID)
        self.attention = InterpretableAttention()
        self.post_attention = GateAddNorm(HID)
        self.output = nn.Linear(HID, QUANTILES)

    def forward(self, series, static):
        context = torch.tanh(self.static_encoder(static))
        selected, weights = self.selection(series)
        h0 = context.unsqueeze(0)
        lstm_out, _ = self.lstm(selected, (h0, torch.zeros_like(h0)))
        lstm_out = self.post_lstm(lstm_out, selected)
        last = lstm_out[:, PAST:]
        return self.output(self.post_attention(self.attention(last, lstm_out), last)), weights


def torch_side():
    torch.manual_seed(117)
    model = TemporalFusion()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.45 + (1.0 if "norm.norm" in name or name.endswith("norm.weight") else 0.0))
    return model


class Gate(nnx.Module):
    def __init__(self, size, rngs):
        self.fc = nnx.Linear(size, 2 * size, rngs=rngs)
        self.norm = nnx.LayerNorm(size, epsilon=1e-5, rngs=rngs)

    def __call__(self, x, skip):
        value, gate = jnp.split(self.fc(x), 2, axis=-1)
        return self.norm(skip + value * nnx.sigmoid(gate))


class GRN(nnx.Module):
    def __init__(self, n_in, n_out, rngs):
        self.skip = nnx.Linear(n_in, n_out, rngs=rngs) if n_in != n_out else None
        self.inner = nnx.Linear(n_in, HID, rngs=rngs)
        self.outer = nnx.Linear(HID, n_out, rngs=rngs)
        self.gate = Gate(n_out, rngs)

    def __call__(self, x):
        return self.gate(self.outer(nnx.elu(self.inner(x))), x if self.skip is None else self.skip(x))


class Fusion(nnx.Module):
    def __init__(self, rngs):
        d = HID // HEADS
        self.static = nnx.Linear(STATIC, HID, rngs=rngs)
        self.scale = nnx.Param(jax.random.normal(rngs.params(), (VARS, HID)))
        self.offset = nnx.Param(jnp.zeros((VARS, HID)))
        self.each = nnx.List([GRN(HID, HID, rngs) for _ in range(VARS)])
        self.joint = GRN(VARS * HID, VARS, rngs)
        self.lstm_x = nnx.Linear(HID, 4 * HID, rngs=rngs)
        self.lstm_h = nnx.Linear(HID, 4 * HID, rngs=rngs)
        self.lstm_gate = Gate(HID, rngs)
        self.query = nnx.LinearGeneral(HID, (HEADS, d), rngs=rngs)
        self.key = nnx.LinearGeneral(HID, (HEADS, d), rngs=rngs)
        self.value = nnx.Linear(HID, d, rngs=rngs)
        self.merge = nnx.Linear(d, HID, use_bias=False, rngs=rngs)
        self.attention_gate = Gate(HID, rngs)
        self.quantiles = nnx.Linear(HID, QUANTILES, rngs=rngs)

    def select(self, series):
        parts = jnp.einsum("btv,vd->vbtd", series, self.scale[...]) + self.offset[...][:, None, None, :]
        weights = jax.nn.softmax(self.joint(jnp.concatenate(parts, axis=-1)))
        return sum(w * grn(p) for w, grn, p in zip(jnp.split(weights, VARS, axis=-1), self.each, parts)), weights

    def recur(self, xs, h0):
        kernel, bias = self.lstm_h.kernel[...], self.lstm_h.bias[...]

        def cell(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x + h @ kernel + bias, 4, axis=-1)
            c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
            h = nnx.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        _, hs = jax.lax.scan(cell, (h0, jnp.zeros_like(h0)), jnp.swapaxes(self.lstm_x(xs), 0, 1))
        return jnp.swapaxes(hs, 0, 1)

    def __call__(self, series, static):
        context = jnp.tanh(self.static(static))
        chosen, weights = self.select(series)
        temporal = self.lstm_gate(self.recur(chosen, context), chosen)
        late = temporal[:, PAST:]
        q, k, v = self.query(late), self.key(temporal), self.value(temporal)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(HID // HEADS)
        visible = jnp.tril(jnp.ones((FUTURE, PAST + FUTURE), bool), k=PAST)
        probs = jax.nn.softmax(jnp.where(visible, logits, -1e9), axis=-1)
        attended = self.merge(jnp.mean(probs, axis=1) @ v)
        return self.quantiles(self.attention_gate(attended, late)), weights


def linear(to, m, use_bias=True):
    to.kernel.set_value(jnp.asarray(m.weight.detach().numpy()).T.reshape(to.kernel.shape))
    if use_bias:
        to.bias.set_value(jnp.asarray(m.bias.detach().numpy()).reshape(to.bias.shape))


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def gate(to, m):
        linear(to.fc, m.fc)
        to.norm.scale.set_value(a(m.norm.weight))
        to.norm.bias.set_value(a(m.norm.bias))

    def grn(to, m):
        if to.skip is not None:
            linear(to.skip, m.resample)
        linear(to.inner, m.fc1)
        linear(to.outer, m.fc2)
        gate(to.gate, m.gate_norm)

    out, att = Fusion(nnx.Rngs(17)), module.attention
    linear(out.static, module.static_encoder)
    out.scale.set_value(a(module.selection.embed_vectors))
    out.offset.set_value(a(module.selection.embed_bias))
    for i in range(VARS):
        grn(out.each[i], module.selection.single[i])
    grn(out.joint, module.selection.flattened)
    for to, kind in ((out.lstm_x, "ih"), (out.lstm_h, "hh")):
        to.kernel.set_value(a(getattr(module.lstm, f"weight_{kind}_l0")).T)
        to.bias.set_value(a(getattr(module.lstm, f"bias_{kind}_l0")))
    for to, m in ((out.query, att.q_layer), (out.key, att.k_layer), (out.value, att.v_layer), (out.quantiles, module.output)):
        linear(to, m)
    linear(out.merge, att.w_h, use_bias=False)
    gate(out.lstm_gate, module.post_lstm)
    gate(out.attention_gate, module.post_attention)
    return out


def jax_side():
    return Fusion(nnx.Rngs(5))


MISTAKES = [
    {
        "name": "ReLU instead of ELU in the gated residual network",
        "side": "torch",
        "old": "self.gate_norm(self.fc2(F.elu(self.fc1(x)))",
        "new": "self.gate_norm(self.fc2(F.relu(self.fc1(x)))",
        "line": 41,
    },
    {
        "name": "the static context starts the LSTM's cell state instead of its hidden state",
        "side": "torch",
        "old": "self.lstm(selected, (h0, torch.zeros_like(h0)))",
        "new": "self.lstm(selected, (torch.zeros_like(h0), h0))",
        "line": 95,
    },
    {
        "name": "the heads are summed instead of averaged",
        "side": "jax",
        "old": "self.merge(jnp.mean(probs, axis=1) @ v)",
        "new": "self.merge(jnp.sum(probs, axis=1) @ v)",
        "line": 176,
    },
    {
        "name": "a future step does not see itself",
        "side": "jax",
        "old": "jnp.tril(jnp.ones((FUTURE, PAST + FUTURE), bool), k=PAST)",
        "new": "jnp.tril(jnp.ones((FUTURE, PAST + FUTURE), bool), k=PAST - 1)",
        "line": 174,
    },
    {
        "name": "the LSTM's gates are split in the order i, f, o, g",
        "side": "jax",
        "old": "i, f, g, o = jnp.split(",
        "new": "i, f, o, g = jnp.split(",
        "line": 159,
    },
]
