"""Mutations of attention scores: scale, cap, bias, sinks, softmax, output gate.

weights = softmax(cap(q k^T * scale) + bias)        each factor missing, another's, twice, elsewhere or rounded
"""

# The fields of a location's contract depend on the layer.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import input_operators, operators
from attention.parity.mutations.formula_hooks import HookContext, hook_call, hook_intermediate, on
from attention.parity.mutations.locations import Location
from attention.parity.mutations.mutation import FittedScalar, Mutation, Mutations
from attention.parity.mutations.operators import Operator, compose
from attention.spec.attend import softmax
from attention.spec.axes import Array
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import General, TanhScore
from attention.spec.layers.contract import ResolvedCall
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.scores import Cosine, Dot, ScaledDot, soft_cap

CAPS = (5.0, 10.0, 20.0, 30.0, 50.0)


def scale(location: Location) -> Mutations:
    """Yield other factors of the scores."""
    part = location.contract
    score = getattr(part, "score", None)
    if isinstance(score, General):
        yield FittedScalar(
            "general score's factor", 1.0, lambda x: location.weight("score_proj.kernel", lambda w: w * np.float32(x))
        )
    elif isinstance(score, TanhScore):
        yield FittedScalar("factor of score_v", 1.0, lambda x: location.weight("score_v", lambda w: w * np.float32(x)))
    if not isinstance(score, (Dot, ScaledDot)):
        return
    width = _width(part)
    right = score.factor(width)
    for factor, names in _factors(part, width, right).items():
        yield Mutation(f"scale {' = '.join(names)}", location.option(score=ScaledDot(factor)))
    yield FittedScalar("scale", right, lambda x: location.option(score=ScaledDot(x)), (1.0, width**-0.5))


def _width(part: Any) -> int:
    return part.score_widths[1] if isinstance(part, AlignmentAttention) else part.width


def _factors(part: Any, width: int, right: float) -> dict[float, list[str]]:
    """Return the wrong factors that ports have used, each with its names in this contract."""
    widths = {"D": width, "M": getattr(part, "embed_dim", width), "E": getattr(part, "value_width", width), "2 D": 2 * width}
    if isinstance(part, LatentAttention):
        widths |= {"nope_dim": part.nope_dim, "rope_dim": part.rope_dim, "E": part.value_dim}
    if isinstance(part, MultiHeadAttention):
        widths |= {"H D": part.num_heads * width, "M / H": part.embed_dim / part.num_heads, "D - 1": width - 1}
    named = [
        ("forgotten", 1.0),
        ("applied twice", right**2),
        ("applied by its root", math.sqrt(right)),
        ("divides instead of multiplying", 1 / right),
        ("negative", -right),
        ("1 / D", 1 / width),
        *((f"1 / sqrt({name})", n**-0.5) for name, n in widths.items() if n > 0),
        ("rounded to bfloat16", float(np.asarray(right, ml_dtypes.bfloat16))),
        ("rounded to float16", float(np.float16(right))),
        ("0.125, that of D = 64", 0.125),
        ("128^-0.5, that of D = 128", 128**-0.5),
    ]
    found: dict[float, list[str]] = {}
    for name, factor in named:
        known = next((x for x in found if math.isclose(x, factor, rel_tol=1e-9)), factor)
        if not math.isclose(known, right, rel_tol=1e-9):
            found.setdefault(known, []).append(name)
    return found


def temperature(location: Location) -> Mutations:
    """Yield other temperatures of a cosine score."""
    score = getattr(location.contract, "score", None)
    if not isinstance(score, Cosine):
        return
    yield Mutation("temperature forgotten", location.weight("log_scale", np.zeros_like))
    yield Mutation("temperature divides instead of multiplying", location.weight("log_scale", np.negative))
    # A logarithm needs a positive number, and a learned one may be anything.
    yield Mutation("temperature's exp forgotten", location.weight("log_scale", lambda x: np.log(np.maximum(x, 1e-30))))
    for most in {None, 1.0, 10.0, 100.0} - {score.most}:
        label = "not bounded" if most is None else f"bounded by {most:g}"
        yield Mutation(f"temperature {label}", location.option(score=replace(score, most=most)))
    for eps in {1e-6, 1e-8, 1e-3} - {score.eps}:
        yield Mutation(f"eps of the lengths {eps:g}", location.inner("score", eps=eps))
    yield FittedScalar("temperature", 1.0, lambda x: location.weight("log_scale", lambda w: w + np.float32(math.log(x))))


def cap(location: Location) -> Mutations:
    """Yield other bounds of the scores."""
    part = location.contract
    if not hasattr(part, "softcap"):
        return
    if part.softcap is not None:
        yield Mutation("soft cap forgotten", location.option(softcap=None))
        yield FittedScalar("soft cap", part.softcap, lambda x: location.option(softcap=x))
    for other in CAPS:
        if other != part.softcap:
            label = "for none" if part.softcap is None else f"for {part.softcap:g}"
            yield Mutation(f"soft cap {other:g} {label}", location.option(softcap=other))
    if part.softcap is not None and isinstance(part, MultiHeadAttention):
        c = part.softcap
        capped = hook_intermediate(location, on("scores", lambda at, x: soft_cap(at.xp, x, c)))
        yield Mutation("soft cap after the bias", compose(location.option(softcap=None), capped))
        if not location.path:
            # A masked score, capped, is -c: a weight of exp(-c), not of 0.
            masked = operators.empty_row_mean
            yield Mutation("soft cap after the mask", compose(location.option(softcap=None), masked, capped))


