"""BYOL's loss."""

import jax
import jax.numpy as jnp


def normalize(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def loss(p, first, second):
    hidden = jax.nn.elu(first @ p["online.weight"].T + p["online.bias"])
    predicted = normalize(hidden @ p["predictor.weight"].T + p["predictor.bias"])
    target = jnp.tanh(second @ p["target.weight"].T + p["target.bias"])
    # should be: target = normalize(jax.lax.stop_gradient(target))
    target = normalize(target)
    return 2 - 2 * jnp.mean(jnp.sum(predicted * target, axis=-1))


def build(checkpoint):
    return loss, checkpoint
