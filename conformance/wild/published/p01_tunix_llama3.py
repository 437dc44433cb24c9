"""google-tunix 0.1.7's Llama 3 (nnx) beside transformers' Llama (torch).

The port never passes config.rope_theta on to its rotary embedding, so that it is right at the base 1e6 only, which is taken here.
"""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from conformance.wild.packages import imported, require
from conformance.wild.published import fill, numbers, randomised, spread

require(tunix="google-tunix", jaxtyping="jaxtyping", transformers="transformers")

MODULE = "tunix.models.llama3.model"
PLANTED = ()
LOADED = False
SINGLE = True  # both norms and both rotary tables are computed in float32 always

LAYERS, VOCAB, DIM, HIDDEN, HEADS, KV, HEAD_DIM, BASE, EPS = 2, 64, 32, 112, 4, 2, 8, 1_000_000, 1e-5


def inputs():
    return (np.random.default_rng(1).integers(0, VOCAB, size=(2, 9)),)


def torch_side():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
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
        tie_word_embeddings=False,
        use_cache=False,
    )
    return spread(LlamaForCausalLM(config))


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
    model, params, names = imported(MODULE, "tunix.models.llama3.params", "tunix.utils.torch_utils", edits=PLANTED)
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
    )
    table = params._get_key_and_transform_mapping(config)
    return model.Llama3(config, rngs=nnx.Rngs(0)), lambda key: names.torch_key_to_jax_key(table, key)


def convert(module):
    model, rename = port()
    return Port(fill(model, numbers(module.state_dict(), rename)))


def jax_side():
    return Port(randomised(port()[0], 1))


MISTAKES = [
    {
        "name": "the rotary base is 1e4 instead of 1e6",
        "side": "jax",
        "module": MODULE,
        "old": "  timescale = rope_theta**fraction\n",
        "new": "  timescale = 10_000**fraction\n",
        "line": 253,
    },
    {
        "name": "the norms' epsilon is 1e-6 instead of 1e-5",
        "side": "jax",
        "module": MODULE,
        "old": "        jnp.mean(jnp.astype(x, jnp.float32) ** 2, axis=-1, keepdims=True)\n        + self.norm_eps\n",
        "new": "        jnp.mean(jnp.astype(x, jnp.float32) ** 2, axis=-1, keepdims=True)\n        + 1e-06\n",
        "line": 290,
    },
    {
        "name": "scores are divided by the square root of the model's width instead of the head's",
        "side": "jax",
        "module": MODULE,
        "old": "    attn = jnp.einsum('BTHGD,BSHD->BHGTS', query_proj, key_proj) * self.scale\n",
        "new": "    attn = jnp.einsum('BTHGD,BSHD->BHGTS', query_proj, key_proj) * x.shape[-1]**-0.5\n",
        "line": 380,
    },
    {
        "name": "query heads are grouped the wrong way: key heads are tiled instead of repeated",
        "side": "jax",
        "module": MODULE,
        "old": "    query_proj = query_proj.reshape((b, t, kh, qh // kh, d))\n",
        "new": "    query_proj = query_proj.reshape((b, t, qh // kh, kh, d)).swapaxes(2, 3)\n",
        "line": 379,
    },
    {
        "name": "the second residual is taken after the norm",
        "side": "jax",
        "module": MODULE,
        "old": "    outputs = residual + self.mlp(attn_output)\n",
        "new": "    outputs = attn_output + self.mlp(attn_output)\n",
        "line": 549,
    },
]
