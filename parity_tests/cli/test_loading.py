"""Loading: programs and inputs from anybody's files; a mistake in them is told as theirs, in one line."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from attention.cli.loading import load, load_inputs, program
from attention.spec.errors import FileError, OptionError, SideFailed, UnknownName
from parity_tests.support.absent import OPTIONAL, needs

MODEL = """
import neighbour_of_model
class Net:
    def __call__(self, x): return neighbour_of_model.twice(x)
def make_net(): return Net()
def make_broken(): raise RuntimeError("no weights here")
def inputs(): return {"x": 3}
def plain(x): return x
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside the repository, which imports its neighbour."""
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    _ = (tmp_path / "neighbour_of_model.py").write_text("def twice(x): return 2 * x\n")
    path = tmp_path / "foreign_model.py"
    _ = path.write_text(MODEL)
    return path


class TestValues:
    def test_a_file_may_import_its_neighbour(self, model: Path) -> None:
        assert load(f"{model}:Net")()(4) == 8

    def test_a_module_is_found_from_the_working_directory(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(model.parent)
        assert load("foreign_model:Net.__call__").__name__ == "__call__"

    def test_a_class_and_a_factory_are_called_and_a_function_is_not(self, model: Path) -> None:
        assert program(f"{model}:Net")(1) == program(f"{model}:make_net")(1) == 2
        assert program(f"{model}:plain")("as it is") == "as it is"

    def test_inputs_come_from_functions_files_and_shapes(self, model: Path, tmp_path: Path) -> None:
        assert load_inputs(f"{model}:inputs") == {"x": 3}
        x = np.arange(6.0).reshape(2, 3)
        np.savez(tmp_path / "a.npz", x=x)
        np.save(tmp_path / "a.npy", x)
        save_file({"x": x}, tmp_path / "a.safetensors")
        for name in ("a.npz", "a.safetensors"):
            assert np.array_equal(load_inputs(str(tmp_path / name))["x"], x)
        assert np.array_equal(load_inputs(str(tmp_path / "a.npy")), x)

    def test_shapes_are_filled_alike_every_time(self) -> None:
        first, again = (load_inputs("x=2,3 ids=4:int64 keep=5:bool y=2,3:float64") for _ in range(2))
        assert [(a.shape, a.dtype.name) for a in first.values()] == [
            ((2, 3), "float32"),
            ((4,), "int64"),
            ((5,), "bool"),
            ((2, 3), "float64"),
        ]
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert not np.allclose(first["x"], first["y"]), "two inputs of one shape must not be equal"

    def test_inputs_without_names_are_positional(self, tmp_path: Path) -> None:
        one, other = load_inputs("2,3 2,3:float64")
        assert (one.dtype, other.dtype) == (np.float32, np.float64)
        assert not np.allclose(one, other)
        np.savez(tmp_path / "a.npz", one, other)
        again = load_inputs(str(tmp_path / "a.npz"))
        assert isinstance(again, tuple)
        assert all(np.array_equal(x, y) for x, y in zip(again, (one, other), strict=True))


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "kind", "text"),
        [
            ("model", OptionError, "program 'model' must be module:name or path/to/file.py:name"),
            ("no_such_file.py:f", FileError, "program 'no_such_file.py' must be a file"),
            ("no_such_module:f", UnknownName, "module 'no_such_module' must be importable from here"),
            ("no.such.module:f", UnknownName, "module 'no.such.module' must be importable from here"),
            ("json:nothing", UnknownName, "program 'json:nothing': json has no 'nothing'; it has JSONDecodeError"),
        ],
    )
    def test_a_program_that_is_not_there(self, spec: str, kind: type[Exception], text: str) -> None:
        with pytest.raises(kind) as raised:
            _ = load(spec)
        assert type(raised.value) is kind
        assert str(raised.value).startswith(text)

    @needs(*OPTIONAL)  # whose absence puts a line of absent.py into every traceback
    def test_what_a_users_file_raises_is_told_with_its_line(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(SideFailed, match=r"make_broken failed at .*foreign_model\.py:6, `.*`: RuntimeError: no weights"):
            _ = program(f"{model}:make_broken")
        _ = (tmp_path / "halves.py").write_text("import a_package_that_is_not_there\n")
        with pytest.raises(SideFailed, match=r"halves\.py failed at .*halves\.py:1, .*ModuleNotFoundError"):
            _ = load(f"{tmp_path / 'halves.py'}:f")

    @pytest.mark.parametrize("word", ["x=2,a", "x=2:float33"])
    def test_shapes_that_are_none(self, word: str) -> None:
        with pytest.raises(OptionError, match="must be sizes, such as 2,7,16 or x=2,7,16:float32"):
            _ = load_inputs(word)

    def test_names_for_some_inputs_only(self) -> None:
        with pytest.raises(OptionError, match="must all have names, or none of them"):
            _ = load_inputs("x=2,3 4")

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"must be a file$"):
            _ = load_inputs("nowhere.npz")
        for name in ("a.npz", "a.npy", "a.safetensors"):
            _ = (tmp_path / name).write_text("not arrays")
            with pytest.raises(FileError, match="must be a file of arrays"):
                _ = load_inputs(str(tmp_path / name))
