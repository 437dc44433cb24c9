"""False alarms: random draws are what they say, right programs are not condemned by them, and wrong ones are.

drawn(number, seed) is a function of its arguments        rate of the right < 0.1 %        rate of a scale off by 0.01 % > 50 %
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from attention.parity.contracts import backends
from attention.parity.contracts.backends import BackendRun
from attention.parity.contracts.probes import Probe
from attention.parity.numerics.comparison import Verdict
from attention.parity.results.report import Row
from attention.spec.errors import OptionError, UnknownName
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.scores import ScaledDot
from tools.evaluation import false_positive_rate as alarms
from tools.evaluation.__main__ import app
from tools.evaluation.random_calls import DTYPES, FRAMES, GROUP, Form, drawn, form

SINGLE = ("float32",)
TORCH = (backends.find("torch"),)


def first_group(wanted: Callable[[Form], bool]) -> int:
    return next(group for group in itertools.count() if wanted(form(group, 0, SINGLE)))


def plain(found: Form) -> bool:
    """A small layer with scaled scores that nothing norms away."""
    contract = found.contract
    scaled = isinstance(contract, MultiHeadAttention) and isinstance(contract.score, ScaledDot) and contract.qk_norm is None
    return scaled and found.frame == FRAMES[1]


class Wrong:
    """The backend of torch with a scale wrong by 0.01 %."""

    name = "scale wrong by 0.01 %"

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        contract: Any = probe.contract
        wrong = ScaledDot(contract.score.factor(contract.width) * 1.0001)
        return TORCH[0].run(replace(probe, contract=replace(contract, score=wrong)), implementation)


class Broken:
    name = "broken"

    def run(self, probe: Probe, implementation: str) -> BackendRun:
        raise ZeroDivisionError("a bug")


class TestLaws:
    def test_a_draw_is_the_whole_of_its_number(self) -> None:
        first = {number: drawn(number, 3) for number in (0, 57, 1999)}
        for number in reversed(first):
            once, again = first[number], drawn(number, 3)
            assert (once.contract, once.dtype, once.name) == (again.contract, again.dtype, again.name)
            for group in ("arrays", "weights", "cotangents"):
                assert getattr(once, group).keys() == getattr(again, group).keys()
                for name, array in getattr(once, group).items():
                    np.testing.assert_array_equal(array, getattr(again, group)[name])

    def test_a_group_shares_its_form_and_nothing_else(self) -> None:
        draws = [drawn(number) for number in range(3 * GROUP)]
        for group in (draws[:GROUP], draws[GROUP : 2 * GROUP], draws[2 * GROUP :]):
            assert len({(probe.contract, probe.dtype, *(x.shape for x in probe.arrays.values())) for probe in group}) == 1
            assert len({x.tobytes() for probe in group for x in probe.arrays.values()}) >= GROUP
            assert len({next(iter(probe.weights.values())).tobytes() for probe in group}) == GROUP
        assert len({probe.contract for probe in draws}) == 3

    def test_every_layer_dtype_shape_mask_and_scale_is_drawn(self) -> None:
        forms = [form(group) for group in range(150)]
        kinds = {type(found.contract).__name__ for found in forms}
        assert kinds >= {
            "MultiHeadAttention",
            "AlignmentAttention",
            "LatentAttention",
            "DifferentialAttention",
            "LinearAttention",
        }
        assert kinds >= {"FeedForward", "EncoderBlock", "DecoderBlock", "Encoder"}
        assert {found.dtype for found in forms} == set(DTYPES)
        assert {found.frame for found in forms} == set(FRAMES)
        masks = {type(found.call(np.random.default_rng(0)).get("mask")).__name__ for found in forms}
        assert masks >= {"NoneType", "Lengths", "Segments", "DenseMask"}
        drawn_options = {name for f in forms for name, value in vars(f.contract).items() if value not in (None, False, 0.0, ())}
        assert drawn_options >= {"softcap", "dropout_rate", "qk_norm", "gate", "sinks", "positions", "mask", "num_kv_heads"}
        scales = [float(found.probe(np.random.default_rng(n)).name.split()[-1]) for n, found in enumerate(forms[:40])]
        assert min(scales) < 0.01
        assert max(scales) > 10

    def test_both_backends_are_not_condemned(self) -> None:
        group = first_group(plain)
        tally = alarms.false_positives(GROUP, first=group * GROUP, dtypes=SINGLE)
        assert tally.failing == {}
        assert tally.ok
        assert {side: m.draws for (side, _), m in tally.margins.items()} == {"torch": GROUP, "jax": GROUP}
        assert all(0 < m.rms < 4 and m.arrays >= 8 * GROUP for m in tally.margins.values())

    def test_a_scale_wrong_by_0_01_percent_is_condemned_in_most_draws(self) -> None:
        group = first_group(plain)
        tally = alarms.false_positives(GROUP, first=group * GROUP, dtypes=SINGLE, programs=[Wrong()])
        assert len(tally.failing) >= 0.8 * GROUP
        assert not tally.ok

    def test_torch_is_not_condemned_in_other_layers_and_dtypes(self) -> None:
        tally = alarms.Tally()
        for number in range(0, 6 * GROUP, GROUP):
            tally.add(number, alarms.check_draw(number, 1, programs=TORCH))
        assert tally.failing == {}
        assert tally.draws == 6

    # Where the gradient of a row cancels, the error of delta is all that is left: see rounding_sites.py.
    @pytest.mark.parametrize("number", [22, 26, 156])
    def test_torch_is_not_condemned_where_a_norm_follows_attention_in_float16(self, number: int) -> None:
        tally = alarms.false_positives(1, first=number, programs=TORCH)
        assert {(row.subject, row.dtype, row.kernel) for row in tally.last} == {("DifferentialAttention", "float16", "sdpa")}
        assert tally.failing == {}

    @pytest.mark.parametrize(("failing", "draws"), [(0, 12), (1, 2000), (5, 100), (400, 2000)])
    def test_the_bound_is_the_rate_at_which_so_few_failures_have_a_chance_of_5_percent(self, failing: int, draws: int) -> None:
        rng = np.random.default_rng(0)
        seen = rng.binomial(draws, alarms.upper_bound(failing, draws), 200_000)
        assert abs(np.mean(seen <= failing) - 0.05) < 0.002


class TestValues:
    @pytest.mark.parametrize(
        ("failing", "draws", "bound"),
        # 1 - 0.05^(1 / n) where nothing fails; the others from the tables of Clopper and Pearson, one-sided.
        [(0, 2000, 0.0014967), (0, 3000, 0.00099808), (1, 10, 0.39416), (2, 20, 0.28262), (4, 4, 1.0), (0, 0, 1.0)],
    )
    def test_bounds(self, failing: int, draws: int, bound: float) -> None:
        assert alarms.upper_bound(failing, draws) == pytest.approx(bound, rel=1e-4)

    def test_a_program_that_raises_has_failed_its_draw_and_no_other(self) -> None:
        tally = alarms.false_positives(2, programs=[Broken()], dtypes=SINGLE)
        assert sorted(tally.failing) == [0, 1]
        assert any(line.endswith("raised ZeroDivisionError: a bug") for line in tally.lines())
        assert json.loads(json.dumps(tally.to_dict()))["rate"] == 1.0

    def test_one_draw_in_a_thousand_is_too_many(self) -> None:
        for failing, ok in ((1, False), (0, True)):
            tally = alarms.Tally(draws=1000, failing=dict.fromkeys(range(failing), (row(agrees=False),)))
            assert tally.ok is ok
        assert alarms.Tally(draws=1001, failing={3: (row(agrees=False),)}).ok


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text", "error"),
        [
            ({"draws": 0}, "draws 0 must be an int >= 1", OptionError),
            ({"seed": -1}, "seed -1 must be an int >= 0", OptionError),
            ({"first": -1}, "first -1 must be an int >= 0", OptionError),
            ({"dtypes": ["int8"]}, "dtype 'int8' must be one of", UnknownName),
        ],
    )
    def test_options_that_mean_nothing(self, options: dict[str, Any], text: str, error: type[Exception]) -> None:
        with pytest.raises(error, match=text):
            _ = alarms.false_positives(**options)


def row(*, agrees: bool) -> Row:
    found = Verdict("output", 1.0 if agrees else np.inf, 2.0 if agrees else np.inf, (0,), 0.0, 0.0, 1.0, 1)
    return Row("MultiHeadAttention", "draw", "torch", "sdpa", "float32", (found,), facts={"contract": "a contract"})


class TestCommands:
    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["false-alarms", *words])

    def test_the_rate_is_printed_and_written(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(alarms, "check_draw", lambda *_: (row(agrees=True),))
        path = tmp_path / "deep" / "alarms.json"
        result = self.run("--draws", "3000", "--json", str(path))
        assert result.exit_code == 0, result.output
        assert "0 draws failed: 0.000 %, at most 0.100 % with 95 % confidence; promised: under 0.1 %" in result.stdout
        assert json.loads(path.read_text())["draws"] == 3000

    def test_a_failure_says_how_to_see_it_again_and_exits_with_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alarms, "check_draw", lambda number, *_: (row(agrees=number != 41),))
        result = self.run("--draws", "10", "--first", "35", "--seed", "2")
        assert result.exit_code == 1
        assert "again: python -m tools.evaluation false-alarms --seed 2 --draw 41" in result.stdout
        assert "1 draws failed: 10.000 %" in result.stdout
        again = self.run("--seed", "2", "--draw", "41")
        assert again.exit_code == 1
        assert "contract: a contract" in again.stdout
        assert self.run("--draw", "40").exit_code == 0

    def test_a_bad_dtype_is_one_line(self) -> None:
        result = self.run("--dtype", "int8")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith("attention: --dtype 'int8' must be one of")
