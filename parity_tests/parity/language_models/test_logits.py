"""Logits compared: numbers of each position, three verdicts, files and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attention import cli
from attention.parity import compare_logits
from attention.parity.language_models import logits as module
from attention.spec.errors import DTypeError, OptionError, ParityError, ShapeError

B, T, V = 2, 5, 31
EXACT = np.random.default_rng(0).normal(size=(B, T, V)) * 3


def rounded(seed: int, noise: float = 1e-6) -> np.ndarray:
    """What a correct model makes in float32: the exact logits, with errors like rounding."""
    return (EXACT + noise * np.random.default_rng(seed).normal(size=EXACT.shape)).astype(np.float32)


ACTUAL, EXPECTED = rounded(1), rounded(2)


class TestLaws:
    def test_two_correct_models_agree_beside_the_exact_logits(self) -> None:
        found = compare_logits(ACTUAL, EXPECTED, exact=EXACT)
        assert found.verdict == "agrees"
        assert 0.5 < found.ratio < 2

    def test_one_wrong_position_of_ten_is_found(self) -> None:
        wrong = ACTUAL.copy()
        wrong[1, 3] += 1e-3
        found = compare_logits(wrong, EXPECTED, exact=EXACT)
        assert found.verdict == "differs"
        assert found.worst_position == (1, 3)
        # Alone among many positions it would drown in the mean.
        assert found.worst_ratio > 2 * found.ratio

    def test_without_a_measure_of_rounding_equal_bits_agree_and_what_lies_between_cannot_be_told(self) -> None:
        assert compare_logits(EXPECTED, EXPECTED).verdict == "agrees"
        between = compare_logits(rounded(1, 1e-5), EXPECTED)
        assert between.verdict == "cannot tell"
        assert "pass exact=" in str(between)
        assert compare_logits(ACTUAL + 0.5, EXPECTED).verdict == "differs"

    def test_a_ratio_a_little_above_the_limit_cannot_be_told(self) -> None:
        assert compare_logits(rounded(1, 8e-6), EXPECTED, exact=EXACT).verdict == "cannot tell"

    def test_a_given_budget_is_used(self) -> None:
        sigma = np.full(V, 1e-6)
        assert compare_logits(rounded(1), EXACT, sigma=sigma).verdict == "agrees"
        assert compare_logits(rounded(1, 1e-4), EXACT, sigma=sigma).verdict == "differs"

    def test_masked_positions_do_not_count(self) -> None:
        wrong, mask = ACTUAL.copy(), np.ones((B, T), bool)
        wrong[0, :2], mask[0, :2] = np.nan, False
        assert compare_logits(wrong, EXPECTED, exact=EXACT, mask=mask).verdict == "agrees"
        assert compare_logits(wrong, EXPECTED, exact=EXACT).verdict == "differs"

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = compare_logits(ACTUAL, EXPECTED, exact=EXACT)
        monkeypatch.setattr(module, "CHUNK", 3 * V)
        assert compare_logits(ACTUAL, EXPECTED, exact=EXACT).to_dict() == whole.to_dict()

    @pytest.mark.parametrize("convert", [torch.from_numpy, jnp.asarray], ids=["torch", "jax"])
    def test_arrays_of_every_framework_are_taken(self, convert: Any) -> None:
        theirs = convert(ACTUAL), convert(EXPECTED)
        assert compare_logits(*theirs).summary() == compare_logits(ACTUAL, EXPECTED).summary()

    def test_the_coarser_dtype_decides_what_rounding_explains(self) -> None:
        narrow = EXPECTED.astype(ml_dtypes.bfloat16)
        assert compare_logits(narrow, EXPECTED).verdict == "agrees"
        assert compare_logits(torch.from_numpy(EXPECTED).bfloat16(), EXPECTED).unit == 2.0**-8
        assert compare_logits(narrow.astype(np.float32), EXPECTED).verdict != "agrees"


class TestValues:
    def test_numbers_of_a_position_by_hand(self) -> None:
        expected = np.log(np.array([[[0.5, 0.25, 0.25]]]))
        actual = np.log(np.array([[[0.25, 0.5, 0.25]]]))
        found = compare_logits(actual, expected, labels=np.array([[1]]), top_k=(1, 2, 3))
        summary = found.summary()
        assert summary["max error"] == pytest.approx(math.log(2))
        assert summary["KL mean"] == pytest.approx(0.25 * math.log(2))
        assert (summary["top-1 agreement"], summary["top-3 agreement"]) == (0.0, 1.0)
        # Of its first two tokens, 1 and one of 0 and 2, both tie with the second of the expected ones.
        assert summary["top-2 agreement"] == 1.0
        assert [(flip.position, flip.margin) for flip in found.flips] == [((0, 0), pytest.approx(math.log(2)))]
        assert found.perplexity == pytest.approx((2.0, 4.0))

    def test_a_tie_broken_otherwise_is_no_flip(self) -> None:
        found = compare_logits(np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]]))
        assert found.flips == ()

    def test_a_flip_within_rounding_is_benign(self) -> None:
        exact = np.array([[1.0, 1.0 + 1e-9, 0.0]])
        actual, expected = exact + np.array([[4e-7, 0, 0]]), exact + np.array([[0, 4e-7, 0]])
        found = compare_logits(actual.astype("f"), expected.astype("f"), exact=exact)
        assert [flip.benign for flip in found.flips] == [True]
        worse = compare_logits(np.array([[3.0, 1, 0]]), np.array([[1.0, 3, 0]]))
        assert [flip.benign for flip in worse.flips] == [False]

    def test_an_infinity_of_both_is_equal_and_of_one_is_not(self) -> None:
        masked = np.array([[1.0, -np.inf, 2.0]])
        assert compare_logits(masked, masked).ok
        lost = compare_logits(np.array([[1.0, 0.0, 2.0]]), masked)
        assert lost.verdict == "differs"
        assert lost.summary()["max error"] == math.inf

    def test_labels_without_a_token_are_left_out_of_the_perplexity(self) -> None:
        labels = np.full((B, T), -100)
        assert compare_logits(ACTUAL, EXPECTED, labels=labels).perplexity is None
        labels[0, 1] = 7
        logs = EXPECTED[0, 1] - np.log(np.exp(EXPECTED[0, 1].astype(float)).sum())
        found = compare_logits(ACTUAL, EXPECTED, labels=labels).perplexity
        assert found is not None
        assert found[1] == pytest.approx(math.exp(-logs[7]))

    def test_json_and_the_picture_hold_every_position(self, tmp_path: Path) -> None:
        found = compare_logits(ACTUAL, EXPECTED, exact=EXACT)
        found.to_json(tmp_path / "a.json")
        found.plot(tmp_path / "a.png")
        data = json.loads((tmp_path / "a.json").read_text())
        assert len(data["positions"]["index"]) == len(data["positions"]["kl"]) == B * T
        assert (tmp_path / "a.png").stat().st_size > 1000


class TestCommand:
    def run(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["logits", *words])
        return result.exit_code, result.output

    def test_files_are_compared_and_the_exit_code_is_the_verdict(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        np.save("a.npy", ACTUAL)
        np.savez("e.npz", logits=EXPECTED, other=np.zeros(3))
        np.save("x.npy", EXACT)
        np.save("mask.npy", np.ones((B, T), np.int64))
        code, text = self.run("a.npy", "e.npz", "--exact", "x.npy", "--mask", "mask.npy", "--json", "out/a.json")
        assert code == 0, text
        assert ": agrees" in text
        assert json.loads(Path("out/a.json").read_text())["verdict"] == "agrees"
        np.save("a.npy", ACTUAL + 0.1)
        assert self.run("a.npy", "e.npz", "--exact", "x.npy")[0] == 1
        np.save("a.npy", rounded(1, 1e-5))
        assert self.run("a.npy", "e.npz")[0] == 2

    def test_two_programs_are_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        _ = Path("port.py").write_text(
            "import numpy as np, jax.numpy as jnp\n"
            "table = np.random.default_rng(0).normal(size=(10, 7))\n"
            "def right(ids): return {'logits': jnp.sin(jnp.asarray(table, jnp.float32)[ids]), 'hidden': ids * 1.0}\n"
            "def wrong(ids): return jnp.sin(1.01 * jnp.asarray(table, jnp.float32)[ids])\n"
        )
        assert self.run("port.py:right", "port.py:right", "--inputs", "ids=2,3:int32")[0] == 0
        assert self.run("port.py:wrong", "port.py:right", "--inputs", "ids=2,3:int32")[0] == 1
        assert (
            "must be one of output.hidden, output.logits"
            in self.run("port.py:right", "port.py:right", "--inputs", "ids=2,3:int32", "--key", "x")[1]
        )

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("a.npy", "b.py:f"), "must be two files or two programs"),
            (("a.npy", "b.npy", "--inputs", "2,3"), "--inputs must come with two programs"),
            (("a.npy", "b.npy"), "must be a file"),
        ],
    )
    def test_a_call_that_cannot_be_answered_exits_with_2(self, words: tuple[str, ...], said: str) -> None:
        code, text = self.run(*words)
        assert (code, said in text) == (2, True), text


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "error", "said"),
        [
            ({"expected": EXPECTED[:1]}, ShapeError, r"expected \(1, 5, 31\) must be \(2, 5, 31\)"),
            ({"expected": EXPECTED.astype(int)}, DTypeError, "expected .* must be floats"),
            ({"mask": np.ones((B, T), int)}, DTypeError, "mask int64 must be bool"),
            ({"mask": np.zeros((B, T), bool)}, OptionError, "must leave a position"),
            ({"mask": np.ones(T, bool)}, ShapeError, r"mask \(5,\) must be \(2, 5\)"),
            ({"labels": np.full((B, T), V)}, OptionError, "labels 31 must be below V=31"),
            ({"sigma": np.ones(3)}, ShapeError, "sigma"),
            ({"top_k": (0,)}, OptionError, "top_k"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, more: Any, error: type[Exception], said: str) -> None:
        given: dict[str, Any] = {"actual": ACTUAL, "expected": EXPECTED} | more
        with pytest.raises(error, match=said):
            _ = compare_logits(**given)

    def test_an_assertion_raises_the_table(self) -> None:
        with pytest.raises(ParityError, match="argmax flips"):
            compare_logits(ACTUAL + 1, EXPECTED, exact=EXACT).assert_ok()