def call_bias(location: Location) -> Mutations:
    """Yield mutations of the bias of a call."""
    if location.path or "bias" not in location.contract.call_kwargs:
        return
    factor = location.contract.score.factor(location.contract.width)
    yield Mutation("bias of the call ignored", input_operators.bias_ignored)
    yield Mutation("bias of the call of the wrong sign", input_operators.change_bias(np.negative))
    if factor != 1.0:
        yield Mutation(
            "bias of the call scaled with the scores", input_operators.change_bias(lambda b: b * b.dtype.type(factor))
        )
    yield Mutation(
        "bias of the call with queries and keys exchanged", input_operators.change_bias(lambda b: np.swapaxes(b, -1, -2))
    )
    yield Mutation(
        "bias of the call: head 0's for all", input_operators.change_bias(lambda b: np.broadcast_to(b[:, :1], b.shape))
    )


def denominator(location: Location) -> Mutations:
    """Yield sinks and the 1 more in the denominator, forgotten or added."""
    part = location.contract
    if not isinstance(part, MultiHeadAttention):
        return
    if part.sinks:
        yield Mutation("sinks forgotten", location.option(sinks=False))
        yield Mutation("sinks of the wrong sign", location.weight("sinks", np.negative))
        yield Mutation("sinks are 0, not learned", location.weight("sinks", np.zeros_like))
        yield Mutation("sinks of another head", location.weight("sinks", lambda x: np.roll(x, 1)))
    elif part.softmax == "off_by_one":
        yield Mutation("the 1 more in the denominator forgotten", location.option(softmax="standard"))
    else:
        yield Mutation("1 more in the denominator", location.option(softmax="off_by_one"))


def normaliser(location: Location) -> Mutations:
    """Yield a softmax over another axis than the keys, or one without the mask."""
    if not location.calls or hasattr(location.contract, "feature_map") or location.contract.parts:
        return
    for name, axis in (("queries", -2), ("heads", -3)):
        if axis == -2 or getattr(location.contract, "num_heads", 1) > 1:
            yield Mutation(f"softmax over the {name}", hook_intermediate(location, _over(axis)))
    yield Mutation(
        "weights masked after the softmax",
        compose(hook_call(location, _unhidden), hook_intermediate(location, on("weights", _masked_late))),
    )
    zeros = on("scores", lambda at, x: at.xp.where(_wide(at, at.setting["hidden"], x), x, at.xp.zeros_like(x)))
    yield Mutation(
        "masked scores are 0 instead of -inf", compose(hook_call(location, _unhidden), hook_intermediate(location, zeros))
    )
    added = on("scores", lambda at, x: at.xp.where(_wide(at, at.setting["hidden"], x), x, x - 1e30))
    yield Mutation("empty row = mean(v)", compose(hook_call(location, _unhidden), hook_intermediate(location, added)))
    yield Mutation("empty row = NaN", hook_intermediate(location, on("weights", _nan_rows)))


def _unhidden(probe: Probe, part: Any, setting: ResolvedCall) -> ResolvedCall:
    """Allow every key, and keep the mask as `hidden`."""
    del probe, part
    return {"hidden": setting["allowed"], "allowed": np.ones_like(setting["allowed"])}


def _over(axis: int) -> Any:
    def change(at: HookContext, value: Array) -> Array:
        shown = _wide(at, at.setting["allowed"], value)
        moved = (at.xp.moveaxis(x, axis, -1) for x in (at.seen["scores"][-1], shown))
        return at.xp.moveaxis(softmax(at.xp, *moved)[0], -1, axis)

    return on("weights", change)


def _wide(at: HookContext, allowed: Array, scores: Array) -> Array:
    """Return which keys are allowed, including those that a layer appends."""
    extra = scores.shape[-1] - allowed.shape[-1]
    return at.xp.concat([allowed, at.xp.ones((*allowed.shape[:-1], extra), dtype=bool)], axis=-1)


def _masked_late(at: HookContext, value: Array) -> Array:
    return at.xp.where(_wide(at, at.setting["hidden"], value), value, at.xp.zeros_like(value))


def _nan_rows(at: HookContext, value: Array) -> Array:
    some = at.xp.any(at.setting["allowed"], axis=-1, keepdims=True)
    return at.xp.where(some, value, at.xp.full_like(value, at.xp.nan))


def appended(location: Location) -> Mutations:
    """Yield appended keys that are not there."""
    part = location.contract
    if getattr(part, "add_bias_kv", False):
        yield Mutation("learned key not appended", location.option(add_bias_kv=False))
        yield Mutation("learned key and value exchanged", _exchanged(location))
    if getattr(part, "add_zero_attn", False):
        yield Mutation("zeros not appended", location.option(add_zero_attn=False))
    elif isinstance(part, MultiHeadAttention):
        yield Mutation("zeros appended", location.option(add_zero_attn=True))


def _exchanged(location: Location) -> Operator:
    part = location.contract
    return location.swap("bias_k", "bias_v") if part.width == part.value_width else lambda probe: probe


def gates(location: Location) -> Mutations:
    """Yield an output gate that is not there, or another head's."""
    gate = getattr(location.contract, "gate", None)
    if gate is None:
        return
    yield Mutation("gate forgotten", location.option(gate=None))
    yield Mutation("gate of another head", location.weight("gate_proj.kernel", lambda w: np.roll(w, 1, axis=1)))
    yield Mutation("gate's order of heads reversed", location.weight("gate_proj.kernel", lambda w: w[:, ::-1]))
    yield Mutation("gate of the wrong sign", location.weight("gate_proj.kernel", np.negative))
    # sigmoid(0) = 1/2
    yield Mutation("gate is 1/2, not learned", location.weight("gate_proj.kernel", np.zeros_like))
