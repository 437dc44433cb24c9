"""Recorded contracts: the results of one backend on the probes of named contracts, compared on another machine.

    record(["self"], side="torch").arrays["self/plain/float32/d query"]        judge(that, oracle, sigma) here

The probes are drawn anew where they are judged. A fingerprint of each makes sure that they are the same, to the bit.
"""

# A recording may hold anything.
# pyright: standard

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from attention.parity.adapters.pytree_paths import paths
from attention.parity.compare.recording_file import Recording
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.contracts.probes import CALL, Probe, probes
from attention.parity.numerics.rounding_sites import ROUNDS
from attention.parity.results import provenance
from attention.parity.results.report import Report, Row
from attention.spec import cases
from attention.spec.axes import COMPUTE, dtype_name
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import AttentionError, FileError, KernelRefused
from attention.spec.storage.disk import brief

Progress = Callable[[str], object]


def record(
    contracts: Sequence[str],
    side: str,
    *,
    dtypes: Sequence[str] = ("float32",),
    implementation: str = "auto",
    progress: Progress = lambda _: None,
) -> Recording:
    """Return what a backend makes of every probe of the contracts.

    Args:
        contracts: names of `spec.cases`; none or "all" for all.
        side: the backend: "torch", "jax", "jax_eager" or "numpy".
        dtypes: of weights and inputs.
        implementation: "auto" or a kernel's name.
        progress: called with each probe before it runs.

    Raises:
        UnknownName: no such contract, backend, dtype or kernel.
        MissingExtra: the backend's framework is not installed.
    """
    program = backends.find(side)
    for dtype in dtypes:
        _ = numpy_dtype(dtype)
    named = list(cases.CASES) if not contracts or "all" in contracts else list(dict.fromkeys(contracts))
    found = [cases.find(name) for name in named]
    calls: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for case, dtype in ((case, dtype) for case in found for dtype in dtypes):
        for probe in probes(case.contract, dtype):
            _ = progress(f"{case.name}, {dtype}, {probe.name}")
            call: dict[str, Any] = {"case": case.name, "probe": probe.name, "dtype": dtype, "fingerprint": fingerprint(probe)}
            try:
                ran = program.run(probe, implementation)
            except KernelRefused as refusal:
                calls.append({**call, "kernel": implementation, "rounds": [], "refusal": str(refusal)})
                continue
            calls.append({**call, "kernel": ran.kernel, "rounds": list(ran.rounds), "refusal": ""})
            arrays |= {f"{case.name}/{probe.name}/{dtype}/{name}": x for name, x in ran.results.items()}
    return Recording("contracts", {"side": side, "calls": calls}, arrays)


def fingerprint(probe: Probe) -> str:
    """Return the SHA-256 of all that a call says: contract, weights, arrays, cotangents, positions, masks, seed.

    Of what the contract settles only the masks count: angles are cosines, whose last bit is the machine's.
    """
    given = {"weights": probe.weights, "arrays": probe.arrays, "cotangents": probe.cotangents}
    arrays = {f"{group}.{name}": x for group, named in given.items() for name, x in named.items()}
    settled = paths(probe.contract.resolve(probe.arrays, **probe.call()), "settled")
    arrays |= {path: x for path, x in settled if isinstance(x, np.ndarray) and x.dtype == bool}
    arrays |= {name: np.asarray(x) for name in CALL if "positions" in name and (x := getattr(probe, name)) is not None}
    said = repr((probe.contract, probe.dtype, probe.dropout_seed, probe.intermediates))
    return hashlib.sha256(f"{said}\n{provenance.digest(arrays)}".encode()).hexdigest()


@dataclass(frozen=True)
class RecordedCall:
    """One call of a recording.

    Attributes:
        probe: the same, drawn here.
        row: what the report says of it, but for its verdicts.
        results: by name.
        rounds: the intermediates that its kernel rounded.
    """

    probe: Probe
    row: Row
    results: Mapping[str, np.ndarray]
    rounds: tuple[str, ...]


