"""Mutation score: which mutants each test kills, and what the test should add.

kills = {m : the test fails under m}        counted = kills + survivors that some call of the contract would show
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

KILLED = ("killed", "crashed")
ORDER = ("killed", "crashed", "tolerated", "hidden", "equal", "unasked")
"""Of the outcomes of a mutant in several runs of one test, as for each probe, the first of these is the test's."""

Said = tuple[Mapping[str, str], str]
"""What one run said of itself, and how it ended."""


def lines(runs: Sequence[Said]) -> Iterator[str]:
    """Yield the lines of the summary.

    Args:
        runs: the properties "parity.test", "parity.mutant", "parity.outcome", "parity.feature" and "parity.moved" of each run
            of a test, without the latter four for a run without a mutant; and the run's outcome.
    """
    every: dict[str, dict[str, Mapping[str, str]]] = {}
    for said, outcome in runs:
        if "parity.test" not in said:
            continue
        found = every.setdefault(said["parity.test"], {})
        if "parity.outcome" in said:
            name = said["parity.mutant"]
            found[name] = min(
                found.get(name, said), said, key=lambda x: (ORDER.index(x["parity.outcome"]), -float(x["parity.moved"]))
            )
        elif outcome == "failed":
            found["without a mutant"] = {}
    if not every:
        yield "no test takes the fixture 'parity', so that there is nothing to plant a mistake in"
    for test, found in every.items():
        yield from _test(test, found)
    yield from _together([found for found in every.values() if found and "without a mutant" not in found])


def _test(test: str, found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of one test."""
    if "without a mutant" in found:
        yield f"{test} fails without a mutant: let it pass first, or it kills all of them for nothing"
        return
    outcomes = {name: said["parity.outcome"] for name, said in found.items()}
    counted = [name for name, outcome in outcomes.items() if outcome in ORDER[:4]]
    if not counted:
        yield f"{test} asked 'parity' for no layer, expect or check, so that there is nothing to plant a mistake in"
        return
    killed = [name for name in counted if outcomes[name] in KILLED]
    advice = [*_features(found[name] for name in counted if outcomes[name] == "hidden")]
    tolerated = {name: float(found[name]["parity.moved"]) for name in counted if outcomes[name] == "tolerated"}
    if tolerated:
        most = max(tolerated.values())
        advice.append(f"a tolerance from the budget ({len(tolerated)}; outputs moved by up to {most:.2g} of their size)")
    yield f"{test} kills {len(killed)} of {len(counted)}" + (f"; add {', '.join(advice)}" if advice else "")
    for name in counted:
        if outcomes[name] == "hidden":
            yield f"    {name}: the test's data do not show it; add {found[name]['parity.feature']}"
        elif outcomes[name] == "tolerated":
            yield f"    {name}: outputs moved by {tolerated[name]:.2g} of their size, and the test let them"
    if crashed := sum(outcome == "crashed" for outcome in outcomes.values()):
        yield f"    {crashed} of the kills by an error and not by an assertion"
    if equal := len(outcomes) - len(counted):
        yield f"    {equal} more do not apply: no call of this contract would show them"


def _features(said: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield what a test lacks and how many mistakes it hides, the most first."""
    for feature, count in Counter(x["parity.feature"] for x in said).most_common():
        yield f"{feature} ({count})"


def _together(tests: Sequence[Mapping[str, Mapping[str, str]]]) -> Iterator[str]:
    """Yield the line of all tests together, where there are several."""
    if len(tests) < 2:
        return
    outcomes: dict[str, set[str]] = {}
    for found in tests:
        for name, said in found.items():
            outcomes.setdefault(name, set()).add(said["parity.outcome"])
    counted = [found for found in outcomes.values() if found & set(ORDER[:4])]
    if counted:
        yield f"together: {sum(bool(found & set(KILLED)) for found in counted)} of {len(counted)}"
