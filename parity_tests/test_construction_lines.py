"""Where a module that a line calls was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention.parity.tracing.construction_lines import made_at
from attention.parity.tracing.source_location import Place

MODEL = """
class Model:
    def __init__(self, width):
        self.norm = Norm(width)
        self.net = Sequential(
            Linear(width, 4),
            ReLU(),
        )
        self.blocks: list = [Block(i) for i in range(3)]
        self.heads = [Head(), Head()]

    def forward(self, x):
        x = self.norm(x)
        x = self.net(
            x + 1
        )
        for block in self.blocks:
            x = block(x)
        y = [f(x) for f in self.heads]
        return self.heads[0](helper(x)) * 2

def helper(x):
    return x
"""


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("x = self.norm(x)", [(4, 4)]),
        ("x + 1", [(5, 8)]),
        ("x = block(x)", [(9, 9)]),
        ("y = [f(x)", [(10, 10)]),
        ("return self.heads[0]", [(10, 10)]),
        ("for block in", []),
        ("self.norm = Norm(width)", []),
        ("    return x", []),
    ],
)
def test_where_a_module_was_made(tmp_path: Path, line: str, made: list[tuple[int, int]]) -> None:
    file = tmp_path / "model.py"
    _ = file.write_text(MODEL)
    number = next(n for n, text in reversed(list(enumerate(MODEL.split("\n"), 1))) if line in text)
    assert [(first.line, last) for first, last in made_at(Place(str(file), number, "forward"))] == made


def test_a_file_that_is_none_shows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    _ = file.write_text("class (:\n")
    assert made_at(Place(str(file), 1, "forward")) == ()
    assert made_at(Place("<stdin>", 1, "forward")) == ()
    assert made_at(Place()) == ()
