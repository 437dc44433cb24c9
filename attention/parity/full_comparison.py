"""The full comparison of two programs: compare, locate the difference, and name the mistake.

compare     do they differ beyond rounding?
locate      if so, or with `trace`: at which operation, on which line of either file?
name        what does that operation do wrongly, if it is one of the known mistakes?
diagnose    with a contract, given or read from the config of a transformers model: which mutation explains each program?
"""

# Programs are whatever their users brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from attention.parity.adapters import program
from attention.parity.adapters.inputs import DTYPE, LOAD, call_of
from attention.parity.compare import compare
from attention.parity.compare.output_choice import asked
from attention.parity.config_contracts.diagnose_layers import diagnose_layers
from attention.parity.config_contracts.result import LayerDiagnosis
from attention.parity.diagnosis import Diagnosis, diagnose
from attention.parity.diagnosis.names import name_places
from attention.parity.diagnosis.rules import Finding
from attention.parity.open_maps import likeliest, located
from attention.parity.results.report import Report, plain, write
from attention.parity.tracing import Divergence
from attention.spec.errors import OptionError
from attention.spec.layers.contract import Contract
from attention.spec.options import PATH, SWITCH, checked, instance

SETTINGS = {
    "gelu": ("erf", "tanh", "gelu"),
    "momentum": ("norm",),
    "norm eps": ("rsqrt", "sqrt", "norm"),
    "norm layers": ("rsqrt", "sqrt", "norm"),
    "training mode": ("norm", "dropout", "bernoulli", "random", "var", "mean"),
}
"""What the lines of `settings_audit.warnings` begin with that explain a difference of the mathematics, and the operations that
they are of. What they say of roundings explains none that a run in float64 shows."""


OPEN = ("agrees", "failed")
"""States of a diagnosis that show no difference: a program that failed was not compared."""


