"""`torch.nn.MultiheadAttention` over its whole option grid, beside ours.

    module    bias x add_bias_kv x add_zero_attn x (kdim, vdim)                                        16
    masks     attn_mask none, bool, float, bool per head, causal x key_padding_mask or not             10
    call      batch_first x (no weights, mean weights, weights of each head), is_causal                 6

Every module meets every mask and every way of being called, in float64, with the gradients of query, key, value, of every
parameter and of a float mask. What it does otherwise than it says, or than we do:

    is_causal=True without weights nor padding    the mask gives way to SDPA's own, which hides appended keys: `forgets`
    a row without a key                           NaN with weights, 0 without; ours is 0

References:
    torch.nn.MultiheadAttention, version 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from attention import spec
from attention.checkpoints import torch_mha
from attention.checkpoints.weight_map import read, write
from attention.parity.contracts.backends import find
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Probe
from attention.parity.numerics.error_budget import Budget
from attention.torch_impl.params import to_numpy, to_tensor
from conformance.peers import LIMIT, Line, Results, apart, draw, strayed, widened

NAME = "torch.nn.MultiheadAttention"
B, T, S, H = 3, 5, 7, 2
BACKENDS = ("torch", "jax_eager")
"""The backends. JAX runs one operation at a time, as each of 160 masks and modules would be compiled for one call."""
MASKS = ("none", "bool", "float", "per head", "causal")
WEIGHTS = (None, "mean_weights", "weights")
"""need_weights=False, need_weights=True, and that with average_attn_weights=False, by the name of our intermediate."""


@dataclass(frozen=True)
class Module:
    """One way of making the module."""

    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    separate: bool = False
    """Whether keys and values have widths of their own."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of theirs."""
        widths = {"kdim": 11, "vdim": 9} if self.separate else {}
        switches = {"bias": self.bias, "add_bias_kv": self.add_bias_kv, "add_zero_attn": self.add_zero_attn}
        return {"embed_dim": 6, "num_heads": H, **switches, **widths}

    def __str__(self) -> str:
        named = ("bias", "add_bias_kv", "add_zero_attn", "separate")
        return " ".join(name for name in named if getattr(self, name)) or "plain"


@dataclass(frozen=True)
class Masks:
    """The masks of a call."""

    attn: str = "none"
    padded: bool = False

    @property
    def foreign(self) -> dict[str, np.ndarray]:
        """The masks as theirs takes them, True where a key is dropped; a float mask is in the probe."""
        given: dict[str, np.ndarray] = {}
        seen = np.random.default_rng(3).random((B * H, T, S)) < 0.5
        seen[..., 0] = False
        if self.attn in ("bool", "per head"):
            given["attn_mask"] = seen if self.attn == "per head" else seen[0]
        if self.attn == "causal":
            given["attn_mask"] = np.triu(np.ones((T, S), bool), 1)
        if self.padded:
            given["key_padding_mask"] = np.arange(S) >= np.array([S, 4, 1])[:, None]
        return given

    @property
    def ours(self) -> spec.Mask | None:
        """The same, each converted by its name."""
        given, masks = self.foreign, list[spec.Mask]()
        if "key_padding_mask" in given:
            masks.append(spec.DenseMask.from_torch_key_padding_mask(given["key_padding_mask"]))
        if self.attn == "causal":
            masks.append(spec.Causal(align="start"))
        elif "attn_mask" in given:
            masks.append(spec.DenseMask.from_torch_attn_mask(given["attn_mask"], H))
        return masks[0] & masks[-1] if masks else None

    def __str__(self) -> str:
        return f"{self.attn}{' padded' if self.padded else ''}"


@dataclass(frozen=True)
class Call:
    """One way of calling the module."""

    batch_first: bool = True
    weights: str | None = None
    is_causal: bool = False


MODULES = tuple(Module(*options) for options in product((True, False), repeat=4))
GRID = tuple(Masks(*options) for options in product(MASKS, (False, True)))


def calls(masks: Masks) -> list[Call]:
    """Return every way of calling it with these masks: the hint may be given where it is true."""
    hints = (False, True) if masks.attn == "causal" else (False,)
    return [Call(*options) for options in product((True, False), WEIGHTS, hints)]


def forgets(module: Module, masks: Masks, call: Call) -> bool:
    """Return whether theirs hides the appended keys from queries that its own mask would show them to."""
    appended = module.add_bias_kv or module.add_zero_attn
    return appended and call.is_causal and call.weights is None and not masks.padded


