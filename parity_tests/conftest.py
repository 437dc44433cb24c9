"""How the tests run: on the CPU, one thread a worker, the same examples every time in CI, and nothing compiled twice.

Only environment variables are set here, before any framework is imported; a test pays for the frameworks it uses, and is
skipped where one of them is not installed (`absent.py`). At the end of a run the report names every killed mutation, and
the probe that killed it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from parity_tests.support import absent

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

DEFAULTS = {
    "HF_HUB_OFFLINE": "1",
    # Tiles that somebody tuned here are no part of what is tested.
    "ATTENTION_TUNING": "off",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # What a test compiles runs once or twice, and to optimise it takes longer than that. `make parity` runs what users run.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
if "jaxlib" not in absent.ABSENT and version("jaxlib").startswith("0.10."):
    # A newer XLA does not know this flag, and a flag that it does not know ends the process without a word.
    DEFAULTS["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core, and threads of several workers on one core only wait for each other.
    DEFAULTS["OMP_NUM_THREADS"] = "1"
os.environ.update(DEFAULTS | os.environ)

# A first example compiles and a second does not, so a deadline would measure the compiler.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "local")

absent.watch()


class Module(pytest.Module):
    """A file of tests, which is skipped as a whole where it cannot even be read without what is absent."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except Exception as error:
            why = absent.reason(error) or absent.MET.get(str(self.path))
            if why is None:
                raise
            pytest.skip(why, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Module | None:
    """Read a file of tests in the usual way where everything is installed."""
    return Module.from_parent(parent, path=module_path) if absent.ABSENT else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip a test of every backend where its backend is absent."""
    for item in items if absent.ABSENT else ():
        given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        for why in filter(None, map(absent.named, given)):
            item.add_marker(pytest.mark.skip(why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """While a test runs, to call what is absent skips it."""
    absent.Absent.running = True
    try:
        return (yield)
    finally:
        absent.Absent.running = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that failed for want of what is absent."""
    try:
        return (yield)
    except BaseException as error:
        if (why := absent.reason(error)) is None:
            raise
        pytest.skip(why)


pytest_runtest_setup = pytest_runtest_call  # what a fixture was refused


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the kill table: what `record_property("kill", (mutation, contract, backend, probe))` said, from every worker."""
    passed = terminalreporter.stats.get("passed", ())
    kills = sorted(value for report in passed for name, value in report.user_properties if name == "kill")
    if not kills:
        return
    terminalreporter.section("mutations killed")
    for name in dict.fromkeys(kill[0] for kill in kills):
        found = [kill for kill in kills if kill[0] == name]
        killers = ", ".join(f"{side}: {probe}" for _, _, side, probe in found)
        terminalreporter.line(f"{name:45} {found[0][1]:22} {killers}")
    terminalreporter.line(f"{len({kill[0] for kill in kills})} mutations, each killed in every backend that ran it")
