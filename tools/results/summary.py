"""Summaries for a first look: what was proven, and how fast it is, of results that other pages show in full."""

from __future__ import annotations

from collections.abc import Iterator

from tools.results.figures import Figure, Measurement, Results, measured, table
from tools.results.recorded import Recorded

SPEED = (
    ("window of 256 at S 4096, forward: speedup over SDPA with its mask", "3.window.fwd.torch", "3.window.fwd.jax"),
    ("8 packed documents, forward: speedup over SDPA with its mask", "3.segments.fwd.torch", "3.segments.fwd.jax"),
    ("causal at S 4096, forward: speedup over `jax.nn`", "", "1.jaxnn.causal.float32.fwd.S4096"),
    ("dense at S 4096, forward: time over SDPA", "2.dense.float32.fwd.D64.S4096", "1.dense.float32.fwd.D64.S4096"),
    ("dense at S 512, forward: time over SDPA", "2.dense.float32.fwd.D64.S512", "1.dense.float32.fwd.D64.S512"),
    ("decoding, batch 1, float32: time over SDPA", "6.strided.float32.B1", ""),
    ("decoding, batch 1, float32: speedup over `jax.nn`", "", "6.jax.float32.B1"),
)
"""What a row says, and the bound of each framework, those that are missed among them."""


def render_proven(results: Results) -> str:
    """Return a row for each kind of evidence that is recorded."""
    known = {name: results(name) for name in ("parity", "onnx", "diagnosis", "example-marian", "example-smollm2")}
    found = {name: one for name, one in known.items() if one is not None}
    rows = [row for name, one in found.items() for row in _ROWS[name](one)]
    return f"{table(('compared', 'outcome'), rows)}\n\n{measured(*found.values())}" if rows else ""


def _parity(found: Recorded) -> Iterator[tuple[str, str]]:
    data = found.data
    contracts = len({line[0] for line in data["lines"] if "[" not in line[0]})
    yield (
        f"{contracts} contracts in both backends, outputs and gradients; layers of a trained model: {data['arrays']} arrays",
        f"{data['outside']} outside their rounding budget of the float64 oracle",
    )


def _onnx(found: Recorded) -> Iterator[tuple[str, str]]:
    rows = {(row[0], row[1]): row for row in found.data["rows"]}
    ours = "; ".join(f"{name} {rows['Attention', name][3]}" for name in ("torch", "jax"))
    yield f"{rows['Attention', 'torch'][2]} attention cases of ONNX", f"passed: {ours}"


def _diagnosis(found: Recorded) -> Iterator[tuple[str, str]]:
    single, unlisted = found.data["kinds"]["singles"], found.data["kinds"]["unlisted"]
    yield f"{single['total']} known mistakes, one at a time", f"{single['good']} named"
    yield f"{unlisted['total']} mistakes of no catalogue", f'{unlisted["good"]} times "none of the known mistakes fits"'


def _marian(found: Recorded) -> Iterator[tuple[str, str]]:
    said = found.data["agreement"]
    yield f"Marian, {said['sentences']} sentences translated", f"the same tokens in {said['torch and jax, same tokens']}"


def _smollm2(found: Recorded) -> Iterator[tuple[str, str]]:
    sides = ", ".join(f"{name} {x}" for name, x in found.data["perplexity"].items())
    yield "SmolLM2, perplexity", sides


_ROWS = {
    "parity": _parity,
    "onnx": _onnx,
    "diagnosis": _diagnosis,
    "example-marian": _marian,
    "example-smollm2": _smollm2,
}


def render_speed(results: Results) -> str:
    """Return a few bounds, and how many of all are met."""
    found = results("speed")
    if found is None:
        return ""
    rows = [
        (what, *(f"{found.data[name]['measured']:.3g}" if name in found.data else "" for name in names))
        for what, *names in SPEED
    ]
    met = sum(bound["met"] for bound in found.data.values())
    count = f"{met} of {len(found.data)} bounds are met; [Kernels and speed](docs/kernels.md) shows what was wanted."
    return f"{table(('CPU, float32', 'torch', 'JAX'), rows)}\n\n{count} {measured(found)}"


MEASUREMENTS: tuple[Measurement, ...] = ()
FIGURES = (Figure("proven", render_proven), Figure("speed-short", render_speed))
