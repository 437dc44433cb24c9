"""What others wrote: ONNX's operator tests, and the attention modules of transformers, torch and Flax."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table

STATUSES = ("passed", "wrong", "raised", "unasked")
MODULES = {
    "transformers": "`transformers`",
    "torch": "`torch.nn.MultiheadAttention`",
    "flax": "`flax.nnx.MultiHeadAttention`",
}
CELLS = (("torch", "float64"), ("jax", "float64"), ("torch", "float32"), ("jax", "float32"), ("theirs", "float32"))


def collect_onnx(text: str) -> dict[str, Any]:
    """Return how many cases of each operator came to which end in each program."""
    found = json.loads(text)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in found["outcomes"]:
        counts.setdefault((one["operator"], one["program"]), Counter())[one["status"]] += 1
    rows = [[*place, count.total(), *(count[status] for status in STATUSES)] for place, count in counts.items()]
    return {"versions": found["versions"], "rows": rows}


def render_onnx(results: Results) -> str:
    """Return the table of `python -m conformance onnx --baselines`."""
    found = results("onnx")
    if found is None:
        return ""
    rows = [tuple(map(str, row)) for row in found.data["rows"]]
    shown = table(("operator", "program", "cases", *STATUSES), rows)
    return f"{shown}\n\n{measured(found)} onnx {found.data['versions']['onnx']}."


def collect_modules(text: str) -> dict[str, Any]:
    """Return, of each suite, dtype and backend: the calls, how many passed, and the worst error over its limit."""
    found = json.loads(text)
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for line in found["lines"]:
        groups.setdefault((line["suite"], line["backend"], line["dtype"]), []).append(line)
    rows = [
        [*place, len(lines), sum(line["passed"] for line in lines), float(f"{max(line['worst'] for line in lines):.2g}")]
        for place, lines in groups.items()
    ]
    return {"versions": found["versions"], "rows": rows}


def render_modules(results: Results) -> str:
    """Return a row for each suite: in each dtype and backend how many calls pass, and the worst error over its limit."""
    found = results("modules")
    if found is None:
        return ""
    cells = {tuple(row[:3]): f"{row[4]} / {row[3]}, {row[5]:g}" for row in found.data["rows"]}
    headings = ("module", *(f"{'their own' if backend == 'theirs' else backend} {dtype}" for backend, dtype in CELLS))
    rows = [
        (MODULES[suite], *(cells.get((suite, *cell), "") for cell in CELLS))
        for suite in dict.fromkeys(row[0] for row in found.data["rows"])
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found.data["versions"].items())
    return f"{table(headings, rows)}\n\n{measured(found)} {versions}."


MEASUREMENTS = (
    Measurement(
        name="onnx",
        command=("conformance", "onnx", "--baselines", "--json", "build/onnx.json"),
        wrote="build/onnx.json",
        collect=collect_onnx,
    ),
    Measurement(
        name="modules",
        command=("conformance", "modules", "--json", "build/modules.json"),
        wrote="build/modules.json",
        collect=collect_modules,
    ),
)
FIGURES = (Figure("onnx", render_onnx), Figure("modules", render_modules))
