"""Mistakes: how often the diagnosis is right, and how often right programs are condemned."""

from __future__ import annotations

import json
from typing import Any

from tools.results.figures import Figure, Measurement, Results, measured, table

ASKED = {
    "singles": (
        "{total} known mistakes, each in the {side} layer",
        "{good} named alone, or with what is the same mathematics there",
    ),
    "pairs": ("{total} random pairs of them", "the truth among the first three in {good}"),
    "unlisted": ("{total} mistakes of no catalogue", '{good} times "none of the known mistakes fits"'),
    "right": ("{total} right layers, of every contract and backend", "{good} agree"),
}


def collect_diagnosis(text: str) -> dict[str, Any]:
    """Return the counts."""
    found = json.loads(text)
    return {"side": found["side"], "kinds": found["kinds"]}


def collect_false_alarms(text: str) -> dict[str, Any]:
    """Return the counts, and the draws that failed."""
    found = json.loads(text)
    kept = ("seed", "draws", "arrays", "rate", "upper bound", "confidence")
    return {**{name: found[name] for name in kept}, "failing": sorted(map(int, found["failing"]))}


def render(results: Results) -> str:
    """Return a row for each kind of trial that is recorded."""
    scored, alarms = results("diagnosis"), results("false-alarms")
    rows: list[tuple[str, ...]] = []
    if scored is not None:
        for kind, counts in scored.data["kinds"].items():
            asked, answered = ASKED[kind]
            rows.append((asked.format(**counts, side=scored.data["side"]), answered.format(**counts)))
    if alarms is not None:
        data = alarms.data
        most = f"at most {100 * data['upper bound']:.2f} % with {100 * data['confidence']:.0f} % confidence"
        asked = f"{data['draws']:,} random right calls in both backends (`python -m tools.evaluation false-alarms`)"
        rows.append((asked, f"{len(data['failing'])} condemned: {most}"))
    if not rows:
        return ""
    return f"{table(('asked', 'answered'), rows)}\n\n{measured(*(found for found in (scored, alarms) if found))}"


MEASUREMENTS = (
    Measurement(
        name="diagnosis",
        command=("tools.evaluation.diagnosis_accuracy", "--pairs", "20", "--json", "build/diagnosis.json"),
        wrote="build/diagnosis.json",
        collect=collect_diagnosis,
    ),
    Measurement(
        name="false-alarms",
        command=("tools.evaluation", "false-alarms", "--draws", "2000", "--json", "build/false-alarms.json"),
        wrote="build/false-alarms.json",
        collect=collect_false_alarms,
    ),
)
FIGURES = (Figure("mistakes", render),)
