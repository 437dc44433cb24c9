"""The matrix: the fast tests on every interpreter, with each framework alone and with both."""

from __future__ import annotations

import json
from typing import Any

from tools.results.figures import Figure, Measurement, Results, table

COUNTS = ("passed", "failed", "skipped")


def collect(text: str) -> list[dict[str, Any]]:
    """Return a row for each interpreter and choice of frameworks."""
    return [{name: row[name] for name in ("python", "backends", "versions", *COUNTS)} for row in json.loads(text)["rows"]]


def render(results: Results) -> str:
    """Return the rows as a table."""
    found = results("matrix")
    if found is None:
        return ""
    rows = [
        (
            row["python"],
            " and ".join(row["backends"]),
            ", ".join(f"{name} {version}" for name, version in row["versions"].items()),
            *(str(row[name]) for name in COUNTS),
        )
        for row in found.data
    ]
    # Each row has versions of its own, which are not those of the environment that recorded them.
    place = found.conditions.partition(" with ")[0]
    return f"{table(('Python', 'frameworks', 'versions', *COUNTS), rows)}\n\nMeasured {place}: `make results-matrix`."


MEASUREMENTS = (Measurement(name="matrix", command=("tools.matrix",), wrote="build/matrix.json", collect=collect),)
FIGURES = (Figure("matrix", render),)
