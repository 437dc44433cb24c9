"""Speed: what must hold of the kernels' time, and whether it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table

ROWS: tuple[tuple[str, str, str], ...] = (
    ("window of 256 at S 4096, forward: speedup over SDPA with its mask", "3.window.fwd.torch", "3.window.fwd.jax"),
    ("the same, forward and backward", "3.window.fwd+bwd.torch", "3.window.fwd+bwd.jax"),
    ("8 packed documents, forward", "3.segments.fwd.torch", "3.segments.fwd.jax"),
    ("8 packed documents, forward and backward", "3.segments.fwd+bwd.torch", "3.segments.fwd+bwd.jax"),
    ("half padding, forward", "3.padding.fwd.torch", "3.padding.fwd.jax"),
    ("prefix, forward", "3.prefix.fwd.torch", "3.prefix.fwd.jax"),
    ("window, forward: speedup over `jax.nn`", "", "3.window.fwd.jaxnn"),
    ("window, forward and backward: speedup over `jax.nn`", "", "3.window.fwd+bwd.jaxnn"),
    ("causal at S 4096, forward: speedup over `jax.nn`", "", "1.jaxnn.causal.float32.fwd.S4096"),
    ("dense at S 4096, forward and backward: speedup over `jax.nn`", "", "1.jaxnn.dense.float32.fwd+bwd.S4096"),
    ("dense at S 4096, D 64, forward: time over SDPA", "2.dense.float32.fwd.D64.S4096", "1.dense.float32.fwd.D64.S4096"),
    ("dense at S 512, D 64, forward: time over SDPA", "2.dense.float32.fwd.D64.S512", "1.dense.float32.fwd.D64.S512"),
    ("dense at S 4096, D 64, forward: share of the GEMM rate", "5.D64.torch", "5.D64.jax"),
    ("dense at S 4096, D 128, forward: share of the GEMM rate", "5.D128.torch", "5.D128.jax"),
    ("decoding with a quarter of the cache filled: time over a full one", "6.valid.torch", "6.valid.jax"),
    ("decoding, B 1, float32: time over SDPA; speedup over `jax.nn`", "6.strided.float32.B1", "6.jax.float32.B1"),
    ("decoding, B 1, bfloat16: time over SDPA; speedup over `jax.nn`", "6.strided.bfloat16.B1", "6.jax.bfloat16.B1"),
    ("a layer on (1, 10, 256): time over Linear + SDPA; speedup of `compiled` over `nnx.jit`", "7.torch", "7.nnx"),
    ("import: milliseconds beside the framework's own", "7.import.torch", "7.import.jax"),
)
"""What a row says, and the requirement of each framework."""


def collect(text: str) -> dict[str, Any]:
    """Return every requirement that was measured."""
    requirements = [requirement for requirement in json.loads(text)["requirements"] if requirement["measured"] is not None]
    kept = ("measured", "limit", "sense", "met")
    return {requirement["name"]: {name: _rounded(requirement[name]) for name in kept} for requirement in requirements}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def stamp(text: str) -> dict[str, Any]:
    """Return what a benchmark says of its own machine: it may have been another one."""
    machine = json.loads(text)["machine"]
    known = machine["environment"]
    versions = {name: known[name] for name in ("python", "numpy", "torch", "jax", "flax")}
    processor = ", ".join(dict.fromkeys(machine["devices"].values()))
    return {"machine": {"processor": processor, "cores": machine["cores"]}, "versions": versions}


def render(results: Results) -> str:
    """Return a row for each requirement that a page shows, and how many are met."""
    found = results("speed")
    if found is None:
        return ""
    requirements = found.data
    rows = [
        (what, *(_cell(requirements, name) for name in names))
        for what, *names in ROWS
        if any(name in requirements for name in names)
    ]
    met = sum(requirement["met"] for requirement in requirements.values())
    count = f"{len(requirements)} requirements were measured and {met} of them are met; `results/speed.json` holds all."
    return f"{table(('requirement', 'torch (wanted)', 'JAX (wanted)'), rows)}\n\n{count} {measured(found)}"


def _cell(requirements: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return what was measured, with what was wanted."""
    if name not in requirements:
        return ""
    requirement = requirements[name]
    sign = {"least": ">=", "most": "<="}[requirement["sense"]]
    return f"{requirement['measured']:.3g} ({sign} {requirement['limit']:g})"


MEASUREMENTS = (
    Measurement(
        name="speed",
        command=("benchmarks", "requirements", "--json", "build/requirements.json"),
        wrote="build/requirements.json",
        collect=collect,
        stamp=stamp,
    ),
)
FIGURES = (Figure("speed", render),)
