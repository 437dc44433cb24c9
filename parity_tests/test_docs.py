"""The documentation site: its navigation has every page, its reference every public call of parity, and examples are code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README_LIMIT = 8 * 1024


class TestLaws:
    def test_every_page_is_in_the_navigation(self) -> None:
        settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        named = set(re.findall(r"[\w/]+\.md", settings.partition("nav:")[2]))
        assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}

    def test_the_readme_is_short(self) -> None:
        assert len((ROOT / "README.md").read_bytes()) <= README_LIMIT

    def test_nobody_is_told_to_install_the_package_of_somebody_else(self) -> None:
        pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "attention").rglob("*.py")]
        wrong = [path for path in pages if re.search(r"pip install '?attention(?![-\w])", path.read_text(encoding="utf-8"))]
        assert wrong == []

    def test_the_reference_has_every_function_that_the_package_of_parity_names(self) -> None:
        face = (ROOT / "attention" / "parity" / "__init__.py").read_text(encoding="utf-8").split('"""')[1]
        listed = set(re.findall(r"^    (\w+) {2,}", face, re.MULTILINE)) | set(re.findall(r"\b(\w+_\w+)\b", face))
        shown = set(re.findall(r"^::: \S+?(\w+)$", next(DOCS.glob("api/par*")).read_text(encoding="utf-8"), re.MULTILINE))
        assert listed - shown - {"embed_dim", "num_heads", "float64"} == set()


class TestValues:
    def test_an_example_of_a_docstring_is_a_code_block(self) -> None:
        _ = pytest.importorskip("griffe")
        from tools.docstrings import fenced  # noqa: PLC0415 - needs the extra `docs`

        text = "One.\n\n    >>> f(1)\n    2\n\nMore.\n>>> g()\n"
        assert fenced(text) == "One.\n\n```pycon\n>>> f(1)\n2\n```\n\nMore.\n```pycon\n>>> g()\n```\n"

    def test_text_without_an_example_is_left_alone(self) -> None:
        _ = pytest.importorskip("griffe")
        from tools.docstrings import fenced  # noqa: PLC0415 - as above

        assert fenced("a >> b\n    c > d\n") == "a >> b\n    c > d\n"
