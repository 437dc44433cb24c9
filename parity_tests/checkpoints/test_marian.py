"""Marian's files are read as they were written; truncated and foreign files are refused.

w = q / multiplier        stored transposed, but for Wemb
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention import spec
from attention.checkpoints import weight_map
from attention.spec.errors import FileError, OptionError, ParamError
from examples.checkpoint_readers import marian
from parity_tests.support import marian_files as files

BLOCK = spec.EncoderBlock(spec.MultiHeadAttention(files.M, files.H), spec.FeedForward(files.M, files.A))


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return files.tiny()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "model.bin"
    _ = path.write_bytes(content)
    return path


class TestLaws:
    def test_what_was_written_is_read_bit_for_bit(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        wanted = files.write(tmp_path / "model.bin", tensors)
        got = marian.load(tmp_path / "model.bin").tensors
        assert got.keys() == wanted.keys()
        for name, x in wanted.items():
            assert got[name].dtype == np.float32
            assert got[name].flags["C_CONTIGUOUS"]
            np.testing.assert_array_equal(got[name], x, err_msg=name)

    def test_int8_is_within_half_a_level(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        _ = files.write(tmp_path / "model.bin", tensors)
        for name, x in marian.load(tmp_path / "model.bin").tensors.items():
            level = np.abs(tensors[name]).max() / 127
            assert np.abs(x - tensors[name]).max() <= level * 0.5001, name

    def test_ranges_of_int8_kernels_are_passed_over(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        path = saved(tmp_path, files.content({**tensors, "Wemb_QuantMultA": np.ones((1, 1), np.float32)}))
        assert marian.load(path).tensors.keys() == tensors.keys()

    def test_a_layer_is_read_and_written_back(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        wanted = files.write(tmp_path / "model.bin", tensors)
        weights = weight_map.read(marian.load(tmp_path / "model.bin").tensors, marian.ENCODER_LAYER, BLOCK, at="encoder_l2_")
        back = weight_map.write(weights, marian.ENCODER_LAYER, BLOCK, at="encoder_l2_")
        assert back.keys() == {name for name in wanted if name.startswith("encoder_l2_")}
        for name, x in back.items():
            np.testing.assert_array_equal(x, wanted[name], err_msg=name)

    def test_the_whole_table_names_every_tensor_once(self, tensors: dict[str, np.ndarray]) -> None:
        rows = marian.weight_map(files.ENCODER, files.DECODER).rows
        assert sorted(row.stored for row in rows) == sorted(tensors)
        assert len({row.canonical for row in rows}) == len(rows)

    def test_settings_give_the_contract(self, tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
        made = marian.encoder(marian.load(saved(tmp_path, files.content(tensors))).settings)
        attention, fed = spec.MultiHeadAttention(files.M, files.H), spec.FeedForward(files.M, files.A, activation="relu")
        block = spec.EncoderBlock(attention, fed, norm=spec.LayerNorm(eps=1e-6), order="post")
        assert made == spec.Encoder(block, files.ENCODER)


class TestValues:
    def test_a_file_by_hand(self, tmp_path: Path) -> None:
        # One matrix, 2 x 3, of levels 1 .. 6 with a multiplier of 2: its transpose lies there, row by row.
        levels = bytes([1, 4, 2, 5, 3, 6]) + struct.pack("<f", 2.0)
        head = struct.pack("<2Q", 1, 2) + struct.pack("<8Q", 2, 0x4101, 2, len(levels), 5, 0x4101, 2, len(levels))
        head += b"W\0Wemb\0" + struct.pack("<4i", 2, 3, 2, 3) + struct.pack("<Q", 3) + bytes(3)
        got = marian.load(saved(tmp_path, head + 2 * levels)).tensors
        np.testing.assert_array_equal(got["W"], [[0.5, 1.0, 1.5], [2.0, 2.5, 3.0]])
        np.testing.assert_array_equal(got["Wemb"], [[0.5, 2.0, 1.0], [2.5, 1.5, 3.0]])

    def test_heads_are_cut_from_the_outputs(self, tensors: dict[str, np.ndarray]) -> None:
        weights = weight_map.read(tensors, marian.ENCODER_LAYER, BLOCK, at="encoder_l1_")
        np.testing.assert_array_equal(
            weights["self_attn.q_proj.kernel"][:, 1], tensors["encoder_l1_self_Wq"][:, files.M // 2 :]
        )
        np.testing.assert_array_equal(weights["self_attn.out_proj.kernel"][1], tensors["encoder_l1_self_Wo"][files.M // 2 :])
        np.testing.assert_array_equal(weights["norm1.scale"], tensors["encoder_l1_self_Wo_ln_scale"][0])


class TestRefusals:
    def test_every_beginning_of_a_file_is_cut_short(self, tmp_path: Path) -> None:
        whole = files.content({"Wemb": np.eye(3, 4, dtype=np.float32)})
        for end in range(0, len(whole), 5):
            with pytest.raises(FileError, match=rf"model.bin {end} bytes must be at least \d+: it is cut short, or foreign"):
                _ = marian.load(saved(tmp_path, whole[:end]))

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (files.content({}, version=2), "version 2 must be 1: it is no Marian model"),
            (b"\x80\x02}q\x00X\x05\x00\x00\x00shapeq\x01" * 9, r"version \d+ must be 1"),
            (struct.pack("<2Q", 1, 2**62) + bytes(64), "it is cut short, or foreign"),
        ],
    )
    def test_a_foreign_file(self, tmp_path: Path, content: bytes, text: str) -> None:
        with pytest.raises(FileError, match=text):
            _ = marian.load(saved(tmp_path, content))

    @pytest.mark.parametrize(
        ("kind", "shape", "data", "text"),
        [
            (0x402, (2,), bytes(8), "W type 0x402 must be 0x404, float32, or 0x4101, int8 with one multiplier"),
            (0x404, (3,), bytes(8), r"W 8 bytes must be at least 12, as its sizes \(3,\) say"),
            (0x404, (-3,), bytes(8), r"W sizes \(-3,\) must be positive"),
            (0x4101, (2, 2), bytes(4), r"W 4 bytes must be at least 8, as its sizes \(2, 2\) say"),
            (0x4101, (2, 2), bytes(8), r"W multiplier 0\.0 must be positive"),
        ],
    )
    def test_an_array_that_cannot_be(self, tmp_path: Path, kind: int, shape: tuple[int, ...], data: bytes, text: str) -> None:
        head = struct.pack("<6Q", 1, 1, 2, kind, len(shape), len(data)) + b"W\0" + struct.pack(f"<{len(shape)}iQ", *shape, 0)
        with pytest.raises(FileError, match=text):
            _ = marian.load(saved(tmp_path, head + data))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="nothing' must be a Marian model: No such file"):
            _ = marian.load(tmp_path / "nothing")

    @pytest.mark.parametrize(
        ("changed", "text"),
        [
            ({"dec-cell": "gru"}, "dec-cell 'gru' must be 'ssru': another would be other mathematics"),
            ({"transformer-preprocess": "n"}, "transformer-preprocess 'n' must be '': another would be other mathematics"),
            ({"transformer-heads": None}, "config transformer-heads None must be given"),
        ],
    )
    def test_another_architecture(self, changed: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError) as caught:
            _ = marian.encoder({**{name: str(word).strip('"') for name, word in files.SETTINGS.items()}, **changed})
        assert str(caught.value) == text

    def test_a_tensor_that_the_table_lacks_is_not_dropped(self, tensors: dict[str, np.ndarray]) -> None:
        with pytest.raises(ParamError, match=r"unexpected self_Wr \(1, 10\)"):
            _ = weight_map.read(
                {**tensors, "encoder_l1_self_Wr": np.ones((1, 10))}, marian.ENCODER_LAYER, BLOCK, at="encoder_l1_"
            )
