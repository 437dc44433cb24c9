"""Random options: every option is drawn, the formula and both layers agree on what is, and planted drifts are caught.

for each draw:  formula = torch layer = JAX layer        values and gradients, in float64
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import attention.jax_impl.layers.multi_head as jax_multi_head
import attention.torch_impl.layers.multi_head as torch_multi_head
from attention import spec
from attention.parity.contracts.backends import NumpyBackend
from attention.parity.contracts.probes import CALL, Probe
from attention.spec.errors import OptionError
from attention.spec.kernels import nan_safety
from attention.spec.layers.contract import Contract
from attention.spec.layers.multi_head import formula
from attention.spec.masks import KINDS
from tools.evaluation import option_fuzzing
from tools.evaluation.__main__ import app
from tools.evaluation.false_alarms import progress_bar
from tools.evaluation.option_fuzzing import Draw, check_draw, code, drawn, shrunk
from tools.evaluation.option_fuzzing import run as run_module
from tools.evaluation.option_fuzzing.check import PROGRAMS, Disagreement, compared
from tools.evaluation.option_fuzzing.masks import given
from tools.evaluation.option_fuzzing.shrink import written
from tools.evaluation.option_fuzzing.values import FRAMES, VALUES
from tools.evaluation.random_contracts import Pick

DRAWS = 200


@cache
def draws(count: int = DRAWS) -> tuple[Draw, ...]:
    return tuple(drawn(number) for number in range(count))


def subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        # A test may have made classes of its own below these.
        ours = [kind for kind in (below, *below.__subclasses__()) if kind.__module__.startswith("attention.spec.")]
        if not inspect.isabstract(below) and ours == [below]:
            yield below
        yield from subclasses(below)


def options(part: Any) -> Iterator[tuple[type, str, Any]]:
    """Yield (class, field, value) of every option of a contract and of what stands in it."""
    for f in fields(part):
        value = getattr(part, f.name)
        yield type(part), f.name, value
        if is_dataclass(value):
            yield from options(value)


def kinds(mask: Any) -> Iterator[type]:
    yield type(mask)
    for inside in mask.inside:
        yield from kinds(inside)


class TestLaws:
    def test_every_field_of_every_contract_has_a_generator(self) -> None:
        contracts = set(subclasses(Contract))
        assert contracts >= {spec.MultiHeadAttention, spec.LatentAttention, spec.FeedForward, spec.Encoder, spec.Decoder}
        assert contracts <= set(VALUES), "a contract without generators"
        for kind, table in VALUES.items():
            assert {f.name for f in fields(kind)} == set(table), f"the fields of {kind.__name__}, and their generators"

    def test_every_option_is_drawn_with_two_values_or_more(self) -> None:
        seen: dict[tuple[type, str], list[Any]] = {}
        for draw in draws(1200):
            for kind, name, value in options(draw.contract):
                values = seen.setdefault((kind, name), [])
                if len(values) < 2 and not any(value is other or value == other for other in values):
                    values.append(value)
        # One width of model is enough, and `depth` of a block's own parts is.
        single = {"embed_dim", "query_dim", "hidden_dim", "kv_rank", "nope_dim", "rope_dim"}
        for kind, table in VALUES.items():
            for name in set(table) - single:
                assert len(seen.get((kind, name), ())) == 2, f"{kind.__name__}.{name}"

    def test_every_mask_and_every_argument_of_a_call_is_drawn(self) -> None:
        found = draws(600)
        masks = {kind for draw in found if draw.mask is not None for kind in kinds(draw.mask)}
        assert masks == set(KINDS)
        for name in (*CALL, "bias"):
            assert any(getattr(draw, name) is not None for draw in found), name
        assert set().union(*(draw.contract.call_kwargs for draw in found)) == {*CALL, "bias", "intermediates"}
        assert {draw.batch for draw in found} >= {(), (2,), (1, 2)}
        assert {(draw.poisoned, draw.state) for draw in found} >= {(True, False), (False, True)}
        empty = [draw for draw in found if draw.mask is not None and not rows_see(draw).all()]
        assert len(empty) > 50

    def test_a_draw_is_the_whole_of_its_number(self) -> None:
        first, again = drawn(7, seed=3).probe(), drawn(7, seed=3).probe()
        assert first.contract == again.contract
        for name, x in {**first.arrays, **first.weights, **first.cotangents}.items():
            np.testing.assert_array_equal(x, {**again.arrays, **again.weights, **again.cotangents}[name])

    @pytest.mark.parametrize("part", range(10))
    def test_the_formula_and_both_layers_agree(self, part: int) -> None:
        tally = option_fuzzing.random_options(DRAWS // 10, first=part * DRAWS // 10)
        assert tally.ok, "\n".join(tally.lines())
        assert tally.draws == DRAWS // 10


def rows_see(draw: Draw) -> np.ndarray:
    resolved = draw.contract.resolve({name: np.zeros(shape) for name, shape in draw.shapes().items()}, **draw.call())
    return np.any(resolved["allowed"], axis=-1) if "allowed" in resolved else np.ones(1, bool)


def before_appending(patch: pytest.MonkeyPatch) -> None:
    """The oracle zeroes queries that see no key of the call, though they see appended ones."""

    def zeroed(*given: Any, appended: bool) -> Any:
        del appended
        return nan_safety.zero_masked_inputs_dense(*given)

    patch.setattr(formula, "zero_masked_inputs_dense", zeroed)


def sinks_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The torch layer has no 1 more in the denominator."""
    sinks = torch_multi_head.MultiHeadAttention._sinks  # noqa: SLF001 - a drift is planted inside
    layer = torch_multi_head.MultiHeadAttention
    patch.setattr(layer, "_sinks", lambda self, dtype: None if self.contract.softmax == "off_by_one" else sinks(self, dtype))


