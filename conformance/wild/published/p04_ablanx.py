"""ablanx 0.1.0 (linen) beside ablang2 0.2.1 (torch): the encoder of an antibody language model, with padding.

The port's sizes are constants of its source: here they are edited to a tenth, with the original width of a head.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from conformance.wild.packages import imported, require
from conformance.wild.published import spread

require(ablang_jax="ablanx", ablang2="ablang2", einops="einops", rotary_embedding_torch="rotary-embedding-torch")

MODULE = "ablang_jax.model"
TORCH_MODULE = "ablang2.models.ablang2.encoderblock"
PLANTED = ()
LOADED = False
SINGLE = True  # rotary tables are computed in float32 always

BLOCKS, VOCAB, DIM, HEADS, PAD, MASK, EPS = 2, 26, 48, 2, 21, 23, 1e-12
SIZES = (
    (MODULE, "HID = 480\n", f"HID = {DIM}\n"),
    (MODULE, "N_HEAD = 20\n", f"N_HEAD = {HEADS}\n"),
    (MODULE, "N_BLOCK = 12\n", f"N_BLOCK = {BLOCKS}\n"),
    (MODULE, "nn.Dense(3840,", f"nn.Dense({8 * DIM},"),
)


def inputs():
    tokens = np.random.default_rng(4).integers(1, 21, size=(2, 9))
    tokens[:, 0], tokens[0, -1], tokens[1, 6:] = 0, 22, (22, PAD, PAD)
    return (tokens,)


class Encoder(torch.nn.Module):
    """What the port covers of AbLang2: the last hidden states and each block's attention."""

    def __init__(self, rep):
        super().__init__()
        self.AbRep = rep

    def forward(self, tokens):
        found = self.AbRep(tokens, return_attn_weights=True)
        return found.last_hidden_states, torch.stack(found.attention_weights)


def torch_side():
    (ablang,) = imported("ablang2.models.ablang2.ablang", edits=PLANTED)
    torch.manual_seed(4)
    rep = ablang.AbRep(VOCAB, DIM, HEADS, BLOCKS, PAD, MASK, layer_norm_eps=EPS, a_fn="swiglu", dropout=0.0)
    with torch.no_grad():
        _ = rep.aa_embed_layer.weight.mul_(0.02)  # as trained models begin
    return spread(Encoder(rep))


def port():
    (model,) = imported(MODULE, edits=(*SIZES, *PLANTED))

    def encode(params, tokens):
        return model.Ablanx().apply({"params": params}, tokens, jnp.asarray(tokens != PAD, "float32"), return_attn=True)

    return model, encode


def convert(module):
    model, encode = port()
    arrays = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    return encode, jax.tree.map(jnp.asarray, model.load_ablanx_params(arrays))


def jax_side():
    model, encode = port()
    shapes = model.Ablanx().init(jax.random.key(4), jnp.ones((1, 3), "int32"), jnp.ones((1, 3)))["params"]
    rng = np.random.default_rng(40)
    return encode, jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype("float32"), shapes)


MISTAKES = [
    {
        "name": "scores are divided by the root of the head's width once instead of twice",
        "side": "jax",
        "module": MODULE,
        "old": '        logits = jnp.einsum("blhd,bmhd->bhlm", q, k) / HEAD_DIM\n',
        "new": '        logits = jnp.einsum("blhd,bmhd->bhlm", q, k) / HEAD_DIM**0.5\n',
        "line": 57,
    },
    {
        "name": "the first norm's epsilon is flax's default, 1e-6, instead of 1e-12",
        "side": "jax",
        "module": MODULE,
        "old": '        h = nn.LayerNorm(epsilon=LN_EPS, name="pre_attn_layer_norm")(x)\n',
        "new": '        h = nn.LayerNorm(name="pre_attn_layer_norm")(x)\n',
        "line": 51,
    },
    {
        "name": "the gate and the value of the feed-forward net are exchanged",
        "side": "torch",
        "module": TORCH_MODULE,
        "old": "        return F.silu(gate) * x\n",
        "new": "        return F.silu(x) * gate\n",
        "line": 164,
    },
    {
        "name": "the rotary angles are tiled instead of repeated",
        "side": "jax",
        "module": MODULE,
        "old": "    ang = jnp.repeat(ang, 2, axis=-1)\n",
        "new": "    ang = jnp.tile(ang, (1, 2))\n",
        "line": 39,
    },
    {
        "name": "the output projection has no bias",
        "side": "jax",
        "module": MODULE,
        "old": '        o = nn.Dense(HID, name="out_proj")(o)\n',
        "new": '        o = nn.Dense(HID, use_bias=False, name="out_proj")(o)\n',
        "line": 61,
    },
]
