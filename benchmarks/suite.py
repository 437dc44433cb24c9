"""The suite: every kernel of both rooms on a case, judged at probe size, then timed at benchmark size.

for each case:    gate(kernel) -> refused | wrong | right        right ones take turns in `timing.interleave`

What is timed is what was judged: the same layer, kernel, dtype and precision ("highest"), only larger.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from attention.parity.budget import Budget
from attention.parity.checks import check_probe, expect, verdicts
from attention.parity.probes import Drawer, Probe, probes
from attention.parity.sides import BACKENDS, find
from attention.parity.verdict import Verdict
from attention.spec.cases import Case
from attention.spec.errors import KernelRefused, OptionError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.positions import AxialRotary, Rotary
from benchmarks.programs import Programs, build, torch_device
from benchmarks.results import REFUSED, TIMED, WRONG, Timing
from benchmarks.timing import interleave

M, H, D = 256, 8, 32
DEFAULT = ("self", "causal", "grouped", "window", "rotary", "softcap")


def grown(contract: MultiHeadAttention) -> MultiHeadAttention:
    """Return the contract at benchmark size: M = 256, H = 8, D = 32, and everything else in proportion.

    Masks, soft cap, positions and group size H / K stay; widths that differed from M or D still do.
    """

    def scaled(width: int | None, old: int, new: int) -> int | None:
        # A multiple of 8, as kernels and devices like them, and as rotary needs an even one.
        return None if width is None else max(8, round(width * new / old / 8) * 8)

    positions = contract.positions
    if isinstance(positions, (Rotary, AxialRotary)):
        positions = replace(positions, rotary_dim=scaled(positions.rotary_dim, contract.width, D))
    return replace(
        contract,
        embed_dim=M,
        num_heads=H,
        num_kv_heads=max(1, H // (contract.num_heads // contract.kv_heads)),
        head_dim=D,
        value_dim=scaled(contract.value_dim, contract.width, D),
        out_dim=scaled(contract.out_dim, contract.embed_dim, M),
        kdim=scaled(contract.kdim, contract.embed_dim, M),
        vdim=scaled(contract.vdim, contract.embed_dim, M),
        positions=positions,
    )


def heads(case: Case) -> MultiHeadAttention:
    """Return the contract of a case of multi-head attention.

    Raises:
        OptionError: another layer, which nobody has said how to grow.
    """
    if not isinstance(case.contract, MultiHeadAttention):
        raise OptionError(
            f"contract {case.name!r} must be of MultiHeadAttention to be timed, not {type(case.contract).__name__}"
        )
    return case.contract


def small(case: Case, dtype: str) -> Probe:
    """Return the probe that a kernel must pass before it is timed: "plain", or with dropout where the case has it."""
    wanted = "dropout" if heads(case).dropout_rate else "plain"
    return next(probe for probe in probes(case.contract, dtype) if probe.name == wanted)


def large(case: Case, dtype: str, size: int) -> Probe:
    """Return the call that is timed: B = 1, T = S = `size`."""
    drawn = Drawer(grown(heads(case)), dtype).draw("benchmark", size, size, dropout_seed=small(case, dtype).dropout_seed)
    arrays, cotangents = ({name: x[:1] for name, x in group.items()} for group in (drawn.arrays, drawn.cotangents))
    return replace(drawn, arrays=arrays, cotangents=cotangents)


def measure(
    case: Case, *, size: int = 512, dtype: str = "float32", rounds: int = 7, backends: Sequence[str] = BACKENDS
) -> list[Timing]:
    """Return a row for every kernel of every room: its times, or why it has none.

    Args:
        case: of `spec.cases`.
        size: T and S.
        dtype: of weights and inputs.
        rounds: how often each program is timed.
        backends: names of rooms.

    Raises:
        UnknownName: no such dtype or backend.
        MissingExtra: a backend's framework is not installed.
    """
    import jax  # noqa: PLC0415 - `attention.parity` needs it anyway, and has said so if it is absent

    rows: list[Timing] = []
    ready: dict[int, Programs] = {}
    with jax.enable_x64(dtype == "float64"):
        judged, timed = small(case, dtype), large(case, dtype, size)
        for row in _gated(case, judged, backends):
            try:
                programs = build(row.side, timed, row.kernel) if row.status == TIMED else None
                for call in programs.calls.values() if programs else ():
                    # Here a kernel may still refuse the larger call.
                    _ = call()
            except KernelRefused as refusal:
                rows.append(replace(row, status=REFUSED, note=str(refusal)))
                continue
            if programs:
                ready[len(rows)] = programs
            rows.append(row)
        for program in next(iter(ready.values())).calls if ready else ():
            samples = interleave({str(at): programs.calls[program] for at, programs in ready.items()}, rounds)
            for at in ready:
                rows[at] = replace(rows[at], samples={**rows[at].samples, program: samples[str(at)]})
    return rows


def _gated(case: Case, probe: Probe, backends: Sequence[str]) -> Iterator[Timing]:
    """Yield a row without times for every kernel: whether it may be timed, and if not, why."""
    budgets = lru_cache(maxsize=None)(expect)
    for side in backends:
        _ = find(side)
        for kernel, ours in importlib.import_module(f"attention.{side}_impl").KERNELS.items():
            (judged,) = check_probe(case.name, probe, (side,), kernel, expected=budgets)
            found = judged.verdicts
            if not judged.refusal and side == "torch" and torch_device() != "cpu":
                # `attention.parity` runs torch on the CPU; what is timed elsewhere must be right there too.
                found += _on_device(probe, kernel, budgets(probe, ours.rounds))
            wrong = [verdict for verdict in found if not verdict.agrees]
            status = REFUSED if judged.refusal else WRONG if wrong or not found else TIMED
            yield Timing(case.name, side, kernel, status, str(wrong[0]) if wrong else judged.refusal)


def _on_device(probe: Probe, kernel: str, expected: Budget) -> tuple[Verdict, ...]:
    """Return verdicts on what torch makes of the probe on its default device."""
    return verdicts(build("torch", probe, kernel).results(), expected)
