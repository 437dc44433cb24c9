"""The portable suite: what is exported suffices to judge an implementation, and judges it as ours are judged.

check(export, right) agrees        check(export, wrong by 0.003 %) does not        a damaged export is refused
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from typer.testing import CliRunner, Result

from attention import cli
from attention.parity import exported_cases
from attention.parity.contracts.probes import Probe, probes
from attention.parity.exported_cases import CaseCall, call_arrays, checker, file_format, writer
from attention.parity.exported_cases.implementation_io import loaded
from attention.parity.numerics.error_budget import Budget
from attention.parity.results.report import Report
from attention.spec.axes import COMPUTE
from attention.spec.cases import CASES
from attention.spec.errors import FileError, OptionError, UnknownName
from attention.spec.files import decode, encode

NOTHING = Budget({}, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "cases"
    _ = exported_cases.export(folder, ["self"])
    return folder


@pytest.fixture
def cases(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "cases"))


def port(given: CaseCall, scale: float = 10**-0.5) -> dict[str, np.ndarray]:
    """A third implementation of "self", from the arrays alone: plain torch, gradients by autograd."""
    leaf = {f"d {n}": torch.tensor(x, requires_grad=True) for n, x in {**given.inputs, **given.weights}.items()}
    w, may, query = (lambda n: leaf[f"d {n}"]), torch.tensor(given.mask), leaf["d query"]
    read = {"q": may.any(3).any(1), "k": may.any(2).any(1), "v": may.any(2).any(1)}
    key = leaf.get("d key", query)
    inputs = {"q": query, "k": key, "v": leaf.get("d value", key)}

    def project(n: str) -> torch.Tensor:
        x = torch.where(read[n][..., None], inputs[n], 0)
        return torch.einsum("btm,mhd->bhtd", x, w(f"{n}_proj.kernel")) + w(f"{n}_proj.bias")[:, None]

    q, k, v = map(project, "qkv")
    scores = q @ k.transpose(2, 3) * scale + leaf.get("d bias", 0)
    masked = torch.where(may, scores, -torch.inf)
    # A row without keys has no softmax, nor has its gradient.
    alive = may.any(-1, keepdim=True)
    weights = torch.where(alive, torch.where(alive, masked, 0).softmax(-1), 0)
    logsumexp = torch.where(alive[..., 0], torch.where(alive, masked, 0).logsumexp(-1), -torch.inf)
    output = torch.einsum("bhtd,hdm->btm", weights @ v, w("out_proj.kernel")) + w("out_proj.bias")
    made = {"output": output, "weights": weights, "logsumexp": logsumexp}
    cotangents = {n: torch.tensor(c) for n, c in given.cotangents.items()}
    gradients = torch.autograd.grad([made[n] for n in cotangents], [*leaf.values()], [*cotangents.values()])
    results = {**made, **dict(zip(leaf, gradients, strict=True))}
    return {n: x.detach().numpy() for n, x in results.items() if n in given.results}


def off_by_a_little(given: CaseCall) -> dict[str, np.ndarray]:
    return port(given, 10**-0.5 * (1 + 3e-5))


def found(report: Report) -> dict[str, str]:
    return {row.probe: row.failure for row in report.rows}


def all_arrays(probe: Probe) -> dict[str, np.ndarray]:
    """What an implementation sees, and nothing else."""
    return loaded(save(call_arrays.gathered(probe, NOTHING)))


def resolved_call(template: Mapping[str, Any], given: Mapping[str, np.ndarray], place: str = "") -> dict[str, Any]:
    """The resolved call again, from the arrays of an export alone; `template` says which fields a layer has."""
    here, made = place or "attention", dict[str, Any]()
    for name, value in template.items():
        inner = f"{place}.{name}".removeprefix(".")
        if value is None:
            made[name] = None
        elif name in call_arrays.TABLES:
            made[name] = tuple(given[f"rotary.{here}.{call_arrays.TABLES[name]}.{part}"] for part in ("cos", "sin"))
        elif name.endswith("_positions"):
            made[name] = given[f"positions.{name.removesuffix('_positions')}"]
        elif name == "keep" and isinstance(value, Mapping):
            made[name] = {part: given.get(f"keep.{part}") for part in value}
        elif isinstance(value, Mapping):
            made[name] = resolved_call(value, given, inner)
        else:
            made[name] = given[
                {"allowed": f"masks.{here}", "present": "masks.present", "keep": f"keep.{here}"}.get(name, inner)
            ]
    return made


class TestLaws:
    @pytest.mark.parametrize("name", CASES)
    def test_the_arrays_suffice_for_every_contract(self, name: str) -> None:
        corners = ("padding", "left padding", "few queries", "far positions", "dropout", "bias")
        for probe in (p for p in probes(CASES[name].contract) if p.name in corners):
            contract, given = decode(json.loads(json.dumps(encode(probe.contract)))), all_arrays(probe)
            resolved = probe.contract.resolve(probe.arrays, **probe.call())
            weights, inputs = ({n: np.float64(x) for n, x in group.items()} for group in (probe.weights, probe.arrays))
            mine = {n.partition(".")[2]: np.float64(x) for n, x in given.items() if n.startswith("weights.")}
            theirs = {n.partition(".")[2]: np.float64(x) for n, x in given.items() if n.startswith("inputs.")}
            with np.errstate(invalid="ignore", over="ignore"):
                wanted = probe.contract.formula(np, weights, inputs, resolved)
                got = contract.formula(np, mine, theirs, resolved_call(resolved, given))
            for output in probe.contract.outputs:
                np.testing.assert_array_equal(got[output], wanted[output], err_msg=probe.name)

    def test_a_right_implementation_agrees_on_every_probe(self, exported: Path) -> None:
        report = exported_cases.check(exported, port)
        report.assert_ok()
        assert {v.name for row in report.rows for v in row.verdicts} > {
            "output",
            "weights",
            "logsumexp",
            "d query",
            "d key",
            "d bias",
        }
        assert not report.notes, "everything was compared"

    def test_a_scale_wrong_by_0_003_percent_is_seen_in_every_probe_that_has_it(self, exported: Path) -> None:
        report = exported_cases.check(exported, off_by_a_little)
        assert not any(row.agrees for row in report.rows)
        assert {row.side for row in report.rows} == {"off_by_a_little"}

    def test_the_same_seed_writes_the_same_bytes_and_another_does_not(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "probes", lambda *args: probes(*args)[:2])
        again, other = exported_cases.export(tmp_path / "a", ["self"]), exported_cases.export(tmp_path / "b", ["self"], seed=1)
        assert again.entries == exported_cases.read_index(exported).entries[:2]
        assert again == exported_cases.read_index(tmp_path / "a")
        assert all(
            a.sha256["safetensors"] != b.sha256["safetensors"] for a, b in zip(again.entries, other.entries, strict=True)
        )

    def test_rounding_that_is_declared_widens_the_budget_and_nothing_else(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = exported_cases.Entry("self", "saturated scores", "float32")
        monkeypatch.setattr(writer, "probes", lambda *args: [p for p in probes(*args) if p.name == entry.probe])
        _ = exported_cases.export(tmp_path / "cases", ["self"], rounds=["logsumexp"])
        plain, fused = (load((folder / entry.files[1]).read_bytes()) for folder in (exported, tmp_path / "cases"))
        assert np.median(fused["sigma.d q_proj.kernel"] / plain["sigma.d q_proj.kernel"]) > 1.2
        np.testing.assert_array_equal(fused["oracle.output"], plain["oracle.output"])


class TestValues:
    def test_the_index_holds_the_checksum_of_every_file(self, exported: Path) -> None:
        index = json.loads((exported / "index.json").read_text())
        named = {f"{call['path']}.{suffix}": sha for call in index["calls"] for suffix, sha in call["sha256"].items()}
        files = {p.relative_to(exported).as_posix(): p for p in exported.rglob("*") if p.is_file() and p.name != "index.json"}
        assert named == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        assert (index["format"], index["version"]) == ("attention-cases", "1")
        assert index["cases"]["self"]["source"] == CASES["self"].source
        assert {"attention", "numpy", "jax"} <= index["made_with"].keys()

    def test_a_call_says_what_it_is(self, exported: Path) -> None:
        facts = json.loads((exported / "self" / "few_queries.float32.json").read_text())
        assert (facts["probe"], facts["dtype"], facts["computes_in"], facts["training"]) == (
            "few queries",
            "float32",
            "float32",
            False,
        )
        assert facts["limits"] == {"rms": 4.0, "max": 30.0}
        assert decode(facts["contract"]) == CASES["self"].contract.pinned()
        assert facts["results"][:4] == ["output", "d query", "d key", "d value"]

    def test_a_mask_is_the_contracts_and_the_calls_together(self) -> None:
        padding = next(p for p in probes(CASES["causal"].contract) if p.name == "padding")
        rows, columns = np.mgrid[:13, :13]
        mask = all_arrays(padding)["masks.attention"]
        assert mask.shape == (3, 6, 13, 13)
        np.testing.assert_array_equal(mask[1, 2], (columns <= rows) & (columns < 8) & (rows < 8))

    def test_positions_are_written_out_where_the_layer_looks_at_them(self) -> None:
        plain, far = (next(p for p in probes(CASES["rotary"].contract) if p.name == n) for n in ("plain", "far positions"))
        np.testing.assert_array_equal(all_arrays(plain)["positions.query"], np.arange(13))
        np.testing.assert_array_equal(all_arrays(far)["positions.key"], np.arange(8190, 8203))
        assert all_arrays(far)["rotary.attention.key.cos"].shape == (13, 5)
        assert not any(n.startswith("positions.") for n in all_arrays(probes(CASES["self"].contract)[0]))
        assert "positions.x" in all_arrays(probes(CASES["encoder_pre_norm"].contract)[0])

    def test_notes_say_what_is_unusual(self) -> None:
        said = {p.name: " ".join(call_arrays.notes(p, all_arrays(p))) for p in probes(CASES["dropout"].contract)}
        assert "query: padded tokens hold NaN and inf" in said["padding"]
        assert "may attend to no key" in said["padding"]
        assert "dropout is on" in said["dropout"]
        assert "key, value: absent" in said["plain"]
        assert said["few keys"] == ""

    def test_dropout_is_a_mask_in_the_file(self) -> None:
        kept = all_arrays(next(p for p in probes(CASES["dropout"].contract) if p.name == "dropout"))["keep.attention"]
        assert kept.dtype == bool
        assert 0.6 < kept.mean() < 0.8, "a rate of 0.3"

    @pytest.mark.parametrize("dtype", COMPUTE)
    def test_arrays_have_the_dtype_of_the_call(self, dtype: str) -> None:
        given = all_arrays(probes(CASES["self"].contract, dtype)[0])
        assert {str(given[n].dtype) for n in ("inputs.query", "weights.q_proj.kernel", "cotangents.output")} == {dtype}

    def test_what_is_not_given_is_said(self, exported: Path) -> None:
        report = exported_cases.check(
            exported, lambda given: {n: x for n, x in port(given).items() if n != "d v_proj.bias"}, name="mine"
        )
        assert report.ok
        assert report.notes == ("not compared, for the implementation does not give them: d v_proj.bias (self)",)
        assert "d v_proj.bias" in str(report)

    def test_the_reader_of_the_documentation_judges_self(
        self, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (Path(__file__).parents[3] / "docs" / "cases_format.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        monkeypatch.chdir(exported.parent)
        with np.errstate():
            exec(code, {})  # noqa: S102 - the document's own words are what is tested
            assert capsys.readouterr().out == "10 results of self agree\n"
            with pytest.raises(AssertionError, match="plain"):
                exec(code.replace("np.sqrt(q.shape[-1])", "(1.00003 * np.sqrt(q.shape[-1]))"), {})  # noqa: S102

    def test_the_documentation_names_every_group(self) -> None:
        text = (Path(__file__).parents[3] / "docs" / "cases_format.md").read_text()
        assert all(f"| `{group}` |" in text for group in file_format.GROUPS)
        assert f"version {file_format.VERSION}" in text


class TestFailures:
    """What is wrong with an implementation is said of the call where it is, and the others are judged."""

    @pytest.mark.parametrize(
        ("result", "text"),
        [
            (lambda _: None, "returned NoneType but must return a dict of arrays by name: output"),
            (lambda g: {**port(g), "dquery": 0}, "'dquery' must be one of output, d query"),
            (lambda g: {**port(g), "output": None}, "'output' is absent but must be given: it is no gradient"),
            (
                lambda g: {**port(g), "output": port(g)["output"][0]},
                r"'output' \(13, 22\) must be \(3, 13, 22\) as the oracle's is",
            ),
            (lambda g: {**port(g), "d query": "wide"}, "'d query' str must be an array of floats"),
            (
                lambda g: {**port(g), "output": torch.ones(3, requires_grad=True)},
                "'output' Tensor must be an array of floats: .*detach",
            ),
        ],
    )
    def test_results_that_cannot_be_judged(self, exported: Path, result: Any, text: str) -> None:
        asked = exported_cases.exported_case(exported, exported_cases.read_index(exported).entries[0])
        row, absent = checker.check_call(asked, result, "mine")
        assert re.search(text, row.failure)
        assert not row.agrees
        assert absent == ()

    def test_an_exception_is_named_with_its_line_and_the_rest_goes_on(self, exported: Path) -> None:
        def fragile(given: CaseCall) -> dict[str, np.ndarray]:
            if given.probe == "packed":
                return {"output": np.ones(2) @ np.ones(3)}
            return port(given)

        report = exported_cases.check(exported, fragile)
        failures = found(report)
        assert re.match(r"raised ValueError at test_suite.py:\d+: matmul: ", failures.pop("packed"))
        assert not report.ok
        assert set(failures.values()) == {""}
        assert all(row.verdicts for row in report.rows if row.probe != "packed")

    def test_what_is_not_supported_condemns_nothing(self, exported: Path) -> None:
        def modest(given: CaseCall) -> dict[str, np.ndarray]:
            if "bias" in given.inputs or given.probe == "packed":
                raise NotImplementedError("no bias")
            return port(given)

        report = exported_cases.check(exported, modest)
        assert report.ok
        assert [row.refusal for row in report.rows if row.refusal] == ["modest refuses: no bias"] * 2

    def test_an_interrupt_is_no_failure_of_the_implementation(self, exported: Path) -> None:
        def interrupted(_: CaseCall) -> dict[str, np.ndarray]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _ = exported_cases.check(exported, interrupted)

    def test_arrays_are_the_receivers_own(self, exported: Path) -> None:
        def greedy(given: CaseCall) -> dict[str, np.ndarray]:
            made = port(given)
            for array in (*given.inputs.values(), *given.weights.values()):
                array[...] = 0
            return made

        exported_cases.check(exported, greedy).assert_ok()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text", "error"),
        [
            ({"contracts": ["nope"]}, "contract 'nope' must be one of self, cross", UnknownName),
            ({"dtypes": ["int8"]}, "dtype 'int8' must be one of", UnknownName),
            ({"rounds": ["context"]}, "rounds 'context' must be one of 'weights', 'd scores', 'logsumexp'", UnknownName),
            ({"seed": -1}, "seed -1 must be an int >= 0", OptionError),
        ],
    )
    def test_options_that_do_not_exist(
        self, tmp_path: Path, options: dict[str, Any], text: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=text):
            _ = exported_cases.export(tmp_path / "cases", **options)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_holds_other_files_is_left_alone(self, tmp_path: Path) -> None:
        _ = (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(FileError, match="holds other files, but must be absent, empty or an export; --force writes beside"):
            _ = exported_cases.export(tmp_path, ["dot"])
        with pytest.raises(FileError, match="is a file, but must be a folder or absent"):
            _ = exported_cases.export(tmp_path / "thesis.tex", ["dot"])
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_an_export_takes_the_place_of_the_old_one_and_spares_what_is_not_its_own(
        self, cases: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "probes", lambda *_: [])
        _ = (cases / "self" / "mine.txt").write_text("")
        (cases / "mine").mkdir()
        _ = (cases / "mine" / "port.py").write_text("")
        _ = exported_cases.export(cases, ["causal"])
        assert sorted(p.relative_to(cases).as_posix() for p in cases.rglob("*") if p.is_file()) == [
            "index.json",
            "mine/port.py",
            "self/mine.txt",
        ]

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
    def test_an_export_that_gives_up_leaves_the_old_one_whole(
        self, cases: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def crash(*_: Any) -> None:
            raise error

        before = exported_cases.read_index(cases)
        monkeypatch.setattr(writer, "expect", crash)
        caught = (
            pytest.raises(FileError, match="must be writable: disk full")
            if isinstance(error, OSError)
            else pytest.raises(KeyboardInterrupt)
        )
        with caught:
            _ = exported_cases.export(cases, ["causal"])
        assert exported_cases.read_index(cases) == before
        assert list(cases.parent.iterdir()) == [cases], "nothing half written lies beside it"
        exported_cases.check(cases, port).assert_ok()

    def test_a_file_that_changed_is_refused(self, cases: Path) -> None:
        path = cases / "self" / "plain.float32.safetensors"
        whole = path.read_bytes()
        for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
            _ = path.write_bytes(content)
            with pytest.raises(FileError, match=r"plain.float32.safetensors' has SHA-256 .* but must have .* export it anew"):
                _ = exported_cases.check(cases, port)
        path.unlink()
        with pytest.raises(FileError, match=r"must be readable: .*No such file"):
            _ = exported_cases.check(cases, port)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"version": "2"}, r"has .*'version': '2'.* but must have .*'version': '1'"),
            ({"format": "gguf"}, "has .*'gguf'.* but must have"),
            ({"calls": None}, "must list its calls as version 1 does"),
            ({"calls": [{"case": "self"}]}, "must list its calls as version 1 does: KeyError"),
            ({"calls": [{"case": "../..", "probe": "x", "dtype": "y", "path": "../../x.y", "sha256": {}}]}, "must lie at"),
            (
                {
                    "calls": [
                        {"case": "..", "probe": "x", "dtype": "y", "path": "../x.y", "sha256": {"json": "", "safetensors": ""}}
                    ]
                },
                "lie at",
            ),
        ],
    )
    def test_an_index_that_is_not_of_this_version(self, cases: Path, change: dict[str, Any], text: str) -> None:
        path = cases / "index.json"
        _ = path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(FileError, match=text) as caught:
            _ = exported_cases.check(cases, port)
        assert type(caught.value) is FileError

    @pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
    def test_a_folder_that_is_no_export(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            _ = (tmp_path / "index.json").write_bytes(content)
        with pytest.raises(FileError, match=r"must hold index.json|must be JSON|but must have"):
            _ = exported_cases.check(tmp_path, port)

    def test_names_that_were_not_exported(self, exported: Path) -> None:
        with pytest.raises(UnknownName, match="contract 'causal' must be one of those exported: self"):
            _ = exported_cases.check(exported, port, contracts=["causal"])
        with pytest.raises(UnknownName, match="dtype 'float16' must be one of those exported: float32"):
            _ = exported_cases.check(exported, port, dtypes=["float16"])


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["cases", *words])


class TestCommands:
    PORT = "from attention.parity.exported_cases import CaseCall\n\ndef run(given: CaseCall):\n    return {}\n"

    def test_list_names_contracts_and_calls(self, exported: Path) -> None:
        assert "rotary_interleaved" in run("list").stdout
        assert run("list", str(exported)).stdout.split("\n")[0].split() == ["self", "float32", "plain"]

    def test_export_says_how_much_it_wrote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer, "probes", lambda *args: probes(*args)[:1])
        result = run("export", str(tmp_path / "cases"), "--contract", "self", "--dtype", "bfloat16")
        assert result.exit_code == 0, result.output
        assert re.search(r"1 calls of 1 contracts in .*cases: 0\.\d MB", result.stdout)

    @pytest.mark.parametrize(
        ("body", "code", "text"),
        [
            ("__import__('test_suite_port').port(given)", 0, "0 outside their budget"),
            ("__import__('test_suite_port').off_by_a_little(given)", 1, "d q_proj.kernel"),
            ("1 / 0", 1, "raised ZeroDivisionError at mine.py:4: division by zero"),
            ("__import__('sys').exit(0)", 1, "raised SystemExit at mine.py:4: 0"),
        ],
    )
    def test_check_exits_with_what_it_found(
        self, exported: Path, tmp_path: Path, body: str, code: int, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys  # noqa: PLC0415 - the port stands in this file, which is no module of its own

        monkeypatch.setitem(sys.modules, "test_suite_port", sys.modules[__name__])
        _ = (tmp_path / "mine.py").write_text(self.PORT.format(body))
        path = tmp_path / "report.json"
        result = run("check", str(exported), "--with", f"{tmp_path / 'mine.py'}:run", "--json", str(path))
        assert (result.exit_code, text in result.stdout) == (code, True), result.output
        assert json.loads(path.read_text())["ok"] is (code == 0)

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["check", "{}/none", "--with", "math:sqrt"], "attention: DIR '{}/none' must hold index.json"),
            (["check", "{}", "--with", "math:pi"], "attention: --with 'math:pi' float must be a function"),
            (["export", "{}/new", "--contract", "nope"], "attention: --contract 'nope' must be one of"),
        ],
    )
    def test_a_bad_call_is_one_line_and_exits_with_2(self, exported: Path, words: list[str], line: str) -> None:
        result = run(*(word.format(exported) for word in words))
        assert result.exit_code == 2
        assert result.stderr.startswith(line.format(exported))
        assert result.stderr.count("\n") == 1
