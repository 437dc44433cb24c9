"""Mutants of multi-head attention: name, knob, case, what shows it, plant."""

from __future__ import annotations

import numpy as np

from attention.parity.mutations import input_operators, operators
from attention.parity.mutations.case_mutation import CaseMutation
from attention.parity.mutations.operators import move_positions, option, part, weight
from attention.spec.norms import RMSNorm
from attention.spec.positions import RelativeBias
from attention.spec.scores import Cosine, Dot, ScaledDot

MULTI_HEAD = (
    CaseMutation("scale wrong by 0.003 %", "scale", "self", "a tolerance of rounding size", operators.scale_off),
    CaseMutation("scale forgotten", "scale", "self", "scores that are not tiny", option(score=Dot())),
    CaseMutation("scale that should not be there", "scale", "dot", "scores that are not tiny", option(score=ScaledDot())),
    CaseMutation("heads split (d h) for (h d)", "head split", "self", "H != D", weight("q_proj.kernel", operators.head_first)),
    CaseMutation(
        "queries and keys exchanged",
        "projection order",
        "self",
        "random kernels",
        operators.swap_weights("q_proj.kernel", "k_proj.kernel"),
    ),
    CaseMutation(
        "keys and values exchanged",
        "projection order",
        "self",
        "random kernels",
        operators.swap_weights("k_proj.kernel", "v_proj.kernel"),
    ),
    CaseMutation("window off by one", "window", "window", "T > window", operators.window_off_by_one),
    CaseMutation("causal corner start for end", "causal", "causal_end", "T != S", operators.causal_corner_swapped),
    CaseMutation("causal corner end for start", "causal", "causal_start", "T != S", operators.causal_corner_swapped),
    CaseMutation("heads tiled instead of grouped", "head groups", "grouped", "K > 1 and H/K > 1", operators.heads_tiled),
    CaseMutation("rotary interleaved for half", "rotary style", "rotary", "T > 1", operators.rotary_style_swapped),
    CaseMutation("rotary half for interleaved", "rotary style", "rotary_interleaved", "T > 1", operators.rotary_style_swapped),
    CaseMutation(
        "rotary base wrong by 1 %",
        "rotary base",
        "rotary",
        "large positions, or a tolerance of rounding size",
        part("positions", base=10_100.0),
    ),
    CaseMutation(
        "rotary of all features, not of some", "rotary width", "rotary_interleaved", "T > 1", part("positions", rotary_dim=None)
    ),
    CaseMutation("rotary turns backwards", "rotary positions", "rotary", "T > 1, not symmetric", move_positions(np.negative)),
    CaseMutation(
        "rotary positions of queries off by one",
        "rotary positions",
        "rotary",
        "T > 1",
        move_positions(lambda x: x + 1, ("query_positions",)),
    ),
    CaseMutation(
        "rotary positions in bfloat16", "rotary positions", "rotary", "positions > 256", move_positions(operators.in_bfloat16)
    ),
    CaseMutation("rotary scaling forgotten", "rotary scaling", "yarn", "large positions", part("positions", scaling=None)),
    CaseMutation(
        "rotary rows and columns exchanged",
        "rotary positions",
        "axial",
        "an image that is not square",
        move_positions(lambda x: x[..., ::-1]),
    ),
    CaseMutation("polarity inverted", "mask polarity", "causal", "an asymmetric mask", operators.polarity_inverted),
    CaseMutation("soft cap of 50 forgotten", "soft cap", "softcap", "scores that saturate", operators.soft_cap_forgotten),
    CaseMutation("bias of one projection dropped", "bias dropped", "self", "random biases", operators.bias_dropped),
    CaseMutation("bias of the call ignored", "bias of the call", "self", "a bias of the call", input_operators.bias_ignored),
    CaseMutation("empty row = mean(v)", "softmax", "causal", "an empty row", operators.empty_row_mean),
    CaseMutation(
        "queries rounded to TF32", "precision", "self", "a tolerance of rounding size", input_operators.queries_in_tf32
    ),
    CaseMutation("dropout with other bits", "dropout", "dropout", "dropout", operators.other_dropout),
    CaseMutation("qk-norm forgotten", "norm kind", "qk_norm", "random norm weights", option(qk_norm=None)),
    CaseMutation("qk-norm with another eps", "norm eps", "qk_norm", "low-variance rows", option(qk_norm=RMSNorm(eps=1e-5))),
    CaseMutation(
        "qk-norm scaled by 1 + w",
        "norm scale",
        "qk_norm",
        "random norm weights",
        option(qk_norm=RMSNorm(eps=1e-6, offset=True)),
    ),
    CaseMutation(
        "LayerNorm of heads with another eps", "norm eps", "qk_layer_norm", "low-variance rows", part("qk_norm", eps=1e-5)
    ),
    CaseMutation("l2 norm of heads forgotten", "norm kind", "qk_l2_norm", "heads not of unit length", option(qk_norm=None)),
    CaseMutation(
        "cosine's temperature not bounded",
        "temperature",
        "cosine",
        "a temperature beyond its bound",
        option(score=Cosine(initial=10.0, most=None)),
    ),
    CaseMutation(
        "cosine's temperature forgotten", "temperature", "cosine", "a random temperature", weight("log_scale", np.zeros_like)
    ),
    CaseMutation("sinks forgotten", "sinks", "sinks", "random sinks", option(sinks=False)),
    CaseMutation("sinks of the wrong sign", "sinks", "sinks", "random sinks", weight("sinks", np.negative)),
    CaseMutation(
        "the 1 more in the denominator forgotten",
        "sinks",
        "off_by_one",
        "scores that are not large",
        option(softmax="standard"),
    ),
    CaseMutation("gate forgotten", "output gate", "gate", "any input", option(gate=None)),
    CaseMutation(
        "gate of another head",
        "output gate",
        "gate_per_head",
        "H > 1",
        weight("gate_proj.kernel", lambda w: np.roll(w, 1, axis=1)),
    ),
    CaseMutation("learned key not appended", "appended keys", "appended", "a random learned key", option(add_bias_kv=False)),
    CaseMutation("zeros not appended", "appended keys", "appended", "any input", option(add_zero_attn=False)),
    CaseMutation("slopes of alibi doubled", "alibi", "alibi", "T > 1", move_positions(lambda x: 2 * x)),
    CaseMutation("score bias forgotten", "alibi", "alibi", "T > 1", option(positions=None)),
    CaseMutation(
        "buckets for one direction",
        "relative positions",
        "relative_bias",
        "keys after their queries",
        option(positions=RelativeBias(8, 20, bidirectional=False)),
    ),
    CaseMutation(
        "buckets reach twice as far",
        "relative positions",
        "relative_bias",
        "T > num_buckets / 4",
        part("positions", max_distance=40),
    ),
    CaseMutation(
        "relative keys mirrored",
        "relative positions",
        "relative_keys",
        "an asymmetric table",
        weight("relative_keys", lambda a: a[::-1]),
    ),
)
