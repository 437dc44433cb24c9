"""Pictures with numbers: a mistake that a usual tolerance passes, a training that leaves its envelope, and a report's page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table


def collect(text: str) -> dict[str, Any]:
    """Return the numbers, rounded."""
    found = json.loads(text)
    return {name: [{key: _rounded(x) for key, x in row.items()} for row in rows] for name, rows in found.items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def render_budget(results: Results) -> str:
    """Return a row for each program: its z, and what a usual tolerance says of it."""
    found = results("proof")
    if found is None:
        return ""
    rows = [
        (row["program"], f"{row['rms']:g}", f"{row['max']:g}", "passes" if row["allclose"] else "fails")
        for row in found.data["budget"]
    ]
    return f"{table(('program', 'RMS z', 'max z', '`allclose(rtol=1e-3, atol=1e-5)`'), rows)}\n\n{measured(found)}"


def render_envelope(results: Results) -> str:
    """Return a row for each training: how near it comes to its envelope."""
    found = results("proof")
    if found is None:
        return ""
    rows = [
        (row["run"], _share(row), "inside" if row["ok"] else f"outside from step {row['first']}")
        for row in found.data["envelope"]
    ]
    return table(("training", "largest share of the envelope", "verdict"), rows)


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['nearest']:g}"


MEASUREMENTS = (
    Measurement(
        name="proof",
        command=("tools.proof_pictures",),
        wrote="build/proof/numbers.json",
        collect=collect,
        pictures={f"docs/figures/{name}.png": f"build/proof/{name}.png" for name in ("budget", "envelope")},
    ),
    Measurement(
        name="report",
        command=("tools.report_picture",),
        collect=lambda _: {},
        pictures={"docs/figures/report.png": "build/report/report.png"},
    ),
)
FIGURES = (Figure("budget", render_budget), Figure("envelope", render_envelope))
