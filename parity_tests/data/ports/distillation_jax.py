"""A student learns from a teacher: the divergence of each word, averaged over all words."""

import jax
import jax.numpy as jnp

TEMPERATURE = 2.0


def loss(p, x, teacher):
    student = jax.nn.log_softmax((x @ p["head.weight"].T + p["head.bias"]) / TEMPERATURE)
    target = jax.nn.log_softmax(teacher / TEMPERATURE)
    divergence = jnp.sum(jnp.exp(target) * (target - student), axis=-1)
    return jnp.mean(divergence) * TEMPERATURE**2  # here


def build(checkpoint):
    return loss, checkpoint
