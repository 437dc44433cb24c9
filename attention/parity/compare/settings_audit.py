"""Audit of settings that make two right programs differ: the values of both, and the error that each may cause.

    warnings(first, second, call) = ("norm eps: torch norm 1e-05, jax norm 1e-06: relative error 4.5e-06 / variance", ...)

What costs nothing here is not warned of: TF32 on a machine without it, dropout of a program that evaluates.
"""

# The flags of the frameworks have no types.
# pyright: standard

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attention.parity.adapters import Call, Program
from attention.parity.compare import matmul_precision
from attention.parity.compare.module_tree import Submodule, activations, parts
from attention.parity.numerics.array_kinds import is_float

SHOWN = 3
"""Names that a warning lists before it counts."""
GELU = 4.7e-4
"""Measured: the largest distance of the GELU by tanh from the one by erf, at x = 2.7."""
CANCELLATION = 3e-7
"""Measured: the error of flax's fast variance in float32 is about this times (mean / standard deviation)^2: 0.003 at 100."""
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True, eq=False)
class InspectedProgram:
    """A program and what can be read of it."""

    program: Program
    call: Call

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.program.name

    @cached_property
    def parts(self) -> list[Submodule]:
        """Its modules."""
        return parts(self.program, self.call)

    @property
    def dtypes(self) -> list[str]:
        """The float dtypes of its parameters, each once."""
        return sorted({x.dtype.name for x in self.program.params.values() if is_float(x)})


