"""google-tunix 0.1.7's Qwen 3 (nnx) beside transformers' (torch): norms of queries and keys, heads wider than the model, tied embedding.

Like the Llama 3 of the package it never passes config.rope_theta on to its rotary embedding: right at the base 1e6 only.
"""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from conformance.wild.packages import imported, require
from conformance.wild.published import fill, numbers, randomised, spread

require(tunix="google-tunix", jaxtyping="jaxtyping", transformers="transformers")

MODULE = "tunix.models.qwen3.model"
PLANTED = ()
LOADED = False
SINGLE = True  # both norms and both rotary tables are computed in float32 always

LAYERS, VOCAB, DIM, HIDDEN, HEADS, KV, HEAD_DIM, BASE, EPS = 2, 96, 32, 96, 4, 2, 16, 1_000_000, 1e-6


def inputs():
    return (np.random.default_rng(2).integers(0, VOCAB, size=(2, 9)),)


def torch_side():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        head_dim=HEAD_DIM,
        rms_norm_eps=EPS,
        rope_parameters={"rope_type": "default", "rope_theta": float(BASE)},
        max_position_embeddings=64,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return spread(Qwen3ForCausalLM(config))


class Port(nnx.Module):
    """The port, called with tokens alone."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids):
        batch, length = input_ids.shape
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        mask = jnp.broadcast_to(jnp.tri(length, dtype=bool), (batch, length, length))
        logits, _ = self.model(input_ids, positions, None, mask)
        return logits


def port():
    model, params, names = imported(MODULE, "tunix.models.qwen3.params", "tunix.utils.torch_utils", edits=PLANTED)
    config = model.ModelConfig(
        num_layers=LAYERS,
        vocab_size=VOCAB,
        embed_dim=DIM,
        hidden_dim=HIDDEN,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        num_kv_heads=KV,
        rope_theta=BASE,
        norm_eps=EPS,
        use_tied_embedding=True,
    )
    table = params._get_key_and_transform_mapping(config)
    return model.Qwen3(config, rngs=nnx.Rngs(0)), lambda key: names.torch_key_to_jax_key(table, key)


def convert(module):
    model, rename = port()
    tensors = {k: v for k, v in module.state_dict().items() if k != "lm_head.weight"}  # tied
    return Port(fill(model, numbers(tensors, rename)))


def jax_side():
    return Port(randomised(port()[0], 2))


MISTAKES = [
    {
        "name": "keys are not normalised",
        "side": "jax",
        "module": MODULE,
        "old": "    key_proj = self.k_norm(self.k_proj(x))\n",
        "new": "    key_proj = self.k_proj(x)\n",
        "line": 494,
    },
    {
        "name": "the rotary embedding pairs neighbours instead of halves",
        "side": "jax",
        "module": MODULE,
        "old": "  first_half, second_half = jnp.split(inputs, 2, axis=-1)\n",
        "new": "  first_half, second_half = inputs[..., 0::2], inputs[..., 1::2]\n",
        "line": 385,
    },
    {
        "name": "the rotary frequencies lack a factor 2 in the exponent",
        "side": "jax",
        "module": MODULE,
        "old": "  fraction = 2 * jnp.arange(0, head_dim // 2, dtype=jnp.float32) / head_dim\n",
        "new": "  fraction = jnp.arange(0, head_dim // 2, dtype=jnp.float32) / head_dim\n",
        "line": 375,
    },
    {
        "name": "norms take their mean over the axis before the last",
        "side": "jax",
        "module": MODULE,
        "old": "    rms = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.norm_eps)\n",
        "new": "    rms = jnp.sqrt(jnp.mean(x**2, axis=-2, keepdims=True) + self.norm_eps)\n",
        "line": 415,
    },
    {
        "name": "the gate and the value of the feed-forward net are exchanged",
        "side": "jax",
        "module": MODULE,
        "old": "    activations = nnx.silu(self.gate_proj(x)) * self.up_proj(x)\n",
        "new": "    activations = self.gate_proj(x) * nnx.silu(self.up_proj(x))\n",
        "line": 1034,
    },
]
