"""Mutants of multi-head attention: name, knob, case, what shows it, plant."""

from __future__ import annotations

import numpy as np

from attention.parity.mutation_testing.mutant import Mutant
from attention.parity.mutations import input_operators, operators
from attention.parity.mutations.operators import option, part, place, weight
from attention.spec.norms import RMSNorm
from attention.spec.positions import RelativeBias
from attention.spec.scores import Cosine, Dot, ScaledDot

MULTI_HEAD = (
    Mutant("scale wrong by 0.003 %", "scale", "self", "a tolerance of rounding size", operators.scale_off),
    Mutant("scale forgotten", "scale", "self", "scores that are not tiny", option(score=Dot())),
    Mutant("scale that should not be there", "scale", "dot", "scores that are not tiny", option(score=ScaledDot())),
    Mutant("heads split (d h) for (h d)", "head split", "self", "H != D", weight("q_proj.kernel", operators.head_first)),
    Mutant(
        "queries and keys exchanged",
        "projection order",
        "self",
        "random kernels",
        operators.swap_weights("q_proj.kernel", "k_proj.kernel"),
    ),
    Mutant(
        "keys and values exchanged",
        "projection order",
        "self",
        "random kernels",
        operators.swap_weights("k_proj.kernel", "v_proj.kernel"),
    ),
    Mutant("window off by one", "window", "window", "T > window", operators.window_off_by_one),
    Mutant("causal corner start for end", "causal", "causal_end", "T != S", operators.causal_corner_swapped),
    Mutant("causal corner end for start", "causal", "causal_start", "T != S", operators.causal_corner_swapped),
    Mutant("heads tiled instead of grouped", "head groups", "grouped", "K > 1 and H/K > 1", operators.heads_tiled),
    Mutant("rotary interleaved for half", "rotary style", "rotary", "T > 1", operators.rotary_style_swapped),
    Mutant("rotary half for interleaved", "rotary style", "rotary_interleaved", "T > 1", operators.rotary_style_swapped),
    Mutant(
        "rotary base wrong by 1 %",
        "rotary base",
        "rotary",
        "large positions, or a tolerance of rounding size",
        part("positions", base=10_100.0),
    ),
    Mutant(
        "rotary of all features, not of some", "rotary width", "rotary_interleaved", "T > 1", part("positions", rotary_dim=None)
    ),
    Mutant("rotary turns backwards", "rotary positions", "rotary", "T > 1, not symmetric", place(np.negative)),
    Mutant(
        "rotary positions of queries off by one",
        "rotary positions",
        "rotary",
        "T > 1",
        place(lambda x: x + 1, ("query_positions",)),
    ),
    Mutant("rotary positions in bfloat16", "rotary positions", "rotary", "positions > 256", place(operators.in_bfloat16)),
    Mutant("rotary scaling forgotten", "rotary scaling", "yarn", "large positions", part("positions", scaling=None)),
    Mutant(
        "rotary rows and columns exchanged",
        "rotary positions",
        "axial",
        "an image that is not square",
        place(lambda x: x[..., ::-1]),
    ),
    Mutant("polarity inverted", "mask polarity", "causal", "an asymmetric mask", operators.polarity_inverted),
    Mutant("soft cap of 50 forgotten", "soft cap", "softcap", "scores that saturate", operators.soft_cap_forgotten),
    Mutant("bias of one projection dropped", "bias dropped", "self", "random biases", operators.bias_dropped),
    Mutant("bias of the call ignored", "bias of the call", "self", "a bias of the call", input_operators.bias_ignored),
    Mutant("empty row = mean(v)", "softmax", "causal", "an empty row", operators.empty_row_mean),
    Mutant("queries rounded to TF32", "precision", "self", "a tolerance of rounding size", input_operators.queries_in_tf32),
    Mutant("dropout with other bits", "dropout", "dropout", "dropout", operators.other_dropout),
    Mutant("qk-norm forgotten", "norm kind", "qk_norm", "random norm weights", option(qk_norm=None)),
    Mutant("qk-norm with another eps", "norm eps", "qk_norm", "low-variance rows", option(qk_norm=RMSNorm(eps=1e-5))),
    Mutant(
        "qk-norm scaled by 1 + w",
        "norm scale",
        "qk_norm",
        "random norm weights",
        option(qk_norm=RMSNorm(eps=1e-6, offset=True)),
    ),
    Mutant("LayerNorm of heads with another eps", "norm eps", "qk_layer_norm", "low-variance rows", part("qk_norm", eps=1e-5)),
    Mutant("l2 norm of heads forgotten", "norm kind", "qk_l2_norm", "heads not of unit length", option(qk_norm=None)),
    Mutant(
        "cosine's temperature not bounded",
        "temperature",
        "cosine",
        "a temperature beyond its bound",
        option(score=Cosine(initial=10.0, most=None)),
    ),
    Mutant(
        "cosine's temperature forgotten", "temperature", "cosine", "a random temperature", weight("log_scale", np.zeros_like)
    ),
    Mutant("sinks forgotten", "sinks", "sinks", "random sinks", option(sinks=False)),
    Mutant("sinks of the wrong sign", "sinks", "sinks", "random sinks", weight("sinks", np.negative)),
    Mutant(
        "the 1 more in the denominator forgotten",
        "sinks",
        "off_by_one",
        "scores that are not large",
        option(softmax="standard"),
    ),
    Mutant("gate forgotten", "output gate", "gate", "any input", option(gate=None)),
    Mutant(
        "gate of another head",
        "output gate",
        "gate_per_head",
        "H > 1",
        weight("gate_proj.kernel", lambda w: np.roll(w, 1, axis=1)),
    ),
    Mutant("learned key not appended", "appended keys", "appended", "a random learned key", option(add_bias_kv=False)),
    Mutant("zeros not appended", "appended keys", "appended", "any input", option(add_zero_attn=False)),
    Mutant("slopes of alibi doubled", "alibi", "alibi", "T > 1", place(lambda x: 2 * x)),
    Mutant("score bias forgotten", "alibi", "alibi", "T > 1", option(positions=None)),
    Mutant(
        "buckets for one direction",
        "relative positions",
        "relative_bias",
        "keys after their queries",
        option(positions=RelativeBias(8, 20, bidirectional=False)),
    ),
    Mutant(
        "buckets reach twice as far",
        "relative positions",
        "relative_bias",
        "T > num_buckets / 4",
        part("positions", max_distance=40),
    ),
    Mutant(
        "relative keys mirrored",
        "relative positions",
        "relative_keys",
        "an asymmetric table",
        weight("relative_keys", lambda a: a[::-1]),
    ),
)
