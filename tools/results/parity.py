"""The main job: both backends against the float64 oracle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table

HEADINGS = ("contract", "dtype", "backend", "kernel", "probes", "output z", "gradient z", "worst element", "verdict")
SHOWN = (
    "self",
    "cross",
    "causal_end",
    "rotary",
    "dropout",
    "appended",
    "relative_bias",
    "latent",
    "differential",
    "linear",
    "decoder",
)
"""The contracts whose lines a page has room for; whatever fails is shown too."""


def collect(text: str) -> dict[str, Any]:
    """Return the lines of the table, and the counts below it."""
    found = json.loads(text)
    groups: dict[tuple[str, ...], list[Any]] = {}
    for row in found["rows"]:
        groups.setdefault((row["subject"], row["dtype"], row["side"]), []).append(row)
    verdicts = [verdict for row in found["rows"] for verdict in row["verdicts"]]
    limits = found["limits"]
    return {
        "limits": limits,
        "arrays": len(verdicts),
        "outside": sum(_badness(verdict, limits) > 1 for verdict in verdicts),
        "models": list(_models(found["rows"])),
        "lines": [list(_cells(place, rows, limits)) for place, rows in groups.items()],
    }


def _badness(verdict: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    return max(float(verdict["rms"]) / limits["rms"], float(verdict["worst"]) / limits["max"])


def _cells(place: tuple[str, ...], rows: list[Any], limits: Mapping[str, float]) -> Iterator[str]:
    """Yield the line of a contract, dtype and side, as `attention verify` prints it."""
    verdicts = [verdict for row in rows for verdict in row["verdicts"]]
    yield from (*place, ", ".join(dict.fromkeys(row["kernel"] for row in rows)), str(len(rows)))
    for gradient in (False, True):
        own = [v for v in verdicts if v["name"].startswith("d ") is gradient]
        yield f"{_z(max(float(v['rms']) for v in own), 2)}/{_z(max(float(v['worst']) for v in own), 1)}" if own else "-"
    worst = max(verdicts, key=lambda verdict: _badness(verdict, limits), default=None)
    yield f"{worst['name']}[{','.join(map(str, worst['index']))}]" if worst else "-"
    yield "agrees" if all(row["agrees"] for row in rows) else "differs"


def _z(z: float, digits: int) -> str:
    """Return z with at most three digits, as `comparison.shown_z` does."""
    if z < 999.5 or z == float("inf"):
        return f"{z:.{min(digits, 2 if z < 9.995 else 1 if z < 99.95 else 0)}f}"
    size, _, power = f"{z:.1e}".partition("e")
    return f"{size}e{int(power)}"


def _models(rows: list[Any]) -> Iterator[str]:
    """Yield a line for each trained model."""
    layers: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        if "layer" in row["facts"]:
            place = tuple(row["facts"][name] for name in ("model", "heads", "tokens", "padding"))
            layers.setdefault(place, set()).add(row["facts"]["layer"])
    for (model, heads, tokens, padding), found in layers.items():
        yield f"{model}: {len(found)} layers, {heads} heads, {tokens} tokens of real text and {padding} of padding"


def render(results: Results) -> str:
    """Return some lines of the table, all that failed, and the counts of all."""
    found = results("parity")
    if found is None:
        return ""
    data = found.data
    shown = [tuple(line) for line in data["lines"] if _is_shown(line, data["lines"])]
    contracts = {line[0] for line in data["lines"] if "[" not in line[0]}
    listed = {line[0] for line in shown if "[" not in line[0]}
    said = [
        "z = error / rounding budget, RMS / max; agrees if RMS <= {rms:g} and max <= {max:g}".format(**data["limits"]),
        *data["models"],
        f"{data['arrays']} arrays compared with the float64 oracle, {data['outside']} outside their budget.",
    ]
    layers = ", and the first and last layer of the trained model," if data["models"] else ""
    command = re.sub(r" --json \S+", "", found.command).replace("python -m attention.cli", "attention")
    cut = f"Of `{command}`, {len(listed)} of {len(contracts)} contracts{layers} are shown here."
    return "\n\n".join([cut, table(_narrow(HEADINGS), list(map(_narrow, shown))), *said, measured(found)])


def _narrow(line: tuple[str, ...]) -> tuple[str, ...]:
    """Return a line without the number of its probes, for which a page has no room, and with z unbroken."""
    return tuple(cell.replace(" / ", "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}") for i, cell in enumerate(line) if i != 4)


def _is_shown(line: list[str], lines: list[list[str]]) -> bool:
    """Return whether a line is on the page: chosen contracts, the first and last layer of a model, and every failure."""
    layer = re.fullmatch(r"(?P<model>\w+)\[(?P<number>\d+)\]", line[0])
    if line[-1] != "agrees" or line[0] in SHOWN or layer is None:
        return line[-1] != "agrees" or line[0] in SHOWN
    last = max(int(number) for each in lines for number in re.findall(rf"^{layer['model']}\[(\d+)\]$", each[0]))
    return line[1] == "float32" and int(layer["number"]) in (0, last)


MEASUREMENTS = (
    Measurement(
        name="parity",
        command=("attention.cli", "verify", "--contract", "all", "--real", "rxnmapper", "--json", "build/parity.json"),
        wrote="build/parity.json",
        collect=collect,
    ),
)
FIGURES = (Figure("parity", render),)
