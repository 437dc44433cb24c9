"""Knobs: what can be turned wrongly in any contract, and every way in which people turned it.

    knob.hypotheses(contract) = the mistakes of this kind that a port of the contract can make

A hypothesis is a planted call, as a mutant is: the catalogue of mutants names a knob for each of its mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from attention.parity.mutations.locations import Location, locations
from attention.parity.mutations.operators import Operator, compose
from attention.spec.layers.contract import Contract


@dataclass(frozen=True, eq=False)
class Mutation:
    """One hypothesis.

    Attributes:
        name: what is wrong.
        plant: makes the wrong call out of the right one.
        knob: the name of what is turned.
    """

    name: str
    operator: Operator
    kind: str = ""


@dataclass(frozen=True, eq=False)
class FittedScalar:
    """A number that may be any other: it is fitted, not guessed.

    Attributes:
        name: what the number is.
        right: what it must be; > 0.
        turned: the plant of another number.
        starts: numbers from which to search beside `right`.
        knob: the name of what is turned.
    """

    name: str
    right: float
    with_value: Callable[[float], Operator]
    starts: tuple[float, ...] = ()
    kind: str = ""

    def at(self, value: float) -> Mutation:
        """Return the hypothesis that the number is `value`."""
        times = value / self.right
        factor = f"{times:.7g}" if abs(times - 1) < 0.01 else f"{times:.4g}"
        return Mutation(f"{self.name} is {value:.7g}, {factor} times what it must be", self.with_value(value), self.kind)


Mutations = Iterator[Mutation | FittedScalar]


@dataclass(frozen=True)
class MutationKind:
    """What can be turned wrongly.

    Args:
        name: what it is.
        story: how the mistake comes about, with numbers where they were measured.
        source: who made it; "measured" where it was this project.
        fix_torch: the line that is right in PyTorch.
        fix_jax: the line that is right in JAX.
        turn: the mistakes of this kind at one site.
    """

    name: str
    story: str
    source: str
    fix_torch: str
    fix_jax: str
    mutations: Callable[[Location], Iterable[Mutation | FittedScalar]]

    def hypotheses(self, contract: Contract) -> list[Mutation | FittedScalar]:
        """Return the mistakes of this kind that a port of the contract can make, in one part of it or in all alike."""
        found: dict[str, list[Mutation | FittedScalar]] = {}
        for location in locations(contract):
            for item in self.mutations(location):
                made = replace(item, kind=self.name, name=f"{location.label}: {item.name}" if location.label else item.name)
                found.setdefault(item.name, []).append(made)
        return [mutation for name, group in found.items() for mutation in (*group, *self._everywhere(name, group))]

    def _everywhere(self, name: str, group: list[Mutation | FittedScalar]) -> list[Mutation]:
        """Return the mistake made in all parts at once, which one text of all attentions makes."""
        plants = [item.operator for item in group if isinstance(item, Mutation)]
        return [Mutation(f"every attention: {name}", compose(*plants), self.name)] if len(plants) > 1 else []
