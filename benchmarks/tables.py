"""Tables of results for a terminal.

x = median over rounds of time / time of the baseline        lower is faster; the baseline is SDPA, or who stands first
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.results import DIFFERS, REFUSED, TIMED, Results, Row
from benchmarks.timing import quartiles, ratios

BASELINES = ("SDPA", "jax.nn", "Linear + SDPA", "torch", "torch auto")
"""Against whom a table's ratios are, the first that was timed."""


def table(results: Results, *, refusals: bool = False) -> Table:
    """Return a row for every implementation of every case.

    Args:
        results: of a run.
        refusals: whether those who cannot are listed too.
    """
    said = Table(caption=conditions(results), title_justify="left", caption_justify="left")
    memory = any(row.memory_bytes is not None for row in results.rows)
    said.add_column("case", overflow="fold", max_width=34)
    said.add_column("implementation", no_wrap=True)
    for heading in ("ms", "quartiles", "x", "GEMM", "memory" if memory else "", "MB" if memory else "", "compile"):
        if heading:
            said.add_column(heading.replace("memory", "GB/s"), justify="right", no_wrap=True)
    said.add_column("", min_width=8, overflow="fold")
    for name, rows in _by_case(results.rows).items():
        baseline = next((row for known in BASELINES for row in rows if row.implementation == known and row.samples), None)
        label = name
        for row in rows:
            if row.status == REFUSED and not refusals:
                continue
            said.add_row(label, row.implementation, *_numbers(results, row, baseline, memory=memory), _remark(row))
            label = ""
        said.add_section()
    return said


def _by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    return found


def _numbers(results: Results, row: Row, baseline: Row | None, *, memory: bool) -> Iterator[str]:
    if not row.samples:
        yield from ("-",) * (7 if memory else 5)
        return
    low, middle, high = quartiles(row.samples)
    yield f"{middle:.3g}" + (" !" if row.status == DIFFERS else "")
    yield f"{low:.3g} - {high:.3g}"
    paired = baseline is not None and len(baseline.samples) == len(row.samples)
    yield f"{quartiles(ratios(row.samples, baseline.samples))[1]:.2f}" if paired and baseline else "-"
    share = fraction(results, row)
    yield "-" if share is None else f"{share:.0%}"
    if memory:
        yield "-" if not row.bytes else f"{row.bytes / middle / 1e6:.1f}"
        yield "-" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.1f}"
    yield "-" if row.compile_ms is None else f"{row.compile_ms / 1e3:.2f} s"


def fraction(results: Results, row: Row) -> float | None:
    """Return the share of the framework's own matrix product rate, or None where it is not known."""
    peak = results.peak(row.side, str(row.case.get("dtype", "")))
    if peak is None or row.time is None or not row.flops:
        return None
    return row.flops / (row.time * 1e-3) / peak.flops


def _remark(row: Row) -> str:
    if row.status == TIMED:
        return f"{row.kernel}" if row.implementation.endswith((" auto", " module")) else row.note
    return f"{row.status.upper()}: {row.note}"


def conditions(results: Results) -> str:
    """Return what the numbers hold for."""
    s, m = results.settings, results.machine
    devices = " and ".join(dict.fromkeys(m["devices"].values()))
    peaks = "; ".join(f"{p.side} {p.dtype} {p.flops / 1e9:.0f} GF/s, {p.bytes / 1e9:.1f} GB/s" for p in results.peaks)
    versions = ", ".join(f"{name} {m['environment'][name]}" for name in ("torch", "jax", "flax"))
    return (
        f"{devices}, {m['cores']} core(s), {versions}; {s['rounds']} rounds, {s['clock']} clock.\n"
        "ms: median; x: of the baseline; GEMM: share of the rate of a matrix product; !: not the contract's numbers."
        + (f"\nPeaks: {peaks}" if peaks else "")
    )


def requirements_table(requirements: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Table:
    """Return what must hold, what was measured, and whether it does."""
    said = Table(caption=f"{settings['rounds']} interleaved rounds, {settings['clock']} clock", caption_justify="left")
    for heading in ("requirement", "what"):
        said.add_column(heading, overflow="fold")
    for heading in ("wanted", "measured", "quartiles"):
        said.add_column(heading, justify="right", no_wrap=True)
    said.add_column("met")
    for requirement in requirements:
        sign, measured = ("<=" if requirement["sense"] == "most" else ">="), requirement["measured"]
        spread = "-" if requirement["spread"] is None else "{:.3g} - {:.3g}".format(*requirement["spread"])
        met = {True: "yes", False: "NO", None: "-"}[requirement["met"]] + (
            f" ({requirement['note']})" if requirement["note"] else ""
        )
        said.add_row(
            requirement["name"],
            requirement["what"],
            f"{sign} {requirement['limit']:g}",
            "-" if measured is None else f"{measured:.3g}",
            spread,
            met,
        )
    return said
