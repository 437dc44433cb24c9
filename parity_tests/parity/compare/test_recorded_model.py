"""Golden files: a model's blocks, logits and decoding are recorded on one machine and judge another model on another."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from attention import cli, parity
from attention.parity.compare.recording_file import Recording
from attention.spec.errors import AttentionError, FileError, OptionError, ParamError, ShapeError, SideFailed
from parity_tests.support.llama_nnx import ported

IDS = {"input_ids": np.random.default_rng(0).integers(0, 31, (2, 5))}
TOKENS = np.random.default_rng(1).integers(0, 31, (2, 6))


SAID: list[str] = []
"""What damaged files are refused with."""


def llama(**more: Any) -> Any:
    _ = torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": 31}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **more)).eval()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.safetensors"
    parity.record_model(path, llama(), IDS, tokens=TOKENS, left_padding=[0, 2])
    return path


def subjects(report: parity.Report) -> tuple[set[str], set[str]]:
    """The parts that are compared, and those that differ."""
    return {row.subject for row in report.rows}, {row.subject for row in report.rows if not row.agrees}


class TestLaws:
    @pytest.mark.parametrize("more", [{}, {"eps": {1: 1e-2}}, {"bases": {0: 100.0}}])
    @pytest.mark.parametrize("first", [True, False])
    def test_blocks_are_found_wrong_as_in_the_live_comparison(self, golden: Path, more: Any, first: bool) -> None:
        port = ported(llama(), **more)
        live = parity.layerwise(llama(), port, IDS)
        recorded = parity.recorded_model(golden)
        judged = parity.layerwise(recorded, port) if first else parity.layerwise(port, recorded)
        assert subjects(judged) == subjects(live)
        assert not any(row.failure for row in judged.rows)
        assert any("was recorded on" in note for note in judged.notes)

    def test_a_port_is_recorded_too(self, tmp_path: Path) -> None:
        path = tmp_path / "golden.safetensors"
        parity.record_model(path, ported(llama(), eps={0: 1e-2}), IDS)
        judged = parity.layerwise(llama(), parity.recorded_model(path))
        assert "layers.0" in subjects(judged)[1]
        assert not {"layers.1", "head"} & subjects(judged)[1]

    @pytest.mark.parametrize(("base", "verdict"), [(1e4, "agrees"), (100.0, "differs")])
    def test_logits_are_judged_by_the_recorded_float64_run(self, golden: Path, base: float, verdict: str) -> None:
        port = ported(llama(), bases={0: base})(IDS["input_ids"])["logits"]
        assert parity.compare_logits(port, parity.recorded_model(golden)).verdict == verdict
        assert parity.compare_logits(parity.recorded_model(golden), port).verdict == verdict

    def test_decoding_is_judged_run_by_run(self, golden: Path) -> None:
        recorded = parity.recorded_model(golden)
        live = parity.compare_decoding(llama(), llama(), TOKENS, left_padding=[0, 2])
        judged = parity.compare_decoding(recorded, llama(), None)
        named = [(row.side.removesuffix(" (recorded)"), row.run.replace(" (recorded)", "")) for row in judged.rows]
        assert named == [(row.side, row.run) for row in live.rows]
        assert (judged.verdict, live.verdict) == ("agrees", "agrees")
        wrong = llama(rope_parameters={"rope_type": "default", "rope_theta": 50.0})
        assert parity.compare_decoding(recorded, wrong, None).verdict == "differs"
        assert parity.compare_decoding(wrong, recorded, None).verdict == "differs"

    def test_the_arrays_are_read_when_they_are_looked_at(self, golden: Path) -> None:
        params = parity.recorded_model(golden).program.params
        assert all(isinstance(x.base, np.ndarray) or x.base is not None for x in params.values())
        assert not any(x.flags.writeable for x in params.values())

    def test_neither_machine_needs_the_other_framework(self, tmp_path: Path) -> None:
        _ = (tmp_path / "original.py").write_text(ORIGINAL)
        _ = (tmp_path / "port.py").write_text(PORT)
        for script in (RECORD, JUDGE):
            done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]


ORIGINAL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)) for _ in range(2)])
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
"""
PORT = """
import jax.numpy as jnp
from flax import nnx

class Block(nnx.Module):
    def __init__(self, factor):
        self.up, self.down = nnx.Linear(6, 9, rngs=nnx.Rngs(0)), nnx.Linear(9, 6, rngs=nnx.Rngs(0))
        self.factor = factor

    def __call__(self, x):
        return self.down(jnp.tanh(self.factor * self.up(x)))

class Net(nnx.Module):
    def __init__(self, params, factor):
        self.blocks = nnx.List([Block(1.0), Block(factor)])
        self.last = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
        for i, block in enumerate(self.blocks):
            for layer, n in ((block.up, 0), (block.down, 2)):
                layer.kernel.set_value(jnp.asarray(params[f"blocks.{i}.{n}.weight"].T))
                layer.bias.set_value(jnp.asarray(params[f"blocks.{i}.{n}.bias"]))
        self.last.kernel.set_value(jnp.asarray(params["last.weight"].T))
        self.last.bias.set_value(jnp.asarray(params["last.bias"]))

    def __call__(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
"""
RECORD = """
import sys
import numpy as np
from original import Net
from attention import parity
x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
parity.record_model("golden.safetensors", Net(), x)
assert "port" not in sys.modules
"""
JUDGE = """
import sys
from port import Net
from attention import parity
golden = parity.recorded_model("golden.safetensors")
for factor, wrong in ((1.0, set()), (1.01, {"blocks.1", "whole model"})):
    report = parity.layerwise(golden, Net(golden.program.params, factor))
    assert {row.subject for row in report.rows if not row.agrees} == wrong, str(report)
    assert len({row.subject for row in report.rows}) == 4
assert "torch" not in sys.modules
"""


