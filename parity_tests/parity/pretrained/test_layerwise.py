"""Layer by layer: both backends and a foreign layer in one report, in which the layer that was read wrongly fails."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attention import spec
from attention.parity.pretrained.layerwise import RecordedLayer, layerwise
from attention.parity.results.report import Report
from attention.spec.errors import OptionError, ParamError, ShapeError, UnknownName
from attention.torch_impl.layers import transformer

ATTENTION = spec.MultiHeadAttention(12, 4, num_kv_heads=2, head_dim=6, mask=spec.Causal(), positions=spec.Rotary(base=100.0))
BLOCK = spec.EncoderBlock(ATTENTION, spec.FeedForward(12, 20, "swiglu", bias=False), norm=spec.RMSNorm(eps=1e-5), order="pre")
DECODER = spec.DecoderBlock(
    spec.MultiHeadAttention(12, 2, mask=spec.Causal()), spec.MultiHeadAttention(12, 2, kdim=10), spec.FeedForward(12, 16)
)


def formula(contract: Any, weights: spec.Weights, arrays: dict[str, np.ndarray], **call: Any) -> dict[str, np.ndarray]:
    """Somebody's own implementation: the formula in NumPy float64, its results rounded to float32."""
    wide = ({name: x.astype(np.float64) for name, x in group.items()} for group in (weights, arrays))
    made = contract.formula(np, *wide, contract.resolve(arrays, **call))
    return {name: np.asarray(x, np.float32) for name, x in made.items()}


def seen(contract: Any, name: str = "layers.0", says: Any = None, seed: int = 1, **call: Any) -> RecordedLayer:
    """A layer of a trained model, as `says`, or the contract itself, describes it."""
    rng = np.random.default_rng(seed)
    others = {n: p.fill + rng.normal(0, 0.3, p.shape) for n, p in contract.params.items() if not p.inputs}
    weights = spec.cast({**contract.init(seed), **others}, "float32")
    first, *rest = contract.inputs.items()
    rows = {first[0]: 7} if contract.attends_self else {first[0]: 7, **dict.fromkeys((n for n, _ in rest), 5)}
    arrays = {n: rng.normal(size=(2, count, contract.inputs[n])).astype(np.float32) for n, count in rows.items()}
    theirs = {"output": formula(contract, weights, arrays, **call)["output"]}
    return RecordedLayer(name, says or contract, weights, arrays, call, theirs)


def sides(report: Report) -> dict[str, bool]:
    return {row.side: row.agrees for row in report.rows}


def fails(report: Report) -> set[str]:
    return {row.side for row in report.rows if not row.agrees}


class TestLaws:
    @pytest.mark.parametrize("contract", [ATTENTION, BLOCK, DECODER], ids=["attention", "encoder block", "decoder block"])
    def test_every_side_of_a_right_reading_agrees(self, contract: Any) -> None:
        report = layerwise([seen(contract)])
        report.assert_ok()
        assert sides(report) == {"torch": True, "jax": True, "theirs": True}
        assert {verdict.name for row in report.rows for verdict in row.verdicts} == {"output"}

    def test_a_call_has_its_masks(self) -> None:
        mask, memory = spec.Lengths(kv=[7, 4], q=[7, 4]), spec.Lengths(kv=[3, 5])
        masked = seen(DECODER, mask=mask, memory_mask=memory)
        layerwise([masked], ("torch",)).assert_ok()
        assert fails(layerwise([replace(masked, call={"mask": mask})], ("torch",))) == {"theirs"}

    def test_only_the_layer_that_was_read_wrongly_fails(self) -> None:
        wrong = seen(BLOCK, "layers.1", replace(BLOCK, norm=spec.RMSNorm(eps=1e-6)))
        report = layerwise([seen(BLOCK), wrong, seen(BLOCK, "layers.2", seed=2)], ("torch",))
        assert [(row.subject, row.side) for row in report.rows if not row.agrees] == [("layers.1", "theirs")]
        assert "parity.check(contract)" in report.complaint()

    def test_layers_are_asked_for_one_at_a_time(self) -> None:
        told: list[str] = []

        def layers() -> Iterable[RecordedLayer]:
            for n in range(3):
                assert told == [f"layers.{i}" for i in range(n)]
                yield seen(ATTENTION, f"layers.{n}")

        assert layerwise(layers(), ("numpy",), progress=told.append).ok
        assert told == ["layers.0", "layers.1", "layers.2"]

    def test_nothing_of_theirs_is_nothing_to_compare(self) -> None:
        report = layerwise([replace(seen(BLOCK), theirs=None)], ("torch",))
        assert sides(report) == {"torch": True}

    def test_facts_pin_the_weights(self) -> None:
        first, second = layerwise([seen(BLOCK), seen(BLOCK, seed=2)], ("numpy",)).rows[::2]
        assert first.facts["weights"] != second.facts["weights"]
        assert first.facts["received"] == {"x": [2, 7, 12]}

    def test_intermediates_of_theirs_are_asked_of_ours(self) -> None:
        layer = seen(ATTENTION)
        given = formula(ATTENTION, layer.weights, dict(layer.arrays))
        theirs = {"output": given["output"], "weights": given["weights"]}
        report = layerwise([replace(layer, theirs=theirs)], ("torch",))
        report.assert_ok()
        assert all({verdict.name for verdict in row.verdicts} == {"output", "weights"} for row in report.rows)


