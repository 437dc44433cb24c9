"""What `attention kernels explain` prints of a call: the kernel that is chosen, every refusal, the rule and the costs.

time >= max(FLOPs / peak, bytes / bandwidth)        spec/kernels/cost.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from attention.cli.kernel_masks import parse
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused, OptionError
from attention.spec.kernels import Choice, Request, order
from attention.spec.kernels.auto_rules import structure
from attention.spec.kernels.cost import Machine, Prediction, Traits, predict


@dataclass(frozen=True)
class Call:
    """One call of attention; `options` are those of `dot_product_attention`."""

    dtype: str
    sizes: tuple[int, int]
    batch: int
    heads: int
    kv_heads: int
    width: int
    mask: str | None
    gradient: bool
    options: dict[str, Any]

    @property
    def of(self) -> Sizes:
        return Sizes((self.batch,), *self.sizes, self.heads, self.kv_heads, self.width, self.width)


def explained(backend: str, call: Call, *, peak: float | None = None, bandwidth: float | None = None) -> Iterator[str]:
    """Yield the call, the rule that holds for it, and a line for each kernel of a backend in the order of preference.

    Args:
        backend: "torch" or "jax".
        call: its sizes and options.
        peak: GFLOP/s, or None.
        bandwidth: GB/s, or None.

    Raises:
        OptionError: `peak` without `bandwidth`, or the other way round.
    """
    if find_spec(backend) is None:
        yield f"{backend:6} not installed: pip install 'attention-parity[{backend}]'"
        return
    if (peak is None) != (bandwidth is None):
        raise OptionError("--peak and --bandwidth must be given together")
    module = import_module(f"attention.{backend}_impl")
    machine = None if peak is None or bandwidth is None else Machine(peak * 1e9, bandwidth * 1e9)
    of, mask = call.of, None if call.mask is None else parse(call.mask, call.of)
    shapes = (*of.batch, of.T, of.H, of.D), (*of.batch, of.S, of.K, of.D), (*of.batch, of.S, of.K, of.E)
    with _zeros(backend, call.dtype) as make:
        arrays = [make(shape) for shape in shapes]
        if call.gradient and backend == "torch":
            arrays = [x.requires_grad_() for x in arrays]
        request = module.attend.make_request(*arrays, mask)
        options: dict[str, Any] = {"mask": mask, **call.options}
        choice = _asked(module, arrays, options, "auto")
        yield f"{backend:6} {_subject(request)}"
        yield f"{backend:6} rule: {_rule(choice)}"
        for name in _names(module, choice):
            said = _said(module, arrays, options, name, choice)
            cost = predict(request, module.kernels.rules.TRAITS.get(name, Traits()), backward=call.gradient)
            yield f"{backend:6} {said}" + ("" if "refuses" in said else f": {_shown(cost, machine)}")


@contextmanager
def _zeros(backend: str, dtype: str) -> Iterator[Callable[[tuple[int, ...]], Any]]:
    """Give a function that makes arrays of zeros in a framework, float64 included."""
    if backend == "torch":
        torch = import_module("torch")
        yield lambda shape: torch.zeros(shape, dtype=getattr(torch, dtype))
    else:
        import jax  # noqa: PLC0415

        with jax.enable_x64(dtype == "float64"):
            yield lambda shape: jax.numpy.zeros(shape, dtype)


def _asked(module: ModuleType, arrays: list[Any], options: dict[str, Any], name: str) -> Choice | str:
    """Return the choice, or why there is none."""
    try:
        return module.explain(*arrays, implementation=name, **options)
    except KernelRefused as refusal:
        return str(refusal)


def _names(module: ModuleType, choice: Choice | str) -> list[str]:
    """Return all kernels: first in the order in which "auto" tries them, then those that it never tries."""
    asked = order(module.kernels.KERNELS, choice.rule if isinstance(choice, Choice) else None)
    return [*asked, *(name for name in module.kernels.KERNELS if name not in asked)]


def _said(module: ModuleType, arrays: list[Any], options: dict[str, Any], name: str, choice: Choice | str) -> str:
    found = _asked(module, arrays, options, name)
    if isinstance(found, str):
        return found
    chosen = choice.kernel.name if isinstance(choice, Choice) else ""
    asked = order(module.kernels.KERNELS, choice.rule if isinstance(choice, Choice) else None)
    if name == chosen:
        return f"kernel {name!r} runs"
    return f"kernel {name!r} could run; " + (f"{chosen!r} is preferred" if name in asked else "it is used by name alone")


def _subject(request: Request) -> str:
    of = request.sizes
    sizes = f"B {of.batch[0]}, T {of.T}, S {of.S}, H {of.H}, K {of.K}, D {of.D}"
    return f"{sizes}, {request.dtype} on {request.device}, mask {structure(request.mask)}"


def _rule(choice: Choice | str) -> str:
    rule = choice.rule if isinstance(choice, Choice) else None
    return "none holds: the table's order" if rule is None else f"{rule}; {rule.evidence}"


def _shown(cost: Prediction, machine: Machine | None) -> str:
    """Return a prediction in a line; the most, where least and most differ."""
    most = cost.most
    text = f"{_scaled(most.flops, 'FLOP')}, {_scaled(most.bytes, 'B')}, {cost.density[1]:.1%} of the scores"
    if machine is None:
        return f"{text}, {most.intensity:.0f} FLOP/B"
    return f"{text}, at least {machine.seconds(most) * 1e3:.3g} ms ({machine.limit(most)})"


def _scaled(n: float, unit: str) -> str:
    """Return a number with a prefix.

    >>> _scaled(34.4e9, "FLOP"), _scaled(12.0, "B")
    ('34.4 GFLOP', '12 B')
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if n >= 10**power:
            return f"{n / 10**power:.3g} {prefix}{unit}"
    return f"{n:.0f} {unit}"
