"""CTranslate2's format: bytes to arrays and back, and the names in it to canonical weights, exact in both directions."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from attention import spec
from attention.spec.errors import FileError, ParamError
from examples.checkpoint_readers import ctranslate2
from examples.checkpoint_readers.ctranslate2 import Model

# Unequal primes, so that a swapped axis cannot pass.
HEADS = spec.MultiHeadAttention(35, 5, qkv_bias=(True, False, True))
ENCODER = spec.Encoder(spec.EncoderBlock(HEADS, spec.FeedForward(35, 11), order="pre"), 2, spec.LayerNorm())
DECODER = spec.Decoder(spec.DecoderBlock(HEADS, HEADS, spec.FeedForward(35, 11), order="pre"), 3, spec.LayerNorm())
STACKS = (ENCODER, DECODER)


def text(value: bytes) -> bytes:
    return struct.pack("<H", len(value) + 1) + value + b"\0"


def assembled(version: int = 6, kind: bytes = b"TinySpec", dtype: int = 4, size: int = 12) -> bytes:
    """A file with one float16 matrix (2, 3), one setting and one alias, byte by byte."""
    matrix = text(b"a/weight") + struct.pack("<BIIBI", 2, 2, 3, dtype, size) + np.arange(6, dtype="<f2").tobytes()
    setting = text(b"a/heads") + struct.pack("<BBIh", 0, 2, 2, 7)
    head = struct.pack("<I", version) + text(kind) + struct.pack("<II", 3, 2)
    return head + matrix + setting + struct.pack("<I", 1) + text(b"b/weight") + text(b"a/weight")


def filled(contract: spec.Encoder | spec.Decoder, dtype: str = "float32") -> spec.Weights:
    """Weights of which no two numbers are alike, but for rounding."""
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(param.shape).astype(dtype) for name, param in contract.params.items()}


class TestLaws:
    def test_what_is_written_is_read(self) -> None:
        rng = np.random.default_rng(0)
        kinds = [np.float32, np.float16, np.int32, np.int16, np.int8]
        arrays = {f"layer_{i}/weight": (9 * rng.standard_normal((2, 3, i))).astype(kind) for i, kind in enumerate(kinds)}
        model = Model("TinySpec", 2, {**arrays, "scale": np.array(7, np.int16)}, {"tied": "layer_1/weight"})
        again = ctranslate2.read(ctranslate2.write(model))
        assert (again.kind, again.revision, again.aliases) == ("TinySpec", 2, {"tied": "layer_1/weight"})
        assert list(again.variables) == list(model.variables)
        for name, array in model.variables.items():
            assert again.variables[name].dtype == array.dtype
            np.testing.assert_array_equal(again.variables[name], array)

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.parametrize("contract", STACKS, ids=["encoder", "decoder"])
    def test_weights_come_back_to_the_bit(self, contract: spec.Encoder | spec.Decoder, dtype: str) -> None:
        weights, table = filled(contract, dtype), ctranslate2.stack(contract)
        stored = ctranslate2.variables(weights, table, contract, at="side/")
        again = ctranslate2.weights(stored, table, contract, at="side/")
        assert list(again) == list(weights)
        for name, array in weights.items():
            assert again[name].dtype == array.dtype
            np.testing.assert_array_equal(again[name], array)

    def test_a_bias_of_keys_that_the_model_has_is_no_zeros(self) -> None:
        biased = spec.Encoder(spec.EncoderBlock(spec.MultiHeadAttention(35, 5), spec.FeedForward(35, 11)), 1, spec.LayerNorm())
        weights, table = filled(biased), ctranslate2.stack(biased)
        again = ctranslate2.weights(ctranslate2.variables(weights, table, biased), table, biased)
        np.testing.assert_array_equal(again["layers.0.self_attn.k_proj.bias"], weights["layers.0.self_attn.k_proj.bias"])


class TestValues:
    @pytest.mark.parametrize("version", ctranslate2.VERSIONS)
    def test_the_bytes_are_those_of_the_format(self, version: int) -> None:
        model = ctranslate2.read(assembled(version))
        assert (model.kind, model.revision, model.aliases) == ("TinySpec", 3, {"b/weight": "a/weight"})
        np.testing.assert_array_equal(model.variables["a/weight"], np.arange(6, dtype=np.float16).reshape(2, 3))
        assert model.variables["a/heads"] == 7
        assert ctranslate2.write(model) == assembled()

    def test_queries_stand_above_keys_and_values(self) -> None:
        stored = ctranslate2.variables(filled(DECODER), ctranslate2.stack(DECODER), DECODER)
        rows = np.arange(3.0 * 35)
        stored["layer_1/self_attention/linear_0/weight"] = np.repeat(rows, 35).reshape(105, 35)
        stored["layer_1/attention/linear_1/weight"] = np.repeat(rows[:70], 35).reshape(70, 35)
        weights = ctranslate2.weights(stored, ctranslate2.stack(DECODER), DECODER)
        # Head 3 of 7 features each: rows 21 to 27 of the queries, and as many further down of the keys and of the values.
        for name, first in (
            ("self_attn.q", 21),
            ("self_attn.k", 56),
            ("self_attn.v", 91),
            ("cross_attn.k", 21),
            ("cross_attn.v", 56),
        ):
            np.testing.assert_array_equal(weights[f"layers.1.{name}_proj.kernel"][0, 3], np.arange(first, first + 7))

    def test_a_stack_has_these_names(self) -> None:
        names = set(ctranslate2.variables(filled(ENCODER), ctranslate2.stack(ENCODER), ENCODER, at="encoder/"))
        parts = ("self_attention/layer_norm", "ffn/layer_norm")
        norms = {f"encoder/layer_{i}/{part}/{leaf}" for i in range(2) for part in parts for leaf in ("gamma", "beta")}
        linear = [f"{part}/linear_{n}" for part in ("self_attention", "ffn") for n in (0, 1)]
        maps = {f"encoder/layer_{i}/{part}/{leaf}" for i in range(2) for part in linear for leaf in ("weight", "bias")}
        assert names == {*norms, *maps, "encoder/layer_norm/gamma", "encoder/layer_norm/beta"}


class TestRefusals:
    def test_a_file_cut_anywhere_is_refused(self) -> None:
        whole = assembled()
        for end in range(len(whole)):
            with pytest.raises(FileError):
                _ = ctranslate2.read(whole[:end])

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"GGUF\x03\0\0\0", r"data version 1179993927 must be one of 4, 5, 6: no file of CTranslate2's"),
            (b"", r"data 0 bytes must be 4 or more: it is cut short"),
            (assembled(version=3), r"version 3 must be one of 4, 5, 6"),
            (assembled() + b"\0", r"data 105 bytes must be 104, where its last alias ends"),
            (assembled(dtype=9), r"a/weight dtype 9 must be one of 0, 1, 2, 3, 4"),
            (assembled(size=11), r"a/weight 11 bytes must be 12: float16 \(2, 3\)"),
            (assembled(kind="é".encode()), r"must be ASCII that ends with NUL"),
        ],
    )
    def test_what_is_wrong_is_said(self, data: bytes, said: str) -> None:
        with pytest.raises(FileError, match=said):
            _ = ctranslate2.read(data)

    def test_an_alias_of_nothing(self) -> None:
        model = Model("TinySpec", 1, {"a": np.zeros(2, np.float32)}, {"b": "c"})
        with pytest.raises(FileError, match="alias of 'c' must be of a variable that it holds"):
            _ = ctranslate2.read(ctranslate2.write(model))

    def test_a_dtype_that_the_format_lacks(self) -> None:
        with pytest.raises(FileError, match=r"a float64 must be one of float32, int8, int16, int32, float16"):
            _ = ctranslate2.write(Model("TinySpec", 1, {"a": np.zeros(2)}))

    def test_a_bias_of_keys_that_the_architecture_lacks(self) -> None:
        stored = ctranslate2.variables(filled(ENCODER), ctranslate2.stack(ENCODER), ENCODER, at="encoder/")
        stored["encoder/layer_1/self_attention/linear_0/bias"][40] = 0.5
        said = r"layers\.1\.self_attn\.k_proj\.bias under 'encoder/' must be zeros: the architecture's keys have no bias"
        with pytest.raises(ParamError, match=said):
            _ = ctranslate2.weights(stored, ctranslate2.stack(ENCODER), ENCODER, at="encoder/")

    def test_every_fault_is_named(self) -> None:
        stored = ctranslate2.variables(filled(ENCODER), ctranslate2.stack(ENCODER), ENCODER)
        stored["layer_0/self_attention/relative_position_keys"] = np.zeros((3, 7))
        del stored["layer_0/ffn/linear_0/weight"]
        with pytest.raises(
            ParamError, match=r"missing layer_0/ffn/linear_0/weight \(11, 35\); unexpected .*relative_position_keys"
        ):
            _ = ctranslate2.weights(stored, ctranslate2.stack(ENCODER), ENCODER)
