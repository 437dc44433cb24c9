"""Reports: what is said, in which order, and what a certificate holds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from attention import parity, spec
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.numerics.comparison import Verdict
from attention.parity.results import provenance
from attention.parity.results.report import OWN, Report, Row
from attention.spec.errors import FileError, ParityError

TINY = spec.MultiHeadAttention(embed_dim=6, num_heads=2)


def plain() -> parity.Probe:
    return parity.probes(TINY)[0]


@pytest.fixture(scope="module")
def right() -> Report:
    return Report(tuple(check_probe("tiny", plain(), facts={"tokens": 7})))


@pytest.fixture(scope="module")
def wrong() -> Report:
    probe = plain()
    turned = replace(probe, weights={**probe.weights, "v_proj.bias": probe.weights["v_proj.bias"] + np.float32(1e-3)})
    found = verdicts(backends.find("torch").run(turned, "auto").results, expect(probe))
    return Report((Row("tiny", "plain", "torch", "sdpa", "float32", found),), advice="attention compare a b")


FAILED = Report((Row("mine", "inputs", "jax", "", "float32", failure="jax raised ValueError at model.py:12: no"),))


class TestLaws:
    def test_an_empty_report_is_no_proof(self) -> None:
        assert not Report().ok
        with pytest.raises(ParityError, match=r"^nothing was compared"):
            Report().assert_ok()

    def test_a_failure_condemns_what_agrees(self, right: Report) -> None:
        assert right.ok
        assert not (right + FAILED).ok

    def test_what_looks_like_markup_is_shown_as_it_is(self) -> None:
        name = "[red]model.py:M:"
        report = Report(
            rows=(Row(name, "inputs", "torch", "", "float32", failure="raised in [bold]a.py:M: it"),), notes=(name,)
        )
        assert name in str(report)
        assert "[bold]a.py:M: it" in str(report)

    def test_a_refusal_is_shown_and_condemns_nothing(self) -> None:
        capped = parity.probes(replace(TINY, softcap=2.0))[0]
        refused = Report(tuple(check_probe("tiny", capped, ["torch"], "sdpa")))
        assert "has no softcap" in refused.rows[0].refusal
        assert "refused" in str(refused)
        assert not refused.ok, "nothing was compared"

    def test_reports_add_and_say_a_note_once(self, right: Report) -> None:
        both = replace(right, notes=("a", "b")) + replace(right, notes=("b", "c"), advice="look")
        assert both.notes == ("a", "b", "c")
        assert (both.advice, len(both.rows)) == ("look", 4)

    def test_equal_weights_have_one_digest_and_others_another(self) -> None:
        weights = {"b": np.zeros(3), "a": np.ones((2, 2), np.float32)}
        one = provenance.digest(weights)
        assert provenance.digest(dict(reversed(weights.items()))) == one
        for other in (
            {**weights, "b": np.zeros((3, 1))},
            {**weights, "b": np.zeros(3, np.float32)},
            {**weights, "c": np.zeros(0)},
        ):
            assert provenance.digest(other) != one


WIDE = Verdict("d encoder.layers.11.self_attention.query_projection.kernel", 1.6592818e7, 3.3e8, (3, 141), 2.1, 2.0, 0.1, 4)
NEAR = Verdict("output", 1.234, 34.567, (0, 1), 1.00001234, 1.0, 0.1, 4)


def pairs(*subjects: str) -> Report:
    """The report of users' pairs, whose second program differs from the first in float64."""
    return Report(
        tuple(
            Row(subject, "inputs", side, OWN, "float32", (verdict,), reference="torch in float64")
            for subject in subjects
            for side, verdict in (("torch", replace(NEAR, worst=3.0)), ("jax (second)", WIDE))
        )
    )


def shown(report: Report, columns: int) -> str:
    console = Console(width=columns, no_color=True, highlight=False)
    with console.capture() as captured:
        report.show(console)
    return captured.get()


