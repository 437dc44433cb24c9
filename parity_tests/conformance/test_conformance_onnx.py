"""ONNX's operator tests through both backends, and whether they would notice.

every case that a contract covers passes; every convention that the adapter says aloud is needed by a case
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from conformance import onnx_attention, onnx_suite
from conformance.__main__ import app
from conformance.backends import BACKENDS
from conformance.baselines import BASELINES, KINDLY
from conformance.onnx_backends import ADAPTERS, BackendProgram
from conformance.onnx_cases import MODULES, collect
from conformance.table import PASSED, RAISED, UNASKED, WRONG, Conformance, Outcome, judge

TORCH, JAX = (BackendProgram(backend) for backend in BACKENDS)
COUNTS = {"Attention": 93, "RotaryEmbedding": 8, "RMSNormalization": 19, "LinearAttention": 14}


def outcomes(program: Any, operator: str = "Attention") -> list[Outcome]:
    return [judge(program, case) for case in collect(operator)]


def not_passed(program: Any, operator: str = "Attention") -> dict[str, str]:
    return {x.case.removeprefix("test_"): x.status for x in outcomes(program, operator) if x.status != PASSED}


def case(name: str) -> Any:
    return next(x for x in collect("Attention") if x.name == f"test_attention_{name}")


class TestLaws:
    @pytest.mark.parametrize("program", [TORCH, BackendProgram(BACKENDS[0], "reference"), JAX], ids=lambda x: x.name)
    def test_all_93_attentions_pass(self, program: BackendProgram) -> None:
        assert [x for x in outcomes(program) if x.status != PASSED] == []

    @pytest.mark.parametrize("program", [TORCH, JAX], ids=lambda x: x.name)
    @pytest.mark.parametrize("operator", ["RotaryEmbedding", "RMSNormalization"])
    def test_all_rotations_and_norms_pass(self, program: BackendProgram, operator: str) -> None:
        assert not_passed(program, operator) == {}

    @pytest.mark.parametrize("program", [TORCH, JAX], ids=lambda x: x.name)
    def test_linear_attention_passes_where_it_does_not_forget(self, program: BackendProgram) -> None:
        found = outcomes(program, "LinearAttention")
        assert Counter(x.status for x in found) == {PASSED: 2, UNASKED: 12}
        assert {x.note for x in found if x.status == UNASKED} == {
            f"no contract has the update rule {rule!r}" for rule in ("gated", "delta", "gated_delta")
        }

    def test_every_operator_has_its_cases_and_an_adapter(self) -> None:
        assert {operator: len(collect(operator)) for operator in MODULES} == COUNTS
        assert ADAPTERS.keys() == MODULES.keys()

    def test_fused_kernels_answer_too(self) -> None:
        """Torch's own kernel is nearer the truth than ONNX's float16, which rounds after every operation, and yet not near."""
        fails = not_passed(BackendProgram(BACKENDS[0], "auto"))
        assert all("fp16" in name for name in fails), fails


def _start(_: Any) -> dict[str, Any]:
    return {"align": "start"}


def _end(_: Any) -> dict[str, Any]:
    return {"align": "end"}


def _left_aligned(mask: Any, count: int, honest: Callable[..., Any] = onnx_attention.split_mask) -> Any:
    """Read a mask of heads as one of batch rows."""
    return honest(mask[:2, None] if mask is not None and mask.ndim == 3 else mask, count)


def _dropped(mask: Any, count: int) -> Any:
    del mask, count
    return None, None


def _interleaved(x: np.ndarray, count: int | None) -> np.ndarray:
    """Split the last axis as (D, heads)."""
    return np.swapaxes(x, 1, 2) if x.ndim == 4 else np.swapaxes(x.reshape(*x.shape[:2], -1, count or 1), 2, 3)


class TestValues:
    @pytest.mark.parametrize(
        ("name", "misread", "notices"),
        [
            ("place", _start, "attention_4d_causal_with_past_and_present"),
            ("place", _start, "attention_4d_causal_nonpad_continued_prefill"),
            ("place", _end, "attention_4d_causal"),
            ("place", _end, "attention_local_window_ext_cache_rank2_mask"),
            ("split_mask", _left_aligned, "attention_local_window_ext_cache_rank3_head_mask"),
            ("split_mask", _dropped, "attention_4d_attn_mask"),
            ("split_mask", _dropped, "attention_causal_boolmask_nan_robustness"),
            ("split", _interleaved, "attention_3d_gqa"),
            ("MODES", dict.fromkeys(range(4), "scores"), "attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal"),
            ("MODES", dict.fromkeys(range(4), "scaled"), "attention_4d_with_qk_matmul_softcap"),
            ("MODES", dict.fromkeys(range(4), "masked"), "attention_3d_with_past_and_present_qk_matmul"),
        ],
    )
    def test_a_convention_misread_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch, name: str, misread: Any, notices: str
    ) -> None:
        monkeypatch.setattr(onnx_attention, name, misread)
        assert not_passed(TORCH)[notices] in (WRONG, RAISED)

    def test_a_short_mask_is_followed_by_what_forbids(self) -> None:
        """Every case that has one says by its lengths too that the rest is padding, so none would notice."""
        read = onnx_attention.split_mask
        np.testing.assert_equal(read(np.array([[0.5, -np.inf]]), 4), (np.eye(1, 4, dtype=bool), 0.5 * np.eye(1, 4)))
        np.testing.assert_equal(read(np.array([True, False]), 3), (np.array([True, False, False]), None))
        np.testing.assert_equal(read(np.array([[1.0, 2.0]]), 2), (None, np.array([[1.0, 2.0]])))

    def test_the_judge_sees_values_dtypes_shapes_nan_and_absence(self) -> None:
        asked = case("4d_with_past_and_present_qk_matmul")
        right = dict(asked.outputs)
        assert asked.mismatch(right) is None
        for name, wanted in right.items():
            for wrong in (wanted * np.float32(1.002), wanted.astype(np.float64), wanted[:1], wanted * np.float32(np.nan)):
                assert str(asked.mismatch({**right, name: wrong})).startswith(f"{name}: ")
        assert asked.mismatch({}) == "Y: absent"

    def test_bfloat16_is_judged_by_onnx(self) -> None:
        asked = case("4d_causal_bf16")
        wanted = asked.outputs["Y"]
        assert asked.mismatch({"Y": wanted * wanted.dtype.type(1.0078125)}) is None
        assert asked.mismatch({"Y": wanted * wanted.dtype.type(1.03125)}) is not None

    def test_torch_alone_passes_60_and_as_the_backends_are_judged_fewer(self) -> None:
        kindly, strictly = (
            Counter(x.status for x in outcomes(baseline)) for baseline in BASELINES if baseline.name.startswith("torch")
        )
        assert kindly == {PASSED: 60, WRONG: 3, UNASKED: 30}
        assert strictly[PASSED] <= 48
        assert strictly[UNASKED] == 44

    def test_jax_alone_answers_an_empty_row_and_a_frontier_wrongly(self) -> None:
        jax_alone = KINDLY[1]
        assert judge(jax_alone, case("4d_gqa")).status == PASSED
        assert judge(jax_alone, case("causal_boolmask_nan_robustness")).status == WRONG
        assert judge(jax_alone, case("4d_causal_nonpad_continued_prefill")).status == WRONG
        assert judge(jax_alone, case("4d_diff_heads_sizes")).status == RAISED
        assert judge(jax_alone, case("4d_softcap")).note == "has no argument for a soft cap"


class TestFiles:
    def made(self, *found: Outcome) -> Conformance:
        return Conformance(found, {"onnx": "1"}, ("torch",))

    def test_a_failure_is_counted_named_and_not_ok(self) -> None:
        right, wrong = Outcome("torch", "Attention", "a", PASSED), Outcome("torch", "Attention", "b", WRONG, "Y: far")
        other = Outcome("jax.nn alone", "Attention", "b", RAISED, "no")
        assert self.made(right, other).ok
        assert not self.made(right, wrong).ok
        assert not self.made().ok
        assert self.made(right, wrong, other).remarks() == ["torch: b wrong: Y: far"]
        assert self.made(right, wrong, other).count("Attention", "torch") == {PASSED: 1, WRONG: 1}

    def test_the_command_writes_every_outcome(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(onnx_suite, "BACKENDS", BACKENDS[:1])
        monkeypatch.setattr(onnx_suite, "BASELINES", BASELINES[:1])
        path = tmp_path / "new" / "onnx.json"
        ran = CliRunner().invoke(app, ["onnx", "--baselines", "--kernel=reference", f"--json={path}"])
        assert ran.exit_code == 0, ran.output
        read = json.loads(path.read_text(encoding="utf-8"))
        assert len(read["outcomes"]) == sum(COUNTS.values()) + COUNTS["Attention"]
        assert read["versions"].keys() == {"onnx", "torch", "jax"}
        assert "9 of LinearAttention: no contract has the update rule 'gated_delta'" in ran.output

    def test_a_case_that_fails_is_an_exit_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_suite, "BACKENDS", BACKENDS[:1])
        monkeypatch.setattr(onnx_attention, "place", _start)
        ran = CliRunner().invoke(app, ["onnx"])
        assert ran.exit_code == 1
        assert "torch: test_attention_4d_causal_with_past_and_present wrong: Y" in ran.output


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--kernel=nope"], "conformance: kernel 'nope' must be 'auto' or, in both backends, reference"),
            (["--json=/dev/null/b.json"], "conformance: path '/dev/null/b.json' must be writable"),
        ],
    )
    def test_a_mistake_is_one_line(self, arguments: list[str], line: str) -> None:
        ran = CliRunner().invoke(app, ["onnx", *arguments])
        assert ran.exit_code == 2
        assert ran.output.startswith(line)
        assert ran.output.count("\n") == 1

    def test_a_missing_suite_names_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attention._extras.find_spec", lambda module: None if module == "onnx" else module)
        ran = CliRunner().invoke(app, ["onnx"])
        assert ran.exit_code == 2
        assert "pip install 'attention-parity[conformance]'" in ran.output
