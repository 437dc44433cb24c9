"""`torch.nn.MultiheadAttention` over its whole option grid, beside ours: outputs, weights and every gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attention import spec
from attention.parity.contracts import backends
from attention.torch_impl.params import to_numpy, to_tensor
from conformance import torch_mha as mha
from conformance.peers import LIMIT, apart, draw, widened
from parity_tests.support.covering import pairwise

PLAIN, APPENDS = mha.Module(), mha.Module(add_bias_kv=True, add_zero_attn=True)
OPTIONS, SWITCHES = "bias, add_bias_kv, add_zero_attn, separate", ((True, False),) * 4


class TestLaws:
    # Every pair of options of the module and of its masks.
    @pairwise(f"{OPTIONS}, masks", *SWITCHES, mha.GRID)
    def test_torch_agrees_however_theirs_is_called(
        self, bias: bool, add_bias_kv: bool, add_zero_attn: bool, separate: bool, masks: mha.Masks
    ) -> None:
        module = mha.Module(bias, add_bias_kv, add_zero_attn, separate)
        assert not [line for line in mha.wide(module, masks, ("torch",)) if not line.passed]

    @pairwise(OPTIONS, *SWITCHES)
    def test_jax_agrees_with_one_kind_of_mask_each(
        self, bias: bool, add_bias_kv: bool, add_zero_attn: bool, separate: bool
    ) -> None:
        # `python -m conformance torch` asks all of the grid.
        module = mha.Module(bias, add_bias_kv, add_zero_attn, separate)
        assert not [line for line in mha.wide(module, mha.turn(module), ("jax_eager",)) if not line.passed]

    @pytest.mark.parametrize("module", [PLAIN, APPENDS], ids=str)
    def test_float32_is_within_the_budget_theirs_included(self, module: mha.Module) -> None:
        lines = list(mha.narrow(module, mha.Masks("per head", padded=True)))
        assert [(line.backend, line.dtype) for line in lines] == [(b, "float32") for b in ("torch", "jax", "theirs")]
        assert not [line for line in lines if not line.passed]

    def test_the_grid_is_whole(self) -> None:
        assert len(set(mha.MODULES)) == 16
        assert len(set(mha.GRID)) == 10
        assert {len(mha.calls(masks)) for masks in mha.GRID} == {6, 12}
        assert {mha.turn(module) for module in mha.MODULES} == set(mha.GRID)


class TestValues:
    @pytest.mark.parametrize("rows", [3, None])
    def test_one_tensor_may_be_query_key_and_value(self, rows: int | None) -> None:
        # torch then projects all three by one product; without a batch axis it makes one.
        probe = widened(draw("self", mha.torch_mha.contract(PLAIN.config), mha.T, mha.T, spec.Causal()))
        x = to_tensor(probe.arrays["query"] if rows else probe.arrays["query"][0])
        made = mha.load(probe, PLAIN, batch_first=True)
        hidden = torch.triu(torch.ones(mha.T, mha.T, dtype=torch.bool), 1)
        wanted = to_numpy(made(x, x, x, attn_mask=hidden, need_weights=False)[0])
        got = backends.find("torch").run(replace(probe, mask=spec.Causal()), "auto").results["output"]
        np.testing.assert_allclose(got if rows else got[0], wanted, rtol=0, atol=LIMIT)

    @pytest.mark.parametrize("padded", [False, True])
    def test_the_fast_path_of_evaluation_agrees(self, padded: bool) -> None:
        masks = mha.Masks("none", padded)
        contract = mha.torch_mha.contract(PLAIN.config)
        lengths = spec.Lengths(kv=np.array([mha.T, 3, 1])) if padded else None
        probe = widened(draw("fast", contract, mha.T, mha.T, lengths))
        x = to_tensor(probe.arrays["query"])
        dropped = torch.arange(mha.T) >= torch.tensor([mha.T, 3, 1])[:, None] if masks.padded else None
        made = mha.load(probe, PLAIN, batch_first=True).eval()
        with torch.no_grad():
            wanted = to_numpy(made(x, x, x, key_padding_mask=dropped, need_weights=False)[0])
        got = backends.find("torch").run(probe, "auto").results["output"]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=LIMIT)

    def test_a_weight_in_the_wrong_place_is_seen(self) -> None:
        masks = mha.Masks("bool")
        probe = widened(mha.probe(PLAIN, masks))
        wanted = mha.theirs(probe, PLAIN, masks, mha.Call())
        moved = {**probe.weights, "q_proj.kernel": probe.weights["k_proj.kernel"]}
        got = backends.find("torch").run(replace(probe, weights=moved), "auto").results
        assert apart({name: got[name] for name in wanted}, wanted) > 1e-3


class TestDifferences:
    @pytest.mark.parametrize("module", [mha.Module(add_bias_kv=True), mha.Module(add_zero_attn=True)], ids=str)
    def test_the_causal_hint_hides_appended_keys_unless_weights_are_asked_for(self, module: mha.Module) -> None:
        masks, hint = mha.Masks("causal"), mha.Call(is_causal=True)
        assert mha.forgets(module, masks, hint)
        probe = widened(mha.probe(module, masks))
        said, hinted = (mha.theirs(probe, module, masks, call) for call in (mha.Call(), hint))
        assert apart(hinted, said) > 1e-2
        # The same hint does no harm where weights are asked for.
        asked = mha.Call(weights="weights", is_causal=True)
        assert not mha.forgets(module, masks, asked)
        assert apart({n: mha.theirs(probe, module, masks, asked)[n] for n in said}, said) < LIMIT

    @pytest.mark.parametrize(("weights", "theirs"), [(True, np.nan), (False, 0.0)])
    def test_a_row_without_a_key_is_nan_with_weights_and_zero_without(self, weights: bool, theirs: float) -> None:
        lengths = np.array([mha.S, 4, 0])
        probe = widened(draw("empty", mha.torch_mha.contract(PLAIN.config), mha.T, mha.S, spec.Lengths(kv=lengths)))
        made = mha.load(probe, PLAIN, batch_first=True)
        dropped = torch.tensor(np.arange(mha.S) >= lengths[:, None])
        inputs = (to_tensor(x) for x in probe.arrays.values())
        output = to_numpy(made(*inputs, key_padding_mask=dropped, need_weights=weights)[0])
        ours = backends.find("torch").run(probe, "auto").results["output"]
        np.testing.assert_allclose(ours[:2], output[:2], rtol=0, atol=LIMIT)
        np.testing.assert_array_equal(ours[2], np.broadcast_to(probe.weights["out_proj.bias"], ours[2].shape))
        np.testing.assert_array_equal(output[2] - ours[2], np.full_like(ours[2], theirs))
