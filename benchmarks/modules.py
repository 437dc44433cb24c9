"""Time whole layers on few tokens, where the overhead of a call dominates.

layer(x)        x (1, 10, 256), 8 heads, projections with biases        against the operations that it is made of

All are given the same weights, and checked by the contract's own oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from attention.parity.contracts.check import expect, verdicts
from attention.parity.contracts.probes import Probe
from attention.spec import MultiHeadAttention
from attention.spec.kernels import recorded
from benchmarks.adapters import FUSED
from benchmarks.cases import BACKWARD, FORWARD
from benchmarks.machine import SIDES, torch_device
from benchmarks.measure import Comparison
from benchmarks.programs import COPIES, Program
from benchmarks.results import DIFFERS, TIMED, WRONG, Row

SHAPE, HEADS = (1, 10, 256), 8
NAME = "layer (1, 10, 256)"


def probe() -> Probe:
    """Return the call: a layer's weights, tokens and the output's cotangent."""
    contract, draw = MultiHeadAttention(SHAPE[-1], HEADS), np.random.default_rng(0)
    x, cotangent = (draw.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    return Probe("overhead", contract, "float32", contract.init(seed=0), {"query": x}, {"output": cotangent})


def enter(program: str, sides: Sequence[str] = SIDES, wanted: Sequence[str] = ()) -> Comparison:
    """Return the comparison, every layer checked.

    Args:
        program: `FORWARD` or `BACKWARD`.
        sides: "torch", "jax".
        wanted: exact names; all, if none.
    """
    comparison, given = Comparison(), probe()
    for name, (side, ours, make) in LAYERS.items():
        # `compiled` is for calls, and a step of training is one's own function.
        if side not in sides or (wanted and name not in wanted) or (program == BACKWARD and name == "jax module, compiled"):
            continue
        layer = make(given, program)
        with recorded() as kernels:
            results = layer.results(given.cotangents["output"])
        rounds = tuple(dict.fromkeys(x for kernel in kernels for x in kernel.rounds)) if ours else FUSED
        wrong = [verdict for verdict in verdicts(results, expect(given, rounds)) if not verdict.agrees]
        status = TIMED if not wrong else WRONG if ours else DIFFERS
        chosen = ", ".join(kernel.name for kernel in kernels)
        case = {"shape": SHAPE, "program": program}
        note = str(wrong[0]) if wrong else ""
        comparison.rows[name] = Row("overhead", case, f"{NAME} {program}", name, side, ours, status, note, chosen)
        if status != WRONG:
            comparison.programs[name] = layer
    return comparison


def _torch(function: Callable[..., Any], given: Probe, program: str) -> Program:
    """Return a layer in torch; gradients are those of the tokens and of every parameter."""
    import torch  # noqa: PLC0415 - each framework is imported by those who run in it

    layer, call = function(given)
    layer = layer.to(torch_device()).eval()
    x, g = (torch.from_numpy(a).to(torch_device()) for a in (given.arrays["query"], given.cotangents["output"]))
    copies = [x.clone().requires_grad_() for _ in range(COPIES)]
    learned = list(layer.parameters())

    @torch.no_grad()
    def forward(x: Any) -> tuple[Any, ...]:
        return (call(layer, x),)

    def backward(x: Any) -> tuple[Any, ...]:
        output = call(layer, x)
        return output, *torch.autograd.grad(output, [x, *learned], g)

    chosen = backward if program == BACKWARD else forward
    wait = torch.cuda.synchronize if torch_device() == "cuda" else int

    def results(_: np.ndarray) -> dict[str, np.ndarray]:
        return {n: a.detach().cpu().numpy() for n, a in zip(("output", "d query"), chosen(copies[0]), strict=False)}

    return Program(tuple(lambda copy=copy: (chosen(copy), wait()) for copy in copies), results)


def _ours_torch(given: Probe) -> tuple[Any, Callable[..., Any]]:
    layer = given.contract.build("torch", dtype=given.dtype)
    layer.load_weights(given.weights)
    return layer, lambda layer, x: layer(x)


def _matrices(given: Probe, name: str) -> tuple[Any, Any]:
    """Return a projection as torch.nn.Linear holds it: weight (out, in) and bias (out,)."""
    import torch  # noqa: PLC0415

    kernel, bias = given.weights[f"{name}.kernel"], given.weights[f"{name}.bias"]
    flat = kernel.reshape(SHAPE[-1], SHAPE[-1]).T
    return torch.from_numpy(np.ascontiguousarray(flat)), torch.from_numpy(bias.reshape(-1).copy())


def _linear_sdpa(given: Probe) -> tuple[Any, Callable[..., Any]]:
    """Return the floor: four Linear and SDPA, with nothing around them."""
    import torch  # noqa: PLC0415
    from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415

    layers = torch.nn.ModuleList([torch.nn.Linear(SHAPE[-1], SHAPE[-1]) for _ in range(4)])
    for layer, name in zip(layers, ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
        _ = layer.load_state_dict(dict(zip(("weight", "bias"), _matrices(given, name), strict=True)))
    to_q, to_k, to_v, out = layers

    def call(_: Any, x: Any) -> Any:
        q, k, v = (to(x).view(*SHAPE[:2], HEADS, -1).transpose(1, 2) for to in (to_q, to_k, to_v))
        return out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(SHAPE))

    return layers, call


def _torch_mha(given: Probe) -> tuple[Any, Callable[..., Any]]:
    import torch  # noqa: PLC0415

    layer = torch.nn.MultiheadAttention(SHAPE[-1], HEADS, batch_first=True)
    weights, biases = zip(*(_matrices(given, name) for name in ("q_proj", "k_proj", "v_proj")), strict=True)
    out = dict(zip(("out_proj.weight", "out_proj.bias"), _matrices(given, "out_proj"), strict=True))
    _ = layer.load_state_dict({"in_proj_weight": torch.cat(weights), "in_proj_bias": torch.cat(biases), **out})
    return layer, lambda layer, x: layer(x, x, x, need_weights=False)[0]


def _jax(make: Callable[[Probe], Any], way: str, given: Probe, program: str) -> Program:
    """Return a layer of NNX, called in one of the ways that there are."""
    import jax  # noqa: PLC0415

    call = WAYS[way](make(given), program, jax.device_put(given.cotangents["output"]))
    copies = [jax.device_put(given.arrays["query"].copy()) for _ in range(COPIES)]

    def results(_: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(a) for name, a in zip(("output", "d query"), call(copies[0]), strict=False)}

    return Program(tuple(lambda copy=copy: jax.block_until_ready(call(copy)) for copy in copies), results)


def _ours_jax(given: Probe) -> Any:
    layer = given.contract.build("jax", dtype=given.dtype)
    layer.load_weights(given.weights)
    layer.eval()
    return layer


def _flax_mha(given: Probe) -> Any:
    from flax import nnx  # noqa: PLC0415

    layer = nnx.MultiHeadAttention(HEADS, SHAPE[-1], decode=False, deterministic=True, rngs=nnx.Rngs(0))
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        for part in ("kernel", "bias"):
            getattr(getattr(layer, theirs), part).set_value(jnp_array(given.weights[f"{ours}.{part}"]))
    return layer


def jnp_array(x: np.ndarray) -> Any:
    """Return an array of JAX."""
    import jax.numpy as jnp  # noqa: PLC0415

    return jnp.asarray(x)


def _step(layer: Any, x: Any, program: str, cotangent: Any) -> tuple[Any, ...]:
    """Return the output and, of forward+backward, the gradients of the tokens and of every parameter."""
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    if program == FORWARD:
        return (layer(x),)
    graph, learned, rest = nnx.split(layer, nnx.Param, ...)
    output, pull_back = jax.vjp(lambda learned, x: nnx.merge(graph, learned, rest)(x), learned, x)
    d_learned, d_x = pull_back(cotangent)
    return output, d_x, d_learned


def _nnx_jit(layer: Any, program: str, cotangent: Any) -> Callable[[Any], Any]:
    from flax import nnx  # noqa: PLC0415

    compiled = nnx.jit(partial(_step, program=program))
    return lambda x: compiled(layer, x, cotangent=cotangent)


def _cached_partial(layer: Any, program: str, cotangent: Any) -> Callable[[Any], Any]:
    from flax import nnx  # noqa: PLC0415

    compiled = nnx.cached_partial(nnx.jit(partial(_step, program=program)), layer)
    return lambda x: compiled(x, cotangent=cotangent)


def _split_merge(layer: Any, program: str, cotangent: Any) -> Callable[[Any], Any]:
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    graph, state = nnx.split(layer)
    compiled = jax.jit(lambda state, x, g: _step(nnx.merge(graph, state), x, program, g))
    return lambda x: compiled(state, x, cotangent)


def _compiled(layer: Any, program: str, cotangent: Any) -> Callable[[Any], Any]:
    from attention import jax_impl  # noqa: PLC0415

    del program, cotangent
    fast = jax_impl.compiled(layer)
    return lambda x: (fast(x),)


WAYS: dict[str, Callable[[Any, str, Any], Callable[[Any], Any]]] = {
    "compiled": _compiled,
    "split/merge": _split_merge,
    "nnx.cached_partial": _cached_partial,
    "nnx.jit": _nnx_jit,
}
LAYERS: dict[str, tuple[str, bool, Callable[[Probe, str], Program]]] = {
    "torch module": ("torch", True, partial(_torch, _ours_torch)),
    "Linear + SDPA": ("torch", False, partial(_torch, _linear_sdpa)),
    "nn.MultiheadAttention": ("torch", False, partial(_torch, _torch_mha)),
    **{f"jax module, {way}": ("jax", True, partial(_jax, _ours_jax, way)) for way in WAYS},
    "flax MultiHeadAttention, split/merge": ("jax", False, partial(_jax, _flax_mha, "split/merge")),
}
"""Every layer by name: its framework, whether it is ours, and how it is made."""
