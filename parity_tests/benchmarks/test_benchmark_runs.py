"""Runs of the benchmarks: requirements are measured, results joined, plotted and compared, and a mistake is one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from attention.cli import app as attention_app
from attention.spec.errors import OptionError
from benchmarks import memory, modules, plots, requirement_checks, startup
from benchmarks.__main__ import app
from benchmarks.accuracy import errors
from benchmarks.cases import BACKWARD, FORWARD, Case
from benchmarks.compare import BETTER, LOST, SAME, WORSE, compare
from benchmarks.comparisons import Checked, Comparisons
from benchmarks.implementations import find
from benchmarks.machine import machine
from benchmarks.requirement_checks import select, slope
from benchmarks.requirements import BEST, REQUIREMENTS, Requirement
from benchmarks.results import REFUSED, TIMED, WRONG, Peak, Results, Row
from benchmarks.suites import DEFAULT, SUITES
from benchmarks.timing import WALL

SETTINGS = {"rounds": 5, "clock": "wall"}
VERSIONS = {"torch": "2", "jax": "0", "flax": "0"}


def row(implementation: str = "torch auto", samples: tuple[float, ...] = (1.0, 1.1, 0.9), **facts: Any) -> Row:
    case = facts.pop("case", {"mask": "causal", "S": 1024, "D": 64, "dtype": "float32", "program": FORWARD})
    return Row("causal", case, "causal", implementation, **{"side": "torch", "samples": samples, **facts})


def results(*rows: Row, **facts: Any) -> Results:
    return Results(rows, SETTINGS, {"devices": {"torch": "a", "jax": "a"}, "cores": 1, "environment": VERSIONS}, **facts)


class TestRequirements:
    def test_every_item_of_the_list_has_bounds_with_names_of_their_own(self) -> None:
        names = [requirement.name for requirement in REQUIREMENTS]
        assert len(set(names)) == len(names)
        assert {name[0] for name in names} == set("123456789")
        assert all(requirement.quantity in requirement_checks.MEASURES for requirement in REQUIREMENTS)

    def test_everybody_named_is_somebody(self) -> None:
        for requirement in REQUIREMENTS:
            for name in {requirement.implementation, requirement.against} - {"", BEST}:
                known = name.endswith(" GEMM") or name in modules.LAYERS or name in startup.IMPORTS
                assert known or find(name)

    def test_a_slice_is_a_beginning_of_whole_words(self) -> None:
        assert {requirement.name.split(".")[1] for requirement in select(["3.window"], accelerator=False)} == {"window"}
        assert select(["1"], accelerator=False)[0].name.startswith("1.")
        assert not any(requirement.name.startswith("9.") for requirement in select([], accelerator=False))
        assert all(requirement.name.startswith("9.") for requirement in select([], accelerator=True))

    def test_a_bound_is_met_on_its_side_of_the_limit(self) -> None:
        most, least = (Requirement("x", "ratio", "a", "b", (), 2.0, least=side) for side in (False, True))
        assert [Checked(most, x).met for x in (1.9, 2.1, None)] == [True, False, False]
        assert [Checked(least, x).met for x in (1.9, 2.1, None)] == [False, True, False]

    def test_ratios_growth_and_errors_are_measured(self) -> None:
        cases = [Case("causal", s, H=2, D=8) for s in (16, 32)]
        requirements = [
            Requirement("a", "ratio", "torch auto", "SDPA", (cases[0],), 1e9),
            Requirement("b", "speedup", "torch auto", "SDPA", (cases[0],), 0.0, least=True),
            Requirement("c", "growth", "torch auto", "", tuple(cases), 1e9),
            Requirement("d", "fraction", "torch auto", "torch GEMM", (cases[0],), 0.0, least=True),
            Requirement("e", "rms", "torch auto", "SDPA", (cases[0],), 2.0),
        ]
        run = Comparisons(requirements, 3, WALL)
        held = {one.requirement.name: one for one in requirement_checks.measured(run)}
        assert all(one.met for one in held.values()), held
        # One comparison of a case serves all of its requirements.
        assert [r.implementation for r in run.rows if r.name == cases[0].name] == ["torch auto", "SDPA", "torch GEMM"]
        assert held["a"].measured is not None
        a, b = (held[name].measured or 0.0 for name in "ab")
        assert a * b == pytest.approx(1.0)

    def test_a_power_law_is_found(self) -> None:
        assert slope([2048, 4096, 8192], [3.0, 3.0 * 2**1.1, 3.0 * 4**1.1]) == pytest.approx(1.1)

    def test_errors_are_those_of_float64(self) -> None:
        case = Case("causal", 16, H=2, D=8, program=BACKWARD)
        single, half = errors(case, ["torch reference"]), errors(replace(case, dtype="bfloat16"), ["torch reference"])
        assert set(single[0]) == {"output", "d query", "d key", "d value"}
        assert all(1e-9 < rms < 1e-6 for rms in single[0].values())
        assert all(1e-4 < rms < 1e-1 for rms in half[0].values())


class TestMemory:
    def test_a_child_tells_what_a_call_took(self) -> None:
        # 8 heads * 512 * 512 scores of 4 bytes are 8.4 MB, and the mathematics holds at least two such arrays.
        used = memory.measure(Case("dense", 512, D=8), "SDPA math")
        assert used.extra is not None, used.note
        assert 8e6 < used.extra < 2e8

    def test_a_child_that_fails_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.executable", "/bin/false")
        used = memory.measure(Case("dense", 16), "SDPA")
        assert (used.extra, used.note) == (None, "ended with 1: nothing said")


class TestFiles:
    def test_json_comes_back(self, tmp_path: Path) -> None:
        made = results(row(flops=10, bytes=20, memory_bytes=30), row("SDPA", (), status=REFUSED, note="no", ours=False),
                       peaks=(Peak("torch", "float32", 1e11, 1e10),), requirements=({"name": "1", "met": False},))  # fmt: skip
        path = tmp_path / "new" / "bench.json"
        made.to_json(path)
        read = Results.from_json(path)
        assert read.to_dict() == made.to_dict()
        assert json.loads(path.read_text(encoding="utf-8"))["rows"][0]["quartiles"] == [0.95, 1.05]
        assert not read.ok

    def test_slices_are_joined(self) -> None:
        first = results(row(), row("SDPA"), requirements=({"name": "1", "met": False}, {"name": "2", "met": True}))
        second = results(row(samples=(2.0,)), row("jax auto"), requirements=({"name": "1", "met": True},))
        both = first.joined(second)
        assert [(r.implementation, r.time) for r in both.rows] == [("torch auto", 2.0), ("SDPA", 1.0), ("jax auto", 1.0)]
        assert {requirement["name"]: requirement["met"] for requirement in both.requirements} == {"1": True, "2": True}
        with pytest.raises(OptionError, match="clock 'cpu' must be 'wall'"):
            _ = first.joined(replace(second, settings={"clock": "cpu"}))

    def test_the_machine_names_devices_and_versions(self) -> None:
        found = machine()
        assert set(found["devices"]) == {"torch", "jax"}
        assert all(found["devices"].values())
        assert found["environment"]["torch"] == str(torch.__version__)

    def test_plots_are_drawn_where_there_are_numbers(self, tmp_path: Path) -> None:
        case = {"mask": "causal", "S": 2048, "D": 64, "dtype": "float32", "program": FORWARD}
        rows = [row(flops=10, bytes=20), row(case=case, flops=10, bytes=20), row("jax auto", (), status=WRONG)]
        peaks = (Peak("torch", "float32", 1e11, 1e10),)
        assert [path.name for path in plots.draw(results(*rows, peaks=peaks), tmp_path)] == ["speed.png", "roofline.png"]
        full = [replace(r, memory_bytes=10**6) for r in rows]
        assert len(plots.draw(results(*full, peaks=peaks), tmp_path)) == 3
        assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in plots.NAMES)
        assert plots.draw(results(rows[-1]), tmp_path) == []


class TestComparison:
    def test_a_planted_regression_is_found(self) -> None:
        before = results(row(), row("jax auto"), row("SDPA", ours=False))
        after = results(
            row(samples=(2.0, 2.1, 1.9)), row("jax auto", (0.4, 0.5, 0.6)), row("SDPA", (1.0, 0.95, 1.1), ours=False)
        )
        found = compare(before, after)
        assert {change.implementation: change.verdict for change in found.changes} == {
            "torch auto": WORSE,
            "jax auto": BETTER,
            "SDPA": SAME,
        }
        assert [change.ratio for change in found.regressions] == [2.0]

    def test_noise_is_no_regression(self) -> None:
        noisy = results(row(samples=(0.8, 1.3, 1.4)))
        (change,) = compare(results(row()), noisy).changes
        assert (change.ratio, change.verdict) == (1.3, SAME)

    def test_what_the_peers_drifted_can_be_divided_out(self) -> None:
        before, after = results(row(), row("SDPA", ours=False)), results(row(samples=(2.0,)), row("SDPA", (2.0,), ours=False))
        assert len(compare(before, after).regressions) == 1
        found = compare(before, after, drift=True)
        assert found.drift == 2.0
        assert found.regressions == ()

    def test_memory_and_lost_rows_count(self) -> None:
        before = results(row(memory_bytes=100), row("jax auto"))
        after = results(row(memory_bytes=150), row("jax auto", (), status=WRONG, note="z"))
        assert [change.verdict for change in compare(before, after).regressions] == [WORSE, LOST]


class TestCommand:
    def test_a_run_writes_json_and_plots(self, tmp_path: Path) -> None:
        where = [f"--json={tmp_path / 'b.json'}", f"--plots={tmp_path}"]
        small = ["--size=16", "--width=8", "--rounds=2", "--program=forward", "--side=torch", "--implementation=torch sdpa"]
        ran = CliRunner().invoke(app, ["run", "causal", *small, *where])
        assert ran.exit_code == 0, ran.output
        assert "torch sdpa" in ran.output
        assert (tmp_path / "speed.png").stat().st_size
        (found,) = Results.from_json(tmp_path / "b.json").rows
        assert (found.name, found.status) == ("causal S16 H8 D8 float32 forward", TIMED)

    def test_a_regression_is_exit_code_1(self, tmp_path: Path) -> None:
        paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
        results(row()).to_json(paths[0])
        results(row(samples=(2.0,))).to_json(paths[1])
        assert CliRunner().invoke(attention_app, ["bench", "compare", *paths]).exit_code == 1
        assert CliRunner().invoke(attention_app, ["bench", "compare", *paths, "--threshold=2.5"]).exit_code == 0

    def test_bounds_and_suites_are_listed(self) -> None:
        listed = CliRunner().invoke(attention_app, ["bench", "requirements", "--list", "--only=3.window"])
        assert listed.exit_code == 0
        assert "3.window.fwd.torch" in listed.output
        assert all(name in CliRunner().invoke(app, ["suites"]).output for name in SUITES)
        assert set(DEFAULT) <= set(SUITES)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["run", "nope"], "attention: SUITES 'nope' must be one of dense"),
            (["run", "--dtype=int8"], "attention: --dtype 'int8' must be one of"),
            (["run", "--side=numpy"], "attention: --side 'numpy' must be one of torch, jax"),
            (["run", "--implementation=nobody"], "attention: --implementation 'nobody' must be part of one of torch auto"),
            (["run", "--program=sideways"], "attention: --program 'sideways' must be one of forward"),
            (["run", "decode", "--program=forward+backward"], "attention: SUITES and options given leave no case"),
            (["run", "--json=/dev/null/b.json"], "attention: path '/dev/null/b.json' must be writable"),
            (["requirements", "--only=77"], "attention: requirement '77' must begin one of"),
            (["compare", "/nope.json", "/nope.json"], "attention: path '/nope.json' must be a file of benchmark results"),
        ],
    )
    def test_a_mistake_is_one_line(self, arguments: list[str], line: str) -> None:
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2
        assert ran.output.strip().startswith(line)
        assert ran.output.strip().count("\n") == 0

    def test_a_missing_plotter_names_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attention._extras.find_spec", lambda module: None if module == "matplotlib" else module)
        ran = CliRunner().invoke(app, ["run", "--json="])
        assert ran.exit_code == 2
        assert "pip install 'attention-parity[report]'" in ran.output

    def test_an_installed_package_says_where_its_benchmarks_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "exists", lambda _: False)
        ran = CliRunner().invoke(attention_app, ["bench"])
        assert ran.exit_code == 2
        assert "benchmarks must stand beside the package, in a checkout of its repository" in ran.output
