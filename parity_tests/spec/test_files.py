"""Files: contract and weights are loaded bit for bit as saved; other files are refused with our own error.

load(save(contract, weights)) == (contract, weights)        a failed save leaves the old file as it was
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

import attention
from attention import spec
from attention.spec import files
from attention.spec.axes import COMPUTE
from attention.spec.cases import CASES
from attention.spec.errors import AttentionError, FileError, MaskError, ParamError, UnknownName
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights
from attention.spec.storage.disk import brief

MASK = ~(spec.Causal(align="end") & spec.Window(before=3, after=None)) | spec.Prefix(2) & spec.Chunked(size=4)
CONTRACT = spec.MultiHeadAttention(
    4, 2, num_kv_heads=1, value_dim=3, mask=MASK, positions=spec.Rotary(500.0, "interleaved", 2), softcap=5.0
)
WEIGHTS = CONTRACT.init(0)
METADATA = {**files.FORMAT, "contract": json.dumps(files.encode(CONTRACT))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layer.safetensors"


def bug(what: str, *values: Any) -> Any:
    """Values that showed a bug once, under its name."""
    return pytest.param(*values, id=what)


def same(got: Any, contract: Contract, weights: Weights) -> None:
    assert got[0] == contract
    assert hash(got[0]) == hash(contract)
    assert list(got[1]) == list(weights)
    for name, array in weights.items():
        assert got[1][name].dtype == array.dtype
        assert got[1][name].shape == array.shape
        assert got[1][name].tobytes() == array.tobytes()


class TestLaws:
    @pytest.mark.parametrize("dtype", COMPUTE)
    def test_what_was_saved_is_loaded(self, dtype: str, path: Path) -> None:
        attention.save(path, CONTRACT, CONTRACT.init(3, dtype))
        same(attention.load(path), CONTRACT, CONTRACT.init(3, dtype))

    @pytest.mark.parametrize("name", CASES)
    def test_every_contract_survives_the_header(self, name: str, path: Path) -> None:
        contract = CASES[name].contract
        assert files.decode(json.loads(json.dumps(files.encode(contract)))) == contract
        attention.save(path, contract, contract.init(1))
        same(attention.load(path), contract, contract.init(1))

    @pytest.mark.parametrize("dtype", COMPUTE)
    @pytest.mark.parametrize("backend", ["torch", "jax"])
    def test_a_file_becomes_the_layer_of_either_backend(self, backend: str, dtype: str, path: Path) -> None:
        weights = CONTRACT.init(3, dtype)
        attention.save(str(path), CONTRACT, weights)
        with jax.enable_x64(dtype == "float64"):
            layer = attention.load(str(path), backend=backend)
            assert type(layer).__module__ == f"attention.{backend}_impl.layers.multi_head"
            same((layer.contract, layer.weights()), CONTRACT, weights)

    def test_the_order_of_weights_is_the_contracts(self, path: Path) -> None:
        attention.save(path, CONTRACT, dict(reversed(WEIGHTS.items())))
        same(attention.load(path), CONTRACT, WEIGHTS)

    def test_weights_need_not_lie_in_a_row(self, path: Path) -> None:
        attention.save(path, CONTRACT, {name: np.asfortranarray(x) for name, x in WEIGHTS.items()})
        same(attention.load(path), CONTRACT, WEIGHTS)

    def test_any_reader_of_safetensors_can_read_it(self, path: Path) -> None:
        attention.save(path, CONTRACT, WEIGHTS)
        tensors = load_file(path)
        assert tensors.keys() == WEIGHTS.keys()
        for name, array in WEIGHTS.items():
            np.testing.assert_array_equal(tensors[name], array)

    def test_a_second_save_takes_the_place_of_the_first_and_leaves_nothing_beside_it(self, path: Path) -> None:
        for seed in (0, 1):
            attention.save(path, CONTRACT, CONTRACT.init(seed))
        same(attention.load(path), CONTRACT, CONTRACT.init(1))
        assert list(path.parent.iterdir()) == [path]

    def test_who_reads_the_old_file_goes_on_reading_it(self, path: Path) -> None:
        # The new one is moved onto its name: no moment shows half of it.
        attention.save(path, CONTRACT, WEIGHTS)
        before = path.read_bytes()
        with path.open("rb") as held:
            attention.save(path, CONTRACT, CONTRACT.init(1))
            assert held.read() == before
        assert path.read_bytes() != before


class TestValues:
    def test_the_header_is_plain_json(self) -> None:
        rotary = {"type": "Rotary", "base": 10000.0, "style": "half", "rotary_dim": None, "scaling": None}
        assert files.encode(spec.Rotary()) == rotary
        nested = files.encode(~spec.Prefix(3))
        assert nested == {"type": "Not", "mask": {"type": "Prefix", "length": 3}}
        assert files.decode(nested) == ~spec.Prefix(3)


def header(whole: bytes) -> int:
    """The number of bytes before the first tensor's."""
    return 8 + int.from_bytes(whole[:8], "little")


