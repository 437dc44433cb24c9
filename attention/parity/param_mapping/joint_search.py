"""Joint search over several ambiguities of the map, with values that are not symmetric.

answers = (answer to question 1, answer to question 2, ...)        right only if the outputs of both programs agree

Questions are asked one by one first (`output_disambiguation`). Where one hides what another asks, none of them is resolved so:
then all joint answers are tried, the likely ones first, or where they are too many, one question after another from several
starts. Arrays whose parts have the same names, such as the input and the recurrent kernels of the same gates, most likely
have these in the same order, and are then one question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice, permutations, product

import numpy as np

from attention.parity.adapters import Arrays
from attention.parity.param_mapping.candidates import Plan
from attention.parity.param_mapping.name_assignment import words
from attention.parity.param_mapping.open_questions import Question
from attention.parity.param_mapping.trial_runs import Trial
from attention.parity.param_mapping.value_search import Moves

MOST_RUNS = 200
MOST_WORK = 10**8
"""Parameters of all runs together: large programs are run less often."""
MOST_SIBLINGS = 4
"""More are not tried in every order."""
MOST_TOGETHER = 100
"""Joint answers to questions about the same parts."""

Answers = tuple[int, ...]
"""Which answer each question has, 0 for the likely one."""
Part = dict[int, int]
"""Answers to some of the questions."""


def joint(plan: Plan, waiting: Sequence[Question], trial: Trial, values: Arrays, agrees: float) -> Plan | None:
    """Return the plan with joint answers under which the outputs agree, or None where none of those that are tried does.

    Args:
        plan: the open map, likely answers first.
        waiting: questions about it, to be answered together.
        trial: the two programs.
        values: of matched parameters of the first, hiding nothing.
        agrees: the largest error of outputs that agree.
    """
    runs = min(MOST_RUNS, MOST_WORK // max(sum(array.size for array in plan.first.values()), 1))
    asked = [q for q in waiting if not q.siblings or len(q.places) <= MOST_SIBLINGS]
    return _Search(plan, asked, trial, values, agrees, runs).found if asked and runs else None


class _Enough(Exception):
    """The search has found what agrees, or may run no more."""


@dataclass
class _Search:
    """A search for joint answers; see `joint`."""

    plan: Plan
    questions: list[Question]
    trial: Trial
    values: Arrays
    agrees: float
    most: int
    errors: dict[Answers, float] = field(default_factory=dict[Answers, float])

    @cached_property
    def found(self) -> Plan | None:
        """The plan under which outputs agree, or None."""
        with suppress(_Enough):
            self._every() if math.prod(self.counts) <= self.most else self._from_starts()
        best = min(self.errors, key=lambda answers: self.errors[answers], default=None)
        return self._planned(best) if best is not None and self.errors[best] <= self.agrees else None

    @cached_property
    def counts(self) -> list[int]:
        """How many answers each question has."""
        return [
            math.factorial(len(q.places)) if q.siblings else len(self.plan.entries[q.places[0]].choices) for q in self.questions
        ]

    @cached_property
    def wanted(self) -> Arrays | None:
        """The first program's outputs."""
        return self.trial.outputs(self.trial.first, self.plan.map.backward(self.plan.map.forward(self.values)))

    def _planned(self, answers: Answers) -> Plan:
        """Return the plan with the answers."""
        plan = self.plan
        for question, answer in zip(self.questions, answers, strict=True):
            if not question.siblings:
                plan = plan.chosen(question.places, answer)
        for question, answer in zip(self.questions, answers, strict=True):
            if question.siblings:
                plan = _reordered(plan, question.places, answer)
        return plan

    def _error(self, answers: Answers) -> float:
        """Return the error of the outputs.

        Raises:
            _Enough: the outputs agree, or no run is left.
        """
        if answers not in self.errors:
            if len(self.errors) >= self.most:
                raise _Enough
            self.errors[answers] = self.trial.distance(self._planned(answers).map, self.values, self.wanted)
            if self.errors[answers] <= self.agrees:
                raise _Enough
        return self.errors[answers]

    def _every(self) -> None:
        """Try all joint answers, the likely ones first."""
        for answers in sorted(product(*map(range, self.counts)), key=sum):
            _ = self._error(answers)

    def _from_starts(self) -> None:
        """Improve one part of the answers after another until none gets better, from one start after another."""
        linked = self._linked()
        alone: list[list[Part]] = [[{at: answer} for answer in range(count)] for at, count in enumerate(self.counts)]
        together = {at for parts in linked for at in parts[0]}
        likely = linked + [parts for at, parts in enumerate(alone) if at not in together]
        rng = np.random.default_rng(0)
        answers = (0,) * len(self.counts)
        while True:
            answers = self._improved(self._improved(answers, likely), alone)
            for parts in likely:
                answers = _with(answers, parts[int(rng.integers(len(parts)))])

    def _improved(self, answers: Answers, coordinates: Sequence[Sequence[Part]]) -> Answers:
        """Return the answers after changes of one coordinate at a time that lessen the error, until none does."""
        before = float("inf")
        while self._error(answers) < before:
            before = self._error(answers)
            for parts in coordinates:
                answers = min((answers, *(_with(answers, part) for part in parts)), key=self._error)
        return answers

    def _linked(self) -> list[list[Part]]:
        """Return the joint answers to questions that most likely have the same: parts in the same order, or layers alike."""
        parts: dict[frozenset[tuple[str, ...]], list[int]] = {}
        layers: dict[tuple[object, ...], list[int]] = {}
        for at, question in enumerate(self.questions):
            if question.siblings:
                layers.setdefault(tuple(self.plan.entries[place].kind for place in question.places), []).append(at)
            elif len({*(order := self._orders(question)[0])}) == len(order) > 1:
                parts.setdefault(frozenset(order), []).append(at)
        found = [self._alike(places) for places in parts.values() if len(places) > 1]
        several = [places for places in layers.values() if len(places) > 1]
        return found + [[dict.fromkeys(places, answer) for answer in range(self.counts[places[0]])] for places in several]

    def _orders(self, question: Question) -> list[tuple[tuple[str, ...], ...]]:
        return [_order(moves) for moves in self.plan.entries[question.places[0]].choices]

    def _alike(self, places: list[int]) -> list[Part]:
        """Return the joint answers to some questions that put parts of the same names in the same order."""
        orders = [self._orders(self.questions[at]) for at in places]
        found: list[Part] = []
        for order in dict.fromkeys(orders[0]):
            fit = [[answer for answer, each in enumerate(some) if each == order] for some in orders]
            found += [dict(zip(places, answers, strict=True)) for answers in islice(product(*fit), MOST_TOGETHER)]
        return sorted(found, key=lambda part: sum(part.values()))[:MOST_TOGETHER]


