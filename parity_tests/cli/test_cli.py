"""The command line: what it prints, and how it ends."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from attention import cli
from attention.parity import verify
from attention.parity.contracts import backends
from attention.parity.results.report import Report, Row
from attention.spec.errors import UnknownName
from parity_tests.support.absent import needs


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, words)


class TestValues:
    @pytest.mark.parametrize("words", [["--help"], ["verify", "--help"], ["kernels", "explain", "--help"]])
    def test_help_teaches(self, words: list[str]) -> None:
        result = run(*words)
        assert result.exit_code == 0
        assert "float64 oracle" in result.output or "kernel" in result.output

    @needs("jax")
    def test_list_names_contracts_and_models(self) -> None:
        result = run("verify", "--list")
        assert result.exit_code == 0
        assert "rotary_interleaved" in result.output
        assert "pip install --no-deps rxnmapper==0.4.3" in result.output

    @needs("torch", "jax")
    def test_parity_of_one_contract_writes_json(self, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        result = run("verify", "--contract", "multi_query", "--backend", "torch", "--json", str(path))
        assert result.exit_code == 0, result.output
        assert "multi_query" in result.output
        assert "0 outside their budget" in result.output
        assert json.loads(path.read_text())["ok"] is True

    def test_processes_share_the_work_and_an_error_of_one_ends_it(self) -> None:
        steps = [
            *verify.plan(["general"], [], backends=["numpy"]),
            verify.Step("wrong", cast("Any", partial(backends.find, "mlx"))),
        ]
        reports: dict[str, Report] = {}
        with pytest.raises(UnknownName, match=r"^backend 'mlx' must be one of 'numpy', 'torch', 'jax'"):  # noqa: PT012 - a loop fills the dict
            for step, report in verify.run(steps, jobs=2):
                reports[step.name] = report
        serial = {step.name: report for step, report in verify.run(steps[:1])}
        assert serial["general, float32"].ok
        assert all(serial[name].to_dict()["rows"] == report.to_dict()["rows"] for name, report in reports.items())

    @needs("torch", "jax")
    def test_kernels_show_every_kernel_and_why_not(self) -> None:
        result = run("kernels", "explain", "--softcap", "5")
        assert result.exit_code == 0
        assert "torch  kernel 'sdpa' refuses: has no softcap" in result.output
        assert "torch  kernel 'reference' runs" in result.output
        assert "jax    kernel 'reference' runs" in result.output

    @needs("torch", "jax")
    def test_kernels_show_that_one_is_preferred(self) -> None:
        assert "could run; 'sdpa' is preferred" in run("kernels", "explain").output


class TestExits:
    @needs("jax")
    def test_a_mismatch_exits_with_1_and_nothing_compared_with_2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "plan", lambda *_: [verify.Step("nothing compared", Report)])
        assert run("verify").exit_code == 2
        wrong = Report((Row("self", "plain", "torch", "sdpa", "float32", failure="NaN in output"),))
        monkeypatch.setattr(verify, "plan", lambda *_: [verify.Step("wrong", lambda: wrong)])
        assert run("verify").exit_code == 1

    @needs("torch", "jax")
    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["--contract", "nope"], "attention: --contract 'nope' must be one of self, cross"),
            (["--dtype", "int8", "--contract", "self"], "attention: --dtype 'int8' must be one of float64, float32"),
            (["--backend", "mlx"], "attention: --backend 'mlx' must be one of 'numpy', 'torch', 'jax'"),
            (["--real", "gpt5"], "attention: --real 'gpt5' must be one of rxnmapper, minilm"),
        ],
    )
    def test_a_bad_name_is_one_line_and_exits_with_2(self, words: list[str], line: str) -> None:
        result = run("verify", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(line)
        assert result.stderr.count("\n") == 1

    @needs("jax")
    def test_an_interrupt_is_one_line_and_exits_with_130(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> Report:
            raise KeyboardInterrupt

        monkeypatch.setattr(verify, "plan", lambda *_: [verify.Step("long", interrupted)])
        result = run("verify")
        assert result.exit_code == 130
        assert "attention: interrupted" in result.stderr

    @needs("jax")
    def test_an_error_that_is_not_ours_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> Report:
            raise ValueError("a bug")

        monkeypatch.setattr(verify, "plan", lambda *_: [verify.Step("bug", broken)])
        assert isinstance(run("verify").exception, ValueError)

    @needs("jax")
    def test_a_missing_framework_is_one_line_that_names_the_extra(self) -> None:
        code = (
            "import sys, importlib.util as u; find = u.find_spec\n"
            "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
            "sys.argv = ['attention', 'verify', '--contract', 'self']\n"
            "from attention.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert (
            done.stderr
            == "attention: --backend 'torch' needs torch, which is not installed: pip install 'attention-parity[torch]'\n"
        )

    def test_help_imports_no_framework_and_no_numpy(self) -> None:
        code = (
            "import sys; sys.argv = ['attention', '--help']\n"
            "from attention.cli import main\n"
            "try: main()\n"
            "finally: assert not {'numpy', 'torch', 'jax'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