def crash(path: Path, error: BaseException) -> Callable[..., None]:
    """A writer that gives up half way."""

    def write(_: Any, partial: Path, *__: Any) -> None:
        assert partial.parent == path.parent
        _written = partial.write_bytes(b"half of")
        raise error

    return write


class TestFailedSaves:
    """Whatever happens, the old file is whole and alone."""

    @pytest.fixture
    def old(self, path: Path) -> Path:
        attention.save(path, CONTRACT, WEIGHTS)
        return path

    def unharmed(self, old: Path) -> None:
        same(attention.load(old), CONTRACT, WEIGHTS)
        assert list(old.parent.iterdir()) == [old]

    @pytest.mark.parametrize(("error", "seen"), [(OSError("disk full"), FileError), (KeyboardInterrupt(), KeyboardInterrupt)])
    def test_a_writer_that_gives_up(
        self, old: Path, error: BaseException, seen: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "save_file", crash(old, error))
        with pytest.raises(seen, match="must be writable: disk full" if seen is FileError else None):
            attention.save(old, CONTRACT, CONTRACT.init(1))
        self.unharmed(old)

    def test_weights_that_do_not_fit(self, old: Path) -> None:
        with pytest.raises(ParamError, match=r"missing q_proj\.kernel") as caught:
            attention.save(old, CONTRACT, {n: x for n, x in CONTRACT.init(1).items() if n != "q_proj.kernel"})
        assert type(caught.value) is ParamError
        self.unharmed(old)

    def test_a_mask_that_holds_data_has_no_place_in_a_header(self) -> None:
        with pytest.raises(MaskError, match=r"mask And\(.*Lengths\(.* must be structure without arrays to be saved"):
            _ = files.encode(spec.Causal() & spec.Lengths([1]))


