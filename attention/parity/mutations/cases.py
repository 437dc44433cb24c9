"""Named mutations, each with the case (a contract) whose probes must reveal it: mutation testing applies them to a user's test.

(name, kind, case, what reveals it, operator)
"""

from __future__ import annotations

import numpy as np

from attention.parity.mutations.input_operators import bias_ignored, queries_in_tf32
from attention.parity.mutations.mutation import Mutation
from attention.parity.mutations.operators import (
    OFF_BY,
    Operator,
    empty_row_mean,
    head_first,
    in_bfloat16,
    move_positions,
    option,
    other_dropout,
    part,
    scale_off,
    swap_weights,
    weight,
)
from attention.parity.mutations.registry import KINDS, generated
from attention.spec.norms import RMSNorm
from attention.spec.positions import RelativeBias
from attention.spec.scores import Cosine, Dot, ScaledDot

Row = tuple[str, str, str, str, Operator]


def _mutations(*rows: Row) -> tuple[Mutation, ...]:
    return tuple(
        Mutation(name, operator, kind, KINDS[kind].story, KINDS[kind].source, case, revealed_by)
        for name, kind, case, revealed_by, operator in rows
    )


MULTI_HEAD = _mutations(
    ("scale wrong by 0.003 %", "scale", "self", "a tolerance of rounding size", scale_off),
    ("scale forgotten", "scale", "self", "scores that are not tiny", option(score=Dot())),
    ("scale that should not be there", "scale", "dot", "scores that are not tiny", option(score=ScaledDot())),
    ("heads split (d h) for (h d)", "head split", "self", "H != D", weight("q_proj.kernel", head_first)),
    (
        "queries and keys exchanged",
        "projection order",
        "self",
        "random kernels",
        swap_weights("q_proj.kernel", "k_proj.kernel"),
    ),
    (
        "keys and values exchanged",
        "projection order",
        "self",
        "random kernels",
        swap_weights("k_proj.kernel", "v_proj.kernel"),
    ),
    ("window off by one", "window", "window", "T > window", generated("window one narrower before the token")),
    ("causal corner start for end", "causal", "causal_end", "T != S", generated("causal corner at the other end")),
    ("causal corner end for start", "causal", "causal_start", "T != S", generated("causal corner at the other end")),
    (
        "heads tiled instead of grouped",
        "head groups",
        "grouped",
        "K > 1 and H/K > 1",
        generated("heads tiled instead of grouped"),
    ),
    ("rotary interleaved for half", "rotary style", "rotary", "T > 1", generated("rotary interleaved for half")),
    ("rotary half for interleaved", "rotary style", "rotary_interleaved", "T > 1", generated("rotary half for interleaved")),
    (
        "rotary base wrong by 1 %",
        "rotary base",
        "rotary",
        "large positions, or a tolerance of rounding size",
        part("positions", base=10_100.0),
    ),
    ("rotary of all features, not of some", "rotary width", "rotary_interleaved", "T > 1", part("positions", rotary_dim=None)),
    ("rotary turns backwards", "rotary positions", "rotary", "T > 1, not symmetric", move_positions(np.negative)),
    (
        "rotary positions of queries off by one",
        "rotary positions",
        "rotary",
        "T > 1",
        move_positions(lambda x: x + 1, ("query_positions",)),
    ),
    ("rotary positions in bfloat16", "rotary positions", "rotary", "positions > 256", move_positions(in_bfloat16)),
    ("rotary scaling forgotten", "rotary scaling", "yarn", "large positions", part("positions", scaling=None)),
    (
        "rotary rows and columns exchanged",
        "rotary positions",
        "axial",
        "an image that is not square",
        move_positions(lambda x: x[..., ::-1]),
    ),
    ("polarity inverted", "mask polarity", "causal", "an asymmetric mask", generated("polarity inverted")),
    ("soft cap of 50 forgotten", "soft cap", "softcap", "scores that saturate", option(softcap=None)),
    ("bias of one projection dropped", "bias dropped", "self", "random biases", weight("v_proj.bias", np.zeros_like)),
    ("bias of the call ignored", "bias of the call", "self", "a bias of the call", bias_ignored),
    ("empty row = mean(v)", "softmax", "causal", "an empty row", empty_row_mean),
    ("queries rounded to TF32", "precision", "self", "a tolerance of rounding size", queries_in_tf32),
    ("dropout with other bits", "dropout", "dropout", "dropout", other_dropout),
    ("qk-norm forgotten", "norm kind", "qk_norm", "random norm weights", option(qk_norm=None)),
    ("qk-norm with another eps", "norm eps", "qk_norm", "low-variance rows", option(qk_norm=RMSNorm(eps=1e-5))),
    (
        "qk-norm scaled by 1 + w",
        "norm scale",
        "qk_norm",
        "random norm weights",
        option(qk_norm=RMSNorm(eps=1e-6, offset=True)),
    ),
    ("LayerNorm of heads with another eps", "norm eps", "qk_layer_norm", "low-variance rows", part("qk_norm", eps=1e-5)),
    ("l2 norm of heads forgotten", "norm kind", "qk_l2_norm", "heads not of unit length", option(qk_norm=None)),
    (
        "cosine's temperature not bounded",
        "temperature",
        "cosine",
        "a temperature beyond its bound",
        option(score=Cosine(initial=10.0, most=None)),
    ),
    ("cosine's temperature forgotten", "temperature", "cosine", "a random temperature", weight("log_scale", np.zeros_like)),
    ("sinks forgotten", "sinks", "sinks", "random sinks", option(sinks=False)),
    ("sinks of the wrong sign", "sinks", "sinks", "random sinks", weight("sinks", np.negative)),
    (
        "the 1 more in the denominator forgotten",
        "sinks",
        "off_by_one",
        "scores that are not large",
        option(softmax="standard"),
    ),
    ("gate forgotten", "output gate", "gate", "any input", option(gate=None)),
    (
        "gate of another head",
        "output gate",
        "gate_per_head",
        "H > 1",
        weight("gate_proj.kernel", lambda w: np.roll(w, 1, axis=1)),
    ),
    ("learned key not appended", "appended keys", "appended", "a random learned key", option(add_bias_kv=False)),
    ("zeros not appended", "appended keys", "appended", "any input", option(add_zero_attn=False)),
    ("slopes of alibi doubled", "alibi", "alibi", "T > 1", move_positions(lambda x: 2 * x)),
    ("score bias forgotten", "alibi", "alibi", "T > 1", option(positions=None)),
    (
        "buckets for one direction",
        "relative positions",
        "relative_bias",
        "keys after their queries",
        option(positions=RelativeBias(8, 20, bidirectional=False)),
    ),
    (
        "buckets reach twice as far",
        "relative positions",
        "relative_bias",
        "T > num_buckets / 4",
        part("positions", max_distance=40),
    ),
    (
        "relative keys mirrored",
        "relative positions",
        "relative_keys",
        "an asymmetric table",
        weight("relative_keys", lambda a: a[::-1]),
    ),
)

