"""The pytest plugin: fixtures for parity tests, and the mutation score of such a test.

    parity                           `attention.parity`; a test that fails shows its reports
    parity_probe                     each probe of the contract in @pytest.mark.parity_probes(contract), in turn
    pytest --parity-mutations          test_port.py::test_mine: mutation score 40 of 59; add T != S (3), an empty row (2)

Every test that takes `parity` runs once unchanged, and once for each known mutation, which is applied to the results of
`parity.layer`, `parity.expect` and `parity.check`. This file imports no framework: a session without such tests pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from attention.parity.contracts.probes import Probe
    from attention.parity.mutation_testing.fixture import ParityFixture

MUTATION, TEST, OUTCOME, FEATURE, MOVED = (f"parity.{word}" for word in ("mutation", "test", "outcome", "feature", "moved"))
FAILING, CONTRACTS = pytest.StashKey[set[str]](), pytest.StashKey[dict[str, set[Any]]]()
STATUS = {"killed": ("killed", "k", "KILLED"), "crashed": ("killed", "k", "KILLED BY AN ERROR")}
SURVIVED = ("survived", "s", "SURVIVED")
SKIPPED = ("not applicable", "-", "NOT APPLICABLE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("attention", "parity of models in PyTorch and JAX")
    group.addoption(
        "--parity-mutations",
        action="store_true",
        help="run each test that takes the fixture 'parity' against every known porting mistake, and print its mutation score",
    )
    # Not an optional value of the flag, which would swallow the path that follows it.
    group.addoption(
        "--parity-mutations-like",
        action="append",
        default=[],
        metavar="WORDS",
        help="the same, for the mistakes whose name contains WORDS; repeat for more",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "parity_probes(contract, dtype='float32', seed=0): runs a test that takes 'parity_probe' on each probe of a contract",
    )
    config.stash[FAILING], config.stash[CONTRACTS] = set(), {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on every probe of its contract and, with --parity-mutations, under every mutation."""
    marker = metafunc.definition.get_closest_marker("parity_probes")
    if "parity_probe" in metafunc.fixturenames and marker is not None:
        found = _usage(_probes, *marker.args, **marker.kwargs)
        metafunc.parametrize("parity_probe", found, ids=[probe.name for probe in found], indirect=True)
    option = metafunc.config.option
    if "parity" in metafunc.fixturenames and (option.parity_mutations or option.parity_mutations_like):
        found = _usage(_mutations, option.parity_mutations_like)
        metafunc.parametrize("parity", [None, *found], ids=["unharmed", *(m.name for m in found)], indirect=True)


def _probes(contract: Any, dtype: str = "float32", seed: int = 0) -> list[Probe]:
    from attention.parity.contracts.probes import probes  # noqa: PLC0415 - a session that uses no fixture imports nothing
    from attention.spec.errors import OptionError, shown  # noqa: PLC0415
    from attention.spec.layers.contract import Contract  # noqa: PLC0415

    if not isinstance(contract, Contract):
        raise OptionError(f"contract {shown(contract)} must be a layer's contract")
    return probes(contract, dtype, seed)


def _mutations(words: list[str]) -> list[Any]:
    from attention.parity.mutation_testing.fixture import select  # noqa: PLC0415

    return select(words)


