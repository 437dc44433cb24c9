"""Llama and those who build as it does: Mistral, Gemma 2, Qwen3, GPT-OSS.

    self_attn.q_proj.weight (HD, M)    k_proj (KD, M)    v_proj (KE, M)    o_proj (M, HE)        grouped heads, rotary halves
    self_attn.q_norm.weight (D,)       Qwen3             self_attn.sinks (H,)        GPT-OSS
    mlp.gate_proj.weight (A, M)        up_proj (A, M)    down_proj (M, A)    input_layernorm, post_attention_layernorm (M,)
    model.layers.0.*                   model.layers.1.*  model.norm.weight (M,)    the whole decoder of Llama, Mistral, Qwen3

Where they differ is mathematics, so it is in the contract: biases, the window, the soft cap, the scale, the norm, the sinks.
Their `sliding_window` counts the query's own key: 4096 is `Window(before=4095, after=0)`.

References:
    Touvron et al., arXiv:2302.13971; Jiang et al., arXiv:2310.06825; Gemma 2, arXiv:2408.00118; Qwen3, arXiv:2505.09388;
    GPT-OSS, arXiv:2508.10925; names and defaults as in transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attention.exchange.config import (
    Config,
    any_count,
    any_number,
    check_depth,
    check_layer,
    count,
    depth,
    divided,
    get,
    number_or,
    switch,
    word,
)
from attention.exchange.dialect import Dialect, Row, linear, projections, under
from attention.exchange.rope import parameters, rotary
from attention.spec.algebra import Mask
from attention.spec.disk import brief
from attention.spec.errors import OptionError
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Encoder
from attention.spec.layers.transformer import EncoderBlock
from attention.spec.masks import Causal, Window
from attention.spec.norms import RMSNorm
from attention.spec.scores import ScaledDot

_PROJECTIONS = projections("q_proj", "k_proj", "v_proj", "o_proj")

LLAMA = Dialect("Llama", _PROJECTIONS)
MISTRAL = Dialect("Mistral", _PROJECTIONS)
GEMMA2 = Dialect("Gemma2", _PROJECTIONS)
QWEN3 = Dialect(
    "Qwen3", (*_PROJECTIONS, Row("q_norm.scale", "q_norm.weight", ("D",)), Row("k_norm.scale", "k_norm.weight", ("D",)))
)
GPT_OSS = Dialect("GPT-OSS", (*_PROJECTIONS, Row("sinks", "sinks", ("H",))))


BLOCK = Dialect(
    "Llama block",
    (
        *under("self_attn.", "self_attn.", QWEN3.rows),
        *linear("ffn.gate", "mlp.gate_proj", ("A", "M")),
        *linear("ffn.up", "mlp.up_proj", ("A", "M")),
        *linear("ffn.down", "mlp.down_proj", ("M", "A")),
        Row("norm1.scale", "input_layernorm.weight", ("M",)),
        Row("norm2.scale", "post_attention_layernorm.weight", ("M",)),
    ),
)
"""One layer of Llama, Mistral or Qwen3 as `block` describes it."""

ACTIVATIONS = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"}
"""The gated form of each "hidden_act"."""

GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
"""What a GPT-OSS config that says nothing means."""


def contract(config: Config, layer: int = 0) -> MultiHeadAttention:
    """Return the contract of the attention that a `config.json` describes.

    Args:
        config: the parsed file, whose "model_type" is one of `FAMILIES`. Dropout belongs to training and is not read.
        layer: of the model, from 0; in some families only some layers have a window.

    Raises:
        OptionError: another family, a number that is missing, or attention that is not causal.
    """
    kind = word(config, "model_type", tuple(FAMILIES))
    check_layer(layer)
    if switch(config, "use_bidirectional_attention", absent=False):
        raise OptionError("use_bidirectional_attention True must be False: the family's attention is causal")
    return FAMILIES[kind][1](config, layer)


def block(config: Config, layer: int = 0) -> EncoderBlock:
    """Return the contract of a whole layer: norm and attention, norm and gated feed-forward, each beside the tokens.

    Args:
        config: the parsed file, of Llama, Mistral or Qwen3; the others' layers have more norms, or experts.
        layer: of the model, from 0.

    Raises:
        OptionError: another family, a number that is missing, or an activation that is not known here.
    """
    _ = word(config, "model_type", BLOCKS)
    act = word(config, "hidden_act", tuple(ACTIVATIONS), "silu")
    return EncoderBlock(
        contract(config, layer),
        FeedForward(
            count(config, "hidden_size"),
            count(config, "intermediate_size"),
            ACTIVATIONS[act],
            bias=switch(config, "mlp_bias", absent=False),
        ),
        norm=RMSNorm(eps=number_or(config, "rms_norm_eps", 1e-6)),
        order="pre",
    )


def decoder(config: Config) -> Encoder:
    """Return the contract of all layers and the norm after them: what stands between the embedding and the logits.

    Raises:
        OptionError: as `block`, or layers that are not all alike.
    """
    layers = depth(config, "num_hidden_layers")
    one = block(config)
    if any(contract(config, layer) != one.attention for layer in range(1, layers)):
        types = brief(repr(config.get("layer_types")))
        raise OptionError(f"layer_types {types} must be one type: a stack's blocks are all alike")
    return Encoder(one, layers, final_norm=one.norm)


def stacked(dialect: Dialect, depth: int, layers: str, norm: str, beside: Iterable[str] = ()) -> Dialect:
    """Return the table of a decoder, for `dialect.read` and `dialect.write`, from that of its blocks.

    Args:
        dialect: of one block.
        depth: how many there are.
        layers: where block `{}` is: "layers.{}.".
        norm: the tensor of the norm after them.
        beside: what is stored among them and is no part of them, such as the embedding.

    Raises:
        OptionError: the depth is no int that a stack may have.

    >>> stacked(BLOCK, 2, "layers.{}.", "norm.weight").rows[-1].stored
    'norm.weight'
    """
    check_depth(depth)
    rows = (row for i in range(depth) for row in under(f"layers.{i}.", layers.format(i), dialect.rows))
    last = Row("final_norm.scale", norm, ("M",))
    return Dialect(f"{dialect.name}s", (*rows, last), beside=frozenset(beside))


def decoder_dialect(depth: int) -> Dialect:
    """Return the table by which transformers stores a decoder, under "model."."""
    return stacked(BLOCK, depth, "layers.{}.", "norm.weight", beside=("embed_tokens.weight",))


def _llama(config: Config, layer: int) -> MultiHeadAttention:
    del layer
    return _common(config, bias=switch(config, "attention_bias", absent=False))


def _mistral(config: Config, layer: int) -> MultiHeadAttention:
    del layer
    return _common(config, bias=False, window=any_count(config, "sliding_window", 4096))


def _gemma2(config: Config, layer: int) -> MultiHeadAttention:
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=False),
        window=any_count(config, "sliding_window", 4096) if _slides(config, layer, default=layer % 2 == 0) else None,
        score=ScaledDot(_inverse_root(number_or(config, "query_pre_attn_scalar", 256.0))),
        softcap=any_number(config, "attn_logit_softcapping", 50.0),
    )


def _qwen3(config: Config, layer: int) -> MultiHeadAttention:
    width = any_count(config, "sliding_window", 4096) if switch(config, "use_sliding_window", absent=False) else None
    slides = _slides(config, layer, default=layer >= number_or(config, "max_window_layers", 28))
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=False),
        window=width if slides else None,
        qk_norm=RMSNorm(eps=number_or(config, "rms_norm_eps", 1e-6)),
    )


def _gpt_oss(config: Config, layer: int) -> MultiHeadAttention:
    if not parameters(config):
        config = {**config, "rope_parameters": GPT_OSS_ROPE}
    return _common(
        config,
        bias=switch(config, "attention_bias", absent=True),
        window=any_count(config, "sliding_window", 128) if _slides(config, layer, default=layer % 2 == 0) else None,
        base=150_000.0,
        sinks=True,
    )


FAMILIES: dict[str, tuple[Dialect, Callable[[Config, int], MultiHeadAttention]]] = {
    "llama": (LLAMA, _llama),
    "mistral": (MISTRAL, _mistral),
    "gemma2": (GEMMA2, _gemma2),
    "qwen3": (QWEN3, _qwen3),
    "gpt_oss": (GPT_OSS, _gpt_oss),
}
"""The table and the contract of each "model_type"."""

LAYER_TYPES = ("full_attention", "sliding_attention")

BLOCKS = ("llama", "mistral", "qwen3")
"""The families whose whole layer is a `block`."""


def _slides(config: Config, layer: int, *, default: bool) -> bool:
    """Return whether a layer has a window, which older configs leave to the family's rule."""
    kinds = get(config, "layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, (list, tuple)) or layer >= len(kinds):
        raise OptionError(f"layer_types {brief(repr(kinds))} must be a list with a type for layer {layer}")
    return word({"layer_types": kinds[layer]}, "layer_types", LAYER_TYPES) == "sliding_attention"


def _inverse_root(x: float) -> float:
    if x <= 0:
        raise OptionError(f"config query_pre_attn_scalar {x} must be above 0")
    return x**-0.5


def _common(
    config: Config, *, bias: bool, window: int | None = None, base: float = 10_000.0, **options: Any
) -> MultiHeadAttention:
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    head_dim = any_count(config, "head_dim") or divided(width, heads, ("hidden_size", "num_attention_heads"))
    mask: Mask = Causal()
    if window is not None:
        mask = mask & Window(before=window - 1, after=0)
    return MultiHeadAttention(
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=any_count(config, "num_key_value_heads"),
        head_dim=head_dim,
        qkv_bias=bias,
        out_bias=bias,
        mask=mask,
        positions=rotary(config, head_dim, base=base),
        **options,
    )
