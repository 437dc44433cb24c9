"""`flax.nnx.MultiHeadAttention` over its options, beside ours.

    module    normalize_qk x use_bias x grouped heads x (qkv_features, out_features, in_kv_features of their own)        16
    masks     none, padding and is_causal, bool per head                                                                 3

Outputs and gradients of query, key, value and every parameter. Both are judged in float32 by our float64: theirs has none of
its own, as its softmax runs in float32 whatever it is given, so there its digits end at `NARROW`. What else it does otherwise:

    normalize_qk             the norm's variance is mean(x^2) - mean(x)^2, far outside the budget of float32
    a row without a key      the mean of all values; ours is 0
    is_causal with T != S    begins at the first key; ours has to be told so

References:
    flax.nnx.MultiHeadAttention, version 0.12.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention import spec
from attention.checkpoints import flax_mha
from attention.checkpoints.weight_map import read, write
from attention.parity.contracts.backends import find
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Probe
from attention.spec.errors import ParamError
from conformance.peers import BACKENDS, Line, Results, apart, draw, strayed, widened

NAME = "flax.nnx.MultiHeadAttention"
B, T, S, H = 3, 5, 7, 4
NARROW = 1e-6
"""How near their float64 is to ours, of the largest element: a few digits of float32."""
MASKS = ("none", "padded causal", "per head")


@dataclass(frozen=True)
class Module:
    """One way of making the module."""

    normalize_qk: bool = False
    use_bias: bool = True
    grouped: bool = False
    separate: bool = False
    """Whether keys, heads and the output have widths of their own."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of theirs."""
        widths = {"qkv_features": 12, "out_features": 7, "in_kv_features": 9} if self.separate else {}
        grouped = {"num_kv_heads": 2} if self.grouped else {}
        switches = {"normalize_qk": self.normalize_qk, "use_bias": self.use_bias}
        return {"num_heads": H, "in_features": 8, **switches, **grouped, **widths}

    def __str__(self) -> str:
        named = ("normalize_qk", "use_bias", "grouped", "separate")
        return " ".join(name for name in named if getattr(self, name)) or "plain"


MODULES = tuple(Module(*options) for options in product((False, True), repeat=4))


def foreign(masks: str) -> dict[str, Any]:
    """Return the masks of a call as theirs takes them, True where a key is seen."""
    if masks == "padded causal":
        return {"mask": jnp.asarray((np.arange(S) < np.array([S, 4, 1])[:, None])[:, None, None, :]), "is_causal": True}
    return {"mask": jnp.asarray(_seen())} if masks == "per head" else {}


def ours(masks: str) -> spec.Mask | None:
    """Return the same for ours."""
    if masks == "padded causal":
        return spec.Lengths(kv=np.array([S, 4, 1])) & spec.Causal(align="start")
    return spec.DenseMask(_seen()) if masks == "per head" else None


def _seen() -> np.ndarray:
    """Return what each head sees: at least the first key."""
    seen = np.random.default_rng(3).random((B, H, T, S)) < 0.5
    seen[..., 0] = True
    return seen


def probe(module: Module, masks: str) -> Probe:
    """Return the call of our layer, in float32."""
    return draw(f"{NAME}: {module}, {masks}", flax_mha.contract(module.config), T, S, ours(masks))


def load(probe: Probe, module: Module, *, fast_variance: bool = True) -> nnx.MultiHeadAttention:
    """Return theirs with the weights of a probe; in JAX's 64-bit mode where the probe is float64.

    Args:
        probe: gives the weights.
        module: how theirs is made.
        fast_variance: whether its norms take the variance as mean(x^2) - mean(x)^2, as they do unless told otherwise.
    """
    kind = jnp.dtype(probe.dtype)
    made = nnx.MultiHeadAttention(**module.config, dtype=kind, param_dtype=kind, decode=False, rngs=nnx.Rngs(0))
    graph, state = nnx.split(made, nnx.Param)
    leaves = named(state)
    tensors = write(probe.weights, flax_mha.FLAX, probe.contract)
    if leaves.keys() != tensors.keys():
        raise ParamError(f"the table has {sorted(tensors)}, theirs {sorted(leaves)}")
    for name, leaf in leaves.items():
        leaf.set_value(jnp.asarray(tensors[name]))
    made = nnx.merge(graph, state)
    for norm in (made.query_ln, made.key_ln):
        if norm is not None:
            norm.use_fast_variance = fast_variance
    return made


def named(state: nnx.State) -> dict[str, Any]:
    """Return the variables of a state by dotted name."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def theirs(probe: Probe, module: Module, masks: str, *, fast_variance: bool = True) -> Results:
    """Return what theirs makes of a probe: the output and every gradient."""
    with jax.enable_x64(probe.dtype == "float64"):
        graph, learned = nnx.split(load(probe, module, fast_variance=fast_variance), nnx.Param)
        arrays = {name: jnp.asarray(x) for name, x in probe.arrays.items()}
        given = foreign(masks)

        @jax.jit
        def program(learned: Any, arrays: dict[str, jax.Array], cotangent: jax.Array) -> Any:
            def forward(learned: Any, arrays: dict[str, jax.Array]) -> jax.Array:
                return nnx.merge(graph, learned)(*(arrays[name] for name in ("query", "key", "value")), **given)

            output, pull_back = jax.vjp(forward, learned, arrays)
            return output, pull_back(cotangent)

        output, (of_learned, of_arrays) = program(learned, arrays, jnp.asarray(probe.cotangents["output"]))
        found = {name: np.asarray(leaf.get_value()) for name, leaf in named(of_learned).items()}
        canonical = read(found, flax_mha.FLAX, probe.contract)
        by_name = {**{name: np.asarray(x) for name, x in of_arrays.items()}, **canonical}
        return {"output": np.asarray(output), **{f"d {name}": x for name, x in by_name.items()}}


def lines(module: Module, masks: str, backends: tuple[str, ...] = BACKENDS) -> Iterator[Line]:
    """Yield a line for every backend and dtype, and one for their own float32."""
    asked = probe(module, masks)
    expected, wanted = expect(asked), theirs(widened(asked), module, masks)
    for backend in backends:
        side, name = find(backend), backend.removesuffix("_eager")
        yield Line(asked.name, name, "float64", apart(side.run(widened(asked), "auto").results, wanted) / NARROW)
        yield Line(asked.name, name, "float32", strayed(side.run(asked, "auto").results, expected))
    yield Line(asked.name, "theirs", "float32", strayed(theirs(asked, module, masks), expected))


def empty() -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs, theirs and ours, of a call whose last batch row has no key."""
    module = Module()
    asked = replace(probe(module, "none"), mask=spec.Lengths(kv=np.array([S, S, 0])))
    made = load(asked, module)
    mask = jnp.asarray(np.array([True, True, False])[:, None, None, None])
    got = made(*(jnp.asarray(x) for x in asked.arrays.values()), mask=jnp.broadcast_to(mask, (B, 1, T, S)))
    return np.asarray(got), find("torch").run(asked, "auto").results["output"]


def run(backends: tuple[str, ...] = BACKENDS) -> list[Line]:
    """Return the lines of the whole grid."""
    return [line for module, masks in product(MODULES, MASKS) for line in lines(module, masks, backends)]