def _usage(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function; a mistake of the user's is one line of pytest's."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        raise pytest.UsageError(f"attention: {error}") from error


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> ParityFixture:
    """`attention.parity`, and `parity.layer(contract, weights)`: a reference to compare with. See --parity-mutations."""
    from attention.parity.mutation_testing.fixture import ParityFixture  # noqa: PLC0415

    return ParityFixture(getattr(request, "param", None))


@pytest.fixture
def parity_probe(request: pytest.FixtureRequest) -> Probe:
    """Each probe of the contract that @pytest.mark.parity_probes(contract) names, in turn."""
    if not hasattr(request, "param"):
        raise pytest.UsageError("the fixture 'parity_probe' needs @pytest.mark.parity_probes(contract) on its test")
    return request.param


def _mutation(item: pytest.Item) -> Any:
    """Return the mutation of a test's run, or None."""
    spec = getattr(item, "callspec", None)
    return spec.params.get("parity") if spec is not None and "parity" in getattr(item, "fixturenames", ()) else None


def _test(item: pytest.Item) -> str:
    """Return the name that all runs of one test share."""
    return f"{item.parent.nodeid if item.parent else ''}::{getattr(item, 'originalname', None) or item.name}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip runs that would show nothing: all if the test fails without a mutation, and mutations that its contracts lack."""
    mutation, test = _mutation(item), _test(item)
    if mutation is None:
        return
    if test in item.config.stash[FAILING]:
        pytest.skip("fails without a mutation")
    asked = item.config.stash[CONTRACTS].get(test)
    if asked is not None:
        from attention.parity.mutation_testing.fixture import revealing  # noqa: PLC0415

        if not any(revealing(mutation, contract) for contract in asked):
            item.user_properties += _outcome(item, "equal" if asked else "unused")
            pytest.skip("no call of its contracts would show this mistake")


def _outcome(item: pytest.Item, outcome: str, feature: str = "", moved: float = 0.0) -> list[tuple[str, str]]:
    """Return the outcome of a mutation as properties: text, which workers and JUnit's XML can hold."""
    return [
        (TEST, _test(item)),
        (MUTATION, _mutation(item).name),
        (OUTCOME, outcome),
        (FEATURE, feature),
        (MOVED, f"{moved:.3g}"),
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the verdicts of a test to its report, and count a failure under a mutation as killed."""
    report = yield
    loaded, given = sys.modules.get("attention.parity.mutation_testing.fixture"), _given(item)
    if report.failed and _mutation(item) is None:
        item.config.stash[FAILING].add(_test(item))
    if loaded is None or not isinstance(given, loaded.ParityFixture) or report.when != "call":
        return report
    if given.mutation is None:
        _add(item, report, [(TEST, _test(item)), *_found(given)])
        item.config.stash[CONTRACTS].setdefault(_test(item), set()).update(given.contracts)
        if report.failed:
            report.sections += [("attention.parity", str(x)) for x in given.found]
        return report
    outcome = given.outcome if report.passed else "equal"
    if report.failed and call.excinfo is not None:
        outcome = "killed" if call.excinfo.errisinstance(AssertionError) else "crashed"
        report.outcome, report.longrepr = "passed", None
    _add(item, report, [*_outcome(item, outcome, given.feature if outcome == "hidden" else "", given.moved), *_found(given)])
    return report


def _add(item: pytest.Item, report: pytest.TestReport, properties: list[tuple[str, str]]) -> None:
    """Add properties to this report, and to that of the teardown, which JUnit's XML is made of."""
    report.user_properties += properties
    item.user_properties += properties


def _given(item: pytest.Item) -> Any:
    """Return the fixture `parity` of a test, which a project may have overridden by one of its own."""
    return getattr(item, "funcargs", {}).get("parity")


def _found(given: ParityFixture) -> list[tuple[str, str]]:
    """Return the worst verdict of a test as properties, which JUnit's XML shows."""
    verdicts = given.verdicts()
    if not verdicts:
        return []
    worst = max(verdicts, key=lambda verdict: (not verdict.agrees, verdict.worst))
    z = f"{worst.rms:.3g}", f"{worst.worst:.3g}"
    verdict = "agrees" if all(verdict.agrees for verdict in verdicts) else "differs"
    return [("parity.verdict", verdict), ("parity.worst", worst.name), ("parity.z.rms", z[0]), ("parity.z.max", z[1])]


def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
    """Count the runs under mutations apart from tests."""
    said = dict(getattr(report, "user_properties", ()))
    if OUTCOME not in said or getattr(report, "when", "") == "teardown":
        return None
    return STATUS.get(said[OUTCOME], SURVIVED if said[OUTCOME] in ("tolerated", "hidden") else SKIPPED)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the mutation score of each test, and the inputs that it lacks."""
    option = terminalreporter.config.option
    if not (option.parity_mutations or option.parity_mutations_like):
        return
    from attention.parity.mutation_testing.summary import lines  # noqa: PLC0415

    reports = [report for found in terminalreporter.stats.values() for report in found]
    said = [(dict(r.user_properties), r.outcome) for r in reports if getattr(r, "when", "teardown") != "teardown"]
    terminalreporter.section("parity mutations")
    for line in lines(said):
        terminalreporter.line(line)
