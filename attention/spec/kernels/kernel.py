"""Kernel: the protocol of a kernel, and `choose`, which picks the first that does not refuse and lists all refusals.

    choose(kernels, request) = the first kernel that does not refuse, with every refusal and its reason
    "auto" asks in the order of the rule that holds (rules.py), then in that of the table, to the reference at last

A refusal is data, not an exception: "auto" and `attention kernels explain` read the same one. Nothing falls back silently.
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from attention.spec.axes import Array
from attention.spec.errors import KernelRefused, UnknownName, shown
from attention.spec.kernels.auto_rules import Rule, first
from attention.spec.kernels.request import Request
from attention.spec.options import Option, checked, instance


class Kernel(Protocol):
    """One way to compute attention."""

    @property
    def name(self) -> str:
        """The name that `implementation=` takes."""
        ...

    @property
    def rounds(self) -> tuple[str, ...]:
        """What the kernel rounds on purpose; a budget takes it into account, and nothing else.

        An intermediate's name: written down in the dtype of the inputs. "d " and an intermediate: its gradient is. "logsumexp":
        the backward pass makes the weights anew from it, and takes sum(weights * d weights) from the context as it was
        returned.
        """
        ...

    def refuses(self, request: Request) -> str | None:
        """Return why this kernel cannot answer the request, or None if it can."""
        ...

    def run(self, request: Request) -> dict[str, Array]:
        """Return "context" `(*batch, T, H, E)`, and those of the intermediates that the request names which it can give."""
        ...


REFERENCE = "reference"
"""The kernel that takes every call: where "auto" ends. What stands behind it in a table is for those who ask by name."""


class Kernels(dict[str, Kernel]):
    """A backend's kernels by name, in order of preference, and the rules by which "auto" departs from that order.

    Args:
        kernels: of a backend.
        rules: the first that holds gives the order.
    """

    def __init__(self, kernels: Iterable[Kernel], rules: tuple[Rule, ...] = ()) -> None:
        super().__init__({kernel.name: kernel for kernel in kernels})
        self.rules = rules


def _is_table(value: object) -> bool:
    """Return whether a value is a mapping of kernels by name, and not empty."""
    return isinstance(value, Mapping) and bool(value) and all(hasattr(kernel, "refuses") for kernel in value.values())


RULES = Option(
    "a tuple of rules, or None", lambda value: isinstance(value, tuple) and all(isinstance(rule, Rule) for rule in value)
)
REQUESTED = instance(Request, wanted="a Request")


@dataclass(frozen=True)
class Choice:
    """The kernel that answers a request, why those before it do not, and the rule that put them in this order.

    Attributes:
        kernel: the one that answers.
        refusals: (name, reason) of each that was asked before.
        rule: None where no rule holds, so that the table's own order counts, and for a kernel asked for by name.
    """

    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]
    rule: Rule | None = None


@checked(kernels=Option("a table of kernels", _is_table), request=REQUESTED)
def choose(
    kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto", rules: tuple[Rule, ...] | None = None
) -> Choice:
    """Return the first kernel that takes the request, or the one asked for by name.

    Args:
        kernels: a backend's table, in order of preference.
        request: the call.
        implementation: "auto" or a kernel's name.
        rules: the first that holds changes the order; None: those of the table.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel asked for by name refuses, or all that "auto" may ask do.
    """
    rule = None
    if type(implementation) is str and implementation == "auto":
        known: tuple[Rule, ...] = getattr(kernels, "rules", ()) if rules is None else rules
        RULES.check("rules", known)
        rule = first(known, request) if known else None
        asked = order(kernels, rule)
    elif isinstance(implementation, str) and implementation in kernels:  # pyright: ignore[reportUnnecessaryIsInstance]
        asked = [implementation]
    else:
        raise UnknownName(f"implementation {shown(implementation)} must be 'auto' or one of {', '.join(kernels)}")
    refusals: list[tuple[str, str]] = []
    for name in asked:
        kernel = kernels[name]
        reason = kernel.refuses(request)
        if reason is None:
            for record in _RECORDS:
                record.append(kernel)
            return Choice(kernel, tuple(refusals), rule)
        refusals.append((name, reason))
    raise KernelRefused("; ".join(f"kernel {name!r} refuses: {reason}" for name, reason in refusals))


def order(kernels: Mapping[str, Kernel], rule: Rule | None = None) -> list[str]:
    """Return the names in the order in which "auto" asks: those of the rule that are there, then the table to its reference."""
    names = [name for name in rule.prefer if name in kernels] if rule is not None else []
    for name in kernels:
        if name not in names:
            names.append(name)
        if name == REFERENCE:
            break
    return names


def answer(kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto") -> dict[str, Array]:
    """Return the context by the chosen kernel, and the intermediates asked for.

    An intermediate that the kernel does not write down is computed beside it by the formula, so that to look at the weights
    never changes the context.

    Args:
        kernels: a backend's table, which holds the `REFERENCE`.
        request: the call.
        implementation: "auto" or a kernel's name.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel asked for by name refuses, or all do.
    """
    made = choose(kernels, request, implementation).kernel.run(request)
    if all(intermediate in made for intermediate in request.intermediates):
        return made
    return {**kernels[REFERENCE].run(request), **made}


_RECORDS: list[list[Kernel]] = []


@contextmanager
def recorded() -> Generator[list[Kernel]]:
    """Give a list to which every kernel that is chosen inside is appended: what a whole model really ran on.

    A compiled program chooses while it is traced, not when it runs.
    """
    record: list[Kernel] = []
    _RECORDS.append(record)
    try:
        yield record
    finally:
        _RECORDS.remove(record)
