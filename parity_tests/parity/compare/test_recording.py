"""Recordings: what one side made, judged on another machine; and every file that is not what it says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from typer.testing import CliRunner, Result

from attention import cli
from attention.parity.adapters import Call
from attention.parity.compare import recorded_contracts, replayed_program
from attention.parity.compare.recording_file import Recording, read, write
from attention.parity.contracts.probes import probes
from attention.spec import cases
from attention.spec.errors import FileError, OptionError, SideFailed, UnknownName
from parity_tests.support.absent import needs

CASE = "general"
(OUTPUT, *_) = cases.find(CASE).contract.outputs


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        _ = torch.manual_seed(0)
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: dict[str, torch.Tensor], scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.tanh(self.up(x["x"]))
        return self.down(hidden) * scale, hidden


class Jax(nnx.Module):
    act: Callable[[jax.Array], jax.Array] = staticmethod(jnp.tanh)

    def __init__(self) -> None:
        rngs = nnx.Rngs(1)
        self.up, self.down = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: dict[str, jax.Array], scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
        hidden = self.act(self.up(x["x"]))
        return self.down(hidden) * scale, hidden


class Wrong(Jax):
    act = staticmethod(jax.nn.soft_sign)


INPUTS = {"x": {"x": np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)}, "scale": 2.0}


@pytest.fixture(scope="module")
def of_contract() -> Recording:
    return recorded_contracts.record([CASE], "torch")


@pytest.fixture(scope="module")
def of_program() -> Recording:
    return replayed_program.record(Torch(), "torch", INPUTS)


def turned(recording: Recording, name: str, turn: Callable[[np.ndarray], np.ndarray]) -> Recording:
    """Return the recording with one array of other values."""
    return replace(recording, arrays={**recording.arrays, name: turn(recording.arrays[name])})


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, words)


class TestLaws:
    def test_reading_gives_back_what_was_written_bit_for_bit(self, of_program: Recording, tmp_path: Path) -> None:
        low = np.asarray([1, np.nan, -np.inf], ml_dtypes.bfloat16)
        arrays = {**of_program.arrays, "outputs/low": low, "outputs/scalar": np.asarray(3, np.int32)}
        write(tmp_path / "out.safetensors", replace(of_program, arrays=arrays))
        again = read(tmp_path / "out.safetensors")
        assert (again.kind, again.facts, again.environment) == (of_program.kind, of_program.facts, of_program.environment)
        assert again.arrays.keys() == arrays.keys()
        for name, x in arrays.items():
            assert (again.arrays[name].dtype, again.arrays[name].shape) == (x.dtype, x.shape)
            assert again.arrays[name].tobytes() == x.tobytes()
        assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]

    def test_a_recorded_backend_agrees_with_the_oracle(self, of_contract: Recording) -> None:
        report = recorded_contracts.against(of_contract)
        assert report.ok, str(report)
        assert {row.probe for row in report.rows} == {probe.name for probe in probes(cases.find(CASE).contract)}
        assert {row.side for row in report.rows} == {"torch (recorded)"}

    def test_a_recorded_mistake_fails(self, of_contract: Recording) -> None:
        wrong = turned(of_contract, f"{CASE}/plain/float32/d query", lambda x: x * np.float32(1 + 3e-5))
        report = recorded_contracts.against(wrong)
        assert {(row.probe, verdict.name) for row, verdict in report.failures()} == {("plain", "d query")}

    def test_a_local_side_stands_beside_it(self, of_contract: Recording) -> None:
        report = recorded_contracts.against(of_contract, "numpy")
        assert report.ok
        assert [row.side for row in report.rows[:2]] == ["torch (recorded)", "numpy"]

    def test_a_program_of_another_framework_agrees_with_a_recorded_one(self, of_program: Recording) -> None:
        report = replayed_program.against(of_program, Jax(), "jax")
        assert report.ok, str(report)
        compared = {verdict.name for row in report.rows for verdict in row.verdicts}
        assert compared >= {"output[0]", "output[1]", "d x.x"}
        # Each side by its own names: two outputs, an input and four parameters.
        assert [len(row.verdicts) for row in report.rows] == [7, 7]

    def test_a_program_that_is_wrong_fails(self, of_program: Recording) -> None:
        report = replayed_program.against(of_program, Wrong(), "jax")
        assert not report.ok
        assert any(verdict.name == "output[0]" for _, verdict in report.failures())

    def test_a_program_without_parameters_is_compared_too(self) -> None:
        recording = replayed_program.record(lambda x, y: x @ y, "numpy", (np.ones((2, 3)), np.ones((3, 2))))
        assert replayed_program.against(recording, lambda x, y: x @ y, "jax").ok

    def test_a_fingerprint_tells_calls_apart(self) -> None:
        first, *others = probes(cases.find(CASE).contract)
        prints = {recorded_contracts.fingerprint(probe) for probe in (first, *others)}
        assert len(prints) == 1 + len(others)
        moved = replace(first, weights={name: np.nextafter(x, np.float32(9)) for name, x in first.weights.items()})
        assert recorded_contracts.fingerprint(moved) not in prints
        assert recorded_contracts.fingerprint(probes(cases.find(CASE).contract)[0]) in prints


class TestValues:
    def test_the_inputs_come_back_as_they_were_given(self, of_program: Recording) -> None:
        call = replayed_program.replayed(of_program).call
        assert call.args == ()
        assert call.kwargs["scale"] == 2.0
        np.testing.assert_array_equal(call.kwargs["x"]["x"], INPUTS["x"]["x"])  # type: ignore[index]

    @pytest.mark.parametrize(
        "inputs",
        [
            {"option": np.ones(2)},
            {"array": np.ones(2), "n": None},
            (np.ones(2), [1, "a", True], {"deep": (np.zeros(()), 2.5)}),
            np.arange(3),
            ({"array": np.ones(2)},),
            ({"option": 3, "x": np.ones(1)}, ()),
        ],
    )
    def test_any_tree_of_inputs_survives(self, inputs: Any) -> None:
        call = Call.of(inputs)
        told = json.loads(json.dumps(replayed_program.encoded(call)))
        again = Call(*(replayed_program.decoded(told[part], call.leaves) for part in ("args", "kwargs")))
        assert repr(again.args) == repr(call.args)
        assert repr(again.kwargs) == repr(dict(call.kwargs))

    def test_a_refusal_of_a_kernel_is_recorded_as_one(self) -> None:
        recording = recorded_contracts.record(["softcap"], "torch", implementation="sdpa")
        assert not recording.arrays
        rows = recorded_contracts.against(recording).rows
        assert rows
        assert all("has no softcap" in row.refusal for row in rows)

    def test_the_note_says_what_is_another_version_here(self, of_contract: Recording) -> None:
        assert "in an environment like this one" in of_contract.note
        older = replace(of_contract, environment={**of_contract.environment, "torch": "1.0"})
        assert "where other versions are installed: torch 1.0 (here " in older.note

    @needs("torch", "jax")
    def test_the_command_records_and_judges(self, tmp_path: Path) -> None:
        path, told = str(tmp_path / "out.safetensors"), tmp_path / "out.json"
        recorded = run("record", "contracts", path, "--backend", "torch", "--contract", CASE)
        assert recorded.exit_code == 0, recorded.output
        assert f"attention replay {path}" in recorded.output
        judged = run("replay", path, "--backend", "none", "--json", str(told))
        assert judged.exit_code == 0, judged.output
        assert "(recorded)" in judged.output
        assert json.loads(told.read_text())["ok"] is True
        write(path, turned(read(path), f"{CASE}/plain/float32/{OUTPUT}", np.negative))
        assert run("replay", path, "--backend", "none").exit_code == 1

    def test_the_command_takes_programs_from_files(self, tmp_path: Path) -> None:
        source, path = tmp_path / "recorded_port.py", str(tmp_path / "out.safetensors")
        _ = source.write_text("def double(x):\n    return 2 * x\n\ndef triple(x):\n    return 3 * x\n")
        recorded = run("record", "program", f"{source}:double", path, "--framework", "numpy", "--inputs", "x=2,3")
        assert recorded.exit_code == 0, recorded.output
        assert run("replay", path, f"{source}:double", "--framework", "jax").exit_code == 0
        assert run("replay", path, f"{source}:triple", "--framework", "jax").exit_code == 1


class TestRefusals:
    def test_another_probe_than_was_recorded(self, of_contract: Recording) -> None:
        calls = of_contract.facts["calls"]
        for wrong in ({"fingerprint": "0"}, {"probe": "gone"}, {"case": "gone"}, {"dtype": "int8"}):
            facts = {**of_contract.facts, "calls": [{**calls[0], **wrong}, *calls[1:]]}
            with pytest.raises(FileError, match="record it again"):
                _ = recorded_contracts.against(replace(of_contract, facts=facts))

    def test_results_that_are_missing_or_unknown(self, of_contract: Recording) -> None:
        less = {name: x for name, x in of_contract.arrays.items() if name != f"{CASE}/plain/float32/{OUTPUT}"}
        for arrays in (less, {**of_contract.arrays, f"{CASE}/plain/float32/d nothing": np.ones(1)}):
            with pytest.raises(FileError, match=f"recording of {CASE}, float32, 'plain' has"):
                _ = recorded_contracts.against(replace(of_contract, arrays=arrays))

    def test_a_damaged_call(self, of_contract: Recording, of_program: Recording) -> None:
        with pytest.raises(FileError, match="must have case, probe, dtype"):
            _ = recorded_contracts.against(replace(of_contract, facts={"side": "torch", "calls": [{}]}))
        for facts in ({}, {**of_program.facts, "call": {}}, {**of_program.facts, "call": {"args": 3, "kwargs": 4}}):
            with pytest.raises(FileError, match="recording must hold a whole call and its results"):
                _ = replayed_program.replayed(replace(of_program, facts=facts))
        with pytest.raises(FileError, match="recording must hold outputs"):
            _ = replayed_program.replayed(
                replace(of_program, arrays={n: x for n, x in of_program.arrays.items() if "outputs" not in n})
            )

    def test_a_file_that_is_no_recording(self, of_program: Recording, tmp_path: Path) -> None:
        path = tmp_path / "out.safetensors"
        with pytest.raises(FileError, match="must be a whole safetensors file"):
            _ = read(path)
        write(path, of_program)
        whole = path.read_bytes()
        for size in (0, 7, 100, len(whole) - 1):
            _ = path.write_bytes(whole[:size])
            with pytest.raises(FileError, match="must be a whole safetensors file"):
                _ = read(path)
        _ = path.write_bytes(whole)
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata())
        for wrong, text in (
            ({"format": "attention"}, "holds 'attention' and must be a recording"),
            ({"version": "99"}, "has version 99 and must have 1: record it again"),
            ({"recording": "{"}, "must hold what was recorded as JSON"),
            ({"recording": "[]"}, "must hold what was recorded as JSON"),
            ({"recording": '{"kind": "song", "facts": {"side": ""}, "environment": {}}'}, "records 'song'"),
        ):
            save_file({"x": np.ones(1)}, path, {**header, **wrong})
            with pytest.raises(FileError, match=text):
                _ = read(path)

    def test_a_path_that_cannot_be_written(self, of_program: Recording, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="must be writable"):
            write(tmp_path / "no" / "out.safetensors", of_program)

    def test_a_replay_of_what_was_not_recorded(self, of_program: Recording) -> None:
        program = replayed_program.replayed(of_program)
        call, params = program.call, program.params
        other = {name: x + 1 for name, x in params.items()}
        for asked, text in (
            ({"dtype": "float64"}, "was recorded in float32 and cannot be run in float64"),
            ({"params": other}, "recorded with other parameters"),
            ({"cotangents": {"output[0]": np.ones((4, 3))}}, "recorded with other cotangents"),
        ):
            with pytest.raises(SideFailed, match=text):
                _ = program.run(call, **asked)  # type: ignore[arg-type]
        with pytest.raises(SideFailed, match="recorded with other inputs"):
            _ = program.run(Call.of(np.ones(2)))
        assert not program.run(call, params=params).gradients

    def test_an_option_that_no_file_holds(self) -> None:
        with pytest.raises(OptionError, match="input f function must be an array, a number, a text, a bool or None"):
            _ = replayed_program.record(lambda x, f: f(x), "numpy", {"x": np.ones(2), "f": lambda x: x})

    def test_a_side_that_does_not_exist(self, of_contract: Recording) -> None:
        with pytest.raises(UnknownName, match="backend 'mlx'"):
            _ = recorded_contracts.record([CASE], "mlx")
        with pytest.raises(UnknownName, match="backend 'mlx'"):
            _ = recorded_contracts.against(of_contract, "mlx")

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["record", "model", "m:f", "out"], "attention: --inputs must be given, or --tokens"),
            (
                ["record", "model", "m:f", "out", "--inputs", "x=2", "--split", "3"],
                "attention: --split and --left-padding must",
            ),
            (
                ["record", "program", "m:f", "/dev/null/out", "--inputs", "x=2"],
                "attention: path '/dev/null/out' must be writable",
            ),
            (
                ["record", "contracts", "out", "--backend", "torch", "--contract", "nope"],
                "attention: --contract 'nope' must be",
            ),
            (["replay", "nowhere.safetensors"], "attention: path 'nowhere.safetensors' must be a whole safetensors file"),
        ],
    )
    def test_a_bad_call_is_one_line_and_exits_with_2(self, words: list[str], line: str) -> None:
        result = run(*words)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(line)
        assert result.stderr.count("\n") == 1

    def test_an_option_must_fit_what_was_recorded(self, of_program: Recording, of_contract: Recording, tmp_path: Path) -> None:
        program, contracts = str(tmp_path / "program.safetensors"), str(tmp_path / "contracts.safetensors")
        write(program, of_program)
        write(contracts, of_contract)
        for words, line in (
            ((program,), "PROGRAM must be given: the recording is of a program"),
            ((program, "m:f", "--backend", "jax"), "--backend must come with a recording of contracts"),
            ((contracts, "--no-load", "--params", "m:f"), "--load, --params must come with a recording of a program"),
        ):
            result = run("replay", *words)
            assert (result.exit_code, result.stderr) == (2, f"attention: {line}\n")