def _with(answers: Answers, part: Part) -> Answers:
    return tuple(part.get(at, answer) for at, answer in enumerate(answers))


def _reordered(plan: Plan, places: Sequence[int], answer: int) -> Plan:
    """Return the plan with the arrays of the second that some entries have in another order, the given one for 0."""
    order = _permutations(len(places))[answer]
    stands = [*range(len(places))]
    for at, wanted in enumerate(order):
        where = stands.index(wanted)
        if where != at:
            plan = plan.swapped(places[at], places[where])
            stands[at], stands[where] = stands[where], stands[at]
    return plan


@cache
def _permutations(count: int) -> list[tuple[int, ...]]:
    return [*permutations(range(count))]


def _order(moves: Moves) -> tuple[tuple[str, ...], ...]:
    """Return what tells the parts of a fused array apart, in the order in which they stand in it; nothing for one part."""
    firsts = len({move.first.name for move in moves}) > 1
    ends = [(move.first, move.second) if firsts else (move.second, move.first) for move in moves]
    said = {part.name: words(part.name) for part, _ in ends}
    if len(said) < 2:
        return ()
    shared = {word for word in next(iter(said.values())) if all(word in each for each in said.values())}
    standing = sorted(ends, key=lambda end: tuple(start for start, _ in end[1].spans))
    return tuple(tuple(word for word in said[part.name] if word not in shared) for part, _ in standing)
