"""Benchmarks: no kernel is timed that is not right, and a run says what its numbers depend on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from attention import torch_impl
from attention.parity import sides
from attention.parity.checks import expect, verdicts
from attention.spec import MultiHeadAttention, cases
from attention.spec.kernels import Request
from attention.torch_impl.kernels.reference import Reference
from benchmarks import plot
from benchmarks.__main__ import app
from benchmarks.programs import BACKWARD, FORWARD, build
from benchmarks.results import REFUSED, TIMED, WRONG, Results, Timing, machine
from benchmarks.suite import DEFAULT, grown, heads, large, measure, small
from benchmarks.timing import interleave


@dataclass(frozen=True)
class Planted:
    """The reference, with its scale multiplied, or refusing."""

    name: str
    scale: float = 1.0
    refusal: str | None = None
    rounds: tuple[str, ...] = ()

    def refuses(self, request: Request) -> str | None:
        return self.refusal

    def run(self, request: Request) -> Mapping[str, torch.Tensor]:
        return Reference().run(replace(request, scale=request.scale * self.scale))


PLANTED = (Planted("a thousandth off", scale=1.001), Planted("honest"), Planted("shy", refusal="would rather not"))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Timing]:
    """Rows of the case "causal" in torch, with three planted kernels, at a tiny size."""
    for kernel in PLANTED:
        monkeypatch.setitem(torch_impl.KERNELS, kernel.name, kernel)
    made = measure(cases.find("causal"), size=16, rounds=2, backends=("torch",))
    return {row.kernel: row for row in made}


def results(*rows: Timing) -> Results:
    return Results(rows, {"B": 1, "S": 16, "dtype": "float32", "rounds": 2}, machine(("torch", "jax")))


class TestLaws:
    def test_only_what_is_right_has_a_time(self, rows: dict[str, Timing]) -> None:
        assert set(rows) == set(torch_impl.KERNELS)
        statuses = {name: row.status for name, row in rows.items()}
        assert statuses == {**dict.fromkeys(rows, TIMED), "a thousandth off": WRONG, "shy": REFUSED, "flex": REFUSED}
        for row in rows.values():
            if row.status == TIMED:
                assert not row.note
                assert set(row.times) == {FORWARD, BACKWARD}
                assert all(len(samples) == 2 and min(samples) > 0 for samples in row.samples.values())
            else:
                assert row.times == {}
        assert "z rms" in rows["a thousandth off"].note
        assert "would rather not" in rows["shy"].note
        assert not results(*rows.values()).ok
        assert results(rows["honest"], rows["shy"]).ok

    def test_a_kernel_may_refuse_the_larger_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Small(Planted):
            def refuses(self, request: Request) -> str | None:
                return "is for short calls" if request.sizes.T > 13 else None

        monkeypatch.setitem(torch_impl.KERNELS, "small", Small("small"))
        row = measure(cases.find("causal"), size=16, rounds=1, backends=("torch",))[-1]
        assert (row.kernel, row.status, row.times) == ("small", REFUSED, {})
        assert "is for short calls" in row.note

    @pytest.mark.parametrize("side", sides.BACKENDS)
    def test_what_is_timed_is_what_is_judged(self, side: str) -> None:
        probe = small(cases.find("causal"), "float32")
        timed, expected = build(side, probe, "reference").results(), expect(probe)
        assert timed.keys() == expected.value.keys()
        for verdict in verdicts(timed, expected):
            assert verdict.agrees, verdict

    def test_programs_take_turns(self) -> None:
        turns: list[str] = []
        calls: dict[str, Any] = {name: lambda name=name: turns.append(name) for name in "AB"}
        samples = interleave(calls, rounds=3)
        assert "".join(turns) == "AABB" * 3
        assert {name: len(found) for name, found in samples.items()} == {"A": 3, "B": 3}


class TestValues:
    @pytest.mark.parametrize("name", [n for n, case in cases.CASES.items() if isinstance(case.contract, MultiHeadAttention)])
    def test_a_grown_contract_keeps_its_form(self, name: str) -> None:
        old = heads(cases.find(name))
        new = grown(old)
        assert (new.embed_dim, new.num_heads, new.head_dim) == (256, 8, 32)
        assert (new.mask, new.softcap, new.score, new.dropout_rate) == (
            old.mask,
            old.softcap,
            old.score,
            old.dropout_rate,
        )
        assert (new.kv_heads == new.num_heads, new.kv_heads == 1) == (old.kv_heads == old.num_heads, old.kv_heads == 1)
        assert (new.positions is None) == (old.positions is None)
        assert (new.value_width == new.width) == (old.value_width == old.width)
        assert len(set(new.inputs.values())) == len(set(old.inputs.values()))

    def test_the_timed_call_has_the_size_asked_for(self) -> None:
        sizes = large(cases.find("grouped"), "float32", 24).sizes
        assert (sizes.batch, sizes.T, sizes.S, sizes.H, sizes.K, sizes.D) == ((1,), 24, 24, 8, 4, 32)

    def test_ratios_are_to_torch_reference(self) -> None:
        base = Timing("self", "torch", "reference", TIMED, samples={FORWARD: [3.0, 4.0, 8.0], BACKWARD: [8.0]})
        row = Timing("self", "jax", "xla", TIMED, samples={FORWARD: [1.0, 2.0, 9.0], BACKWARD: [4.0]})
        other = replace(row, case="causal")
        made = results(base, row, other)
        assert [made.ratio(x, FORWARD) for x in made.rows] == [1.0, 0.5, None]


class TestFiles:
    def test_json_comes_back_and_names_the_device(self, tmp_path: Path) -> None:
        made = results(Timing("self", "torch", "sdpa", TIMED, samples={FORWARD: [1.5], BACKWARD: [2.5]}))
        path = tmp_path / "new" / "bench.json"
        made.to_json(path)
        read = json.loads(path.read_text(encoding="utf-8"))
        assert read == made.to_dict()
        assert read["rows"][0]["median_ms"] == {FORWARD: 1.5, BACKWARD: 2.5}
        assert set(read["machine"]["devices"]) == {"torch", "jax"}
        assert all(read["machine"]["devices"].values())
        assert read["machine"]["environment"]["torch"] == str(torch.__version__)

    def test_a_plot_is_drawn_with_and_without_times(self, tmp_path: Path) -> None:
        right = Timing("self", "torch", "sdpa", TIMED, samples={FORWARD: [1.5], BACKWARD: [2.5]})
        for name, row in (("right.png", right), ("wrong.png", Timing("self", "torch", "sdpa", WRONG, "no"))):
            plot.draw(results(row), tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_the_command_writes_all_three(self, tmp_path: Path) -> None:
        where = [f"--json={tmp_path / 'b.json'}", f"--plot={tmp_path / 'b.png'}"]
        ran = CliRunner().invoke(app, ["--case=self", "--size=8", "--rounds=1", "--backend=torch", *where])
        assert ran.exit_code == 0, ran.output
        assert "sdpa" in ran.output
        assert (tmp_path / "b.png").stat().st_size
        assert {row["case"] for row in json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["rows"]} == {"self"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--case=nope"], "benchmarks: contract 'nope' must be one of"),
            (["--dtype=int8"], "benchmarks: dtype 'int8' must be one of"),
            (["--backend=numpy"], "benchmarks: backend 'numpy' must be one of torch, jax"),
            (["--json=/dev/null/b.json"], "benchmarks: path '/dev/null/b.json' must be writable"),
        ],
    )
    def test_a_mistake_is_one_line(self, arguments: list[str], line: str) -> None:
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2
        assert ran.output.startswith(line)
        assert ran.output.count("\n") == 1

    def test_a_missing_plotter_names_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attention._extras.find_spec", lambda module: None if module == "matplotlib" else module)
        ran = CliRunner().invoke(app, ["--json=/dev/null"])
        assert ran.exit_code == 2
        assert "pip install 'attention[report]'" in ran.output

    def test_the_default_cases_exist(self) -> None:
        assert all(name in cases.CASES for name in DEFAULT)
