"""A report as one self-contained HTML page.

page(report)                              verdict, table, histograms of z, error maps, attention maps, environment
page(report, divergence, diagnosis)       verdict, the mistake's name, both lines side by side; the rest folded
"""

# ruff: noqa: E402 - what the later lines import is asked for first

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from attention._extras import require

require("jinja2", extra="report", wanted_by="report.to_html")
require("matplotlib", extra="report", wanted_by="report.to_html")

from jinja2 import Environment, StrictUndefined, Template

from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS, Verdict, shown_z
from attention.parity.numerics.error_maps import Picture
from attention.parity.rendering import charts, code_panes, text
from attention.parity.results import provenance
from attention.parity.results.report import Report, Row
from attention.parity.tracing import Divergence, Event, TimelineRow

MOST_PICTURES = 24
"""Pictures of one group: failures first, then those with the largest z."""
NEAR = 40
"""Operations before and after the divergence that are shown."""
MOST_VERDICTS = 60
"""Lines of one group's table of arrays, the worst first."""


def page(
    report: Report | None = None, divergence: Divergence | None = None, diagnosis: object = None, *, ok: bool | None = None
) -> str:
    """Return a page as text.

    Args:
        report: what was compared, or None.
        divergence: what `parity.locate` returned, or None: it is drawn as two panes of code, and as two aligned columns of
            operations.
        diagnosis: what `parity.diagnose` returned, or None.
        ok: whether all agree, whatever way it was looked for; the report's own answer if None.
    """
    shown = report or Report()
    return _template().render(
        ok=shown.ok if ok is None else ok,
        judged=report is not None,
        verdict=shown.verdict,
        complaint="" if report is None or shown.ok else shown.complaint(),
        references=text.references(shown),
        differing=text.differing(shown).removeprefix(": ") if text.pairs(shown) else "",
        compared=sum(len(row.verdicts) for row in shown.rows),
        failed=sum(1 for _ in shown.failures()),
        notes=shown.notes,
        groups=[_group(rows) for rows in shown.groups()],
        bars=charts.bars(charts.summed([v.histogram for row in shown.rows for v in row.verdicts])),
        limits={"rms": MOST_RMS, "max": MOST_MAX},
        environment=provenance.environment(),
        code=provenance.code(),
        divergence=divergence,
        places=[] if divergence is None else [_place(each) for each in divergence.all],
        suspects=[] if divergence is None else code_panes.suspects(divergence),
        trace=[] if divergence is None else _trace(divergence),
        diagnosis="" if diagnosis is None else str(diagnosis),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))


def _place(found: Divergence) -> dict[str, Any]:
    """Return what is shown of a place at which the programs part."""
    agreed = [{"side": event.side, "text": f"{event.label}  {event.place}  {event.text}"} for event in found.agreed or ()]
    difference = found.difference.text if found.difference else ""
    return {
        "kind": found.kind,
        "difference": difference,
        "panes": code_panes.panes(found),
        "values": code_panes.values(found),
        "compared": [event.label for event in code_panes.compared(found) or ()],
        "agreed": agreed,
    }


def _trace(divergence: Divergence) -> list[dict[str, str]]:
    """Return the aligned operations, those far from the divergence and in agreement counted instead of shown."""
    moments = divergence.timeline
    parts = [i for i, moment in enumerate(moments) if moment.first]
    near = range(parts[0] - NEAR, parts[-1] + NEAR + 1) if parts else range(len(moments) if len(moments) <= 4 * NEAR else 0)
    lines = [_moment(moment) for i, moment in enumerate(moments) if i in near]
    if len(lines) < len(moments):
        lines.append({"kind": "alone", "torch": f"{len(moments) - len(lines)} more operations, farther away", "jax": ""})
    return lines


def _moment(moment: TimelineRow) -> dict[str, str]:
    kind = "apart" if moment.first else "agree" if moment.matched and moment.torch and moment.jax else "alone"
    return {"kind": kind, "torch": _event(moment.torch), "jax": _event(moment.jax)}


def _event(event: Event | None) -> str:
    return "" if event is None else f"{event.label}\n{event.place} {event.text}".strip()


def _group(rows: list[Row]) -> dict[str, Any]:
    """Return what the page shows of one subject, dtype and side."""
    every = [(row, verdict) for row in rows for verdict in row.verdicts]
    every.sort(key=lambda pair: -pair[1].badness)
    return {
        "cells": text.cells(rows),
        "ok": all(row.agrees for row in rows),
        "failures": [f"probe {row.probe!r}: {row.failure}" for row in rows if row.failure],
        "bars": charts.bars(charts.summed([verdict.histogram for _, verdict in every])),
        "verdicts": [_line(row, verdict) for row, verdict in every[:MOST_VERDICTS]],
        "more": max(0, len(every) - MOST_VERDICTS),
        "pictures": _pictures(every),
        "facts": {name: fact for row in rows for name, fact in row.facts.items()},
    }


def _line(row: Row, verdict: Verdict) -> dict[str, Any]:
    return {
        "probe": row.probe,
        "name": verdict.name,
        "ok": verdict.agrees,
        "rms": shown_z(verdict.rms),
        "worst": shown_z(verdict.worst, 1),
        "index": ", ".join(map(str, verdict.index)),
        "got": f"{verdict.got:.9g}",
        "wanted": f"{verdict.wanted:.9g}",
        "sigma": f"{verdict.sigma:.2g}",
        "width": f"{min(100.0, 100.0 * verdict.badness):.1f}",
    }


def _pictures(every: list[tuple[Row, Verdict]]) -> list[dict[str, Any]]:
    """Return the pictures of a group: errors of the worst arrays, and one set of attention maps."""
    errors = [(row, v, p) for row, v in every for p in v.pictures if p.kind == "z"]
    maps = [(row, v, p) for row, v in every if v.name == "weights" for p in v.pictures if p.kind == "weights"]
    first = maps[0][0] if maps else None
    chosen = [*errors[:MOST_PICTURES], *((row, v, p) for row, v, p in maps if row is first)]
    return [_drawn(row, verdict, picture) for row, verdict, picture in chosen]


def _drawn(row: Row, verdict: Verdict, picture: Picture) -> dict[str, Any]:
    height, width = picture.values.shape
    return {
        "src": charts.image(picture),
        "title": picture.title,
        "probe": row.probe,
        "rows": picture.rows,
        "columns": picture.columns,
        "height": height,
        "width": width,
        "ok": verdict.agrees,
        "kind": picture.kind,
    }