def probe(module: Module, masks: Masks) -> Probe:
    """Return the call of our layer, in float32, with both kinds of weights."""
    made = draw(f"{NAME}: {module}, {masks}", torch_mha.contract(module.config), T, S, masks.ours)
    intermediates = ("weights", "mean_weights")
    if masks.attn != "float":
        return replace(made, intermediates=intermediates)
    bias = np.random.default_rng(5).normal(size=(B, H, T, S)).astype(np.float32)
    return replace(made, intermediates=intermediates, arrays={**made.arrays, "bias": bias})


def theirs(probe: Probe, module: Module, masks: Masks, call: Call) -> Results:
    """Return what theirs makes of a probe: the output, the weights asked for, and every gradient."""
    made = load(probe, module, batch_first=call.batch_first)
    inputs = {name: to_tensor(x).requires_grad_() for name, x in probe.arrays.items()}
    given = [x if call.batch_first else x.transpose(0, 1) for name, x in inputs.items() if name != "bias"]
    output, weights = made(
        *given,
        **foreign(masks, inputs),
        need_weights=call.weights is not None,
        average_attn_weights=call.weights != "weights",
        is_causal=call.is_causal,
    )
    output = output if call.batch_first else output.transpose(0, 1)
    results = {"output": output, **({call.weights: weights} if call.weights else {})}
    learned = dict(made.named_parameters())
    gradients = torch.autograd.grad(output, [*inputs.values(), *learned.values()], to_tensor(probe.cotangents["output"]))
    found = dict(zip([*inputs, *learned], map(to_numpy, gradients), strict=True))
    canonical = read({name: found[name] for name in learned}, torch_mha.weight_map(module.config), probe.contract)
    by_name = {**{name: found[name] for name in inputs}, **canonical}
    return {**{name: to_numpy(x) for name, x in results.items()}, **{f"d {name}": x for name, x in by_name.items()}}


def load(probe: Probe, module: Module, **options: Any) -> torch.nn.MultiheadAttention:
    """Return theirs with the weights of a probe."""
    made = torch.nn.MultiheadAttention(**module.config, **options, dtype=getattr(torch, probe.dtype))
    tensors = write(probe.weights, torch_mha.weight_map(module.config), probe.contract)
    # All of them must be there, and nothing else.
    _ = made.load_state_dict({name: to_tensor(x) for name, x in tensors.items()})
    return made


def foreign(masks: Masks, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the masks of a call as theirs takes them."""
    given = {name: to_tensor(x) for name, x in masks.foreign.items()}
    if masks.attn == "float":
        given["attn_mask"] = inputs["bias"].flatten(0, 1)
        if masks.padded:
            # Theirs warns unless both are of one kind.
            zeros = torch.zeros_like(given["key_padding_mask"], dtype=inputs["bias"].dtype)
            given["key_padding_mask"] = zeros.masked_fill(given["key_padding_mask"], -torch.inf)
    return given


def wide(module: Module, masks: Masks, backends: tuple[str, ...] = BACKENDS) -> Iterator[Line]:
    """Yield a line for every backend in float64: the worst of all ways of calling theirs."""
    asked = probe(module, masks)
    wanted = [theirs(widened(asked), module, masks, call) for call in calls(masks) if not forgets(module, masks, call)]
    for backend in backends:
        got, name = find(backend).run(widened(asked), "auto").results, backend.removesuffix("_eager")
        yield Line(asked.name, name, "float64", max(apart({n: got[n] for n in w}, w) for w in wanted) / LIMIT)


def narrow(module: Module, masks: Masks, backends: tuple[str, ...] = BACKENDS) -> Iterator[Line]:
    """Yield a line for every backend in float32, and one for their own, judged by theirs in float64."""
    asked = replace(probe(module, masks), intermediates=("weights",))
    call, expected = Call(weights="weights"), expect(asked)
    expected = Budget({**expected.value, **theirs(widened(asked), module, masks, call)}, expected.sigma)
    for backend in backends:
        got = find(backend).run(asked, "auto").results
        yield Line(asked.name, backend.removesuffix("_eager"), "float32", strayed(got, expected))
    yield Line(asked.name, "theirs", "float32", strayed(theirs(asked, module, masks, call), expected))


def turn(module: Module) -> Masks:
    """Return the masks that a module meets where not every module meets all of them."""
    return GRID[MODULES.index(module) * 3 % len(GRID)]


def run(backends: tuple[str, ...] = BACKENDS) -> list[Line]:
    """Return the lines of the whole grid in float64, and of a part of it in float32."""
    lines = [line for module, masks in product(MODULES, GRID) for line in wide(module, masks, backends)]
    return lines + [line for module in MODULES for line in narrow(module, turn(module), backends)]
