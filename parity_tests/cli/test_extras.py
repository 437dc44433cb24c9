"""Extras: what is missing is asked for by this project's own name, and an unrelated project of a like name is pointed out."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention import _extras, cli
from attention._extras import namesake, require
from attention.spec.errors import MissingExtra
from parity_tests.support import absent

WHY = "jix is not installed"
OURS = "[console_scripts]\nattention = attention.cli:main\n"
WARNING = (
    "the distribution 'attention' 5.0.0 here is another project, which overwrites files of this one: pip uninstall attention"
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metadata of a distribution called `attention` 5.0.0, found before any other."""
    folder = tmp_path / "attention-5.0.0.dist-info"
    folder.mkdir()
    _ = (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: attention\nVersion: 5.0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


class TestNamesake:
    def test_nothing_is_said_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.path", [])
        assert namesake() == ""

    def test_another_project_is_named_with_what_to_do(self, installed: Path) -> None:
        del installed
        assert namesake().startswith(WARNING)

    def test_this_project_by_its_old_name_is_not_another(self, installed: Path) -> None:
        _ = (installed / "entry_points.txt").write_text(OURS)
        assert namesake() == ""

    def test_the_refusal_and_the_command_line_say_so(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        del installed
        with pytest.raises(
            MissingExtra, match=r"pip install 'attention-parity\[all\]'; the distribution 'attention' 5\.0\.0"
        ) as e:
            require("no_such_package", extra="all", wanted_by="spec")
        assert len(str(e.value)) < 500
        assert cli.app is not None, "importing it adds the commands"
        monkeypatch.setattr("attention.cli.application.app", lambda: None)
        # The handler of interrupts is pytest's.
        monkeypatch.setattr("signal.signal", lambda *_: None)
        cli.main()
        assert capsys.readouterr().err.startswith(f"attention: {WARNING}")

    def test_a_framework_that_is_found_costs_no_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_extras, "namesake", lambda: pytest.fail("asked"))
        require("numpy", extra="all", wanted_by="spec")


class TestAbsent:
    """The skips of `absent.py`, with a framework that nobody has."""

    @pytest.fixture(autouse=True)
    def absence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(absent, "ABSENT", frozenset({"jix"}))
        monkeypatch.setattr(absent, "MET", {})

    def test_what_is_absent_may_be_named_and_a_test_that_calls_it_is_skipped(self) -> None:
        scope = {"__file__": __file__, "__name__": "here"}
        jix = absent.importing("jix.numpy", scope)
        assert not isinstance(1, jix.Array)
        assert str(jix.float32) == f"<{WHY}>"
        with pytest.raises(pytest.skip.Exception, match="jix is not installed"):
            jix.numpy.ones(3)
        assert list(absent.MET.items()) == [(__file__, "jix is not installed")]

    def test_names_that_are_there_are_given_beside_one_that_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lazily(name: str) -> object:
            raise MissingExtra(f"{name} needs jix", name="jix")

        import attention  # noqa: PLC0415

        monkeypatch.setattr(attention, "__getattr__", lazily)
        found = absent.importing("attention", {"__file__": __file__}, None, ("spec", "jix_impl"))
        assert found.spec is attention.spec
        assert isinstance(found.jix_impl, absent.Absent)

    @pytest.mark.parametrize("file", ["/elsewhere/module.py", ""])
    def test_only_a_file_of_tests_is_answered_so(self, file: str) -> None:
        with pytest.raises(ModuleNotFoundError, match="jix"):
            absent.importing("jix", {"__file__": file})

    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (ModuleNotFoundError("No module named 'jix'", name="jix.numpy"), "jix is not installed"),
            (MissingExtra("jix_impl needs jix", name="jix"), "jix is not installed"),
            (ModuleNotFoundError("No module named 'jax'", name="jax"), None),
            (ImportError("cannot import name 'x' from 'jax'", name="jax"), None),
            (AttributeError("jix"), None),
        ],
    )
    def test_any_other_error_is_a_failure_as_ever(self, error: Exception, why: str | None) -> None:
        assert absent.reason(error) == why

    def test_a_parameter_that_names_it_is_skipped(self) -> None:
        assert [absent.named(value) for value in ("jix", ["--side", "jix_impl"], "jax", 3)] == [WHY, WHY, None, None]
