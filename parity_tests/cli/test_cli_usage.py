"""The command line for people: examples, bad usage, what is refused before the work, and interrupts."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from attention import __version__, cli
from attention.cli.examples import EXAMPLES
from attention.cli.wording import spoken
from parity_tests.support.absent import needs

ROOT = Path(__file__).parents[2]
SLOW = ("kernels measure", "kernels tune", "bench", "bench run", "bench requirements", "bench compare", "bench plot")
"""Examples that take long, or read what another one wrote; those of `bench` have tests of their own."""
RUN = [(name, line) for name, lines in EXAMPLES.items() if name not in SLOW for line in lines]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, words)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command and group."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def every() -> list[tuple[str, ...]]:
    from benchmarks.__main__ import app as bench  # noqa: PLC0415 - the benchmarks' own application

    ours = [*commands(typer.main.get_command(cli.app))]
    return [*ours, *(("bench", *path) for path in commands(typer.main.get_command(bench)) if path)]


class TestHelp:
    @pytest.mark.parametrize("path", every(), ids=lambda path: " ".join(path) or "attention")
    def test_help_opens_with_an_example_and_ends_with_the_exit_codes(self, path: tuple[str, ...]) -> None:
        result = run(*path, "--help")
        assert result.exit_code == 0, result.output
        first, second, *_ = result.output.splitlines()
        assert (first, second.strip()) == ("Example:", EXAMPLES[" ".join(path)][0])
        assert "0 agrees" in result.output
        assert "2 cannot tell or bad usage" in " ".join(result.output.split())

    def test_every_example_is_of_a_command(self) -> None:
        assert {" ".join(path) for path in every()} == set(EXAMPLES)

    @needs("torch", "jax")
    def test_every_example_works(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        for line in dict.fromkeys(line for _, line in RUN):
            result = run(*shlex.split(line)[1:], *(["--jobs", "1"] if " verify " in line else []))
            # A port with a mistake, and a GELU that is another one, differ.
            differs = any(word in line for word in ("model_jax.py", "make_jax", "jax.nn:gelu"))
            assert result.exit_code == int(differs), (line, result.output)

    def test_the_version(self) -> None:
        assert run("--version").output == f"attention-parity {__version__}\n"

    def test_a_list_imports_no_framework(self) -> None:
        code = (
            "import sys; from attention.cli import app\n"
            "try: app(['verify', '--list'])\n"
            "finally: assert not {'torch', 'jax', 'flax', 'transformers'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "rotary_interleaved" in done.stdout


class TestBadUsage:
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (("verfy",), "Did you mean 'verify'?"),
            (("compare", "a:f", "b:f", "--input", "2"), "--inputs"),
            (("verify", "--contract", "rotery"), "did you mean 'rotary'?"),
            (("compare", "math:sin", "math:sin", "--contract", "rotery"), "did you mean 'rotary'?"),
            (("kernels", "explain", "--dtype", "float23"), "attention: --dtype 'float23' must be one of"),
            (("kernels", "explain", "--mask", "window"), "attention: --mask 'window' must be made of causal"),
            (("kernels", "explain", "--backend", "tpu"), "attention: --backend 'tpu' must be one of torch, jax"),
            (("kernels", "explain", "--peak", "3"), "--peak and --bandwidth must be given together"),
            (("kernels", "measure", "x.json", "--mask", "cusal"), "attention: --mask 'cusal' must be one of"),
            (("kernels", "tune", "--dtype", "float23"), "attention: --dtype 'float23' must be one of"),
        ],
    )
    @needs("torch", "jax")
    def test_a_bad_word_is_told_without_a_traceback(self, words: tuple[str, ...], text: str) -> None:
        result = run(*words)
        assert result.exit_code == 2, result.output
        assert text in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (("verify", "--steps", "3"), "--steps must come with --train"),
            (("verify", "--train", "--dtype", "float32"), "--dtype must not be given with --train"),
            (("verify", "--list", "--json", "x.json"), "--json must not be given with --list"),
            (("compare", "a:f", "b:f"), "--inputs must be given, or --contract"),
            (("compare", "a:f", "b:f", "--contract", "self", "--trace"), "--trace must come with --inputs"),
            (("compare", "a:f", "b:f", "--inputs", "2", "--jax-params", "m:f"), "--jax-params must come with --contract"),
            (
                ("compare", "a:f", "b:f", "--inputs", "2", "--logits", "--no-gradients"),
                "--gradients must not be given with --logits",
            ),
            (("layers", "a:f", "b:f"), "--inputs must be given, unless a model is a recording"),
        ],
    )
    def test_an_option_that_means_nothing_is_refused(self, words: tuple[str, ...], line: str) -> None:
        result = run(*words)
        assert (result.exit_code, result.stderr) == (2, f"attention: {line}\n")

    @pytest.mark.parametrize(
        "words",
        [
            ("verify", "--json"),
            ("verify", "--train", "--plot"),
            ("compare", "no:f", "no:f", "--inputs", "2", "--json"),
            ("compare", "no:f", "no:f", "--inputs", "2", "--html"),
            ("layers", "no:f", "no:f", "--inputs", "2", "--html"),
            ("decoding", "no:f", "--json"),
            ("logits", "no:f", "no:f", "--plot"),
            ("record", "model", "no:f", "--inputs", "2"),
            ("record", "program", "no:f", "--inputs", "2"),
            ("record", "contracts", "--backend", "torch"),
            ("replay", "no.safetensors", "--json"),
            ("cases", "check", "no", "--with", "no:f", "--json"),
            ("kernels", "measure"),
        ],
    )
    def test_a_path_that_cannot_be_written_is_refused_before_the_work(self, words: tuple[str, ...], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file" / "out", *(() if "--plot" in words else (tmp_path,))):
            result = run(*words, str(path))
            assert result.exit_code == 2, result.output
            assert result.stderr.startswith(f"attention: path '{path}' must be "), result.stderr
            assert result.stderr.count("\n") == 1

    def test_a_package_that_writes_the_page_is_asked_for_before_the_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attention._extras.find_spec", lambda module: None if module == "jinja2" else module)
        result = run("compare", "no:f", "no:f", "--inputs", "2", "--html", "x.html")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "--html needs jinja2, which is not installed: pip install 'attention-parity[report]'" in result.stderr


class TestNothingCompared:
    @needs("torch", "jax")
    def test_nothing_that_was_compared_is_no_agreement(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        _ = Path("port.py").write_text("def run(given):\n    raise NotImplementedError('no')\n")
        np.save("none.npy", np.zeros((0, 4), np.float32))
        assert run("cases", "export", "cases", "--contract", "self").exit_code == 0
        for words in (
            ("compare", "torch:sin", "jax.numpy:cos", "--inputs", "0,4"),
            ("verify", "--contract", "softcap", "--backend", "torch", "--implementation", "sdpa", "--jobs", "1"),
            ("cases", "check", "cases", "--with", "port.py:run"),
            ("logits", "none.npy", "none.npy"),
        ):
            result = run(*words)
            assert result.exit_code == 2, (words, result.output)
            assert "agrees\n" not in result.output

    @needs("torch", "jax")
    def test_a_contract_is_compared_with_modules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        _ = Path("port.py").write_text(
            "from attention import spec\nfrom torch import nn\n"
            "contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)\n"
            "class Wrapped(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.inner = contract.build('torch')\n"
            "    def forward(self, query):\n        return self.inner(query)\n"
            "def canonical(own):\n"
            "    shapes = {name: param.shape for name, param in contract.params.items()}\n"
            "    found = {name.removeprefix('inner.').replace('weight', 'kernel'): x.T for name, x in own.items()}\n"
            "    return {name: x.reshape(shapes[name]) for name, x in found.items()}\n"
        )
        bare = run("compare", "port.py:Wrapped", "jax", "--contract", "port.py:contract")
        assert bare.exit_code == 2
        assert "--torch-params" in bare.stderr, bare.stderr
        for words in (("torch",), ("port.py:Wrapped", "--torch-params", "port.py:canonical")):
            result = run("compare", *words, "jax", "--contract", "port.py:contract")
            assert result.exit_code == 0, result.output
            assert "agrees with the contract" in result.output


class TestWords:
    def test_reports_speak_of_options(self) -> None:
        assert spoken("say it, as in params={'a': 'b'}") == "say it, as in --params {'a': 'b'}"
        assert spoken("next: pass exact=, the logits") == "next: pass --exact, the logits"

    @needs("torch", "jax")
    def test_values_that_differ_are_explained_by_the_option(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        port = ("examples/port/model_torch.py:Block", "examples/port/model_jax.py:Block")
        result = run("compare", *port, "--inputs", "2,7,24")
        assert "--values first" in result.output
        assert "load=" not in result.output


class TestInterrupts:
    WAIT = "import pathlib, time\npathlib.Path('begun').touch()\n"

    @pytest.mark.parametrize(
        "module",
        [
            f"{WAIT}try: time.sleep(60)\nexcept BaseException: pass\ntime.sleep(60)\ndef f(x): return x",
            "def make_f():\n" + "".join(f"    {line}\n" for line in f"{WAIT}time.sleep(60)".splitlines()),
        ],
        ids=["an import that swallows it", "a program that runs"],
    )
    def test_an_interrupt_ends_the_command(self, module: str, tmp_path: Path) -> None:
        name = "make_f" if "make_f" in module else "f"
        _ = (tmp_path / "slow.py").write_text(module)
        words = [sys.executable, "-m", "attention.cli", "compare", f"slow:{name}", f"slow:{name}", "--inputs", "2"]
        process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (130, "attention: interrupted\n")
