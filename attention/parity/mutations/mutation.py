"""Knobs: what can be turned wrongly in any contract, and every way in which people turned it.

    knob.hypotheses(contract) = the mistakes of this kind that a port of the contract can make

A hypothesis is a planted call, as a mutant is: the catalogue of mutants names a knob for each of its mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from attention.parity.mutations.locations import Site, sites
from attention.parity.mutations.operators import Plant, compose
from attention.spec.layers.contract import Contract


@dataclass(frozen=True, eq=False)
class Mistake:
    """One hypothesis.

    Attributes:
        name: what is wrong.
        plant: makes the wrong call out of the right one.
        knob: the name of what is turned.
    """

    name: str
    plant: Plant
    knob: str = ""


@dataclass(frozen=True, eq=False)
class Dial:
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
    turned: Callable[[float], Plant]
    starts: tuple[float, ...] = ()
    knob: str = ""

    def at(self, value: float) -> Mistake:
        """Return the hypothesis that the number is `value`."""
        times = value / self.right
        factor = f"{times:.7g}" if abs(times - 1) < 0.01 else f"{times:.4g}"
        return Mistake(f"{self.name} is {value:.7g}, {factor} times what it must be", self.turned(value), self.knob)


Turned = Iterator[Mistake | Dial]


@dataclass(frozen=True)
class Knob:
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
    turn: Callable[[Site], Iterable[Mistake | Dial]]

    def hypotheses(self, contract: Contract) -> list[Mistake | Dial]:
        """Return the mistakes of this kind that a port of the contract can make, in one part of it or in all alike."""
        found: dict[str, list[Mistake | Dial]] = {}
        for site in sites(contract):
            for item in self.turn(site):
                made = replace(item, knob=self.name, name=f"{site.label}: {item.name}" if site.label else item.name)
                found.setdefault(item.name, []).append(made)
        return [mistake for name, group in found.items() for mistake in (*group, *self._everywhere(name, group))]

    def _everywhere(self, name: str, group: list[Mistake | Dial]) -> list[Mistake]:
        """Return the mistake made in all parts at once, which one text of all attentions makes."""
        plants = [item.plant for item in group if isinstance(item, Mistake)]
        return [Mistake(f"every attention: {name}", compose(*plants), self.name)] if len(plants) > 1 else []
