"""The BERT and ALBERT weight maps: names, reshapes and transposes, exact in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from attention import spec
from attention.checkpoints import bert
from attention.spec.errors import OptionError, ParamError

# Unequal primes, so that a swapped axis cannot pass.
SMALL = spec.MultiHeadAttention(embed_dim=35, num_heads=5)
WEIGHT_MAPS = (bert.BERT, bert.ALBERT)


class TestLaws:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("weight_map", WEIGHT_MAPS, ids=lambda d: d.name)
    def test_round_trip_is_exact(self, weight_map: bert.WeightMap, dtype: str) -> None:
        numbers = np.random.default_rng(1)
        shapes = {row.stored: row.shape(SMALL.params[row.canonical]) for row in weight_map.rows}
        stored = {f"at.{n}": numbers.standard_normal(shape).astype(dtype) for n, shape in shapes.items()}
        weights = bert.read(stored, weight_map, SMALL, at="at.")
        assert {n: v.shape for n, v in weights.items()} == {n: p.shape for n, p in SMALL.params.items()}
        back = bert.write(weights, weight_map, SMALL, at="at.")
        assert list(back) == list(stored)
        for name, tensor in stored.items():
            assert back[name].dtype == tensor.dtype
            np.testing.assert_array_equal(back[name], tensor)

    @pytest.mark.parametrize("weight_map", WEIGHT_MAPS, ids=lambda d: d.name)
    def test_other_layers_and_the_norm_are_left_alone(self, weight_map: bert.WeightMap) -> None:
        stored = bert.write(SMALL.init(seed=0), weight_map, SMALL, at="layer.1.")
        stored |= {f"layer.1.{name}": np.ones(35) for name in weight_map.ignored}
        stored |= bert.write(SMALL.init(seed=1), weight_map, SMALL, at="layer.11.")
        weights = bert.read(stored, weight_map, SMALL, at="layer.1.")
        np.testing.assert_array_equal(weights["q_proj.kernel"], SMALL.init(seed=0)["q_proj.kernel"])

    def test_a_written_layer_is_a_copy(self) -> None:
        weights = SMALL.init(seed=0)
        stored = bert.write(weights, bert.BERT, SMALL)
        assert not any(np.shares_memory(w, s) for w in weights.values() for s in stored.values())


class TestValues:
    def test_head_h_is_rows_h_d_to_h_d_plus_d(self) -> None:
        # torch's Linear is y = x W^T, and BERT cuts y into heads in order.
        stored = bert.write(SMALL.init(seed=0), bert.BERT, SMALL)
        weight, bias = np.arange(35.0 * 35).reshape(35, 35), np.arange(35.0)
        stored |= {"self.query.weight": weight, "self.query.bias": bias, "output.dense.weight": weight}
        weights = bert.read(stored, bert.BERT, SMALL)
        np.testing.assert_array_equal(weights["q_proj.kernel"][:, 3, :], weight[21:28, :].T)
        np.testing.assert_array_equal(weights["q_proj.bias"][3], bias[21:28])
        np.testing.assert_array_equal(weights["out_proj.kernel"][3], weight[:, 21:28].T)

    def test_contract_comes_from_the_config(self) -> None:
        assert bert.contract({"hidden_size": 35, "num_attention_heads": 5, "hidden_act": "gelu"}) == SMALL


class TestRefusals:
    @pytest.mark.parametrize("weight_map", WEIGHT_MAPS, ids=lambda d: d.name)
    def test_every_fault_is_named(self, weight_map: bert.WeightMap) -> None:
        stored = bert.write(SMALL.init(seed=0), weight_map, SMALL)
        query, key, value, *_ = [row.stored for row in weight_map.rows if row.canonical.endswith("kernel")]
        del stored[query], stored[key]
        stored |= {value: np.zeros((35, 34)), "self.distance_embedding.weight": np.zeros((9, 7))}
        with pytest.raises(ParamError) as caught:
            _ = bert.read(stored, weight_map, SMALL)
        assert str(caught.value) == (
            f"{weight_map.name} tensors under '' do not fit: missing {query} (35, 35); missing {key} (35, 35); "
            f"unexpected self.distance_embedding.weight (9, 7); {value} (35, 34) must be (35, 35)"
        )

    def test_canonical_faults_are_named_too(self) -> None:
        weights = SMALL.init(seed=0)
        weights["gate.kernel"] = weights.pop("q_proj.kernel")
        with pytest.raises(ParamError, match=r"missing q_proj\.kernel \(35, 5, 7\); unexpected gate\.kernel"):
            _ = bert.write(weights, bert.BERT, SMALL)

    def test_positions_inside_the_attention_are_refused(self) -> None:
        config = {"hidden_size": 35, "num_attention_heads": 5, "position_embedding_type": "relative_key"}
        with pytest.raises(OptionError, match="'relative_key' must be 'absolute'"):
            _ = bert.contract(config)

    def test_a_decoder_is_refused(self) -> None:
        with pytest.raises(OptionError, match="is_decoder True must be False"):
            _ = bert.contract({"hidden_size": 35, "num_attention_heads": 5, "is_decoder": True})