ALIGNMENT = _mutations(
    ("hidden bias dropped", "bias dropped", "additive", "random biases", weight("score_q_proj.bias", np.zeros_like)),
    (
        "hidden features in another order",
        "feature order",
        "additive",
        "random kernels",
        weight("score_v", lambda v: np.roll(v, 1)),
    ),
    ("soft cap of 2 forgotten", "soft cap", "additive_chunked", "scores that saturate", option(softcap=None)),
    (
        "keys before queries",
        "projection order",
        "concat",
        "queries and keys of other widths",
        weight("score_proj.kernel", lambda w: np.roll(w, 13, axis=0)),
    ),
    (
        "scores wrong by 0.003 %",
        "scale",
        "general",
        "a tolerance of rounding size",
        weight("score_proj.kernel", lambda w: w * np.float32(1 + OFF_BY)),
    ),
    ("scale of projected states forgotten", "scale", "article", "scores that are not tiny", option(score=Dot())),
)

LAYERS = _mutations(
    ("latent norms with another eps", "norm eps", "latent", "low-variance rows", part("norm", eps=1e-5)),
    ("latent's rotary half for interleaved", "rotary style", "latent", "T > 1", part("positions", style="half")),
    ("latent's scale of the plain width", "scale", "latent", "rope_dim > 0", option(score=ScaledDot(5**-0.5))),
    ("lambda of the next layer", "lambda", "differential", "a layer that is not deep", option(depth=3)),
    ("heads' norm with another eps", "norm eps", "differential", "low-variance rows", part("norm", eps=1e-6)),
    ("lambda's second term of the wrong sign", "lambda", "differential", "random lambdas", weight("lambda_q2", np.negative)),
    ("another feature map", "linear attention", "linear", "negative features", option(feature_map="relu")),
    ("linear eps forgotten", "linear attention", "linear", "low-variance rows", option(eps=0.0)),
    ("linear sees later tokens", "causal", "linear", "T > 1", option(causal=False)),
    (
        "GELU by tanh for GELU by erf",
        "activation",
        "encoder",
        "a tolerance below 5e-4",
        part("block.feed_forward", activation="gelu_tanh"),
    ),
    ("LayerNorm with flax's eps for torch's", "norm eps", "encoder", "low-variance rows", part("block.norm", eps=1e-6)),
    ("pre-norm for post-norm", "block order", "encoder", "random norm weights", part("block", order="pre")),
    ("post-norm for pre-norm", "block order", "encoder_pre_norm", "random norm weights", option(order="post")),
    ("RMSNorm scaled by 1 + w", "norm scale", "encoder_pre_norm", "random norm weights", part("norm", offset=True)),
    (
        "gate and up exchanged",
        "activation",
        "encoder_pre_norm",
        "any input",
        swap_weights("ffn.gate.kernel", "ffn.up.kernel"),
    ),
    ("decoder sees later tokens", "causal", "decoder", "T > 1", part("self_attention", mask=None)),
    (
        "norms of a block exchanged",
        "block order",
        "decoder",
        "random norm weights",
        swap_weights("norm1.scale", "norm2.scale"),
    ),
)

CASE_MUTATIONS = (*MULTI_HEAD, *ALIGNMENT, *LAYERS)
