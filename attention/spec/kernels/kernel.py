"""Kernel: the protocol of a kernel, and `choose`, which picks the first that does not refuse and lists all refusals.

    choose(kernels, request) = the first kernel that does not refuse, with every refusal and its reason
    "auto" tries the kernels of the first rule that applies (rules.py), then the table up to the reference

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
        """The roundings of the kernel that a budget must include.

        An intermediate's name: stored in the dtype of the inputs. "d " and an intermediate: its gradient is. "logsumexp":
        the backward pass recomputes the weights from it, and sum(weights * d weights) from the returned context.
        """
        ...

    def refuses(self, request: Request) -> str | None:
        """Return why this kernel refuses the request, or None."""
        ...

    def run(self, request: Request) -> dict[str, Array]:
        """Return "context" `(*batch, T, H, E)`, and the named intermediates that the kernel stores."""
        ...


REFERENCE = "reference"
"""The kernel that supports every call, the last one that "auto" tries. Later kernels of a table are used by name alone."""


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
        refusals: (name, reason) of each kernel tried before.
        rule: the rule that gave the order; None for the order of the table, and for a kernel chosen by name.
    """

    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]
    rule: Rule | None = None


@checked(kernels=Option("a table of kernels", _is_table), request=REQUESTED)
def choose(
    kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto", rules: tuple[Rule, ...] | None = None
) -> Choice:
    """Return the first kernel that does not refuse the request, or the kernel of the given name.

    Args:
        kernels: a backend's table, in order of preference.
        request: the call.
        implementation: "auto" or a kernel's name.
        rules: the first that holds changes the order; None: those of the table.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel chosen by name refuses, or all kernels that "auto" tries do.
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
    """Return the names in the order that "auto" tries: kernels of the rule, then the table up to its reference."""
    names = [name for name in rule.prefer if name in kernels] if rule is not None else []
    for name in kernels:
        if name not in names:
            names.append(name)
        if name == REFERENCE:
            break
    return names


def answer(kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto") -> dict[str, Array]:
    """Return the context of the chosen kernel, and the named intermediates.

    An intermediate that the kernel does not store is computed separately by the formula, so that a look at the weights never
    changes the context.

    Args:
        kernels: a backend's table, which holds the `REFERENCE`.
        request: the call.
        implementation: "auto" or a kernel's name.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel chosen by name refuses, or all do.
    """
    made = choose(kernels, request, implementation).kernel.run(request)
    if all(intermediate in made for intermediate in request.intermediates):
        return made
    return {**kernels[REFERENCE].run(request), **made}


_RECORDS: list[list[Kernel]] = []


@contextmanager
def recorded() -> Generator[list[Kernel]]:
    """Record every kernel chosen inside the context in a list: the kernels that a model really ran on.

    A compiled program chooses while it is traced, not when it runs.
    """
    record: list[Kernel] = []
    _RECORDS.append(record)
    try:
        yield record
    finally:
        _RECORDS.remove(record)