def warnings(first: Program, second: Program, call: Call) -> tuple[str, ...]:
    """Return what the reader of a comparison should know before its numbers: one line for each setting that may cost.

    Args:
        first: a user's program.
        second: the other.
        call: the inputs.
    """
    both = InspectedProgram(first, call), InspectedProgram(second, call)
    rules = (_precision, _width, _dtypes, _compute_dtypes, _modes, _norm_eps, _momentum, _fast_variance, _gelu, _frozen)
    return tuple(line for rule in rules for line in rule(*both))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(map(str, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _precision(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield what products of float32 lose, measured on the device of each program."""
    for side in (first, second):
        floats = [*side.dtypes, *(x.dtype.name for x in side.call.leaves.values())]
        if "float32" not in floats or side.program.framework == "numpy" or not side.program.runs_here:
            continue
        loss, settings = matmul_precision.loss(side.program), matmul_precision.settings(side.program)
        # What autocast rounds has a line of its own.
        if loss > matmul_precision.LEAST and not matmul_precision.autocast(side.program):
            yield (
                f"matmul precision: {side.name} multiplies float32 with a relative error of {loss:.1e}, not 1e-07 ({settings});"
                " parity holds at 'highest'"
            )
        if any("conv" in part.kind.lower() for part in side.parts) and (flag := matmul_precision.convolutions(side.program)):
            yield f"convolution precision: {side.name} has {flag}: relative error up to {2.0**-11:.1e}"


def _width(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield float64 and wide integers that JAX would silently narrow."""
    narrow = next((side for side in (first, second) if side.program.framework == "jax" and not _x64()), None)
    if narrow is None:
        return
    given = {**narrow.call.leaves, **first.program.params, **second.program.params}
    wide = [name for name, x in given.items() if x.dtype == np.float64]
    if wide:
        yield (
            f"x64: jax_enable_x64 is off, so {narrow.name} sees float32 in your own runs where float64 is given"
            f" ({_listed(wide)}): relative error {2.0**-24:.1e} for {2.0**-53:.1e}; jax.config.update('jax_enable_x64', True)"
        )
    far = [name for name, x in given.items() if x.dtype.kind in "iu" and x.dtype.itemsize > 4 and np.any(np.abs(x) >= 2**31)]
    if far:
        yield f"x64: jax_enable_x64 is off, so {narrow.name} wraps integers beyond 2^31 to 32 bits: {_listed(far)}"


def _x64() -> bool:
    config: Any = importlib.import_module("jax").config
    return bool(config.jax_enable_x64)


def _dtypes(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield parameters that are stored in other dtypes."""
    if first.dtypes and second.dtypes and first.dtypes != second.dtypes:
        coarse = max((ROUNDOFF.get(name, 0.0) for name in {*first.dtypes} ^ {*second.dtypes}), default=0.0)
        yield (
            f"parameter dtypes: {first.name} {', '.join(first.dtypes)}, {second.name} {', '.join(second.dtypes)}:"
            f" relative error up to {coarse:.1e} in each product"
        )


def _compute_dtypes(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield modules that compute in a coarser dtype than they store, as flax's `dtype` and torch's autocast make them."""
    for side in (first, second):
        coarse = {str(part): name for part in side.parts if (name := _coarse(part))}
        if coarse:
            named = ", ".join(sorted(set(coarse.values())))
            worst = max(ROUNDOFF.get(name, 0.0) for name in coarse.values())
            yield (
                f"compute dtype: {side.name} computes in {named} what it stores more finely, in {_listed(list(coarse))}:"
                f" relative error up to {worst:.1e} in each product"
            )
        if cast := matmul_precision.autocast(side.program):
            yield f"autocast: {side.name} runs under autocast to {cast}: relative error up to {ROUNDOFF.get(cast, 0.0):.1e}"


def _coarse(part: Submodule) -> str:
    """Return the dtype that a Flax module computes in if that is coarser than the one it stores, or ""."""
    computes, stores = (_dtype_name(part.values.get(name)) for name in ("dtype", "param_dtype"))
    return computes if ROUNDOFF.get(computes, 0.0) > ROUNDOFF.get(stores, math.inf) else ""


def _dtype_name(kind: Any) -> str:
    if kind is None:
        return ""
    try:
        return np.dtype(kind).name
    except TypeError:
        return ""


def _modes(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield what drops elements, and batch statistics that only one side takes."""
    drops = {s.name: {str(part): part.drop_rate for part in s.parts if part.trains and part.drop_rate} for s in (first, second)}
    for name, found in drops.items():
        if found:
            rate = max(found.values())
            other = "the other side too, at other elements" if all(drops.values()) else "the other side does not"
            yield (
                f"training mode: {name} drops elements in {_listed(list(found))}, {other}: relative error about"
                f" {math.sqrt(rate / (1 - rate)) if rate < 1 else math.inf:.2g} (rate {rate:g});"
                " evaluate: .eval(), deterministic=True"
            )
    batch = {s.name: [str(part) for part in s.parts if part.trains and part.norm == "BatchNorm"] for s in (first, second)}
    for name, found in batch.items():
        if found and not all(batch.values()):
            yield (
                f"training mode: {name} norms by the statistics of the batch in {_listed(found)}, the other side does not:"
                " an error of order 1; evaluate: .eval(), use_running_average=True"
            )


def _norms(side: InspectedProgram) -> list[Submodule]:
    return [part for part in side.parts if part.norm]


def _norm_eps(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield norms with another eps, and counts of norms that differ. Order of making need not be order of use."""
    ours, theirs = _norms(first), _norms(second)
    # A function shows no module, and a norm written by hand no eps.
    if not ours or not theirs:
        return
    if len(ours) != len(theirs):
        shown = [
            ", ".join(f"{count} {kind}" for kind, count in Counter(part.norm for part in x).items()) for x in (ours, theirs)
        ]
        yield f"norm layers: {first.name} {shown[0]}, {second.name} {shown[1]}: an error of order 1 where one is missing"
        # Which is whose twin is unknown, so that only values that one side lacks altogether count.
        alone = {part.eps for part in ours} ^ {part.eps for part in theirs}
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if {a.eps, b.eps} & alone and a.eps != b.eps]
    elif Counter(part.eps for part in ours) == Counter(part.eps for part in theirs):
        return
    else:
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.eps != b.eps]
    if pairs:
        a, b = max(pairs, key=lambda pair: abs(pair[0].eps - pair[1].eps))
        yield (
            f"norm eps: {first.name} {a} {a.eps:.3g}, {second.name} {b} {b.eps:.3g}, {len(pairs)} of {len(ours)} norms:"
            f" relative error {abs(a.eps - b.eps) / 2:.1e} / variance of the row"
        )


def _momentum(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield batch norms that take another share of each batch into their running statistics: torch's m is 1 - m elsewhere."""
    shares = [_shares(side) for side in (first, second)]
    if all(shares) and Counter(shares[0]) != Counter(shares[1]):
        told = (
            f"{side.name} {', '.join(f'{x:g}' for x in sorted({*found}))}"
            for side, found in zip((first, second), shares, strict=True)
        )
        yield (
            f"batch norm momentum: of each batch {', '.join(told)} goes into the running statistics, which part in training;"
            " momentum m of torch is 1 - m of Flax and Keras"
        )


def _shares(side: InspectedProgram) -> list[float]:
    """Return the share of a batch that each batch norm takes into its running statistics."""
    found = [part.get("momentum") for part in side.parts if part.norm == "BatchNorm"]
    own = side.program.framework == "torch"
    return [round(float(x) if own else 1 - float(x), 6) for x in found if isinstance(x, int | float)]


def _fast_variance(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield norms that take the variance as E[x^2] - E[x]^2; one without a mean has nothing to cancel."""
    for side, other in ((first, second), (second, first)):
        fast = [part for part in _norms(side) if part.get("use_fast_variance") and part.norm != "RMSNorm"]
        fast = [part for part in fast if part.norm != "BatchNorm" or part.trains]
        if fast and len(fast) != sum(bool(part.get("use_fast_variance")) for part in _norms(other) if part.norm != "RMSNorm"):
            where = _listed([str(part) for part in fast])
            yield (
                f"fast variance: {side.name} has use_fast_variance=True in {where}, {other.name} does not:"
                f" absolute error about {CANCELLATION:.0e} (mean / std)^2 of a row, 0.003 at 100 and 0.3 at 1000"
            )


def _gelu(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield flavours of GELU that differ."""
    found = [activations(side.parts) for side in (first, second)]
    if all(found) and Counter(found[0].values()) != Counter(found[1].values()) and {*found[0].values()} != {*found[1].values()}:
        shown = (f"{side.name} {_flavours(flavours)}" for side, flavours in zip((first, second), found, strict=True))
        yield f"gelu: {', '.join(shown)}: absolute error up to {GELU:.1e}; torch approximate='tanh', jax approximate=True"


def _flavours(found: Mapping[str, str]) -> str:
    by = {flavour: [path for path, x in found.items() if x == flavour] for flavour in dict.fromkeys(found.values())}
    return " and ".join(f"{flavour} in {_listed(paths)}" for flavour, paths in by.items())


def _frozen(first: InspectedProgram, second: InspectedProgram) -> Iterator[str]:
    """Yield torch parameters that are frozen, which the other side knows nothing of."""
    for side in (first, second):
        module = getattr(side.program, "module", None)
        frozen = [name for name, x in module.named_parameters() if not x.requires_grad] if module is not None else []
        if frozen:
            yield (
                f"requires_grad: {side.name} has frozen {_listed(frozen)}; their gradients are compared all the same, but an"
                " optimizer leaves them where the other side's moves them by its learning rate unless it is masked"
            )