def against(recording: Recording, local: str | None = None, *, progress: Progress = lambda _: None) -> Report:
    """Return the report of a recording, and of a backend of this machine beside it, against the float64 oracle.

    Args:
        recording: of kind "contracts".
        local: a backend's name, or None for the recording alone.
        progress: called with each probe before it is compared.

    Raises:
        FileError: the recording was made from other contracts or probes than there are here, or is damaged.
        UnknownName: no such backend.
        MissingExtra: the backend's framework is not installed.
    """
    if local is not None:
        _ = backends.find(local)
    rows: list[Row] = []
    for call in list(checked_calls(recording)):
        _ = progress(f"{call.row.subject}, {call.row.dtype}, {call.row.probe}")
        budgets = cache(expect)
        found = () if call.row.refusal else verdicts(call.results, budgets(call.probe, call.rounds))
        row = call.row
        rows.append(Row(row.subject, row.probe, row.side, row.kernel, row.dtype, found, row.refusal, facts=row.facts))
        if local is not None:
            rows += check_probe(row.subject, call.probe, [local], expected=budgets)
    return Report(tuple(rows), (recording.note,))


def checked_calls(recording: Recording) -> Iterator[RecordedCall]:
    """Yield every call of a recording; all are checked before the first is compared.

    Raises:
        FileError: as `against`.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, x in recording.arrays.items():
        group, _, result = name.rpartition("/")
        groups.setdefault(group, {})[result] = x
    calls = recording.facts.get("calls", [])
    for call in calls if isinstance(calls, list) else [calls]:
        case, name, dtype, kernel, print_, refusal, rounds = _call_fields(call)
        probe = _probes(case, dtype).get(name)
        if probe is None or fingerprint(probe) != print_:
            how = "there is none here" if probe is None else "here it is another call"
            said = f"recording's probe {brief(repr(name), 60)} of {brief(case, 60)}, {dtype}"
            raise FileError(f"{said}, must be one of this version: {how}; record it again")
        results = groups.get(f"{case}/{name}/{dtype}", {})
        if not refusal:
            _check_results(results, probe, f"recording of {case}, {dtype}, {name!r}")
        side = f"{recording.facts['side']} (recorded)"
        facts = {"weights": provenance.digest(probe.weights)}
        yield RecordedCall(probe, Row(case, name, side, kernel, dtype, refusal=refusal, facts=facts), results, rounds)


def _call_fields(call: Any) -> tuple[str, str, str, str, str, str, tuple[str, ...]]:
    """Return what a recording says of a call: case, probe, dtype, kernel, fingerprint, refusal and rounds."""
    texts = ("case", "probe", "dtype", "kernel", "fingerprint", "refusal")
    whole = isinstance(call, dict) and all(isinstance(call.get(name), str) for name in texts)
    rounds = call.get("rounds") if whole else None
    if not isinstance(rounds, list) or not all(
        isinstance(intermediate, str) and intermediate in ROUNDS for intermediate in rounds
    ):
        wanted = f"must have {', '.join(texts)}, texts, and rounds among {', '.join(ROUNDS)}"
        raise FileError(f"recording's call {brief(repr(call))} {wanted}")
    case, probe, dtype, kernel, print_, refusal = (call[name] for name in texts)
    return case, probe, dtype, kernel, print_, refusal, tuple(rounds)


def _check_results(results: Mapping[str, np.ndarray], probe: Probe, said: str) -> None:
    """Raise FileError unless the results are those of a probe, in their shapes, and floats."""
    shapes = {**probe.contract.results(probe.arrays)}
    wanted = {*probe.contract.outputs, *probe.intermediates}
    known = wanted | {f"d {x}" for x in (*probe.arrays, *probe.weights)}
    if not wanted <= set(results) <= known:
        raise FileError(f"{said} has {brief(', '.join(results) or 'nothing')}: must have {brief(', '.join(known))}")
    shapes |= {f"d {name}": x.shape for name, x in {**probe.arrays, **probe.weights}.items()}
    for name, x in results.items():
        if dtype_name(x) not in COMPUTE or tuple(x.shape) != tuple(shapes.get(name, x.shape)):
            raise FileError(f"{said} has {name} {x.dtype} {x.shape}: must be floats {shapes.get(name, '')}")


@cache
def _probes(case: str, dtype: str) -> dict[str, Probe]:
    try:
        return {probe.name: probe for probe in probes(cases.find(case).contract, dtype)}
    except AttentionError as error:
        raise FileError(
            f"recording must be of contracts and dtypes of this version: {brief(error)}; record it again"
        ) from error
