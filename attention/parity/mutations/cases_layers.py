"""Mutants of alignment models, of other attentions, and of blocks: name, knob, case, what shows it, plant."""

from __future__ import annotations

import numpy as np

from attention.parity.mutations import operators
from attention.parity.mutations.case_mutation import CaseMutation
from attention.parity.mutations.operators import option, part, weight
from attention.spec.scores import Dot, ScaledDot

ALIGNMENT = (
    CaseMutation(
        "hidden bias dropped", "bias dropped", "additive", "random biases", weight("score_q_proj.bias", np.zeros_like)
    ),
    CaseMutation(
        "hidden features in another order",
        "feature order",
        "additive",
        "random kernels",
        weight("score_v", lambda v: np.roll(v, 1)),
    ),
    CaseMutation("soft cap of 2 forgotten", "soft cap", "additive_lean", "scores that saturate", option(softcap=None)),
    CaseMutation(
        "keys before queries",
        "projection order",
        "concat",
        "queries and keys of other widths",
        weight("score_proj.kernel", lambda w: np.roll(w, 13, axis=0)),
    ),
    CaseMutation(
        "scores wrong by 0.003 %",
        "scale",
        "general",
        "a tolerance of rounding size",
        weight("score_proj.kernel", lambda w: w * np.float32(1 + operators.OFF_BY)),
    ),
    CaseMutation("scale of projected states forgotten", "scale", "article", "scores that are not tiny", option(score=Dot())),
)

LAYERS = (
    CaseMutation("latent norms with another eps", "norm eps", "latent", "low-variance rows", part("norm", eps=1e-5)),
    CaseMutation("latent's rotary half for interleaved", "rotary style", "latent", "T > 1", part("positions", style="half")),
    CaseMutation("latent's scale of the plain width", "scale", "latent", "rope_dim > 0", option(score=ScaledDot(5**-0.5))),
    CaseMutation("lambda of the next layer", "lambda", "differential", "a layer that is not deep", option(depth=3)),
    CaseMutation("heads' norm with another eps", "norm eps", "differential", "low-variance rows", part("norm", eps=1e-6)),
    CaseMutation(
        "lambda's second term of the wrong sign", "lambda", "differential", "random lambdas", weight("lambda_q2", np.negative)
    ),
    CaseMutation("another feature map", "linear attention", "linear", "negative features", option(feature_map="relu")),
    CaseMutation("linear eps forgotten", "linear attention", "linear", "low-variance rows", option(eps=0.0)),
    CaseMutation("linear sees later tokens", "causal", "linear", "T > 1", option(causal=False)),
    CaseMutation(
        "GELU by tanh for GELU by erf",
        "activation",
        "encoder",
        "a tolerance below 5e-4",
        part("block.feed_forward", activation="gelu_tanh"),
    ),
    CaseMutation(
        "LayerNorm with flax's eps for torch's", "norm eps", "encoder", "low-variance rows", part("block.norm", eps=1e-6)
    ),
    CaseMutation("pre-norm for post-norm", "block order", "encoder", "random norm weights", part("block", order="pre")),
    CaseMutation("post-norm for pre-norm", "block order", "encoder_pre_norm", "random norm weights", option(order="post")),
    CaseMutation("RMSNorm scaled by 1 + w", "norm scale", "encoder_pre_norm", "random norm weights", part("norm", offset=True)),
    CaseMutation(
        "gate and up exchanged",
        "activation",
        "encoder_pre_norm",
        "any input",
        operators.swap_weights("ffn.gate.kernel", "ffn.up.kernel"),
    ),
    CaseMutation("decoder sees later tokens", "causal", "decoder", "T > 1", part("self_attention", mask=None)),
    CaseMutation(
        "norms of a block exchanged",
        "block order",
        "decoder",
        "random norm weights",
        operators.swap_weights("norm1.scale", "norm2.scale"),
    ),
)