@dataclass(frozen=True, eq=False)
class FullComparison:
    """What is known of two programs.

    Attributes:
        report: the comparison, or None without inputs.
        divergence: where they part, or None if they were not traced.
        findings: the names of the mistake at that place, by the rules that reproduce it; empty if none fits.
        diagnosis: the mutation of the contract that explains each program, or None without a contract.
        layers: beside a transformers model, the diagnosis of the other's attention by the contract of
            its config; empty if they agree.
    """

    report: Report | None
    divergence: Divergence | None = None
    findings: tuple[Finding, ...] = ()
    diagnosis: Diagnosis | None = None
    layers: tuple[LayerDiagnosis, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing differs."""
        looked = [self.report and self.report.ok, self.diagnosis and self.diagnosis.ok]
        return all(found is None or found for found in looked) and not (self.divergence and self.divergence.found)

    @property
    def verdict(self) -> str:
        """One of agrees, differs and cannot tell: nothing shows a difference, and something was not compared."""
        if self.ok:
            return "agrees"
        compared = self.report.verdict if self.report is not None else "cannot tell"
        located = compared == "agrees" and self.divergence is not None and self.divergence.found
        diagnosed = self.diagnosis is not None and any(each.state not in OPEN for each in self.diagnosis.diagnoses)
        return "differs" if compared == "differs" or located or diagnosed else "cannot tell"

    @property
    def named(self) -> tuple[object, ...]:
        """The names of the mistakes, else the settings that differ, else a line that no known mistake fits."""
        parted = self.divergence is not None and self.divergence.found
        found = (*{layer.name: layer for layer in reversed(self.layers) if layer.name}.values(), *self.findings)
        if found or not (parted or (self.report is not None and not self.report.ok)):
            return found
        if self.settings:
            return ("no operation names a mistake by itself; these settings differ, and may be it:", *self.settings)
        return ("none of the known mistakes fits this operation",) if parted else ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The notes of the settings audit that concern the operations of a divergence; all of them without a divergence."""
        notes = {note.partition(":")[0]: f"    {note}" for note in (self.report.notes if self.report else ())}
        found = self.divergence.all if self.divergence is not None else ()
        ops = {f"{event.name} {event.op}" for each in found for side in each.region for event in side}
        return tuple(
            notes[kind]
            for kind, names in SETTINGS.items()
            if kind in notes and (not found or any(name in op for name in names for op in ops))
        )

    def __str__(self) -> str:
        others = [layer for layer in self.layers if not layer.name]
        parts = [str(part) for part in (self.report, self.divergence, *self.named, *others, self.diagnosis) if part is not None]
        return "\n".join(part.rstrip() + "\n" for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        found = {
            "ok": self.ok,
            "verdict": self.verdict,
            "divergence": None if self.divergence is None else self.divergence.to_dict(),
            "findings": [asdict(finding) for finding in self.findings],
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
        }
        return {**(self.report or Report()).to_dict(), **plain(found)}

    @checked(path=PATH)
    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one page.

        Raises:
            FileError: the path cannot be written.
            MissingExtra: what draws the page is not installed.
        """
        from attention.parity.rendering import html  # noqa: PLC0415 - needs the extra `report`

        named = "\n".join(map(str, (*self.named, *((self.diagnosis,) if self.diagnosis else ()))))
        write(path, html.page(self.report, self.divergence, named or None, ok=self.ok))


CONTRACT = instance(Contract, wanted="a contract such as spec.MultiHeadAttention(...)")


@checked(gradients=SWITCH, trace=SWITCH, load=LOAD, dtype=DTYPE, contract=CONTRACT | ", or None")
def full_comparison(
    torch_side: Any,
    jax_side: Any,
    inputs: Any = None,
    *,
    contract: Contract | None = None,
    torch_params: Any = None,
    jax_params: Any = None,
    params: Any = None,
    load: str | None = None,
    dtype: str = "float32",
    gradients: bool = True,
    trace: bool = False,
    outputs: Any = None,
) -> FullComparison:
    """Compare two programs, locate where they part, and name the mistake.

    Args:
        torch_side: as `compare` takes it.
        jax_side: the same.
        inputs: of both; None if the contract's own probes are enough.
        contract: what both should be, or None.
        torch_params: which of the contract's parameters the torch side's own are, as `diagnose` takes it.
        jax_params: the same of the JAX side.
        params: how their parameters belong together; None if it is to be solved.
        load: "first" or "second", whose parameter values both use.
        dtype: what floats are cast to for the comparison.
        gradients: whether gradients are compared and traced too.
        trace: trace both programs even if the comparison finds no difference.
        outputs: which outputs are compared and traced, as `compare` takes them; all if None.

    Raises:
        OptionError: neither inputs nor a contract.
        SideFailed: a program failed where no report can say so.
    """
    if inputs is None and contract is None:
        raise OptionError("inputs None must be given, or a contract")
    brought = torch_side, jax_side
    if outputs is not None:
        first, second = asked(outputs)
        torch_side, jax_side = program(torch_side, "torch").picking(first), program(jax_side, "jax").picking(second)
    report = divergence = diagnosis = None
    if inputs is not None:
        report = compare(torch_side, jax_side, inputs, params=params, load=load, dtypes=(dtype,), gradients=gradients)
        # What did not run cannot be traced.
        runs = not any(row.failure and not row.verdicts for row in report.rows)
        more = {"params": params, "load": load, "gradients": gradients}
        if not runs and load is not None:
            found = likeliest(torch_side, jax_side, inputs, dtype, **more)
            divergence = found.divergence
            if found.map is not None:
                options = {"load": load, "dtypes": (dtype,), "gradients": gradients}
                report = compare(torch_side, jax_side, inputs, params=found.map, **options)
            report = replace(report, notes=(*report.notes, *found.notes))
        elif runs and (trace or not report.ok):
            divergence, note = located(torch_side, jax_side, inputs, dtype, differs=not report.ok, **more)
            report = replace(report, advice="", notes=(*report.notes, *note))
    if contract is not None:
        report, diagnosis = _by_contract((torch_side, jax_side), contract, report, (torch_params, jax_params))
    layers: tuple[LayerDiagnosis, ...] = ()
    if report is not None and contract is None:
        report, layers = _by_config(brought, inputs, report, params, load)
    open_map = report is not None and report.verdict == "cannot tell"
    return FullComparison(report, divergence, name_places(divergence, open_map=open_map), diagnosis, layers)


def _by_contract(
    sides: tuple[Any, Any], contract: Contract, report: Report | None, params: tuple[Any, Any]
) -> tuple[Report | None, Diagnosis | None]:
    """Return the report with notes, and which mutation of a contract explains the programs."""
    try:
        return report, diagnose(*sides, contract, torch_params=params[0], jax_params=params[1])
    except OptionError as error:
        # What was found out before is not thrown away.
        if report is None:
            raise
        return replace(report, notes=(*report.notes, f"not diagnosed: {error}")), None


def _by_config(
    sides: tuple[Any, Any], inputs: Any, report: Report, params: Any, load: str | None
) -> tuple[Report, tuple[LayerDiagnosis, ...]]:
    """Return the report with notes, and what the config of a transformers model says of the attention of the other side."""
    if report.verdict != "differs":
        return report, ()
    found, notes = diagnose_layers(*sides, call_of(inputs), params=params, load=load)
    return replace(report, notes=(*report.notes, *notes)), found