class TestCommand:
    def run(self, *words: str) -> Any:
        return CliRunner().invoke(cli.app, list(words))

    def test_a_recording_takes_the_place_of_a_side(self, tmp_path: Path) -> None:
        source, path = tmp_path / "models.py", str(tmp_path / "golden.safetensors")
        _ = source.write_text(
            "from parity_tests.parity.compare.test_recorded_model import llama\n"
            "from parity_tests.support.llama_nnx import ported\n"
            "def make_model(): return llama()\ndef make_port(): return ported(llama())\n"
            "def make_wrong(): return ported(llama(), eps={1: 1e-2})\n"
        )
        made = self.run(
            "record", "model", f"{source}:make_model", path, "--inputs", "input_ids=2,5:int64", "--tokens", "2,6:int64"
        )
        assert made.exit_code == 0, made.output
        for words, code in (
            (("layers", path, f"{source}:make_port"), 0),
            (("layers", f"{source}:make_wrong", path), 1),
            (("logits", f"{source}:make_port", path), 0),
            (("logits", path, f"{source}:make_wrong"), 1),
            (("decoding", path, f"{source}:make_model"), 0),
            (("layers", path, path), 2),
            (("layers", f"{source}:make_port", f"{source}:make_port"), 2),
            (("logits", path, f"{source}:make_port", "--inputs", "2,5:int64"), 2),
        ):
            found = self.run(*words)
            assert found.exit_code == code, (words, found.output)


