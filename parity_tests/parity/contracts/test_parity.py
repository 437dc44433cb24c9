"""The proof itself: every contract, in every dtype, on every kernel of both backends, within its budget of rounding errors."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from attention import jax_impl, parity, spec, torch_impl
from attention.jax_impl.kernels import blockwise as jax_blockwise
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect
from attention.parity.contracts.probes import Probe, probes
from attention.parity.numerics.comparison import judge
from attention.spec.cases import CASES
from attention.spec.errors import OptionError, ShapeError, UnknownName
from attention.spec.kernels import Kernel
from attention.torch_impl.kernels import blockwise as torch_blockwise
from parity_tests.support.covering import pairwise

FOUNDATION = list(CASES)[: list(CASES).index("dropout") + 1]
"""The forms on which every probe runs in every dtype; the later cases differ from them by one option each, or by a layer."""

OTHERS = [name for name in CASES if name not in FOUNDATION]
ASKED = [(name, dtype) for name in FOUNDATION for dtype in ("float32", "bfloat16", "float16", "float64")]
PROBED = {name: [probe.name for probe in probes(CASES[name].contract)] for name in FOUNDATION}
CORNERS = list(dict.fromkeys(corner for corners in PROBED.values() for corner in corners))


def probed(name: str, dtype: str, corner: str) -> Probe:
    return next(probe for probe in probes(CASES[name].contract, dtype) if probe.name == corner)


@dataclass(frozen=True)
class Tiled:
    """A kernel with tiles as small as a probe, the table that it stands in, and the side that runs it."""

    side: str
    table: Any
    small: Kernel

    def __str__(self) -> str:
        return f"{self.side}-{self.small.name}"


TILED = (
    Tiled("torch", torch_impl.kernels.KERNELS, torch_blockwise.Blockwise(tile=4, most=64, side=4)),
    Tiled("jax_eager", jax_impl.kernels.KERNELS, jax_blockwise.Blockwise(tile=(4, 8))),
)

TINY = spec.MultiHeadAttention(embed_dim=6, num_heads=2)


def plain(dtype: str = "float32") -> Probe:
    return probes(TINY, dtype)[0]


class TestLaws:
    # Every contract in every dtype, each time in another corner; `make parity` runs all, all compiled.
    @pairwise("named, corner", ASKED, CORNERS, strength=1, allowed=lambda named, corner: corner in PROBED[named[0]])
    def test_both_backends_agree_with_the_oracle(self, named: tuple[str, str], corner: str) -> None:
        # Each contract is compiled in float32; in the other dtypes the same operations run one at a time, which is cheaper.
        name, dtype = named
        others = ("torch", "jax_eager", *(["numpy"] if dtype == "float64" else []))
        backends = ("torch", "jax") if dtype == "float32" else others
        parity.Report(tuple(check_probe(name, probed(name, dtype, corner), backends))).assert_ok()

    @pytest.mark.parametrize("name", OTHERS)
    def test_every_option_and_layer_agrees_with_the_oracle(self, name: str) -> None:
        # `make parity` runs every probe of these, all compiled; here one is enough to show that a mistake would be seen.
        parity.Report(tuple(check_probe(name, probed(name, "float32", "padding"), ("torch", "jax")))).assert_ok()

    @pairwise("name, dtype, corner", OTHERS, ("bfloat16", "float16"), ("plain", "padding"), strength=1)
    def test_every_option_and_layer_agrees_in_narrow_dtypes(self, name: str, dtype: str, corner: str) -> None:
        parity.Report(tuple(check_probe(name, probed(name, dtype, corner), ("torch", "jax_eager")))).assert_ok()

    def test_a_compiled_layer_agrees_in_bfloat16(self) -> None:
        for probe in probes(CASES["rotary"].contract, "bfloat16")[:2]:
            parity.Report(tuple(check_probe("rotary", probe, ["jax"]))).assert_ok()

    @pytest.mark.parametrize("name", ["cross", "grouped", "rotary", "dropout"])
    def test_the_reference_kernels_agree_where_a_fused_one_is_preferred(self, name: str) -> None:
        for dtype in ("float32", "bfloat16"):
            options = {"backends": ("torch", "jax_eager"), "implementation": "reference"}
            parity.check(CASES[name].contract, name=name, dtypes=[dtype], **options).assert_ok()

    @pytest.mark.parametrize("name", ["cross", "grouped", "dropout", "softcap", "window", "sinks"])
    @pytest.mark.parametrize("kernel", TILED, ids=str)
    def test_kernels_that_follow_tiles_agree_whatever_the_mask(
        self, kernel: Tiled, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Tiles so small that a probe has full, partial and empty ones.
        monkeypatch.setitem(kernel.table, kernel.small.name, kernel.small)
        dtype = "bfloat16" if name == "grouped" else "float32"
        rows = [
            row
            for probe in probes(CASES[name].contract, dtype)
            if probe.name in {"plain", "padding", "dropout"}
            for row in check_probe(name, probe, (kernel.side,), kernel.small.name)
        ]
        parity.Report(tuple(rows)).assert_ok()
        assert all(row.verdicts for row in rows)

    def test_the_two_backends_agree_in_float64_to_1e_14(self) -> None:
        for probe in probes(CASES["grouped"].contract, "float64"):
            torch, jax = (backends.find(name).run(probe, "reference").results for name in ("torch", "jax_eager"))
            for name in ("output", *probe.intermediates):
                finite = np.isfinite(torch[name])
                assert np.array_equal(finite, np.isfinite(jax[name]))
                apart = np.abs(torch[name][finite] - jax[name][finite]).max()
                assert apart <= 1e-14 * max(1.0, np.abs(jax[name][finite]).max()), (probe.name, name)

    def test_every_contract_is_probed_in_its_corners(self) -> None:
        names = {case: {probe.name for probe in probes(CASES[case].contract)} for case in CASES}
        assert {"few queries", "few keys"} <= names["causal_end"]
        assert "few queries" not in names["causal"], "plain Causal() has no meaning there"
        assert {"far positions", "left padding"} <= names["rotary"]
        assert all({"plain", "padding", "packed"} <= found for found in names.values())
        assert all({"mask per head", "intermediates"} <= names[name] for name in FOUNDATION)

    def test_no_axis_of_a_probe_can_stand_in_for_another(self) -> None:
        n = next(probe for probe in probes(CASES["cross"].contract) if probe.name == "few queries").sizes
        assert len({n.batch[0], n.T, n.S, n.H, n.D, n.E}) == 6

    def test_probes_hide_nothing_behind_a_zero(self) -> None:
        assert all(np.all(x != 0) for x in probes(CASES["self"].contract)[0].weights.values())


class TestValues:
    def test_an_empty_row_must_be_exactly_the_bias(self) -> None:
        probe = next(p for p in probes(CASES["causal"].contract) if p.name == "padding")
        got = backends.find("torch").run(probe, "auto").results["output"]
        assert np.array_equal(got[2], np.broadcast_to(probe.weights["out_proj.bias"], got[2].shape))

    def test_a_difference_in_an_exact_place_is_infinitely_wrong(self) -> None:
        verdict = judge("output", np.asarray([0.0, 1e-30]), np.zeros(2), np.zeros(2))
        assert verdict.worst == np.inf
        assert verdict.index == (1,)
        assert not verdict.agrees

    @pytest.mark.parametrize("got", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_never_agrees_with_a_number(self, got: float) -> None:
        assert not judge("output", np.asarray([got]), np.ones(1), np.ones(1)).agrees

    def test_minus_infinity_agrees_with_itself(self) -> None:
        assert judge("logsumexp", np.asarray([-np.inf]), np.asarray([-np.inf]), np.zeros(1)).agrees

    def test_no_budget_is_no_agreement(self) -> None:
        assert not judge("output", np.asarray([1.5]), np.ones(1), np.asarray([np.nan])).agrees

    def test_the_worst_element_is_named(self) -> None:
        got = np.ones((2, 3))
        got[1, 2] += 0.5
        verdict = judge("output", got, np.ones((2, 3)), np.full((2, 3), 0.01))
        assert (verdict.index, verdict.got, verdict.wanted, round(verdict.worst)) == ((1, 2), 1.5, 1.0, 50)

    def test_float64_budget_is_that_of_float32_scaled(self) -> None:
        single, double = expect(plain("float32")), expect(replace(plain("float32"), dtype="float64"))
        ratio = double.sigma["output"] / single.sigma["output"]
        assert np.array_equal(ratio, np.full(ratio.shape, 2.0**-29))

    def test_coarser_storage_has_a_larger_budget(self) -> None:
        single, half = (np.median(expect(plain(dtype)).sigma["output"]) for dtype in ("float32", "bfloat16"))
        assert half > 2**14 * single


class TestRefusals:
    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownName, match=r"^backend 'tensorflow' must be one of 'numpy', 'torch', 'jax', 'jax_eager'$"):
            _ = backends.find("tensorflow")
        with pytest.raises(UnknownName, match=r"^implementation 'magic' must be 'auto' or one of sdpa, reference, "):
            _ = check_probe("tiny", plain(), ["torch"], "magic")

    def test_shapes_that_differ(self) -> None:
        with pytest.raises(ShapeError, match=r"^output \(2,\) must be \(3,\) as the oracle's is$"):
            _ = judge("output", np.zeros(2), np.zeros(3), np.zeros(3))

    def test_bad_runs(self) -> None:
        with pytest.raises(OptionError, match="runs 0 must be a positive int"):
            _ = expect(plain(), runs=0)
