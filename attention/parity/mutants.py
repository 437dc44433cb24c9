"""Mutants: planted mistakes that real people made, each a knob of a call turned wrongly.

A mutant takes the right probe and returns the wrong one, which an honest side then runs: the program is correct, the call is
not. A parity test that lets one live cannot see that mistake. Every option of a contract has one at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention.parity import plants
from attention.parity.plants import Plant, option, part, place, weight
from attention.spec.norms import RMSNorm
from attention.spec.positions import RelativeBias
from attention.spec.scores import Cosine, Dot, ScaledDot


@dataclass(frozen=True)
class Mutant:
    """A planted mistake.

    Args:
        name: what is wrong.
        case: the contract in `spec.cases` that must notice.
        plant: makes the wrong call out of the right one.
    """

    name: str
    case: str
    plant: Plant


MULTI_HEAD = (
    Mutant("scale wrong by 0.003 %", "self", plants.scale_off),
    Mutant("scale forgotten", "self", option(score=Dot())),
    Mutant("scale that should not be there", "dot", option(score=ScaledDot())),
    Mutant("heads split (d h) for (h d)", "self", weight("q_proj.kernel", plants.head_first)),
    Mutant("queries and keys exchanged", "self", plants.swap_weights("q_proj.kernel", "k_proj.kernel")),
    Mutant("keys and values exchanged", "self", plants.swap_weights("k_proj.kernel", "v_proj.kernel")),
    Mutant("window off by one", "window", plants.window_off_by_one),
    Mutant("causal corner start for end", "causal_end", plants.causal_corner_swapped),
    Mutant("causal corner end for start", "causal_start", plants.causal_corner_swapped),
    Mutant("heads tiled instead of grouped", "grouped", plants.heads_tiled),
    Mutant("rotary interleaved for half", "rotary", plants.rotary_style_swapped),
    Mutant("rotary half for interleaved", "rotary_interleaved", plants.rotary_style_swapped),
    Mutant("rotary base wrong by 1 %", "rotary", part("positions", base=10_100.0)),
    Mutant("rotary of all features, not of some", "rotary_interleaved", part("positions", rotary_dim=None)),
    Mutant("rotary turns backwards", "rotary", place(np.negative)),
    Mutant("rotary positions of queries off by one", "rotary", place(lambda x: x + 1, ("query_positions",))),
    Mutant("rotary positions in bfloat16", "rotary", place(plants.in_bfloat16)),
    Mutant("rotary scaling forgotten", "yarn", part("positions", scaling=None)),
    Mutant("rotary rows and columns exchanged", "axial", place(lambda x: x[..., ::-1])),
    Mutant("polarity inverted", "causal", plants.polarity_inverted),
    Mutant("soft cap of 50 forgotten", "softcap", plants.soft_cap_forgotten),
    Mutant("bias of one projection dropped", "self", plants.bias_dropped),
    Mutant("bias of the call ignored", "self", plants.bias_ignored),
    Mutant("empty row = mean(v)", "causal", plants.empty_row_mean),
    Mutant("queries rounded to TF32", "self", plants.queries_in_tf32),
    Mutant("dropout with other bits", "dropout", plants.other_dropout),
    Mutant("qk-norm forgotten", "qk_norm", option(qk_norm=None)),
    Mutant("qk-norm with another eps", "qk_norm", option(qk_norm=RMSNorm(eps=1e-5))),
    Mutant("qk-norm scaled by 1 + w", "qk_norm", option(qk_norm=RMSNorm(eps=1e-6, offset=True))),
    Mutant("LayerNorm of heads with another eps", "qk_layer_norm", part("qk_norm", eps=1e-5)),
    Mutant("l2 norm of heads forgotten", "qk_l2_norm", option(qk_norm=None)),
    Mutant("cosine's temperature not bounded", "cosine", option(score=Cosine(initial=10.0, most=None))),
    Mutant("cosine's temperature forgotten", "cosine", weight("log_scale", np.zeros_like)),
    Mutant("sinks forgotten", "sinks", option(sinks=False)),
    Mutant("sinks of the wrong sign", "sinks", weight("sinks", np.negative)),
    Mutant("the 1 more in the denominator forgotten", "off_by_one", option(softmax="standard")),
    Mutant("gate forgotten", "gate", option(gate=None)),
    Mutant("gate of another head", "gate_per_head", weight("gate_proj.kernel", lambda w: np.roll(w, 1, axis=1))),
    Mutant("learned key not appended", "appended", option(add_bias_kv=False)),
    Mutant("zeros not appended", "appended", option(add_zero_attn=False)),
    Mutant("slopes of alibi doubled", "alibi", place(lambda x: 2 * x)),
    Mutant("score bias forgotten", "alibi", option(positions=None)),
    Mutant("buckets for one direction", "relative_bias", option(positions=RelativeBias(8, 20, bidirectional=False))),
    Mutant("buckets reach twice as far", "relative_bias", part("positions", max_distance=40)),
    Mutant("relative keys mirrored", "relative_keys", weight("relative_keys", lambda a: a[::-1])),
)

ALIGNMENT = (
    Mutant("hidden bias dropped", "additive", weight("score_q_proj.bias", np.zeros_like)),
    Mutant("hidden features in another order", "additive", weight("score_v", lambda v: np.roll(v, 1))),
    Mutant("soft cap of 2 forgotten", "additive_lean", option(softcap=None)),
    Mutant("keys before queries", "concat", weight("score_proj.kernel", lambda w: np.roll(w, 13, axis=0))),
    Mutant("scores wrong by 0.003 %", "general", weight("score_proj.kernel", lambda w: w * np.float32(1 + plants.OFF_BY))),
    Mutant("scale of projected states forgotten", "article", option(score=Dot())),
)

LAYERS = (
    Mutant("latent norms with another eps", "latent", part("norm", eps=1e-5)),
    Mutant("latent's rotary half for interleaved", "latent", part("positions", style="half")),
    Mutant("latent's scale of the plain width", "latent", option(score=ScaledDot(5**-0.5))),
    Mutant("lambda of the next layer", "differential", option(depth=3)),
    Mutant("heads' norm with another eps", "differential", part("norm", eps=1e-6)),
    Mutant("lambda's second term of the wrong sign", "differential", weight("lambda_q2", np.negative)),
    Mutant("another feature map", "linear", option(feature_map="relu")),
    Mutant("linear eps forgotten", "linear", option(eps=0.0)),
    Mutant("linear sees later tokens", "linear", option(causal=False)),
    Mutant("GELU by tanh for GELU by erf", "encoder", part("block.feed_forward", activation="gelu_tanh")),
    Mutant("LayerNorm with flax's eps for torch's", "encoder", part("block.norm", eps=1e-6)),
    Mutant("pre-norm for post-norm", "encoder", part("block", order="pre")),
    Mutant("post-norm for pre-norm", "encoder_pre_norm", option(order="post")),
    Mutant("RMSNorm scaled by 1 + w", "encoder_pre_norm", part("norm", offset=True)),
    Mutant("gate and up exchanged", "encoder_pre_norm", plants.swap_weights("ffn.gate.kernel", "ffn.up.kernel")),
    Mutant("decoder sees later tokens", "decoder", part("self_attention", mask=None)),
    Mutant("norms of a block exchanged", "decoder", plants.swap_weights("norm1.scale", "norm2.scale")),
)

MUTANTS = (*MULTI_HEAD, *ALIGNMENT, *LAYERS)
