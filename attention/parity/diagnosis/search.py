"""Search for the mutations, one or two, that reproduce the outputs of a program on every probe.

    singles      every hypothesis by itself
    fits         one number of any value: Gauss-Newton on its logarithm
    pairs        two hypotheses; where only one of them shows, that one alone must reproduce the outputs

Hypotheses with equal outputs on every probe are grouped: they are mathematically the same mistake here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from attention.parity.diagnosis.evidence import FAR, NEAR, SAME, Observation, explains, hardest_first, worst
from attention.parity.diagnosis.scalar_fit import fit
from attention.parity.mutations.mutation import FittedScalar, Mutation
from attention.parity.mutations.operators import compose
from attention.parity.numerics.comparison import Verdict

DIGITS = 8
"""Digits to which float64 outputs of the same mathematics agree."""
MOST_JUDGED = 24
"""How many near hypotheses get a verdict."""
RANKED = 30
"""How many of the nearest hypotheses are tried together with a fitted number."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Mutations that explain a program's outputs.

    Attributes:
        names: the mutations that are mathematically the same here, each one name or two.
        kinds: of each.
        mutation: the first of them.
        evidence: verdicts against its budget, for each observation.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    mutation: Mutation
    evidence: list[tuple[Verdict, ...]] = field(repr=False)

    @property
    def z(self) -> float:
        """The worst RMS z of all observations."""
        return worst(verdict for verdicts in self.evidence for verdict in verdicts)


@dataclass(eq=False)
class Group:
    """Hypotheses with equal outputs on every probe.

    Attributes:
        members: the hypotheses.
        made: their outputs, for each observation.
        distances: of the program from them, likewise.
        visible: whether they differ from the right outputs, likewise.
    """

    members: list[Mutation]
    made: list[np.ndarray | None]
    distances: np.ndarray
    visible: np.ndarray

    @property
    def mutation(self) -> Mutation:
        """The first."""
        return self.members[0]


