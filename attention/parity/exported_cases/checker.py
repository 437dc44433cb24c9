"""Check a third implementation: its results for every exported call, judged as both backends are.

    z = |got - oracle| / sigma        agrees  <=>  RMS z <= 4  and  max z <= 30

Only NumPy runs here: the oracle's values and the budgets are in the files.
"""

# A user's function may return anything.
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
from attention.parity.exported_cases.implementation_io import Arrays, CaseCall, ExportedCase, exported_case
from attention.parity.numerics.comparison import judge
from attention.parity.results.report import Report, Row

Function = Callable[[CaseCall], Mapping[str, Any]]


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
        folder: that `export` wrote.
        function: `function(call)` returns its results by name, those of `call.results`: every output, and the gradients
            that it has. It raises NotImplementedError for a call it does not support; any other error is a failure.
        name: what the report calls it; its own name if "".
        contracts: names of cases in the export; none means all.
        dtypes: the same.
        progress: called with each call before it runs.

    Raises:
        FileError: the export is missing, damaged, or of another version.
        UnknownName: the export has no such contract or dtype.
    """
    root = Path(folder)
    implementation = name or getattr(function, "__name__", type(function).__name__)
    rows: list[Row] = []
    missing: dict[tuple[str, ...], list[str]] = {}
    for entry in read_index(root).chosen(tuple(contracts), tuple(dtypes)):
        _ = progress(str(entry))
        row, absent = check_call(exported_case(root, entry), function, implementation)
        rows.append(row)
        if absent:
            missing.setdefault(absent, []).append(entry.case)
    advice = "attention cases check with --contract and --dtype of one that fails; its .json beside the arrays has notes"
    return Report(tuple(rows), tuple(_not_compared(missing)), advice)


def check_call(case: ExportedCase, function: Function, implementation: str) -> tuple[Row, tuple[str, ...]]:
    """Return the row of one call, and the names of the gradients that were not returned.

    Args:
        case: the call with its expected results.
        function: the implementation.
        implementation: what the report calls it.
    """
    call = case.call
    row = Row(call.case, call.probe, implementation, "", call.dtype)
    try:
        results = function(call)
    except NotImplementedError as refusal:
        return replace(row, refusal=f"{implementation} refuses: {refusal or 'not implemented'}"), ()
    # A user's function may raise anything, and the calls after this one are still to be made.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return replace(row, failure=f"raised {type(error).__name__}{_where(error)}: {error}"), ()
    made, faults = _readable(results, case)
    if faults:
        return replace(row, failure="; ".join(faults)), ()
    found = tuple(judge(n, made[n], case.oracle[n], case.sigma[n]) for n in call.results if n in made)
    return replace(row, verdicts=found), tuple(n for n in call.results if n not in made)


def _readable(results: Any, case: ExportedCase) -> tuple[Arrays, list[str]]:
    """Return the arrays that a function returned, by name, and the reasons why some cannot be compared."""
    call = case.call
    if not isinstance(results, Mapping):
        wanted = f"a dict of arrays by name: {', '.join(call.outputs)}, ..."
        return {}, [f"returned {type(results).__name__} but must return {wanted}"]
    made: Arrays = {}
    returned = {str(name): value for name, value in results.items() if value is not None}
    faults = [f"{name!r} is absent but must be given: it is no gradient" for name in call.outputs if name not in returned]
    for name, value in returned.items():
        if name not in call.results:
            faults.append(f"{name!r} must be one of {', '.join(call.results)}")
            continue
        try:
            made[name] = np.asarray(value).astype(np.float64, casting="same_kind")
        # The arrays of other libraries raise errors of their own where they cannot be read.
        except Exception as error:  # noqa: BLE001
            faults.append(f"{name!r} {type(value).__name__} must be an array of floats: {error}")
            continue
        if made[name].shape != case.oracle[name].shape:
            faults.append(f"{name!r} {made[name].shape} must be {case.oracle[name].shape} as the oracle's is")
    return made, faults


def _where(error: BaseException) -> str:
    """Return the last line of the user's own file that the error passed through."""
    ours, *frames = traceback.extract_tb(error.__traceback__)
    del ours
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _not_compared(missing: Mapping[tuple[str, ...], Sequence[str]]) -> Iterable[str]:
    """Yield a line for each set of gradients that was not returned, with its contracts."""
    for names, found in missing.items():
        yield f"not compared, for the implementation does not give them: {', '.join(names)} ({', '.join(dict.fromkeys(found))})"
