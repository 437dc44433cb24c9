"""Search: which mistake, or which two, make of every question what the program made of it.

    singles      every hypothesis by itself
    fits         one number of any value: Gauss-Newton on its logarithm
    pairs        two hypotheses; where only one of them shows, that one alone must explain the answer

Hypotheses that answer every question alike are one: mathematically the same mistake here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from attention.parity.diagnosis.evidence import FAR, NEAR, SAME, Asked, explains, hardest_first, worst
from attention.parity.diagnosis.scalar_fit import fit
from attention.parity.mutations.mutation import Dial, Mistake
from attention.parity.mutations.operators import compose
from attention.parity.numerics.comparison import Verdict

DIGITS = 8
"""Digits to which the float64 answers of one mathematics agree."""
MOST_JUDGED = 24
"""How many hypotheses that came near get a verdict."""
RANKED = 30
"""How many hypotheses, those that come nearest, are tried beside a fitted number."""


@dataclass(frozen=True, eq=False)
class Cause:
    """What explains a program's answers.

    Attributes:
        names: the mistakes that are mathematically the same here, each a name or two.
        knobs: what is turned wrongly, of each.
        mistake: the first of them.
        evidence: verdicts against its budget, for each question.
    """

    names: tuple[str, ...]
    knobs: tuple[str, ...]
    mistake: Mistake
    evidence: list[tuple[Verdict, ...]] = field(repr=False)

    @property
    def z(self) -> float:
        """The worst RMS z of all questions."""
        return worst(verdict for verdicts in self.evidence for verdict in verdicts)


@dataclass(eq=False)
class Group:
    """Hypotheses that answer every question alike.

    Attributes:
        members: the hypotheses.
        made: their answers, one for each question.
        distances: of the program from them, likewise.
        visible: whether they differ from the right answer, likewise.
    """

    members: list[Mistake]
    made: list[np.ndarray | None]
    distances: np.ndarray
    visible: np.ndarray

    @property
    def mistake(self) -> Mistake:
        """The first."""
        return self.members[0]


class Search:
    """The search for one program's mistakes.

    Args:
        asked: the questions and answers, those answered rightly included.
        patience: seconds for the search among pairs.
    """

    def __init__(self, asked: Sequence[Asked], patience: float) -> None:
        self.asked = hardest_first(asked)
        self.odd = sum(not question.agrees for question in asked)
        self.patience, self.exhausted = patience, True

    def singles(self, mistakes: Sequence[Mistake]) -> list[Cause]:
        """Return what explains the answers alone."""
        near = [mistake for mistake in mistakes if self._near(mistake)]
        return self.judged(_sorted([group for group in self.grouped(near) if group.distances.max() <= NEAR]))

    def _near(self, mistake: Mistake) -> bool:
        """Return whether a hypothesis is near every answer, those first that refute most."""
        return all(question.distance(question.made(mistake.plant)) <= NEAR for question in self.asked)

    def grouped(self, mistakes: Sequence[Mistake]) -> list[Group]:
        """Return the hypotheses that differ from the right program, those together that answer alike."""
        rng = np.random.default_rng(0)
        rays = [rng.normal(size=question.given.size) / np.linalg.norm(question.wanted) for question in self.asked]
        found: dict[tuple[float, ...], Group] = {}
        for mistake in mistakes:
            made = [question.made(mistake.plant) for question in self.asked]
            print_ = tuple(_mark(outputs, ray) for outputs, ray in zip(made, rays, strict=True))
            if print_ in found:
                found[print_].members.append(mistake)
                continue
            pairs = list(zip(self.asked, made, strict=True))
            apart = np.asarray([question.apart(outputs, question.wanted) for question, outputs in pairs])
            distances = np.asarray([question.distance(outputs) for question, outputs in pairs])
            found[print_] = Group([mistake], made, distances, apart > 10.0**-DIGITS)
        return [group for group in found.values() if group.visible.any()]

    def judged(self, near: Sequence[Group]) -> list[Cause]:
        """Return the groups that explain every answer strictly, those that rounding cannot tell apart as one."""
        kept: list[tuple[Group, Cause]] = []
        for group in near[:MOST_JUDGED]:
            evidence = explains(group.mistake, self.asked)
            if evidence is None:
                continue
            twin = next((i for i, (other, _) in enumerate(kept) if self._alike(group, other)), None)
            cause = _cause(group, evidence)
            if twin is None:
                kept.append((group, cause))
            else:
                first = kept[twin][1]
                both = Cause(first.names + cause.names, first.knobs + cause.knobs, first.mistake, first.evidence)
                kept[twin] = (kept[twin][0], both)
        return sorted((cause for _, cause in kept), key=lambda cause: cause.z)

    def _alike(self, first: Group, second: Group) -> bool:
        made = zip(self.asked, first.made, second.made, strict=True)
        return all(question.apart(a, b) <= SAME for question, a, b in made)

    def fits(self, dials: Sequence[Dial], beside: Sequence[Group] = ()) -> list[Cause]:
        """Return numbers that explain the answers, alone or beside one of the nearest hypotheses."""
        found: list[Group] = []
        end = time.monotonic() + self.patience
        for group in (None, *beside):
            base = None if group is None else group.mistake
            for dial in dials:
                if time.monotonic() > end:
                    self.exhausted = False
                    return self.judged(_sorted(found))
                if base is not None and base.knob == dial.knob:
                    continue
                mistake = fit(dial, base, self.asked[: max(self.odd, 1)])
                if mistake is not None:
                    found += self._measured(mistake)
        return self.judged(_sorted(found))

    def _measured(self, mistake: Mistake, first: Sequence[int] = ()) -> list[Group]:
        """Return a hypothesis as a group, if it is near on every question, those called `first` being asked first."""
        made: dict[int, np.ndarray | None] = {}
        distances = np.zeros(len(self.asked))
        for i in (*first, *(i for i in range(len(self.asked)) if i not in first)):
            made[i] = self.asked[i].made(mistake.plant, remember=False)
            distances[i] = self.asked[i].distance(made[i])
            if distances[i] > NEAR:
                return []
        return [Group([mistake], [made[i] for i in range(len(made))], distances, np.ones(len(made), bool))]

    def pairs(self, groups: Sequence[Group]) -> list[Cause]:
        """Return pairs of hypotheses that explain the answers."""
        end = time.monotonic() + self.patience
        found: list[Group] = []
        for first, second in self._candidates(groups):
            if time.monotonic() > end:
                self.exhausted = False
                break
            for order in ((first, second), (second, first)):
                mistake = _both(*order)
                # Where both show, neither alone says what the two make of it.
                near = self._measured(mistake, [int(i) for i in np.flatnonzero(first.visible & second.visible)])
                if near:
                    found += near
                    break
                if not _interfere(*order):
                    break
        return self.judged(_sorted(self._merged(found)))

    def _candidates(self, groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
        """Return the pairs that no question refutes at a glance, the likeliest first."""
        agrees = np.asarray([question.agrees for question in self.asked])
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
        """Return the groups with those of equal answers as one."""
        merged: list[Group] = []
        for group in _sorted(found):
            twin = next((other for other in merged if self._alike(group, other)), None)
            if twin is None:
                merged.append(group)
            else:
                twin.members += group.members
        return merged


def _mark(outputs: np.ndarray | None, ray: np.ndarray) -> float:
    """Return a number that equal outputs share."""
    if outputs is None:
        return np.inf
    return round(float(np.nan_to_num(outputs, nan=FAR, posinf=FAR, neginf=-FAR) @ ray), DIGITS)


def _cause(group: Group, evidence: list[tuple[Verdict, ...]]) -> Cause:
    return Cause(tuple(m.name for m in group.members), tuple(m.knob for m in group.members), group.mistake, evidence)


def _sorted(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: float(np.sqrt(np.mean(group.distances**2))))


def _both(first: Group, second: Group) -> Mistake:
    names = [" or ".join(m.name for m in group.members[:3]) for group in (first, second)]
    knobs = f"{first.mistake.knob} + {second.mistake.knob}"
    return Mistake(" AND ".join(names), compose(first.mistake.plant, second.mistake.plant), knobs)


def _interfere(first: Group, second: Group) -> bool:
    """Return whether the order of two mistakes may matter: both turn the same thing."""
    return first.mistake.knob == second.mistake.knob or "head" in f"{first.mistake.knob} {second.mistake.knob}"