class Search:
    """The search for the mutations of one program.

    Args:
        observations: all of them, right outputs included.
        patience: seconds for the search among pairs.
    """

    def __init__(self, observations: Sequence[Observation], patience: float) -> None:
        self.observations = hardest_first(observations)
        self.odd = sum(not observation.agrees for observation in observations)
        self.patience, self.exhausted = patience, True

    def singles(self, mutations: Sequence[Mutation]) -> list[Explanation]:
        """Return the single mutations that explain the outputs."""
        near = [mutation for mutation in mutations if self._near(mutation)]
        return self.judged(_sorted([group for group in self.grouped(near) if group.distances.max() <= NEAR]))

    def _near(self, mutation: Mutation) -> bool:
        """Return whether a hypothesis is near every observation."""
        return all(observation.distance(observation.made(mutation.operator)) <= NEAR for observation in self.observations)

    def grouped(self, mutations: Sequence[Mutation]) -> list[Group]:
        """Return the hypotheses that differ from the right program, grouped by equal outputs."""
        rng = np.random.default_rng(0)
        rays = [
            rng.normal(size=observation.given.size) / np.linalg.norm(observation.wanted) for observation in self.observations
        ]
        found: dict[tuple[float, ...], Group] = {}
        for mutation in mutations:
            made = [observation.made(mutation.operator) for observation in self.observations]
            print_ = tuple(_mark(outputs, ray) for outputs, ray in zip(made, rays, strict=True))
            if print_ in found:
                found[print_].members.append(mutation)
                continue
            pairs = list(zip(self.observations, made, strict=True))
            apart = np.asarray([observation.apart(outputs, observation.wanted) for observation, outputs in pairs])
            distances = np.asarray([observation.distance(outputs) for observation, outputs in pairs])
            found[print_] = Group([mutation], made, distances, apart > 10.0**-DIGITS)
        return [group for group in found.values() if group.visible.any()]

    def judged(self, near: Sequence[Group]) -> list[Explanation]:
        """Return the groups that explain every observation strictly; those equal within rounding are one explanation."""
        kept: list[tuple[Group, Explanation]] = []
        for group in near[:MOST_JUDGED]:
            evidence = explains(group.mutation, self.observations)
            if evidence is None:
                continue
            same = next((i for i, (other, _) in enumerate(kept) if self._alike(group, other)), None)
            explanation = _cause(group, evidence)
            if same is None:
                kept.append((group, explanation))
            else:
                first = kept[same][1]
                both = Explanation(
                    first.names + explanation.names, first.kinds + explanation.kinds, first.mutation, first.evidence
                )
                kept[same] = (kept[same][0], both)
        return sorted((explanation for _, explanation in kept), key=lambda explanation: explanation.z)

    def _alike(self, first: Group, second: Group) -> bool:
        made = zip(self.observations, first.made, second.made, strict=True)
        return all(observation.apart(a, b) <= SAME for observation, a, b in made)

    def fits(self, scalars: Sequence[FittedScalar], beside: Sequence[Group] = ()) -> list[Explanation]:
        """Return numbers that explain the outputs, alone or with one of the nearest hypotheses."""
        found: list[Group] = []
        end = time.monotonic() + self.patience
        for group in (None, *beside):
            base = None if group is None else group.mutation
            for scalar in scalars:
                if time.monotonic() > end:
                    self.exhausted = False
                    return self.judged(_sorted(found))
                if base is not None and base.kind == scalar.kind:
                    continue
                mutation = fit(scalar, base, self.observations[: max(self.odd, 1)])
                if mutation is not None:
                    found += self._measured(mutation)
        return self.judged(_sorted(found))

    def _measured(self, mutation: Mutation, first: Sequence[int] = ()) -> list[Group]:
        """Return a hypothesis as a group if it is near every observation; those numbered `first` are tested first."""
        made: dict[int, np.ndarray | None] = {}
        distances = np.zeros(len(self.observations))
        for i in (*first, *(i for i in range(len(self.observations)) if i not in first)):
            made[i] = self.observations[i].made(mutation.operator, remember=False)
            distances[i] = self.observations[i].distance(made[i])
            if distances[i] > NEAR:
                return []
        return [Group([mutation], [made[i] for i in range(len(made))], distances, np.ones(len(made), bool))]

    def pairs(self, groups: Sequence[Group]) -> list[Explanation]:
        """Return pairs of hypotheses that explain the outputs."""
        end = time.monotonic() + self.patience
        found: list[Group] = []
        for first, second in self._candidates(groups):
            if time.monotonic() > end:
                self.exhausted = False
                break
            for order in ((first, second), (second, first)):
                mutation = _both(*order)
                # Where both show, the outputs of the two must be computed.
                near = self._measured(mutation, [int(i) for i in np.flatnonzero(first.visible & second.visible)])
                if near:
                    found += near
                    break
                if not _interfere(*order):
                    break
        return self.judged(_sorted(self._merged(found)))

    def _candidates(self, groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
        """Return the pairs that no observation refutes by the single outputs, the likeliest first."""
        agrees = np.asarray([observation.agrees for observation in self.observations])
        kept: list[tuple[float, int, int]] = []
        explained = [group.distances <= NEAR for group in groups]
        for i, j in combinations(range(len(groups)), 2):
            a, b = groups[i], groups[j]
            alone = np.where(a.visible, explained[i], explained[j])
            fits = np.where(a.visible & b.visible, True, np.where(a.visible | b.visible, alone, agrees))
            if fits.all():
                explained_alone = (explained[i] & ~agrees).sum() + (explained[j] & ~agrees).sum()
                near = np.log(np.minimum(a.distances, b.distances)[~agrees] + 1.0).sum()
                kept.append((float(near) - 20.0 * float(explained_alone), i, j))
        for _, i, j in sorted(kept):
            yield groups[i], groups[j]

    def _merged(self, found: list[Group]) -> list[Group]:
        """Return the groups, with those of equal outputs merged."""
        merged: list[Group] = []
        for group in _sorted(found):
            same = next((other for other in merged if self._alike(group, other)), None)
            if same is None:
                merged.append(group)
            else:
                same.members += group.members
        return merged


def _mark(outputs: np.ndarray | None, ray: np.ndarray) -> float:
    """Return a number that equal outputs share."""
    if outputs is None:
        return np.inf
    return round(float(np.nan_to_num(outputs, nan=FAR, posinf=FAR, neginf=-FAR) @ ray), DIGITS)


def _cause(group: Group, evidence: list[tuple[Verdict, ...]]) -> Explanation:
    return Explanation(tuple(m.name for m in group.members), tuple(m.kind for m in group.members), group.mutation, evidence)


def _sorted(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: float(np.sqrt(np.mean(group.distances**2))))


def _both(first: Group, second: Group) -> Mutation:
    names = [" or ".join(m.name for m in group.members[:3]) for group in (first, second)]
    kinds = f"{first.mutation.kind} + {second.mutation.kind}"
    return Mutation(" AND ".join(names), compose(first.mutation.operator, second.mutation.operator), kinds)


def _interfere(first: Group, second: Group) -> bool:
    """Return whether the order of two mutations may matter: both change the same thing."""
    return first.mutation.kind == second.mutation.kind or "head" in f"{first.mutation.kind} {second.mutation.kind}"
