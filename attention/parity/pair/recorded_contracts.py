"""Recorded contracts: one backend on the probes of named contracts, judged on another machine.

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

from attention.parity import certificate, sides
from attention.parity.checks import check_probe, expect, verdicts
from attention.parity.pair.recording import Recording
from attention.parity.probes import CALL, Probe, probes
from attention.parity.programs.program import paths
from attention.parity.report import Report, Row
from attention.spec import cases
from attention.spec.errors import AttentionError, FileError, KernelRefused, shown
from attention.spec.params import numpy_dtype

Told = Callable[[str], object]


def record(
    contracts: Sequence[str],
    side: str,
    *,
    dtypes: Sequence[str] = ("float32",),
    implementation: str = "auto",
    progress: Told = lambda _: None,
) -> Recording:
    """Return what a backend makes of every probe of the contracts.

    Args:
        contracts: names of `spec.cases`; none or "all" for all.
        side: "torch", "jax", "jax_eager" or "numpy".
        dtypes: of weights and inputs.
        implementation: "auto" or a kernel's name.
        progress: told of each probe before it runs.

    Raises:
        UnknownName: no such contract, side, dtype or kernel.
        MissingExtra: the backend's framework is not installed.
    """
    program = sides.find(side)
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
    settled = paths(probe.contract.settle(probe.arrays, **probe.call()), "settled")
    arrays |= {path: x for path, x in settled if isinstance(x, np.ndarray) and x.dtype == bool}
    arrays |= {name: np.asarray(x) for name in CALL if "positions" in name and (x := getattr(probe, name)) is not None}
    said = repr((probe.contract, probe.dtype, probe.dropout_seed, probe.stages))
    return hashlib.sha256(f"{said}\n{certificate.digest(arrays)}".encode()).hexdigest()


@dataclass(frozen=True)
class Heard:
    """One call of a recording.

    Attributes:
        probe: the same, drawn here.
        row: what the report says of it, but for its verdicts.
        results: by name.
        rounds: the stages that its kernel rounded.
    """

    probe: Probe
    row: Row
    results: Mapping[str, np.ndarray]
    rounds: tuple[str, ...]


def against(recording: Recording, local: str | None = None, *, progress: Told = lambda _: None) -> Report:
    """Return the report of a recording, and of a backend of this machine beside it, against the float64 oracle.

    Args:
        recording: of kind "contracts".
        local: a side's name, or None for the recording alone.
        progress: told of each probe before it is judged.

    Raises:
        FileError: the recording was made from other contracts or probes than there are here, or is damaged.
        UnknownName: no such side.
        MissingExtra: the side's framework is not installed.
    """
    if local is not None:
        _ = sides.find(local)
    rows: list[Row] = []
    for heard in list(_heard(recording)):
        _ = progress(f"{heard.row.subject}, {heard.row.dtype}, {heard.row.probe}")
        budgets = cache(expect)
        found = () if heard.row.refusal else verdicts(heard.results, budgets(heard.probe, heard.rounds))
        row = heard.row
        rows.append(Row(row.subject, row.probe, row.side, row.kernel, row.dtype, found, row.refusal, facts=row.facts))
        if local is not None:
            rows += check_probe(row.subject, heard.probe, [local], expected=budgets)
    return Report(tuple(rows), (recording.note,))


def _heard(recording: Recording) -> Iterator[Heard]:
    """Yield every call of a recording; all are looked at before the first is judged."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, x in recording.arrays.items():
        group, _, result = name.rpartition("/")
        groups.setdefault(group, {})[result] = x
    for call in recording.facts.get("calls", ()):
        try:
            case, name, dtype = call["case"], call["probe"], call["dtype"]
            kernel, rounds, refusal, print_ = call["kernel"], tuple(call["rounds"]), call["refusal"], call["fingerprint"]
        except (KeyError, TypeError) as error:
            raise FileError(
                f"recording's call {shown(call)} must have case, probe, dtype, fingerprint, kernel: {error!r}"
            ) from error
        probe = _probes(case, dtype).get(name)
        if probe is None or fingerprint(probe) != print_:
            how = "there is none here" if probe is None else "here it is another call"
            raise FileError(
                f"recording's probe {name!r} of {case}, {dtype}, must be one of this version: {how}; record it again"
            )
        results = groups.get(f"{case}/{name}/{dtype}", {})
        wanted = {*probe.contract.outputs, *probe.stages}
        known = wanted | {f"d {x}" for x in (*probe.arrays, *probe.weights)}
        if not refusal and not wanted <= set(results) <= known:
            raise FileError(
                f"recording of {case}, {dtype}, {name!r} has {', '.join(results) or 'nothing'}: must have {', '.join(known)}"
            )
        side = f"{recording.facts['side']} (recorded)"
        facts = {"weights": certificate.digest(probe.weights)}
        yield Heard(probe, Row(case, name, side, kernel, dtype, refusal=refusal, facts=facts), results, rounds)


@cache
def _probes(case: str, dtype: str) -> dict[str, Probe]:
    try:
        return {probe.name: probe for probe in probes(cases.find(case).contract, dtype)}
    except AttentionError as error:
        raise FileError(f"recording must be of contracts and dtypes of this version: {error}; record it again") from error