def keys_unplaced(patch: pytest.MonkeyPatch) -> None:
    """The JAX layer turns queries and keys as if both were counted from 0."""
    rotate = jax_multi_head.rotate
    patch.setattr(
        jax_multi_head,
        "rotate",
        lambda rotary, x, where, **more: rotate(rotary, x, None if where is None else where * 0, **more),
    )


DRIFTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, Callable[[Any], bool]]] = {
    "zeroed before keys are appended": (before_appending, "torch", lambda c: bool(getattr(c, "extra_keys", 0))),
    "off by one forgotten": (sinks_forgotten, "torch", lambda c: getattr(c, "softmax", "") == "off_by_one"),
    "positions ignored": (keys_unplaced, "jax", lambda c: isinstance(getattr(c, "positions", None), spec.Rotary)),
}


class TestDrifts:
    @pytest.mark.parametrize("name", DRIFTS)
    def test_a_planted_drift_is_caught_by_the_draws_of_the_suite(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        plant, side, concerned = DRIFTS[name]
        programs = {name: PROGRAMS[name] for name in ("formula", side)}
        plant(monkeypatch)
        # The other draws are unchanged, and agree.
        those = (draw for draw in draws() if isinstance(draw.contract, spec.MultiHeadAttention) and concerned(draw.contract))
        caught = next((found for draw in those if (found := check_draw(draw, programs))), ())
        assert caught, name
        assert not any(disagreement.raised for disagreement in caught)

    def test_a_failing_draw_shrinks_to_the_option_at_fault_and_is_printed_as_code(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def right(probe: Probe, implementation: str) -> dict[str, np.ndarray]:
            return NumpyBackend().run(probe, implementation).results

        def wrong(probe: Probe, implementation: str) -> dict[str, np.ndarray]:
            with pytest.MonkeyPatch.context() as patch:
                before_appending(patch)
                return NumpyBackend().run(probe, implementation).results

        programs = {"right": right, "wrong": wrong}
        draw = next(draw for draw in draws() if check_draw(draw, programs))
        plain = shrunk(draw, lambda plainer: bool(check_draw(plainer, programs)))
        assert isinstance(plain.contract, spec.MultiHeadAttention)
        left = {f.name for f in fields(plain.contract) if getattr(plain.contract, f.name) != f.default}
        assert left & {"add_bias_kv", "add_zero_attn"}
        # A single key takes all the weight whatever the query is, and so there has to be a second, or a gate.
        assert len(left - {"embed_dim", "num_heads", "mask"}) == 2, left
        assert (plain.T, plain.S, plain.batch, plain.bias, plain.intermediates, plain.poisoned) == (1, 1, (), None, (), False)
        exec(code(plain), {})  # noqa: S102 - our own text
        assert capsys.readouterr().out.strip() == "", "right programs agree"
        before_appending(monkeypatch)
        exec(code(plain), {})  # noqa: S102 - as above
        assert "formula" in capsys.readouterr().out


class TestValues:
    def test_code_makes_the_value_again(self) -> None:
        names = {"spec": spec, "np": np, "Draw": Draw}
        for draw in draws(100):
            again = eval(written(draw), names)  # noqa: S307 - our own text
            assert again.contract == draw.contract
            assert written(again) == written(draw)

    def test_disagreements_say_which_result_where_and_by_how_much(self) -> None:
        one, other = {"output": np.array([1.0, 4.0]), "d x": np.zeros(1)}, {"output": np.array([1.0, 4.4]), "d x": np.zeros(1)}
        (found,) = compared(("formula", one), ("torch", other))
        assert str(found) == "output[1]: formula 4, torch 4.4; apart by 1.0e-01 of the largest"
        assert not list(compared(("formula", one), ("torch", one)))
        (lost,) = compared(("formula", one), ("torch", {**one, "output": np.array([np.nan, 4.0])}))
        assert lost.error == np.inf

    def test_masks_of_a_call_hold_padding_on_either_side(self) -> None:
        pick, sides = Pick(np.random.default_rng(0)), set[str]()
        for _ in range(100):
            mask = given(pick, FRAMES[1], (2,), 4)
            sides |= {mask.padding} if isinstance(mask, spec.Lengths) else set()
        assert sides == {"left", "right"}


class TestRefusals:
    @pytest.mark.parametrize("given", [{"draws": 0}, {"seed": -1}, {"first": -1}])
    def test_numbers_out_of_range(self, given: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match="must be an int >="):
            _ = option_fuzzing.random_options(**given)


class TestCommands:
    def test_a_log_gets_a_line_after_every_tenth_of_the_draws(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress_bar(20) as tell:
            for ran in range(1, 21):
                tell(ran, ran // 15)
        lines = capsys.readouterr().err.splitlines()
        assert (len(lines), lines[0], lines[-1]) == (10, "2 of 20 draws, 0 failed", "20 of 20 draws, 1 failed")

    def test_a_disagreement_is_printed_as_code_and_exits_with_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = (Disagreement(("formula", "torch"), "output", 1.0, (0,), (1.0, 2.0)),)
        monkeypatch.setattr(run_module, "check_draw", lambda *_: found)
        monkeypatch.setattr(run_module, "shrunk", lambda draw, _: draw)
        result = CliRunner().invoke(app, ["random-options", "--draws", "1"])
        assert result.exit_code == 1, result.output
        assert "print(*check_draw(Draw(" in result.stdout
        assert "1 disagree" in result.stdout
        monkeypatch.setattr(run_module, "check_draw", lambda *_: ())
        assert CliRunner().invoke(app, ["random-options", "--draws", "3"]).exit_code == 0
