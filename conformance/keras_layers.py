"""`keras.layers.MultiHeadAttention` and `AdditiveAttention` over their options, beside ours. A job of its own: Keras is heavy.

    MultiHeadAttention    plain, use_bias=False, widths of their own, use_gate, sliding_window
                          masks none, attention_mask, causal, padding      fused, and with scores, which is another program
    AdditiveAttention     use_scale; scores = sum(scale * tanh(q + k)): ours with identity kernels and score_v = scale

Outputs, scores and gradients of every input and parameter. What Keras does otherwise:

    value_dim != key_dim           the fused program, which is the default, raises on JAX
    a row without a key            the mean of all values where fused, 0 where scores are returned; ours is 0
    float64                        its fused softmax and its `ops.tanh` run in float32: compared with the limit `NARROW`

References:
    keras 3.15, on its JAX backend.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import spec
from attention.checkpoints import keras_mha
from attention.checkpoints.weight_map import read, write
from attention.parity.contracts.backends import find
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Probe
from attention.parity.numerics.error_budget import Budget
from attention.spec.errors import ParamError
from conformance.peers import LIMIT, Line, Results, apart, draw, strayed, widened

NAME, ADDITIVE = "keras.layers.MultiHeadAttention", "keras.layers.AdditiveAttention"
BACKENDS = ("torch", "jax")
B, T, S = 3, 5, 7
LENGTHS = np.array([S, 5, 4])
"""Real keys of each row; a window of 2 leaves no query without one."""
NARROW = 1e-6
"""How near its float64 is to ours where it narrows inside, of the largest element."""
ORDER = ("query", "value", "key")
"""Of the inputs of a call; JAX gives dicts back sorted by name."""
MASKS = ("none", "attention_mask", "causal", "padded")


@dataclass(frozen=True)
class Module:
    """One way of making `MultiHeadAttention`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    widths: tuple[int, int, int] = (8, 8, 8)

    @property
    def fuses(self) -> bool:
        """Whether theirs has a fused program: on JAX, not for values of another width than keys."""
        return "value_dim" not in self.options

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of theirs."""
        return {"num_heads": 2, "key_dim": 5, **self.options}

    @property
    def contract(self) -> spec.MultiHeadAttention:
        """Ours."""
        return keras_mha.contract(self.config, *self.widths)


MODULES = (
    Module("plain"),
    Module("use_bias=False", {"use_bias": False}),
    Module("widths", {"output_shape": 6}, (8, 11, 9)),
    Module("value_dim", {"value_dim": 3}),
    Module("use_gate", {"use_bias": False, "use_gate": True}),
    Module("sliding_window", {"sliding_window": 2}),
)


def keras() -> Any:
    """Return Keras on its JAX backend."""
    # Read once, when Keras is imported.
    _ = os.environ.setdefault("KERAS_BACKEND", "jax")
    return importlib.import_module("keras")


def _seen() -> np.ndarray:
    """Return what every query sees: at least the keys that every window shows it."""
    seen = np.random.default_rng(3).random((B, T, S)) < 0.5
    seen[:, np.arange(T), np.arange(T)] = True
    return seen


def foreign(masks: str) -> dict[str, Any]:
    """Return the masks of a call as theirs takes them, True where a key is seen."""
    if masks == "padded":
        # As Keras' own masks would be merged: one bool for each key.
        return {"attention_mask": jnp.asarray(np.broadcast_to(np.arange(S) < LENGTHS[:, None, None], (B, T, S)))}
    return {
        "none": {},
        "attention_mask": {"attention_mask": jnp.asarray(_seen())},
        "causal": {"use_causal_mask": True},
    }[masks]


def ours(masks: str) -> spec.Mask | None:
    """Return the same for ours."""
    if masks == "padded":
        return spec.Lengths(kv=LENGTHS)
    return {"attention_mask": spec.DenseMask(_seen()[:, None]), "causal": spec.Causal(align="start")}.get(masks)


def probe(module: Module, masks: str) -> Probe:
    """Return the call of our layer, in float32."""
    made = draw(f"{NAME}: {module.name}, {masks}", module.contract, T, S, ours(masks))
    return replace(made, intermediates=("weights",))


def theirs(probe: Probe, module: Module, masks: str, *, scores: bool) -> Results:
    """Return what theirs makes of a probe: the output, the scores if they are asked for, and every gradient."""
    with jax.enable_x64(probe.dtype == "float64"):
        layer = keras().layers.MultiHeadAttention(**module.config, dtype=probe.dtype)
        arrays = {name: jnp.asarray(probe.arrays[name]) for name in ORDER}
        layer.build(*(x.shape for x in arrays.values()))
        places = [".".join(v.path.split("/")[-2:]) for v in layer.trainable_variables]
        tensors = write(probe.weights, keras_mha.KERAS, probe.contract)
        if tensors.keys() != set(places):
            raise ParamError(f"the table has {sorted(tensors)}, theirs {sorted(places)}")

        def forward(tensors: dict[str, jax.Array], arrays: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            values = [tensors[name] for name in places]
            call = {**foreign(masks), "return_attention_scores": scores}
            made, _ = layer.stateless_call(values, layer.non_trainable_variables, *(arrays[name] for name in ORDER), **call)
            return made if scores else (made, None)

        given = {name: jnp.asarray(x) for name, x in tensors.items()}
        output, pull_back, weights = jax.vjp(forward, given, arrays, has_aux=True)
        of_tensors, of_arrays = pull_back(jnp.asarray(probe.cotangents["output"]))
        canonical = read({name: np.asarray(x) for name, x in of_tensors.items()}, keras_mha.KERAS, probe.contract)
        made = {"output": output, **({"weights": weights} if scores else {})}
        by_name = {**{name: np.asarray(x) for name, x in of_arrays.items()}, **canonical}
        return {**{name: np.asarray(x) for name, x in made.items()}, **{f"d {name}": x for name, x in by_name.items()}}


def lines(module: Module, masks: str, backends: tuple[str, ...] = BACKENDS) -> Iterator[Line]:
    """Yield a line for every backend and dtype, and one for their own float32."""
    asked = probe(module, masks)
    unfused = theirs(widened(asked), module, masks, scores=True)
    fused = theirs(widened(asked), module, masks, scores=False) if module.fuses else unfused
    expected = expect(asked)
    expected = Budget({**expected.value, **unfused}, expected.sigma)
    for backend in backends:
        side = find(backend)
        got = side.run(widened(asked), "auto").results
        worst = max(apart(got, unfused) / LIMIT, apart({name: got[name] for name in fused}, fused) / NARROW)
        yield Line(asked.name, backend, "float64", worst)
        yield Line(asked.name, backend, "float32", strayed(side.run(asked, "auto").results, expected))
    yield Line(asked.name, "theirs", "float32", strayed(theirs(asked, module, masks, scores=True), expected))


def additive_probe(masks: str) -> Probe:
    """Return the call of our `AlignmentAttention`, its kernels the identity: queries and keys are added as they are."""
    contract = spec.AlignmentAttention(6, 6, 4, score=spec.Additive(hidden=6))
    made = draw(f"{ADDITIVE}: {masks}", contract, T, S, spec.Lengths(kv=LENGTHS) if masks == "padded" else ours(masks))
    identity = {name: np.eye(6, dtype=np.float32) for name in made.weights if name.endswith("kernel")}
    return replace(made, weights={**made.weights, **identity})


def additive(probe: Probe, masks: str) -> Results:
    """Return what `AdditiveAttention` makes of a probe."""
    with jax.enable_x64(probe.dtype == "float64"):
        layer = keras().layers.AdditiveAttention(dtype=probe.dtype)
        arrays = {name: jnp.asarray(probe.arrays[name]) for name in ORDER}
        layer.build([x.shape for x in arrays.values()])
        padding = [None, jnp.asarray(np.arange(S) < LENGTHS[:, None])] if masks == "padded" else None

        def forward(scale: jax.Array, arrays: dict[str, jax.Array]) -> Any:
            call = {"return_attention_scores": True, "mask": padding, "use_causal_mask": masks == "causal"}
            made, _ = layer.stateless_call([scale], [], [arrays[name] for name in ORDER], **call)
            return dict(zip(("context", "weights"), made, strict=True))

        made, pull_back = jax.vjp(forward, jnp.asarray(probe.weights["score_v"]), arrays)
        of_scale, of_arrays = pull_back({name: jnp.asarray(x) for name, x in probe.cotangents.items()})
        results = {**made, "d score_v": of_scale, **{f"d {name}": x for name, x in of_arrays.items()}}
        return {name: np.asarray(x) for name, x in results.items()}


def additive_lines(masks: str, backends: tuple[str, ...] = BACKENDS) -> Iterator[Line]:
    """Yield a line for every backend and dtype, and one for their own float32."""
    asked = additive_probe(masks)
    wanted, sigma = additive(widened(asked), masks), expect(asked).sigma
    expected = Budget(wanted, sigma)
    for backend in backends:
        side = find(backend)
        wide, narrow = (side.run(p, "auto").results for p in (widened(asked), asked))
        yield Line(asked.name, backend, "float64", apart({name: wide[name] for name in wanted}, wanted) / NARROW)
        yield Line(asked.name, backend, "float32", strayed({name: narrow[name] for name in wanted}, expected))
    yield Line(asked.name, "theirs", "float32", strayed(additive(asked, masks), expected))


def empty() -> dict[str, np.ndarray]:
    """Return the outputs of theirs, "fused" and "scores", and of ours, for a call whose last batch row has no key."""
    module = MODULES[0]
    asked = replace(probe(module, "none"), mask=spec.Lengths(kv=np.array([S, S, 0])), intermediates=())
    seen = {"attention_mask": jnp.asarray(np.broadcast_to(np.arange(B)[:, None, None] < 2, (B, T, S)))}
    layer = keras().layers.MultiHeadAttention(**module.config)
    arrays = {name: jnp.asarray(asked.arrays[name]) for name in ORDER}
    layer.build(*(x.shape for x in arrays.values()))
    tensors = write(asked.weights, keras_mha.KERAS, asked.contract)
    values = [jnp.asarray(tensors[".".join(v.path.split("/")[-2:])]) for v in layer.trainable_variables]
    made = {"ours": find("torch").run(asked, "auto").results["output"]}
    for name, scores in (("fused", False), ("scores", True)):
        output, _ = layer.stateless_call(values, [], *arrays.values(), **seen, return_attention_scores=scores)
        made[name] = np.asarray(output[0] if scores else output)
    return made


def run(backends: tuple[str, ...] = BACKENDS) -> list[Line]:
    """Return the lines of both layers."""
    heads = [line for module, masks in product(MODULES, MASKS) for line in lines(module, masks, backends)]
    return heads + [line for masks in ("none", "causal", "padded") for line in additive_lines(masks, backends)]