class TestRefusals:
    def test_a_model_that_is_given_other_inputs(self, golden: Path) -> None:
        recorded = parity.recorded_model(golden)
        with pytest.raises(SideFailed, match="was recorded with other inputs"):
            _ = parity.layerwise(recorded, ported(llama()), {"input_ids": IDS["input_ids"] + 1})
        with pytest.raises(OptionError, match="gradients True must be False"):
            _ = parity.layerwise(recorded, ported(llama()), gradients=True)
        with pytest.raises(OptionError, match="must not both be recordings"):
            _ = parity.layerwise(recorded, recorded)

    def test_nothing_to_record(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="inputs None must be given, or tokens"):
            parity.record_model(tmp_path / "x", llama())
        with pytest.raises(OptionError, match=r"must be an nn\.Module"):
            parity.record_model(tmp_path / "x", lambda x: x, IDS)
        with pytest.raises(ShapeError):
            parity.record_model(tmp_path / "x", llama(), tokens=np.zeros((2, 1), np.int64))

    def test_what_was_not_recorded(self, tmp_path: Path) -> None:
        path = tmp_path / "golden.safetensors"
        parity.record_model(path, llama(), IDS)
        with pytest.raises(OptionError, match="must be recorded with tokens"):
            _ = parity.compare_decoding(parity.recorded_model(path), llama(), None)
        parity.record_model(path, llama(), tokens=TOKENS)
        with pytest.raises(ParamError, match="must be there"):
            _ = parity.layerwise(parity.recorded_model(path), ported(llama()))
        with pytest.raises(SideFailed, match="none is called logits"):
            _ = parity.compare_logits(parity.recorded_model(path), np.zeros((2, 3, 4), np.float32))

    def test_another_split_or_padding_than_was_recorded_cannot_be_told(self, golden: Path) -> None:
        found = parity.compare_decoding(parity.recorded_model(golden), None, None, splits=[2])
        assert found.verdict == "cannot tell"
        assert "was not recorded with a prefill of 2" in str(found)

    def test_a_recording_of_another_kind(self, golden: Path) -> None:
        for recording in (Recording("program", {"side": "torch"}, {}), 3):
            with pytest.raises(FileError, match="must be one of a model"):
                _ = parity.RecordedModel(recording)  # type: ignore[arg-type]
        whole = golden.read_bytes()
        with pytest.raises(FileError):
            _ = parity.recorded_model(golden.parent)
        assert golden.read_bytes() == whole

    def test_a_damaged_file_has_an_error_of_ours_in_one_line(self, golden: Path, tmp_path: Path) -> None:
        path = tmp_path / "damaged.safetensors"
        arrays = load_file(golden)
        with safe_open(golden, framework="numpy") as file:
            header = dict(file.metadata())
        told = json.loads(header["recording"])
        changes: list[dict[str, Any]] = [
            *({name: value} for name in told["facts"] for value in (None, 3, "x", [None], [{}], {"args": 1}, True)),
            {"blocks": [{"path": "a", "calls": 1}] * 2},
            {"blocks": [{"path": "a", "calls": 10**30}]},
            {"decoding": [{"split": 10**9, "padding": None, "failure": ""}]},
            {"decoding": [{"split": 1, "padding": [-1, 0], "failure": ""}]},
            {"call": {"args": {"tuple": [{"array": "gone"}]}, "kwargs": {"dict": {}}}},
        ]
        for change in changes:
            facts = {**told["facts"], **change}
            save_file(arrays, path, {**header, "recording": json.dumps({**told, "facts": facts})})
            self.judged(path)
        for name in list(arrays):
            group = name.split("/")[0]
            if group in ("params", "received") and not name.endswith(("input_ids", "0/hidden_states", "embed_tokens.weight")):
                continue
            save_file({**arrays, name: np.zeros((1, 2), np.int8)}, path, header)
            self.judged(path)
        assert len(SAID) > 20
        assert all(len(said) < 500 and "\n" not in said for said in SAID)
        whole = golden.read_bytes()
        for size in (0, 7, 1000, len(whole) // 2, len(whole) - 1):
            _ = path.write_bytes(whole[:size])
            with pytest.raises(FileError):
                _ = parity.recorded_model(path)

    def judged(self, path: Path) -> None:
        """Judge a model by a file, which may be refused, in one short line."""
        with suppress(AttentionError):
            try:
                recorded = parity.recorded_model(path)
                _ = parity.compare_decoding(recorded, None, None)
                _ = parity.compare_logits(recorded, np.zeros((2, 5, 31), np.float32))
                _ = recorded.note
            except AttentionError as error:
                SAID.append(str(error))
                raise


def test_a_module_is_left_as_it_was(tmp_path: Path) -> None:
    model: nn.Module = llama()
    before = [x.numpy().tobytes() for x in model.state_dict().values()]
    parity.record_model(tmp_path / "golden.safetensors", model, IDS, tokens=TOKENS)
    assert [x.numpy().tobytes() for x in model.state_dict().values()] == before
    assert not any(part._forward_pre_hooks for part in model.modules())  # noqa: SLF001
