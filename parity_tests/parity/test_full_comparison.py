"""The full comparison and `attention compare`: on files of anybody's, from the first difference to the mistake's name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from attention import cli, parity, spec
from attention.spec.errors import OptionError

TORCH = """
import math
import torch

def attend(x):
    scores = x @ x.mT / math.sqrt(x.shape[-1])
    return torch.softmax(scores, -1) @ x

def broken(x):
    raise RuntimeError("no such head")

def pinned(x):
    return x.float() @ torch.ones(4, 4)
"""
JAX = """
import jax
import jax.numpy as jnp

def attend(x):
    scores = jnp.einsum("btd,bsd->bts", x, x) / x.shape[-1] ** 0.5
    return jax.nn.softmax(scores, axis=-1) @ x

def unscaled(x):
    scores = jnp.einsum("btd,bsd->bts", x, x)
    return jax.nn.softmax(scores, axis=-1) @ x

def pinned(x):
    return 2 * x.astype("float32") @ jnp.ones((4, 4))
"""
INPUTS = ("--inputs", "2,3,4")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two files outside the repository, both called model.py."""
    paths = [tmp_path_factory.mktemp(name) / "model.py" for name in ("one", "other")]
    for path, text in zip(paths, (TORCH, JAX), strict=True):
        _ = path.write_text(text)
    return str(paths[0]), str(paths[1])


def run(files: tuple[str, str], names: tuple[str, str], *options: str) -> Result:
    return CliRunner().invoke(cli.app, ["compare", f"{files[0]}:{names[0]}", f"{files[1]}:{names[1]}", *options])


class TestLaws:
    def test_a_right_port_agrees(self, files: tuple[str, str]) -> None:
        result = run(files, ("attend", "attend"), *INPUTS)
        assert result.exit_code == 0, result.output
        assert "0 outside their budget" in result.output
        assert "divergence" not in result.output

    def test_logits_are_compared_position_by_position(self, files: tuple[str, str]) -> None:
        right, wrong = (run(files, ("attend", name), *INPUTS, "--logits") for name in ("attend", "unscaled"))
        assert (right.exit_code, wrong.exit_code) == (0, 1), right.output + wrong.output
        assert ": agrees" in right.output
        assert ": differs" in wrong.output
        both = run(files, ("attend", "attend"), *INPUTS, "--logits", "--values", "first")
        assert both.exit_code == 2
        assert "--values must not be given with --logits" in both.output

    def test_a_trace_of_a_right_port_says_what_it_covered(self, files: tuple[str, str]) -> None:
        result = run(files, ("attend", "attend"), *INPUTS, "--trace")
        assert result.exit_code == 0, result.output
        assert "no divergence" in result.output
        assert "matched: torch " in result.output

    def test_a_wrong_scale_is_found_in_both_files_and_named(self, files: tuple[str, str], tmp_path: Path) -> None:
        written = ("--json", str(tmp_path / "out" / "r.json"), "--html", str(tmp_path / "out" / "r.html"))
        result = run(files, ("attend", "unscaled"), *INPUTS, *written)
        assert result.exit_code == 1, result.output
        assert "scores = x @ x.mT / math.sqrt(x.shape[-1])" in result.output
        assert (
            "return jax.nn.softmax(scores, axis=-1) @ x" in result.output or 'jnp.einsum("btd,bsd->bts", x, x)' in result.output
        )
        assert "scale" in result.output
        read = json.loads((tmp_path / "out" / "r.json").read_text())
        assert read["ok"] is False
        assert read["divergence"]["torch"]["line"] == 6
        assert read["findings"][0]["sure"] is True
        assert '<tr class="apart">' in (tmp_path / "out" / "r.html").read_text()

    def test_what_fails_is_told_by_side_and_not_traced(self, files: tuple[str, str]) -> None:
        result = run(files, ("broken", "attend"), *INPUTS)
        assert result.exit_code == 2
        assert "RuntimeError: no such head" in result.output
        assert "model.py:10" in result.output
        assert "divergence" not in result.output

    def test_empty_inputs_compare_nothing_and_agree_with_nothing(self, files: tuple[str, str]) -> None:
        result = run(files, ("attend", "attend"), "--inputs", "0,4,3")
        assert result.exit_code == 2
        assert "verdict: cannot tell" in result.output

    def test_outputs_are_picked_by_name(self, files: tuple[str, str]) -> None:
        result = run(files, ("attend", "attend"), *INPUTS, "--outputs", "logits")
        assert result.exit_code == 2
        assert "outputs logits must pick one of" in result.output

    def test_a_program_that_cannot_run_in_float64_is_traced_in_its_own_dtype(self, files: tuple[str, str]) -> None:
        result = run(files, ("pinned", "pinned"), *INPUTS)
        assert result.exit_code == 1
        assert "divergence" in result.output
        assert "return 2 * x.astype" in result.output

    def test_a_contract_names_the_knob_without_any_inputs(self) -> None:
        contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
        found = parity.full_comparison("torch", "jax", contract=contract)
        assert found.ok
        assert found.report is None
        assert "agrees with the contract" in str(found)


class TestRefusals:
    def test_neither_inputs_nor_contract(self) -> None:
        with pytest.raises(OptionError, match="inputs None must be given, or a contract"):
            _ = parity.full_comparison(torch.sin, np.sin)

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ((), "attention: --inputs must be given, or --contract"),
            (("--contract", "nope"), "attention: --contract 'nope' must be one of self"),
            (("--contract", "math:pi"), "attention: --contract 'math:pi' is a float, and must be a contract"),
            ((*INPUTS, "--values", "third"), "attention: --values 'third' must be one of None, 'first', 'second'"),
            (("--inputs", "nowhere.npz"), "attention: --inputs 'nowhere.npz' must be a file"),
        ],
    )
    def test_a_bad_call_is_one_line(self, files: tuple[str, str], options: tuple[str, ...], line: str) -> None:
        result = run(files, ("attend", "attend"), *options)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(line)
        assert result.stderr.count("\n") == 1

    def test_two_files_of_one_name_are_two_programs(self, files: tuple[str, str]) -> None:
        result = run(files, ("attend", "nothing"), *INPUTS)
        assert result.exit_code == 2
        assert f"{files[1]} has no 'nothing'; it has attend, jax, jnp, pinned, unscaled" in result.stderr
