"""google-tunix 0.1.7's Gemma 2 (nnx) beside transformers' (torch): window in every other layer, soft caps, keys and values in one array.

The port scales queries by the head's width: right where query_pre_attn_scalar is just that, as in the 2B and the 9B model.
"""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from conformance.wild.packages import imported, require
from conformance.wild.published import fill, numbers, randomised, spread

require(tunix="google-tunix", jaxtyping="jaxtyping", transformers="transformers")

MODULE = "tunix.models.gemma.model"
PLANTED = ()
LOADED = False
SINGLE = True  # torch computes norms, and both sides rotary tables, in float32 always

LAYERS, VOCAB, DIM, HIDDEN, HEADS, KV, HEAD_DIM, WINDOW = 2, 96, 36, 144, 4, 2, 8, 4
ATTENTION_CAP, FINAL_CAP = 50.0, 30.0


def inputs():
    return (np.random.default_rng(3).integers(0, VOCAB, size=(2, 9)),)


def torch_side():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        head_dim=HEAD_DIM,
        query_pre_attn_scalar=HEAD_DIM,
        sliding_window=WINDOW,
        attn_logit_softcapping=ATTENTION_CAP,
        final_logit_softcapping=FINAL_CAP,
        max_position_embeddings=64,
        use_cache=False,
        attn_implementation="eager",
    )
    model = spread(Gemma2ForCausalLM(config))
    with torch.no_grad():
        for layer in model.model.layers:
            _ = layer.self_attn.q_proj.weight.mul_(4)  # scores large enough for the cap to matter
    return model


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
    model, params, names = imported(MODULE, "tunix.models.gemma.params_safetensors", "tunix.utils.torch_utils", edits=PLANTED)
    config = model.ModelConfig(
        num_layers=LAYERS,
        num_embed=VOCAB,
        embed_dim=DIM,
        hidden_dim=HIDDEN,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        num_kv_heads=KV,
        final_logit_softcap=FINAL_CAP,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=(model.AttentionType.LOCAL_SLIDING, model.AttentionType.GLOBAL) * (LAYERS // 2),
        attn_logits_soft_cap=ATTENTION_CAP,
        sliding_window_size=WINDOW,
    )
    table = params._get_key_and_transform_mapping(config)
    rename = lambda key: names.torch_key_to_jax_key(table, key)  # noqa: E731
    return model.Gemma(config, rngs=nnx.Rngs(0)), rename, params._make_preprocess_fn(config)


def convert(module):
    model, rename, stack = port()
    tensors = {k: v for k, v in module.state_dict().items() if k != "lm_head.weight"}  # tied
    return Port(fill(model, stack(numbers(tensors, rename))))


def jax_side():
    return Port(randomised(port()[0], 3))


MISTAKES = [
    {
        "name": "the window is one key too wide",
        "side": "jax",
        "module": MODULE,
        "old": "  sliding_mask = cache_positions >= segment_pos - sliding_window_size + 1\n",
        "new": "  sliding_mask = cache_positions >= segment_pos - sliding_window_size\n",
        "line": 335,
    },
    {
        "name": "the scores are not capped",
        "side": "jax",
        "module": MODULE,
        "old": "      logits = jnp.tanh(logits / self.attn_logits_soft_cap)\n      logits = logits * self.attn_logits_soft_cap\n",
        "new": "      pass\n",
        "line": 455,
    },
    {
        "name": "the GELU is the exact one instead of the one by tanh",
        "side": "jax",
        "module": MODULE,
        "old": "    gate_value = nnx.gelu(ff_gate)\n",
        "new": "    gate_value = nnx.gelu(ff_gate, approximate=False)\n",
        "line": 588,
    },
    {
        "name": "norms multiply by their weight instead of one plus it",
        "side": "jax",
        "module": MODULE,
        "old": "    normed_inputs = normed_inputs * (1 + scale)\n",
        "new": "    normed_inputs = normed_inputs * scale\n",
        "line": 715,
    },
    {
        "name": "queries are scaled by the model's width divided by the heads instead of the head's width",
        "side": "jax",
        "module": MODULE,
        "old": "    query_scaled = query_proj * self.head_dim**-0.5\n",
        "new": "    query_scaled = query_proj * (x.shape[-1] / self.num_heads)**-0.5\n",
        "line": 420,
    },
]
