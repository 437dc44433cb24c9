"""Runs `parity.full_comparison` on pairs, right and wrong, and counts: python -m conformance.wild.evaluate [PATH ...].

    right pair          must not be said to differ
    wrong pair          must be said to differ; the line of the planted mistake should be among the lines shown
    --right             only the right pairs           --json PATH    write every outcome
    --seconds N         give up on one run after N seconds of wall time

Names of mistakes are printed beside what was planted: whether a name is right is for a person to judge.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attention import parity
from conformance.wild.check import load, plant
from conformance.wild.packages import Missing
from conformance.wild.packages import source as package_source

Span = tuple[str, str, int, int]
"""Side of a mistake, name of its file, first and last line."""


def pair(right: Path, wrong: Path | None = None, side: str = "") -> tuple[Any, Any, Any, str | None]:
    """Return both programs of a file, its inputs, and whose parameters both shall use.

    Args:
        right: the file.
        wrong: the file with a mistake, from which the program of `side` comes; the other one may not be able to be made there.
        side: "torch" or "jax".
    """
    module = load(right, right.read_text())
    planted = module if wrong is None else load(wrong, wrong.read_text())
    given = module.inputs()
    inputs = {k: np.asarray(v) for k, v in given.items()} if isinstance(given, dict) else tuple(map(np.asarray, given))
    first = (planted if side == "torch" else module).torch_side()
    second = (planted if side == "jax" else module).jax_side()
    return first, second, inputs, None if module.LOADED else "first"


def lines(divergence: Any) -> Iterator[tuple[str, str, int, int]]:
    """Yield side, file, first and last line of all that a divergence shows: at most five places of either side."""
    suspects: Any = ((), ()) if divergence is None else divergence.suspects
    for side, places in zip(("torch", "jax"), suspects, strict=True):
        for place in places:
            yield side, place.file, *place.span


def run(path: Path, wrong: Path | None, span: Span | None) -> dict[str, Any]:
    """Return what a full comparison makes of a file; `wrong` and `span` say where a mistake of one of its programs stands."""
    begun = time.process_time()
    first, second, inputs, load = pair(path, wrong, span[0] if span is not None else "")
    try:
        found = parity.full_comparison(first, second, inputs, load=load)
    except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
        return {"verdict": "error", "why": f"{type(error).__name__}: {error}"[:300], "seconds": time.process_time() - begun}
    shown = list(lines(found.divergence))
    rank = 0 if span is None else rank_of(span, shown)
    report = found.report
    return {
        "verdict": report.verdict if report is not None else "cannot tell",
        "ok": found.ok,
        "line": rank > 0,
        "rank": rank,
        "places": sum(side == span[0] for side, *_ in shown) if span is not None else 0,
        "shown": [f"{side}:{first}-{last}" for side, _, first, last in shown],
        "names": [str(name)[:200] for name in found.named],
        "why": "; ".join(row.failure for row in report.rows if row.failure)[:300] if report is not None else "",
        "share": getattr(found.divergence, "share", None),
        "kind": getattr(found.divergence, "kind", ""),
        "seconds": time.process_time() - begun,
    }


def rank_of(span: Span, shown: list[tuple[str, str, int, int]]) -> int:
    """Return which of the places that are shown of a side holds the mistake, counted from 1, or 0."""
    side, name, begin, end = span
    places = [(Path(file).name, first, last) for at, file, first, last in shown if at == side]
    hits = (n for n, (file, first, last) in enumerate(places, 1) if file == name and begin <= last and first <= end)
    return next(hits, 0)


def stop(*_: object) -> None:
    """End a run that takes too long."""
    raise TimeoutError("took too long")


def installed(path: Path) -> bool:
    """Return whether a file has the packages that it needs; say which it lacks."""
    try:
        _ = load(path, path.read_text())
    except Missing as package:
        print(f"{path.stem:26} skipped: {package}")  # noqa: T201
        return False
    return True


def cases(path: Path, folder: Path, *, right_only: bool) -> Iterator[tuple[str, str, Path | None, Span | None]]:
    """Yield the case's name, the planted mistake, the file that holds it and the span of the mistake."""
    yield f"{path.stem}", "", None, None
    if right_only:
        return
    source = path.read_text()
    for index, mistake in enumerate(load(path, source).MISTAKES):
        # A file of its own, so that lines are those that a user would see.
        wrong = folder / f"{path.stem}_{index}.py"
        _ = wrong.write_text(plant(source, mistake))
        last = mistake["line"] + max(mistake["new"].strip("\n").count("\n"), mistake["old"].strip("\n").count("\n"))
        file = package_source(mistake["module"]) if "module" in mistake else wrong
        yield f"{path.stem}:{index}", mistake["name"], wrong, (mistake["side"], file.name, mistake["line"], last)


def main(arguments: list[str]) -> int:
    """0 if no right pair is said to differ and no wrong one to agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("places", nargs="*", type=Path, default=[Path(__file__).parent / "seen"])
    _ = parser.add_argument("--right", action="store_true")
    _ = parser.add_argument("--json", type=Path)
    _ = parser.add_argument("--seconds", type=int, default=300)
    chosen = parser.parse_args(arguments)
    files = sorted(f for p in chosen.places for f in (p.glob("[!_]*.py") if p.is_dir() else [p]) if installed(f))
    _ = signal.signal(signal.SIGALRM, stop)
    outcomes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            for name, planted, file, span in cases(path, Path(folder), right_only=chosen.right):
                _ = signal.alarm(chosen.seconds)
                outcome = {"case": name, "planted": planted, **run(path, file, span)}
                _ = signal.alarm(0)
                outcomes.append(outcome)
                print(told(outcome), flush=True)  # noqa: T201
                if chosen.json is not None:
                    _ = chosen.json.write_text(json.dumps(outcomes, indent=1))
    right, wrong = ([o for o in outcomes if bool(o["planted"]) == kind] for kind in (False, True))
    condemned = [o["case"] for o in right if o["verdict"] == "differs"]
    passed = [o["case"] for o in wrong if o["verdict"] == "agrees"]
    print(f"{len(right)} right pairs: {len(condemned)} said to differ {condemned}, {said(right)}")  # noqa: T201
    named = sum(bool(o.get("names")) and "none of the known" not in o["names"][0] for o in wrong)
    found = sum(bool(o.get("line")) for o in wrong)
    print(f"{len(wrong)} wrong pairs: {len(passed)} passed {passed}, line shown {found}, named {named}, {said(wrong)}")  # noqa: T201
    counts = [o["places"] for o in wrong if o.get("shown")]
    ranks = [o.get("rank", 0) for o in wrong]
    print(  # noqa: T201
        f"places shown on the side of the mistake: {np.mean(counts or [0]):.1f} on average;"
        f" it is the first of them in {ranks.count(1)}, the second in {ranks.count(2)}"
    )
    return int(bool(condemned or passed))


def said(outcomes: list[dict[str, Any]]) -> str:
    """Return how often each verdict was given, and the median time."""
    counts = {v: sum(o["verdict"] == v for o in outcomes) for v in sorted({o["verdict"] for o in outcomes})}
    return f"{counts}, median {np.median([o['seconds'] for o in outcomes] or [0]):.1f} s of CPU"


def told(outcome: dict[str, Any]) -> str:
    """Return a case as a line."""
    tail = [f"planted: {outcome['planted']}", f"line {outcome.get('line')}", f"named: {outcome.get('names')}"]
    extra = " | ".join(tail) if outcome["planted"] else ""
    return f"{outcome['case']:26} {outcome['verdict']:12} {outcome['seconds']:5.1f} s {extra} {outcome.get('why', '')}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
