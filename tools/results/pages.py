"""Pages: a block of a page is a figure, and is written from results files alone.

<!-- results: parity -->
...
<!-- end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from attention.spec.errors import FileError, UnknownName
from tools.results import recorded
from tools.results.figures import Results
from tools.results.recorded import ROOT
from tools.results.registry import FIGURES

BLOCK = re.compile(
    r"^(?P<start><!-- results: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<end>^<!-- end -->$)", re.DOTALL | re.MULTILINE
)
MARK = re.compile(r"^<!-- (?:results\b|end\b)", re.MULTILINE)


def pages() -> list[Path]:
    """Return the pages of the repository."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def rendered(text: str, results: Results = recorded.read) -> str:
    """Return a page with every block written anew.

    Raises:
        UnknownName: a block is no figure.
        FileError: nothing is recorded for a block, or a block has no end.
    """
    if len(MARK.findall(text)) != 2 * len(BLOCK.findall(text)):
        raise FileError("every <!-- results: NAME --> must stand on a line of its own, and be followed by <!-- end -->")
    return BLOCK.sub(lambda found: f"{found['start']}{body(found['name'], results)}\n{found['end']}", text)


def body(name: str, results: Results = recorded.read) -> str:
    """Return what a block holds.

    Raises:
        UnknownName: there is no such figure.
        FileError: nothing is recorded for it.
    """
    if name not in FIGURES:
        raise UnknownName(f"block {name!r} must be one of {', '.join(sorted(FIGURES))}")
    made = FIGURES[name].render(results)
    if not made:
        raise FileError(f"block {name!r} must have a results file, and none is recorded")
    return made


def outside(text: str) -> str:
    """Return a page without its blocks: what people wrote."""
    return BLOCK.sub("", text)
