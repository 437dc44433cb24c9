"""Hostile files: a reader returns the content or raises a short error of ours, quickly and in little memory.

damaged(format, seed) -> read or refused        200 files here, 2,000 and more in `python -m parity_tests.support.hostile_files`
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention
from attention import spec
from attention.cli.loading import load_inputs
from attention.parity.param_mapping import param_map
from attention.parity.param_mapping.param_map import ParamMap
from attention.spec import files
from attention.spec.errors import AttentionError, FileError, OptionError, ParamError, ParityError
from attention.spec.storage import disk
from attention.spec.storage import safetensors_format as tensors
from examples.checkpoint_readers import gguf_file, marian
from parity_tests.support.hostile_files import CHARACTERS, Format, Outcome, campaign, damaged, outcome, put
from parity_tests.support.hostile_formats import formats, header_text, metadata, with_header

CONTRACT = spec.MultiHeadAttention(4, 2)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    return {of.name: of for of in formats(tmp_path_factory.mktemp("whole"))}


def faults(found: list[tuple[int, Outcome]]) -> list[str]:
    return [f"seed {seed}: {each.fault}" for seed, each in found if each.fault]


class TestLaws:
    def test_every_whole_file_is_read(self, every: dict[str, Format], tmp_path: Path) -> None:
        for of in every.values():
            assert outcome(of.read, put(of, of.whole, tmp_path / "whole")).said == "read", of.name

    def test_damage_is_the_same_each_time_and_is_damage(self, every: dict[str, Format]) -> None:
        for of in every.values():
            made = [damaged(of, seed) for seed in range(10)]
            assert made == [damaged(of, seed) for seed in range(10)]
            assert sum(data != of.whole for data in made) >= 7, of.name

    def test_200_damaged_files_are_read_or_refused_in_our_words(self, every: dict[str, Format], tmp_path: Path) -> None:
        found = {name: campaign(of, range(10), tmp_path) for name, of in every.items()}
        assert sum(map(len, found.values())) >= 200
        assert {name: faults(outcomes) for name, outcomes in found.items() if faults(outcomes)} == {}
        refused = sum(each.said != "read" for outcomes in found.values() for _, each in outcomes)
        assert refused > 100, "damage that no reader sees tests nothing"

    @pytest.mark.slow
    def test_4000_damaged_files_are_read_or_refused_in_our_words(self, every: dict[str, Format], tmp_path: Path) -> None:
        found = {name: campaign(of, range(10, 210), tmp_path) for name, of in every.items()}
        assert sum(map(len, found.values())) >= 4000
        assert {name: faults(outcomes) for name, outcomes in found.items() if faults(outcomes)} == {}


def unbounded(text: str | bytes, said: str) -> Any:
    """A reader of JSON without a limit."""
    del said
    return json.loads(text)


def unmeasured(reader: gguf_file.Reader, n: int) -> np.ndarray:
    """A GGUF reader that does not look how much is left."""
    reader.at += n
    return reader.data[reader.at - n : reader.at]


def unmeasured_take(reader: Any, n: int) -> memoryview:
    """A Marian reader that does not look how much is left."""
    reader.at += n
    return memoryview(reader.content)[reader.at - n : reader.at]


def unchecked_entry(entry: Any, said: str) -> tensors.Tensor:
    """A safetensors header whose entries are taken for what they say."""
    del said
    return tensors.Tensor(tensors.DTYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])


class TestPlanted:
    """A reader without one of its checks is caught."""

    @pytest.mark.parametrize(
        ("format_name", "owner", "name", "planted"),
        [
            ("layer, plain", files, "parsed", unbounded),
            ("map", disk, "parsed", unbounded),
            ("layer, encoder", tensors, "_tensor", unchecked_entry),
            ("GGUF, float32", gguf_file.Reader, "span", unmeasured),
            ("Marian", marian.Reader, "take", unmeasured_take),
        ],
    )
    def test_a_reader_without_a_check(
        self,
        every: dict[str, Format],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        format_name: str,
        owner: Any,
        name: str,
        planted: Any,
    ) -> None:
        of = every[format_name]
        monkeypatch.setattr(owner, name, planted)
        # The seeds of the test above, which are read or refused where nothing is planted; and then further ones.
        assert any(faults(campaign(of, range(first, first + 10), tmp_path)) for first in range(0, 300, 10))

    @pytest.mark.parametrize(
        ("read", "seen"),
        [
            (lambda _: np.zeros(2)[9], "IndexError"),
            (lambda _: bytearray(600_000_000) and None, "600 MB"),
            (lambda _: (_ for _ in ()).throw(ParityError("x" * CHARACTERS)), "500 characters"),
            (lambda _: (_ for _ in ()).throw(FileError("two\nlines")), "2 lines"),
            (lambda _: np.float32(1e38) * np.float32(1e38), "RuntimeWarning"),
        ],
        ids=["foreign", "large", "long", "lines", "warning"],
    )
    def test_each_kind_of_fault_is_seen(self, read: Callable[[Path], object], seen: str, tmp_path: Path) -> None:
        assert seen in outcome(read, tmp_path).fault


def with_contract(folder: Path, text: str) -> Path:
    """Write a layer whose header holds this text as its contract."""
    attention.save(folder / "layer", CONTRACT, CONTRACT.init(0))
    _take, put_in = metadata("contract")
    _ = (folder / "layer").write_bytes(put_in((folder / "layer").read_bytes(), text))
    return folder / "layer"


BLOCK = files.encode(spec.EncoderBlock(CONTRACT, spec.FeedForward(4, 6)))


def nested(depth: int) -> str:
    """A mask in a mask in a mask."""
    mask = '{"type": "Not", "mask": ' * depth + '{"type": "Prefix", "length": 1}' + "}" * depth
    return json.dumps({**files.encode(CONTRACT), "mask": "MASK"}).replace('"MASK"', mask)


class TestRefusals:
    def refused(self, path: Any, text: str, error: type[AttentionError] = FileError, read: Any = attention.load) -> None:
        found = outcome(read, path)
        assert not found.fault
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            _ = read(path)

    @pytest.mark.parametrize("depth", [3, 4000, 10**5, 10**8, 10**18, 10**30, -1, 0, 2.0, True, "2", None, [2]])
    def test_a_depth_that_the_file_cannot_hold(self, depth: Any, tmp_path: Path) -> None:
        stack = {"type": "Encoder", "block": BLOCK, "depth": depth, "final_norm": None}
        wanted = ParamError if depth in (3, 4000) else FileError
        self.refused(with_contract(tmp_path, json.dumps(stack)), r"at depth|depth .* must be|64|digits", wanted)

    def test_a_stack_in_a_stack(self, tmp_path: Path) -> None:
        stack = {"type": "Encoder", "block": BLOCK, "depth": 4000, "final_norm": None}
        self.refused(with_contract(tmp_path, json.dumps({**stack, "block": stack})), "block .* must be")

    @pytest.mark.parametrize("depth", [200, 5000, 20_000])
    def test_a_contract_that_is_too_deep(self, depth: int, tmp_path: Path) -> None:
        self.refused(with_contract(tmp_path, nested(depth)), "must hold its contract as JSON: (JSON must be|maximum)")

    def test_a_contract_of_90_levels_is_saved_and_read(self, tmp_path: Path) -> None:
        mask: spec.Mask = spec.Prefix(1)
        for _ in range(90):
            mask = ~mask
        contract = spec.MultiHeadAttention(4, 2, mask=mask)
        attention.save(tmp_path / "layer", contract, contract.init(0))
        assert attention.load(tmp_path / "layer")[0] == contract
        deeper = spec.MultiHeadAttention(4, 2, mask=~~~~~~~~~~~~~~mask)
        before = (tmp_path / "layer").read_bytes()
        with pytest.raises(FileError, match="contract must be one that a file can hold: JSON must be at most 100 levels"):
            attention.save(tmp_path / "layer", deeper, deeper.init(0))
        assert (tmp_path / "layer").read_bytes() == before

    def test_a_name_that_stands_twice(self, tmp_path: Path) -> None:
        text = json.dumps(files.encode(CONTRACT))
        self.refused(with_contract(tmp_path, text.replace("{", '{"num_heads": 4, ', 1)), "'num_heads' must stand once")

    def test_long_text_and_long_lists(self, tmp_path: Path) -> None:
        for odd in ("x" * 20_000, [0] * 20_000, {"type": "x" * 20_000}, [{"type": "Dot"}] * 1000):
            for name in ("embed_dim", "mask", "qkv_bias", "softmax"):
                self.refused(with_contract(tmp_path, json.dumps({**files.encode(CONTRACT), name: odd})), "path")

    def test_eight_bit_floats_are_refused_before_a_tensor_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attention.save(tmp_path / "layer", CONTRACT, CONTRACT.init(0))
        whole = (tmp_path / "layer").read_bytes()
        _ = (tmp_path / "layer").write_bytes(with_header(whole, header_text(whole).replace('"F32"', '"F8_E4M3"')))
        monkeypatch.setattr(files, "arrays", lambda *_: pytest.fail("a tensor was read"))
        self.refused(tmp_path / "layer", "has dtype 'F8_E4M3' and must have one of F64, F32")

    def test_a_header_whose_length_begins_as_json_does_is_read(self, tmp_path: Path) -> None:
        attention.save(tmp_path / "layer", CONTRACT, CONTRACT.init(0))
        whole = (tmp_path / "layer").read_bytes()
        text = header_text(whole).strip()
        # The first byte of the length is that of "{".
        text += " " * ((ord("{") - len(text)) % 256)
        _ = (tmp_path / "layer").write_bytes(with_header(whole, text))
        assert (tmp_path / "layer").read_bytes().startswith(b"{")
        assert attention.load(tmp_path / "layer")[0] == CONTRACT

    def test_an_index_and_a_folder_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors.index.json"
        _ = path.write_text('{"metadata": {"total_size": 4}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}')
        self.refused(path, "it is JSON, such as the index of a checkpoint in parts; give a file of weights")
        self.refused(tmp_path, "it is a folder; give a file in it")

    @pytest.mark.parametrize(
        "path", [None, 3, 1.5, b"x", [], {}, np.zeros(2), "", "a\0b", "x" * 5000, "/dev/null", "/dev/zero"]
    )
    def test_what_is_no_path_of_a_file(self, path: Any) -> None:
        self.refused(path, "must be a whole safetensors file")

    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        self.refused(tmp_path / "pipe", "it is no regular file")

    def test_a_pipe_is_not_replaced_by_a_file_and_texts_go_through_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileError, match="must be writable: it is no regular file"):
            attention.save(tmp_path / "pipe", CONTRACT, CONTRACT.init(0))
        end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        disk.write_text(tmp_path / "pipe", "a report")
        assert os.read(end, 100) == b"a report"
        os.close(end)
        assert (tmp_path / "pipe").is_fifo()

    def test_of_a_link_the_file_it_leads_to_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "layer")
        attention.save(tmp_path / "link", CONTRACT, CONTRACT.init(0))
        assert (tmp_path / "link").is_symlink()
        assert attention.load(tmp_path / "layer")[0] == CONTRACT
        assert len(list(tmp_path.iterdir())) == 2

    def test_tensors_that_overlap_or_leave_a_hole(self, tmp_path: Path) -> None:
        attention.save(tmp_path / "layer", CONTRACT, CONTRACT.init(0))
        whole = (tmp_path / "layer").read_bytes()
        for change in (-16, 16):
            head = json.loads(header_text(whole))
            start, stop = head["q_proj.kernel"]["data_offsets"]
            head["q_proj.kernel"]["data_offsets"] = [start + change, stop + change]
            _ = (tmp_path / "layer").write_bytes(with_header(whole, json.dumps(head)))
            self.refused(tmp_path / "layer", "begins at byte .* and must begin at|data_offsets|must be .*, as its header says")

    def test_a_map_of_huge_arrays_is_judged_without_making_one(self, tmp_path: Path) -> None:
        def write(parts: list[list[list[int]]], splits: list[list[int]]) -> None:
            moves = [
                {
                    "first": {"name": "w", "shape": [2**40], "split": split, "spans": spans},
                    "second": {"name": f"v{i}", "shape": [size], "split": [size], "spans": [[0, size]]},
                    "axes": [size],
                    "order": [0],
                    "evidence": "",
                }
                for i, (spans, split) in enumerate(zip(parts, splits, strict=True))
                for size in [int(np.prod([b - a for a, b in spans]))]
            ]
            head = {"format": param_map.FORMAT, "version": param_map.VERSION, "copies": [], "left_over": [[], []], "ties": []}
            _ = (tmp_path / "map").write_text(json.dumps({**head, "moves": moves}))

        half, whole = 2**39, 2**40
        write([[[0, half]], [[half, whole]]], [[whole], [whole]])
        assert len(ParamMap.from_json(tmp_path / "map").moves) == 2
        write([[[0, half]], [[half - 1, whole - 1]]], [[whole], [whole]])
        self.refused(tmp_path / "map", "not every element is used once", ParamError, ParamMap.from_json)
        write([[[0, 1], [0, half]], [[half, whole]]], [[2, half], [whole]])
        self.refused(tmp_path / "map", "not every element is used once", ParamError, ParamMap.from_json)

    def test_arrays_that_say_they_are_larger_than_their_file(self, tmp_path: Path) -> None:
        text = io.BytesIO()
        np.lib.format.write_array_header_1_0(text, {"descr": "<f4", "fortran_order": False, "shape": (10**10,)})
        _ = (tmp_path / "a.npy").write_bytes(text.getvalue() + bytes(24))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", text.getvalue() + bytes(24))
        with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", bytes(200_000_000))
        for name, said in (("a.npy", "must have 40000000000 bytes"), ("a.npz", "must have 4"), ("packed.npz", "unpack to")):
            self.refused(tmp_path / name, said, FileError, lambda path: load_inputs(str(path)))

    def test_a_stack_of_more_blocks_than_any_model_has(self) -> None:
        with pytest.raises(OptionError, match="depth 100000000 must be at most 4096"):
            _ = spec.Encoder(spec.EncoderBlock(CONTRACT, spec.FeedForward(4, 6)), 10**8)