class TestRefusals:
    def refused(self, path: Any, text: str, error: type[Exception] = FileError) -> None:
        """Refused with the path and the reason, and by every way to load."""
        for backend in (None, "torch"):
            with pytest.raises(error, match=text, check=lambda caught: type(caught) is error) as caught:
                _ = attention.load(path, backend)
            assert error is not FileError or repr(str(path)) in str(caught.value)

    def test_a_file_cut_short_anywhere(self, path: Path) -> None:
        attention.save(path, CONTRACT, WEIGHTS)
        whole = path.read_bytes()
        for length in (*range(24), *range(24, len(whole), 7), len(whole) - 1):
            _ = path.write_bytes(whole[:length])
            with pytest.raises(FileError, match="must be a whole safetensors file"):
                _ = attention.load(path)
        for more in (b"\0", whole):
            _ = path.write_bytes(whole + more)
            self.refused(path, "must be a whole safetensors file")

    @pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
    def test_a_header_with_a_damaged_byte_is_read_or_refused_by_us(self, path: Path, flip: int) -> None:
        attention.save(path, CONTRACT, WEIGHTS)
        whole = path.read_bytes()
        refused, places = 0, range(0, header(whole), 5)
        for at in places:
            _ = path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                contract, weights = attention.load(path)
            except AttentionError:
                refused += 1
            else:
                # A digit of a bound, say, has become another: nobody can tell, and the weights still fit.
                assert {name: x.shape for name, x in weights.items()} == {n: p.shape for n, p in contract.params.items()}
        assert refused > 0.8 * len(places)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file, say", b"{}", bytes(8), bytes(100), b"\xff" * 100])
    def test_a_file_that_is_no_safetensors(self, path: Path, content: bytes) -> None:
        _ = path.write_bytes(content)
        self.refused(path, "must be (a whole safetensors file|have)|has header")

    def test_no_file(self, path: Path) -> None:
        self.refused(path, "must be a whole safetensors file, .*: No such file")
        self.refused(path.parent, "must be a whole safetensors file, .*: it is a folder")

    @pytest.mark.parametrize(
        "metadata", [None, {**METADATA, "format": "pt"}, {**METADATA, "version": "2"}], ids=["none", "pt", "2"]
    )
    def test_a_file_that_is_not_ours(self, path: Path, metadata: dict[str, str] | None) -> None:
        save_file(WEIGHTS, path, metadata)
        self.refused(path, r"has header .* but must have \{'format': 'attention', 'version': '1'\} as `attention.save`")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"type": "Mamba"}, "contract type 'Mamba' must be one of MultiHeadAttention, AlignmentAttention"),
            ({"type": None}, "contract type None must be one of"),
            bug("unhashable type", {"type": ["Dot"]}, r"contract type \['Dot'\] must be one of"),
            ({"heads": 2}, "contract MultiHeadAttention has fields this version does not know: .*heads"),
            ({"num_heads": 3}, "contract that does not stand: num_kv_heads 1 must divide|num_heads 3 must divide embed_dim"),
            ({"embed_dim": "4"}, "contract that does not stand: embed_dim '4' must be a positive int"),
            ({"mask": {"type": "Window", "before": -1, "after": 0}}, "does not stand: Window before -1 must be an int"),
            ({"mask": {"type": "Not", "mask": 5}}, "does not stand: mask"),
            ({"mask": {"type": "Dot"}}, "does not stand: mask"),
            ({"mask": [1]}, "does not stand: mask"),
            ({"positions": 5}, "positions 5 must be"),
            ({"positions": {"type": "Dot"}}, r"positions Dot\(\) must be"),
            ({"score": None}, "score None must be"),
            ({"softcap": "high"}, "softcap 'high' must be|this version does not know"),
            ({"dropout_rate": [0]}, r"dropout_rate \(0,\) must be|this version does not know"),
        ],
    )
    def test_a_contract_that_does_not_stand(self, path: Path, change: dict[str, Any], text: str) -> None:
        save_file(WEIGHTS, path, {**METADATA, "contract": json.dumps(files.encode(CONTRACT) | change)})
        self.refused(path, text)

    @pytest.mark.parametrize(
        ("contract", "text"),
        [
            ("{", "must hold its contract as JSON"),
            bug("RecursionError", "[" * 100_000, "must hold its contract as JSON"),
            ("[]", "holds a tuple but must hold a layer's contract"),
            ('{"type": "Dot"}', "holds a Dot but must hold a layer's contract"),
            ("{}", "contract type None must be one of"),
        ],
        ids=["cut", None, "list", "part", "empty"],
    )
    def test_a_contract_that_is_none(self, path: Path, contract: str, text: str) -> None:
        save_file(WEIGHTS, path, {**METADATA, "contract": contract})
        self.refused(path, text)

    def test_no_contract(self, path: Path) -> None:
        save_file(WEIGHTS, path, files.FORMAT)
        self.refused(path, "must hold its contract as JSON")

    def test_weights_that_do_not_fit_their_contract(self, path: Path) -> None:
        less = {name: x for name, x in WEIGHTS.items() if name != "v_proj.bias"}
        save_file(less | {"w": WEIGHTS["q_proj.bias"]}, path, METADATA)
        self.refused(path, r"missing v_proj\.bias \(1, 3\); unexpected w", ParamError)

    @pytest.mark.parametrize("kind", ["I32", "U32", "BOOL", "F8_E4M3", "C64"])
    def test_numbers_that_are_no_weights(self, path: Path, kind: str) -> None:
        attention.save(path, CONTRACT, WEIGHTS)
        whole = path.read_bytes()
        # Of other sizes than F32, the header itself no longer adds up.
        text = whole[8 : header(whole)].replace(b'"F32"', f'"{kind}"'.encode())
        _ = path.write_bytes(len(text).to_bytes(8, "little") + text + whole[header(whole) :])
        with pytest.raises(AttentionError, match=r"must be (float64|a whole safetensors file)"):
            _ = attention.load(path)

    @pytest.mark.parametrize("target", ["none/layer", "file/layer", "folder", "n" * 300, "."])
    def test_a_path_that_cannot_be_written(self, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        _ = (tmp_path / "file").write_text("whole")
        (tmp_path / "folder").mkdir()
        before = sorted(tmp_path.rglob("*"))
        wanted = f"path {brief(repr(str(Path(target))))} must be writable"
        with pytest.raises(FileError, match=re.escape(wanted), check=lambda caught: type(caught) is FileError):
            attention.save(target, CONTRACT, WEIGHTS)
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_unknown_backend(self, path: Path) -> None:
        attention.save(path, CONTRACT, WEIGHTS)
        with pytest.raises(UnknownName, match="backend 'tensorflow' must be one of torch, jax") as caught:
            _ = attention.load(path, backend="tensorflow")
        assert type(caught.value) is UnknownName