PLANTS = {
    "eps 1e-6 for 1e-5": replace(BLOCK, norm=spec.RMSNorm(eps=1e-6)),
    "rotary pairs that are neighbours": replace(
        BLOCK, attention=replace(ATTENTION, positions=spec.Rotary(base=100.0, style="interleaved"))
    ),
    "rotary base that is 0.1 % larger": replace(BLOCK, attention=replace(ATTENTION, positions=spec.Rotary(base=100.1))),
    "gelu for silu": replace(BLOCK, feed_forward=spec.FeedForward(12, 20, "geglu", bias=False)),
}


class TestPlants:
    @pytest.mark.parametrize("plant", PLANTS)
    def test_a_wrong_reading_of_the_config_is_seen(self, plant: str) -> None:
        report = layerwise([seen(BLOCK, says=PLANTS[plant])], ("numpy",))
        assert fails(report) == {"theirs"}

    @pytest.mark.parametrize("name", ["self_attn.k_proj.kernel", "ffn.gate.kernel", "norm2.scale"])
    def test_one_weight_off_by_1e_4_is_seen(self, name: str) -> None:
        layer = seen(BLOCK)
        wrong = layer.weights[name].copy()
        wrong.flat[3] += 1e-4
        report = layerwise([replace(layer, weights={**layer.weights, name: wrong})], ("torch",))
        assert fails(report) == {"theirs"}

    def test_a_backend_that_computes_something_else_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forward = transformer.EncoderBlock.forward
        monkeypatch.setattr(transformer.EncoderBlock, "forward", lambda self, x, **k: forward(self, x, **k) * (1 + 1e-4))
        assert fails(layerwise([seen(BLOCK)], ("torch",))) == {"torch"}

    def test_nan_is_seen(self) -> None:
        layer = seen(ATTENTION)
        assert fails(layerwise([replace(layer, theirs={"output": np.full((2, 7, 12), np.nan)})], ("numpy",))) == {"theirs"}

    def test_an_output_of_another_shape_is_a_failure_of_its_row(self) -> None:
        layer = seen(ATTENTION)
        report = layerwise([replace(layer, theirs={"output": np.zeros((2, 12))}), layer], ("numpy",))
        assert [row.failure for row in report.rows] == ["", "output (2, 12) must be (2, 7, 12) as the oracle's is", "", ""]
        assert not report.ok


class TestGradients:
    def test_gradients_are_compared_where_they_are_asked_for(self) -> None:
        report = layerwise([seen(ATTENTION)], ("torch",), runs=8, gradients=True)
        report.assert_ok()
        assert {verdict.name for verdict in report.rows[0].verdicts} >= {"output", "d query", "d k_proj.kernel"}


class TestRefusals:
    def test_an_unknown_backend(self) -> None:
        with pytest.raises(UnknownName, match="backend 'tensorflow' must be one of"):
            _ = layerwise([], ("tensorflow",))

    def test_a_keyword_that_the_contract_does_not_take(self) -> None:
        with pytest.raises(OptionError, match=r"layers\.0 call 'memory_mask' must be one of mask, positions, dropout_seed"):
            _ = layerwise([replace(seen(BLOCK), call={"memory_mask": None})])

    def test_a_result_that_the_contract_does_not_have(self) -> None:
        with pytest.raises(OptionError, match=r"layers\.0 theirs 'hidden' must be one of output"):
            _ = layerwise([replace(seen(BLOCK), theirs={"hidden": np.zeros(1)})])

    def test_weights_that_do_not_fit(self) -> None:
        with pytest.raises(ParamError, match=r"^weights do not fit: missing self_attn\.q_proj\.kernel .*; and \d+ more$"):
            _ = layerwise([replace(seen(BLOCK), weights={})])

    def test_arrays_that_do_not_fit(self) -> None:
        with pytest.raises(ShapeError, match=r"x \(2, 7, 3\) must be"):
            _ = layerwise([replace(seen(BLOCK), arrays={"x": np.zeros((2, 7, 3))})])
