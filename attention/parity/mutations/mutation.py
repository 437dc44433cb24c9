"""Mutations: one way in which a program can be wrong, and the kinds that generate those of any contract.

mutation.operator(right call) = wrong call        a program that runs it is wrong in one known way
kind.mutations(contract)                          those that a port of the contract can have
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from attention.parity.mutations.locations import Location, locations
from attention.parity.mutations.operators import Operator, compose
from attention.spec.layers.contract import Contract


@dataclass(frozen=True, eq=False)
class Mutation:
    """One way in which a program can be wrong.

    Attributes:
        name: what is wrong.
        operator: returns the wrong call for a right one; or the wrong optimiser step, None where a step lacks the option.
        kind: the name of its `MutationKind`, or the option of an optimiser step; "kind + kind" of two mutations at once.
        story: how the mistake comes about.
        source: who made it.
        case: the contract in `spec.cases` whose probes must reveal it, for mutations that are not generated.
        revealed_by: what the data of a test need so that the mutation changes an output.
    """

    name: str
    operator: Callable[[Any], Any]
    kind: str = ""
    story: str = ""
    source: str = ""
    case: str = ""
    revealed_by: str = ""


@dataclass(frozen=True, eq=False)
class FittedScalar:
    """A number of a contract whose wrong value is fitted to the outputs of a program.

    Attributes:
        name: what the number is.
        right: what it must be; > 0.
        with_value: returns the operator that sets another value.
        starts: values from which to search beside `right`.
        kind: the name of its `MutationKind`.
    """

    name: str
    right: float
    with_value: Callable[[float], Operator]
    starts: tuple[float, ...] = ()
    kind: str = ""

    def at(self, value: float) -> Mutation:
        """Return the mutation that sets the number to `value`."""
        times = value / self.right
        factor = f"{times:.7g}" if abs(times - 1) < 0.01 else f"{times:.4g}"
        return Mutation(f"{self.name} is {value:.7g}, {factor} times what it must be", self.with_value(value), self.kind)


Mutations = Iterator[Mutation | FittedScalar]


@dataclass(frozen=True)
class MutationKind:
    """A kind of mutations: what people get wrong in ports, how, and the lines that are right.

    Args:
        name: what is wrong.
        story: how the mistake comes about, with numbers where they were measured.
        source: who made it; "measured" where it was this project.
        fix_torch: the line that is right in PyTorch.
        fix_jax: the line that is right in JAX.
        generate: yields the mutations of one location of a contract.
    """

    name: str
    story: str
    source: str
    fix_torch: str
    fix_jax: str
    generate: Callable[[Location], Iterable[Mutation | FittedScalar]]

    def mutations(self, contract: Contract) -> list[Mutation | FittedScalar]:
        """Return the mutations of this kind that a port of the contract can have, in one part of it or in all alike."""
        found: dict[str, list[Mutation | FittedScalar]] = {}
        for location in locations(contract):
            for item in self.generate(location):
                made = replace(item, kind=self.name, name=f"{location.label}: {item.name}" if location.label else item.name)
                found.setdefault(item.name, []).append(made)
        return [mutation for name, group in found.items() for mutation in (*group, *self._everywhere(name, group))]

    def _everywhere(self, name: str, group: list[Mutation | FittedScalar]) -> list[Mutation]:
        """Return the mutation of all parts at once: one class of the user's may build all attentions."""
        several = [item.operator for item in group if isinstance(item, Mutation)]
        return [Mutation(f"every attention: {name}", compose(*several), self.name)] if len(several) > 1 else []
