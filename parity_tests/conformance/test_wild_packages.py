"""Mistakes in published packages: planted in a copy of the source, the package itself left as it is."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.wild import published
from conformance.wild.check import line, load, main, plant
from conformance.wild.packages import Missing, imported, require, source

PAIRS = sorted(Path(published.__file__).parent.glob("p*.py"))
MODEL = "wildport.nets.model"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose `__init__` cannot be imported, with one module that another one uses."""
    nets = tmp_path / "wildport" / "nets"
    nets.mkdir(parents=True)
    _ = (tmp_path / "wildport" / "__init__.py").write_text("import what_nobody_has\n")
    _ = (nets / "model.py").write_text("SCALE = 3\n\n\ndef scaled(x):\n    return x * SCALE\n")
    _ = (nets / "user.py").write_text("from wildport.nets.model import scaled\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield nets
    for name in [n for n in sys.modules if n.partition(".")[0] == "wildport"]:
        del sys.modules[name]


class TestLaws:
    def test_a_module_that_imports_the_edited_one_gets_the_edited_one(self, package: Path) -> None:
        (user,) = imported("wildport.nets.user", edits=((MODEL, "x * SCALE", "x + SCALE"),))
        assert user.scaled(5) == 8
        (user,) = imported("wildport.nets.user")
        assert user.scaled(5) == 15

    def test_lines_are_those_of_a_copy_of_the_same_name_that_can_be_read(self, package: Path) -> None:
        (model,) = imported(MODEL, edits=((MODEL, "SCALE = 3", "SCALE = 4"), (MODEL, "x * SCALE", "x + SCALE")))
        copy = Path(model.scaled.__code__.co_filename)
        assert copy.name == "model.py"
        assert package not in copy.parents
        assert copy.read_text().splitlines()[4] == "    return x + SCALE"
        assert model.scaled(5) == 9
        assert (package / "model.py").read_text().startswith("SCALE = 3")

    def test_edits_of_other_packages_are_left_to_those(self, package: Path) -> None:
        (model,) = imported(MODEL, edits=(("another.module", "a", "b"),))
        assert Path(model.__file__ or "") == source(MODEL) == package / "model.py"

    def test_the_finder_is_gone_afterwards_even_when_the_import_fails(self, package: Path) -> None:
        before = list(sys.meta_path)
        with pytest.raises(ModuleNotFoundError):
            _ = imported("wildport.nets.missing")
        assert sys.meta_path == before
        assert importlib.import_module(MODEL).SCALE == 3


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.stem)
class TestValues:
    def test_each_mistake_stands_once_in_the_package_on_its_line(self, path: Path) -> None:
        text = path.read_text()
        try:
            pair = load(path, text)
        except Missing as package:
            pytest.skip(str(package))
        assert len(pair.MISTAKES) == 5
        for mistake in pair.MISTAKES:
            assert source(mistake["module"]).read_text().count(mistake["old"]) == 1, mistake["name"]
            assert line(text, mistake) == mistake["line"], mistake["name"]
            ((module, old, new),) = load(path, plant(text, mistake)).PLANTED
            assert (module, old, new) == (mistake["module"], mistake["old"], mistake["new"])


class TestRefusals:
    def test_a_text_that_does_not_occur_once_is_refused(self, package: Path) -> None:
        with pytest.raises(ValueError, match="occurs 2 times; wanted once"):
            _ = imported(MODEL, edits=((MODEL, "SCALE", "WIDTH"),))

    def test_a_package_that_is_missing_is_said_by_the_name_to_install(self) -> None:
        with pytest.raises(Missing, match="what_nobody_has is not installed: pip install --no-deps what-nobody-has"):
            require(sys="sys", what_nobody_has="what-nobody-has")

    def test_a_pair_whose_package_is_missing_is_skipped_with_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pair = tmp_path / "p00_absent.py"
        _ = pair.write_text("from conformance.wild.packages import require\n\nrequire(what_nobody_has='what-nobody-has')\n")
        assert main([str(pair)]) == 0
        assert capsys.readouterr().out == (
            "p00_absent: skipped, what_nobody_has is not installed: pip install --no-deps what-nobody-has\n"
            "0 of 0 files are right, 1 skipped\n"
        )
