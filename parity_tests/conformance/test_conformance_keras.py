"""`keras.layers.MultiHeadAttention` and `AdditiveAttention`, beside ours: outputs, scores and every gradient."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

# Not importorskip, which would skip where Keras is there without its backend.
if find_spec("keras") is None:
    pytest.skip("Keras is heavy and wanted by these tests alone: pip install 'keras==3.15.*'", allow_module_level=True)

from conformance import keras_layers
from conformance.keras_layers import MASKS, MODULES, Module

BACKENDS = ("torch", "jax_eager")


class TestLaws:
    @pytest.mark.parametrize("masks", MASKS)
    @pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
    def test_multi_head_attention_agrees(self, module: Module, masks: str) -> None:
        assert not [line for line in keras_layers.lines(module, masks, BACKENDS) if not line.passed]

    @pytest.mark.parametrize("masks", ["none", "causal", "padded"])
    def test_additive_attention_agrees(self, masks: str) -> None:
        assert not [line for line in keras_layers.additive_lines(masks, BACKENDS) if not line.passed]


class TestDifferences:
    def test_a_row_without_a_key_is_the_mean_where_fused_and_zero_with_scores(self) -> None:
        made = keras_layers.empty()
        probe = keras_layers.probe(MODULES[0], "none")
        bias = probe.weights["out_proj.bias"]
        values = (
            np.einsum("bsm,mke->bske", probe.arrays["value"], probe.weights["v_proj.kernel"]) + probe.weights["v_proj.bias"]
        )
        mean = np.einsum("he,hem->m", values[2].mean(axis=0), probe.weights["out_proj.kernel"]) + bias
        for name, wanted in (("ours", bias), ("scores", bias), ("fused", mean)):
            np.testing.assert_allclose(made[name][2], np.broadcast_to(wanted, made[name][2].shape), rtol=0, atol=1e-5)
        np.testing.assert_allclose(made["fused"][:2], made["ours"][:2], rtol=0, atol=1e-5)

    def test_the_fused_program_refuses_values_of_another_width(self) -> None:
        module = next(m for m in MODULES if not m.fuses)
        with pytest.raises(TypeError, match="cannot reshape"):
            _ = keras_layers.theirs(keras_layers.probe(module, "none"), module, "none", scores=False)
