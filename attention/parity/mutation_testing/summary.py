"""The mutation score of each test of a pytest run, and the inputs that would reveal the mutations it missed.

killed = {m : the test fails under m}        score = killed / (killed + those missed that some call of the contract reveals)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

KILLED = ("killed", "crashed")
ORDER = ("killed", "crashed", "tolerated", "hidden", "equal", "unused")
"""A test may run several times under a mutation, such as once a probe: the first of these outcomes is the test's."""

Run = tuple[Mapping[str, str], str]
"""The properties of one run, and whether it passed."""


def lines(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines of the summary.

    Args:
        runs: of each run of a test the properties "parity.test", "parity.mutation", "parity.outcome", "parity.feature" and
            "parity.moved", without the latter four for a run without a mutation; and whether the run passed.
    """
    every: dict[str, dict[str, Mapping[str, str]]] = {}
    for properties, outcome in runs:
        if "parity.test" not in properties:
            continue
        found = every.setdefault(properties["parity.test"], {})
        if "parity.outcome" in properties:
            name = properties["parity.mutation"]
            found[name] = min(
                found.get(name, properties),
                properties,
                key=lambda x: (ORDER.index(x["parity.outcome"]), -float(x["parity.moved"])),
            )
        elif outcome == "failed":
            found["without a mutation"] = {}
    if not every:
        yield "no test takes the fixture 'parity', so that no mutation can be applied"
    for test, found in every.items():
        yield from _test(test, found)
    yield from _together([found for found in every.values() if found and "without a mutation" not in found])


def _test(test: str, found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of one test."""
    if "without a mutation" in found:
        yield f"{test} fails without a mutation: it must pass first"
        return
    outcomes = {name: properties["parity.outcome"] for name, properties in found.items()}
    counted = [name for name, outcome in outcomes.items() if outcome in ORDER[:4]]
    if not counted:
        yield f"{test} uses no layer, expect or check of 'parity', so that no mutation can be applied"
        return
    killed = [name for name in counted if outcomes[name] in KILLED]
    advice = [*_features(found[name] for name in counted if outcomes[name] == "hidden")]
    tolerated = {name: float(found[name]["parity.moved"]) for name in counted if outcomes[name] == "tolerated"}
    if tolerated:
        most = max(tolerated.values())
        advice.append(f"a tolerance from the budget ({len(tolerated)}; outputs moved by up to {most:.2g} of their size)")
    yield f"{test}: mutation score {len(killed)} of {len(counted)}" + (f"; add {', '.join(advice)}" if advice else "")
    for name in counted:
        if outcomes[name] == "hidden":
            yield f"    {name}: the test's data do not show it; add {found[name]['parity.feature']}"
        elif outcomes[name] == "tolerated":
            yield f"    {name}: outputs moved by {tolerated[name]:.2g} of their size, and the test let them"
    if crashed := sum(outcome == "crashed" for outcome in outcomes.values()):
        yield f"    {crashed} killed by an error and not by an assertion"
    if equal := len(outcomes) - len(counted):
        yield f"    {equal} more do not apply: no call of this contract would show them"


def _features(properties: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield the missing inputs of a test, with the number of mutations that each would reveal, the most first."""
    for feature, count in Counter(x["parity.feature"] for x in properties).most_common():
        yield f"{feature} ({count})"


def _together(tests: Sequence[Mapping[str, Mapping[str, str]]]) -> Iterator[str]:
    """Yield the line of all tests together, where there are several."""
    if len(tests) < 2:
        return
    outcomes: dict[str, set[str]] = {}
    for found in tests:
        for name, properties in found.items():
            outcomes.setdefault(name, set()).add(properties["parity.outcome"])
    counted = [found for found in outcomes.values() if found & set(ORDER[:4])]
    if counted:
        yield f"together: {sum(bool(found & set(KILLED)) for found in counted)} of {len(counted)}"