class TestWidths:
    OURS = Report(
        (
            Row("rotary_interleaved_with_segments", "plain", "torch (recorded)", "blockwise", "bfloat16", (WIDE,)),
            Row("rotary_interleaved_with_segments", "padding", "torch (recorded)", "reference", "bfloat16", (NEAR,)),
            Row("window", "plain", "jax", "xla", "float32", refusal="kernel 'xla' refuses: has no softcap"),
        )
    )
    REPORTS = (
        OURS,
        pairs("ports/original/model_torch.py:Classifier and ports/new/model_jax.py:FlaxClassifier"),
        pairs("a", "b"),
    )

    @pytest.mark.parametrize("columns", [40, 80, 99, 100, 250])
    @pytest.mark.parametrize("report", REPORTS, ids=["contracts", "a pair", "blocks"])
    def test_a_table_is_folded_and_loses_no_column_and_no_letter(self, report: Report, columns: int) -> None:
        table = shown(report, columns).split("z = error")[0].splitlines()
        rows = [line for line in table if not line.startswith(report.rows[0].subject)]
        assert max(len(line.rstrip()) for line in rows) <= min(max(columns, 80), 100)
        letters = "".join("".join(rows).split())
        for word in ("verdict", "differs", "1.7e7/3.3e8", *(["refused"] if report is self.OURS else ["agrees"])):
            assert word in letters
        cells = sorted("".join(f"{WIDE.name}[3,141]".split()))
        assert all(letters.count(letter) >= cells.count(letter) for letter in cells)

    def test_a_number_has_three_digits_or_as_many_as_tell_it_from_another(self) -> None:
        text = str(pairs("a"))
        assert "16592818" not in text
        assert "z rms 1.7e7, max 3.3e8 at [3, 141]: got 2.1, wanted 2, sigma 0.1" in text
        assert "z rms 1.23, max 34.6 at [0, 1]: got 1.00001, wanted 1, sigma 0.1" in str(NEAR) + text

    def test_a_pair_says_which_program_differs_from_which_reference(self) -> None:
        text = str(pairs("a"))
        assert "differs: jax (second) differs from the reference, torch in float64; either may be the wrong one" in text
        assert "FAIL" not in text
        assert [line.split()[-1] for line in text.splitlines() if "float32 " in line] == ["agrees", "differs"]

    def test_arrays_without_elements_prove_nothing(self) -> None:
        empty = Verdict("output", 0.0, 0.0, (), np.nan, np.nan, np.nan, 0)
        text = str(Report((Row("a", "inputs", "torch", OWN, "float32", (empty,)),)))
        assert "agrees\n" not in text.split("z = error", maxsplit=1)[0]
        assert text.count("cannot tell") == 2


class TestValues:
    def test_a_wrong_program_is_named_with_its_worst_element_and_what_to_run_next(self, wrong: Report) -> None:
        with pytest.raises(ParityError) as raised:
            wrong.assert_ok()
        first, second, *_ = str(raised.value).splitlines()
        assert first.startswith("worst of ")
        assert "tiny, float32, torch (sdpa), probe 'plain': " in first
        assert all(word in first for word in (" z rms ", " at [", "got ", "wanted ", "sigma "))
        assert second == "next: attention compare a b"

    def test_the_worst_is_the_farthest_outside(self, wrong: Report) -> None:
        found = wrong.worst()
        assert found is not None
        assert found[1].badness == max(v.badness for row in wrong.rows for v in row.verdicts)

    def test_a_failure_is_told_by_side_before_all_else(self, right: Report) -> None:
        text = (right + FAILED).complaint()
        assert text == "mine, float32, jax, probe 'inputs': jax raised ValueError at model.py:12: no"
        assert "differs" in str(FAILED)

    def test_the_table_names_every_subject(self, right: Report) -> None:
        text = str(replace(right, notes=("budgets [of] the oracle",)))
        assert "tiny" in text
        assert "20 arrays compared with the float64 oracle, 0 outside their budget" in text
        assert "budgets [of] the oracle" in text

    def test_a_certificate_says_all_that_was_judged_and_what_it_depends_on(self, right: Report, tmp_path: Path) -> None:
        right.to_json(tmp_path / "deep" / "report.json")
        read = json.loads((tmp_path / "deep" / "report.json").read_text())
        assert (read["format"], read["version"], read["ok"]) == ("attention certificate", 1, True)
        assert {row["side"] for row in read["rows"]} == {"torch", "jax"}
        assert {v["name"] for v in read["rows"][0]["verdicts"]} == {"output", "d query", *(f"d {n}" for n in TINY.params)}
        assert read["rows"][0]["facts"] == {
            "tokens": 7,
            "weights": provenance.digest(plain().weights),
            "matmul precision": "highest",
        }
        assert len(read["code"]) == 64
        for name in ("jax device", "torch device", "torch float32 matmul precision", "jax x64", "numpy"):
            assert read["environment"][name]

    def test_a_certificate_holds_no_array(self, wrong: Report) -> None:
        assert "pictures" not in wrong.to_dict()["rows"][0]["verdicts"][0]


class TestRefusals:
    def test_a_report_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for write in (Report().to_json, Report().to_html):
            with pytest.raises(FileError, match="must be writable"):
                write(tmp_path / "file" / "report")
