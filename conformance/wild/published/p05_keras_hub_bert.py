"""keras-hub 0.32's BERT (Keras 3 on the JAX backend) beside transformers' (torch), with padding and two token types.

The port's GELU is the one by tanh, where the published BERT has the exact one: it is right for a configuration that says so.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from conformance.wild.packages import imported, require
from conformance.wild.published import spread

require(
    keras="keras",
    keras_hub="keras-hub",
    transformers="transformers",
    absl="absl-py",
    h5py="h5py",
    namex="namex",
    optree="optree",
)

ENCODER = "keras_hub.src.layers.modeling.transformer_encoder"
PLANTED = ()
LOADED = False
SINGLE = True  # Keras casts to a layer's dtype, float32

LAYERS, VOCAB, DIM, HIDDEN, HEADS, LENGTH, TYPES = 2, 90, 32, 128, 2, 128, 2


def inputs():
    rng = np.random.default_rng(5)
    mask = np.ones((2, 8), "int64")
    mask[1, 5:] = 0
    return rng.integers(0, VOCAB, size=(2, 8)), mask, (np.arange(8) > np.array([[3], [2]])).astype("int64")


def torch_side():
    from transformers import BertConfig, BertModel

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        type_vocab_size=TYPES,
        hidden_act="gelu_pytorch_tanh",
    )
    return spread(BertModel(config))


def port():
    bert, names = imported(
        "keras_hub.src.models.bert.bert_backbone", "keras_hub.src.utils.transformers.convert_bert", edits=PLANTED
    )
    backbone = bert.BertBackbone(
        vocabulary_size=VOCAB,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=DIM,
        intermediate_dim=HIDDEN,
        max_sequence_length=LENGTH,
        num_segments=TYPES,
    )

    def encode(params, input_ids, attention_mask, token_type_ids):
        given = {"token_ids": input_ids, "padding_mask": attention_mask, "segment_ids": token_type_ids}
        trained = [params[v.path] for v in backbone.trainable_variables]
        outputs, _ = backbone.stateless_call(trained, [v.value for v in backbone.non_trainable_variables], given)
        return {"last_hidden_state": outputs["sequence_output"], "pooler_output": outputs["pooled_output"]}

    return backbone, encode, names


class Loader:
    """The part of keras-hub's SafetensorLoader that its converter calls, on a state dict."""

    def __init__(self, tensors):
        self.tensors = tensors

    def get_tensor(self, name):
        return self.tensors[name].detach().numpy()

    def port_weight(self, keras_variable, hf_weight_key, hook_fn=None):
        array = self.get_tensor(hf_weight_key)
        keras_variable.assign(array if hook_fn is None else hook_fn(array, list(keras_variable.shape)))


def held(backbone):
    return {v.path: jnp.asarray(v.value) for v in backbone.trainable_variables}


def convert(module):
    backbone, encode, names = port()
    names.convert_weights(backbone, Loader(module.state_dict()), None)
    return encode, held(backbone)


def jax_side():
    backbone, encode, _ = port()
    rng = np.random.default_rng(50)
    return encode, jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype("float32"), held(backbone))


MISTAKES = [
    {
        "name": "the GELU is the exact one instead of the one by tanh",
        "side": "jax",
        "module": "keras_hub.src.utils.keras_utils",
        "old": "    return keras.activations.gelu(x, approximate=True)\n",
        "new": "    return keras.activations.gelu(x, approximate=False)\n",
        "line": 43,
    },
    {
        "name": "positions are counted from 1",
        "side": "jax",
        "module": "keras_hub.src.layers.modeling.position_embedding",
        "old": "                (start_index, 0),\n",
        "new": "                (start_index + 1, 0),\n",
        "line": 120,
    },
    {
        "name": "padding hides queries instead of keys",
        "side": "jax",
        "module": "keras_hub.src.layers.modeling.transformer_layer_utils",
        "old": '        mask = ops.cast(ops.expand_dims(mask, axis=1), "int32")\n',
        "new": '        mask = ops.cast(ops.expand_dims(mask, axis=2), "int32")\n',
        "line": 85,
    },
    {
        "name": "the second norm of a layer is the first again",
        "side": "jax",
        "module": ENCODER,
        "old": "        if not self.normalize_first:\n            x = self._feedforward_layer_norm(x)\n",
        "new": "        if not self.normalize_first:\n            x = self._self_attention_layer_norm(x)\n",
        "line": 244,
    },
    {
        "name": "the second residual is the layer's input",
        "side": "jax",
        "module": ENCODER,
        "old": "        x = self._feedforward_dropout(x, training=training)\n        x = x + residual\n",
        "new": "        x = self._feedforward_dropout(x, training=training)\n        x = x + inputs\n",
        "line": 242,
    },
]
