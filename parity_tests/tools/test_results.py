"""Pages: every number is backed by a file, nothing is repeated, and every name exists.

rendered(page) = page        a block that somebody edited, or a results file that has changed, is found
"""

from __future__ import annotations

import doctest
import json
import re
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from attention.spec.errors import FileError, OptionError, UnknownName
from tools.results import claims, recorded, running
from tools.results.__main__ import complaints, main
from tools.results.figures import Measurement, table
from tools.results.pages import BLOCK, body, pages, rendered
from tools.results.recorded import FOLDER, ROOT, Recorded, lines, read
from tools.results.registry import FIGURES, MEASUREMENTS

README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = [
    path
    for folder in claims.FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    # What is planted here names what is not there.
    if path != Path(__file__)
]
each_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def one(**changes: object) -> Recorded:
    """A results file of nothing."""
    stamp = {
        "date": "2026-01-02",
        "commit": "abc",
        "machine": {"processor": "P", "cores": 2},
        "versions": {"torch": "2", "jax": "0"},
    }
    return replace(Recorded(name="some", command="python -m some", data={}, **stamp), **changes)


class TestLaws:
    @each_page
    def test_a_page_says_nothing_that_no_file_backs(self, page: Path) -> None:
        assert list(complaints(page)) == []

    def test_every_file_that_code_and_messages_name_is_there(self) -> None:
        others = [ROOT / name for name in ("Makefile", "pyproject.toml", ".ci/run")]
        texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in (*CODE, *others)}
        absent = {
            path: [*claims.absent(text, ROOT / path.parent), *claims.unknown_commands(text)] for path, text in texts.items()
        }
        assert {path: found for path, found in absent.items() if found} == {}

    @pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
    def test_a_results_file_says_when_how_and_where(self, path: Path) -> None:
        found = read(path.stem)
        assert found is not None
        assert date.fromisoformat(found.date) <= date.today()  # noqa: DTZ011 - a file is dated by the calendar
        # A part of a run may be recorded, and the command then says which.
        assert found.command.split()[:3] == MEASUREMENTS[path.stem].line.split()[:3]
        assert found.commit
        assert found.machine.keys() == {"processor", "cores"}
        assert found.versions.keys() >= {"python", "torch", "jax"}

    def test_every_figure_that_is_recorded_is_shown(self) -> None:
        shown = {found["name"] for page in pages() for found in BLOCK.finditer(page.read_text(encoding="utf-8"))}
        assert shown == {name for name, figure in FIGURES.items() if figure.render(read)}

    @pytest.mark.parametrize("name", [found["name"] for found in BLOCK.finditer(README)])
    def test_any_digit_that_is_changed_in_a_block_is_found(self, name: str) -> None:
        block = next(found for found in BLOCK.finditer(README) if found["name"] == name)
        places = [found.start() for found in re.finditer(r"\d", block["body"])]
        assert places
        for place in places[:: max(len(places) // 5, 1)]:
            at = block.start("body") + place
            wrong = README[:at] + str((int(README[at]) + 1) % 10) + README[at + 1 :]
            assert rendered(wrong) == README != wrong

    def test_a_number_that_is_changed_in_a_results_file_is_found(self) -> None:
        def changed(name: str) -> Recorded | None:
            found = read(name)
            return (
                replace(found, data={**found.data, "arrays": found.data["arrays"] + 1}) if found and name == "parity" else found
            )

        assert rendered(README, changed) != README


class TestValues:
    @pytest.mark.parametrize(
        "planted",
        [
            *("1.46x at S 512", "4 s each on average", "0 condemned", "93 of the 345 bounds", "`1.46x`", "a rate of `0.25 %`"),
            *("half as long as before", "ten times faster", "it costs a tenth of that", "| 49 | of the ports |", "off by 1e-5"),
            *("```text\n12 GB/s\n```", "about 20 ns", "- 68 mistakes", "takes (2.5)", "rate 0.003 %", "## 99 correct runs"),
            *("forty-nine of them agree", "half of them", "x1.5 faster", "12x", "three times the memory", "in (0.5) of all"),
        ],
    )
    def test_a_measured_number_in_prose_is_found(self, planted: str) -> None:
        assert claims.unbacked(f"Some words.\n\n{planted}\n\nMore words.") != []
        assert claims.unbacked(README.replace("\n## Speed\n", f"\n{planted}\n\n## Speed\n")) != []

    @pytest.mark.parametrize(
        "text",
        [
            *("Python 3.11 or newer", "ISO 8601", "float64 and GPT-2 and T5", "a row gives 0 and no gradient", "1. Write it"),
            *("`Window(before=255, after=0)`", "`norm + 1e-6`", "```pycon\n>>> 1 + 1\n2\n```", "[page](docs/a1.md)", "B and T"),
            "<!-- results: some -->\n93 of 345\n<!-- end -->",
        ],
    )
    def test_what_is_no_measurement_is_left_alone(self, text: str) -> None:
        assert claims.unbacked(text) == []

    def test_what_is_said_twice_is_found(self) -> None:
        sentence = 'The "envelope" is how near the two trainings stay.'
        assert claims.repeated(f"{sentence} Another one.\n\nWords before it. {sentence}\n") == [sentence.lower()]
        row = "| window at S, forward | as fast as it is |"
        assert claims.repeated(f"{row}\n{row}\n\n```text\n{row}\n```\n") == [row.lower()]
        assert len(claims.repeated("```console\n$ a b c d e f\n```\n" * 2)) == 1

    @pytest.mark.parametrize(
        "path",
        ["DESIGN.md", "reference/porting_mistakes.md", "parity_tests/test_absent.py", "results/absent.json", "docs/absent.md"],
    )
    def test_a_file_that_is_not_there_is_found(self, path: str) -> None:
        assert claims.absent(f"as `{path}` says: {path}, section three") == [path]

    def test_files_that_are_there_or_are_nobodys_are_left_alone(self) -> None:
        text = "README.md, docs/cases_format.md, ggml-org/ggml, docs/gguf.md; build/x.json, config.json, results/<name>.json"
        assert claims.absent(text) == []

    def test_commands_that_are_not_there_are_found(self) -> None:
        text = "`make check test`, `make example-dates`, `make absent`: python -m conformance, python -m tools.absent"
        assert claims.unknown_commands(text) == ["make absent", "python -m tools.absent"]

    def test_a_picture_that_nobody_drew_is_found(self) -> None:
        path = "docs/figures/european_economic_area.png"
        assert claims.undrawn(f"![a]({path})", {path: recorded.digest(ROOT / path)}) == []
        assert claims.undrawn(f"![a]({path})", {path: "0"}) == [path]
        assert claims.undrawn("![a](docs/figures/absent.png)", {}) == ["docs/figures/absent.png"]
        # A page names its pictures from its own folder.
        beside = "figures/european_economic_area.png"
        assert claims.undrawn(f"![a]({beside})", {path: recorded.digest(ROOT / path)}, ROOT / "docs") == []
        assert claims.undrawn(f"![a]({path})", {path: recorded.digest(ROOT / path)}, ROOT / "docs") == [path]

    def test_the_table_of_the_page_is_that_of_the_terminal(self) -> None:
        from attention.parity.numerics.comparison import Verdict  # noqa: PLC0415
        from attention.parity.rendering import text  # noqa: PLC0415 - the other tests of this file need no framework
        from attention.parity.results.report import Report, Row  # noqa: PLC0415

        good = Verdict("output", 1.234, 5.67, (0, 1), 1.0, 1.0, 0.1, 4)
        bad = Verdict("d q_proj.bias", 4.5, 12.0, (3,), 2.0, 1.0, 0.1, 4)
        facts = {"model": "m", "heads": 2, "tokens": 7, "padding": 1, "layer": 3}
        report = Report(
            (
                Row("window", "first", "torch", "sdpa", "float32", (good,)),
                Row("window", "second", "torch", "reference", "float32", (bad, good)),
                Row("self", "first", "jax", "xla", "float32", (good,)),
                Row("m[3]", "text", "jax", "xla", "float32", (good,), facts=facts),
            )
        )
        data = MEASUREMENTS["parity"].collect(json.dumps(report.to_dict()))
        assert [tuple(line) for line in data["lines"]] == [text.cells(group) for group in report.groups()]
        assert data["models"] == text.models(report)
        assert (data["arrays"], data["outside"]) == (5, 1)
        page = body("parity", lambda _: one(name="parity", data=data))
        # What fails is shown, whichever contract it is of.
        assert "window" in page
        assert "differs" in page
        assert "5 arrays compared with the float64 oracle, 1 outside their budget." in page

    def test_the_modules_of_others_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from conformance.__main__ import app  # noqa: PLC0415 - as above
        from conformance.peers import Line  # noqa: PLC0415

        made = [
            Line("a: 1", "torch", "float64", 0.5),
            Line("a: 2", "torch", "float64", 0.25),
            Line("a: 1", "theirs", "float32", 90),
        ]
        monkeypatch.setitem(sys.modules, "conformance.flax_mha", SimpleNamespace(run=lambda: made))
        path = tmp_path / "new" / "modules.json"
        assert CliRunner().invoke(app, ["modules", "flax", f"--json={path}"]).exit_code == 0
        data = MEASUREMENTS["modules"].collect(path.read_text(encoding="utf-8"))
        assert data["rows"] == [["flax", "torch", "float64", 2, 2, 0.5], ["flax", "theirs", "float32", 1, 0, 90.0]]
        page = body("modules", lambda _: one(name="modules", data=data))
        assert "| `flax.nnx.MultiHeadAttention` | 2 / 2, 0.5 |  |  |  | 0 / 1, 90 |" in page

    def test_the_trials_of_the_diagnosis_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from tools.evaluation import diagnosis_accuracy  # noqa: PLC0415 - as above

        found: Any = SimpleNamespace(explanations=(), state="unknown", seconds=1.0)
        done = [diagnosis_accuracy.Trial("pairs", "self", "a + b", found, good) for good in (True, False, True)]
        monkeypatch.setattr(diagnosis_accuracy, "trials", lambda *_: iter(done))
        path = tmp_path / "score.json"
        assert diagnosis_accuracy.main(["--json", str(path)]) == 1
        data = MEASUREMENTS["diagnosis"].collect(path.read_text(encoding="utf-8"))
        assert data == {"side": "torch", "kinds": {"pairs": {"total": 3, "good": 2}}}
        page = body("mistakes", lambda name: one(name=name, data=data) if name == "diagnosis" else None)
        assert "| 3 random pairs of them | the truth among the first three in 2 |" in page

    def test_a_short_transcript_leaves_out_what_stands_below_a_heading(self) -> None:
        data = [" pair", "last in agreement:", "  torch  x", "divergence", "  torch  y", "verdict: differs"]
        page = body("compare-short", lambda _: one(name="compare", data=data))
        assert page.splitlines()[1:8] == [
            "$ python -m some",
            " pair",
            "...",
            "divergence",
            "  torch  y",
            "verdict: differs",
            "```",
        ]

    def test_the_floors_are_those_of_the_settings(self) -> None:
        rows = body("floors-house", lambda _: None).splitlines()
        assert rows[1] == "5   cli   pytest_plugin"
        assert rows[-1].startswith("| `spec` | ")

    def test_a_table(self) -> None:
        assert table(("a", "b"), [("c", "d")]) == "| a | b |\n| --- | --- |\n| c | d |"

    def test_what_fits_into_a_line_stands_on_one(self) -> None:
        assert doctest.testmod(recorded).failed == 0

    def test_a_file_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        made = one(data={"rows": [["x", 1, None]] * 40, "text": "ü"})
        assert read("some", made.write(tmp_path).parent) == made
        assert max(map(len, lines(made.data).splitlines())) <= recorded.WIDTH

    def test_a_command_is_run_and_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running, "ROOT", tmp_path)
        _ = (tmp_path / "says.py").write_text("import sys\nprint(len(sys.argv))\nsys.exit(len(sys.argv) - 2)\n")
        measurement = Measurement(name="says", command=("says", "one", "two"), collect=int, stamp=lambda _: {"commit": "abc"})
        running.run(measurement)
        found = running.collect(measurement)
        assert (found.data, found.command, found.commit) == (3, "python -m says one two", "abc")
        assert found.date == date.today().isoformat()  # noqa: DTZ011 - as above
        # The exit code 2 is that of a call that could not be answered, and what was there before is no answer either.
        with pytest.raises(
            OptionError, match="'python -m says one two three' must exit with 0 or 1 to be recorded, and exited with 2"
        ):
            running.run(replace(measurement, command=(*measurement.command, "three")))


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "error", "match"),
        [
            ("<!-- results: parity -->\nno end\n", FileError, "must stand on a line of its own"),
            ("<!-- results: parity -->\n<!-- results: onnx -->\n<!-- end -->\n", FileError, "must stand on a line of its own"),
            ("words\n<!-- end -->\n", FileError, "must stand on a line of its own"),
            ("<!-- results: absent -->\n<!-- end -->\n", UnknownName, "block 'absent' must be one of budget, compare, "),
        ],
    )
    def test_a_block_that_is_none(self, text: str, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            _ = rendered(text)

    @pytest.mark.parametrize("name", [name for name, figure in FIGURES.items() if figure.measured])
    def test_a_figure_without_results(self, name: str) -> None:
        with pytest.raises(FileError, match=f"block '{name}' must have a results file, and none is recorded"):
            _ = body(name, lambda _: None)

    @pytest.mark.parametrize("text", ["{", "[]", '{"name": "some"}'])
    def test_a_file_that_holds_something_else(self, text: str, tmp_path: Path) -> None:
        _ = (tmp_path / "some.json").write_text(text)
        with pytest.raises(FileError, match=r"some\.json' must be "):
            _ = read("some", tmp_path)

    def test_a_measurement_that_nobody_knows(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["record", "absent"]) == 2
        assert capsys.readouterr().err.startswith("results: measurement 'absent' must be one of parity, ")

    def test_what_was_not_written_is_not_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running, "ROOT", tmp_path)
        with pytest.raises(FileError, match=r"onnx\.json' must be what 'python -m conformance onnx .*' wrote: run it first"):
            _ = running.collect(MEASUREMENTS["onnx"])
