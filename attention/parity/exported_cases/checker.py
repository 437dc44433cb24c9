"""Check a third implementation: its results for every exported call, judged as both backends are.

    z = |got - oracle| / sigma        agrees  <=>  RMS z <= 4  and  max z <= 30

Only NumPy runs here: the oracle's values and the budgets are in the files.
"""

# What a user's function returns is anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnnecessaryIsInstance=false

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attention.parity.exported_cases.file_format import read_index
from attention.parity.exported_cases.implementation_io import Arrays, Given, Question, question
from attention.parity.numerics.comparison import judge
from attention.parity.results.report import Report, Row

Function = Callable[[Given], Mapping[str, Any]]


def check(
    folder: str | os.PathLike[str],
    function: Function,
    *,
    name: str = "",
    contracts: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    progress: Callable[[str], object] = lambda _: None,
) -> Report:
    """Return the report of one implementation on an export.

    Args:
        folder: what `export` wrote.
        function: `function(given)` returns its results by name, those of `given.results`: every output, and the gradients
            that it has. It raises NotImplementedError for what it does not do; whatever else it raises is its failure.
        name: what the report calls it; its own name if "".
        contracts: names of cases in the export; none means all.
        dtypes: the same.
        progress: told of each call before it is made.

    Raises:
        FileError: the export is missing, damaged, or of another version.
        UnknownName: the export has no such contract or dtype.
    """
    root = Path(folder)
    side = name or getattr(function, "__name__", type(function).__name__)
    rows: list[Row] = []
    missing: dict[tuple[str, ...], list[str]] = {}
    for entry in read_index(root).chosen(tuple(contracts), tuple(dtypes)):
        _ = progress(str(entry))
        row, absent = answer(question(root, entry), function, side)
        rows.append(row)
        if absent:
            missing.setdefault(absent, []).append(entry.case)
    advice = "attention cases check with --contract and --dtype of one that fails; its .json beside the arrays has notes"
    return Report(tuple(rows), tuple(_not_compared(missing)), advice)


def answer(asked: Question, function: Function, side: str) -> tuple[Row, tuple[str, ...]]:
    """Return what became of one call, and the gradients that were not given.

    Args:
        asked: the call.
        function: the implementation.
        side: what the report calls it.
    """
    given = asked.given
    row = Row(given.case, given.probe, side, "", given.dtype)
    try:
        results = function(given)
    except NotImplementedError as refusal:
        return replace(row, refusal=f"{side} refuses: {refusal or 'not implemented'}"), ()
    # A user's function may raise anything, and the calls after this one are still to be made.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return replace(row, failure=f"raised {type(error).__name__}{_where(error)}: {error}"), ()
    made, faults = _readable(results, asked)
    if faults:
        return replace(row, failure="; ".join(faults)), ()
    found = tuple(judge(n, made[n], asked.oracle[n], asked.sigma[n]) for n in given.results if n in made)
    return replace(row, verdicts=found), tuple(n for n in given.results if n not in made)


def _readable(results: Any, asked: Question) -> tuple[Arrays, list[str]]:
    """Return the arrays that a function returned, by name, and why they cannot be judged, if so."""
    given = asked.given
    if not isinstance(results, Mapping):
        wanted = f"a dict of arrays by name: {', '.join(given.outputs)}, ..."
        return {}, [f"returned {type(results).__name__} but must return {wanted}"]
    made: Arrays = {}
    returned = {str(name): value for name, value in results.items() if value is not None}
    faults = [f"{name!r} is absent but must be given: it is no gradient" for name in given.outputs if name not in returned]
    for name, value in returned.items():
        if name not in given.results:
            faults.append(f"{name!r} must be one of {', '.join(given.results)}")
            continue
        try:
            made[name] = np.asarray(value).astype(np.float64, casting="same_kind")
        # The arrays of other libraries raise errors of their own where they cannot be read.
        except Exception as error:  # noqa: BLE001
            faults.append(f"{name!r} {type(value).__name__} must be an array of floats: {error}")
            continue
        if made[name].shape != asked.oracle[name].shape:
            faults.append(f"{name!r} {made[name].shape} must be {asked.oracle[name].shape} as the oracle's is")
    return made, faults


def _where(error: BaseException) -> str:
    """Return the last line of the user's own file that the error passed through."""
    ours, *frames = traceback.extract_tb(error.__traceback__)
    del ours
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _not_compared(missing: Mapping[tuple[str, ...], Sequence[str]]) -> Iterable[str]:
    """Yield a line for each set of gradients that was not given, with the contracts that lack it."""
    for names, found in missing.items():
        yield f"not compared, for the implementation does not give them: {', '.join(names)} ({', '.join(dict.fromkeys(found))})"
