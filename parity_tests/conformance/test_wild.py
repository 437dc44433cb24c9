"""Pairs that people wrote without a look at this package: no right one is said to differ, no wrong one to agree.

The mistakes run in `make test-all`; `python -m conformance.wild.evaluate` counts lines and names as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from attention import parity
from conformance import wild
from conformance.wild.check import load, plant
from conformance.wild.evaluate import pair

FOLDER = Path(wild.__file__).parent
FILES = {path.stem: path for path in sorted((*FOLDER.glob("seen/p*.py"), *FOLDER.glob("unseen/u*.py")))}
MISTAKES = {name: len(load(path, path.read_text()).MISTAKES) for name, path in FILES.items()}
OPEN = {"u14_patchtst", "u26_fttransformer", "u35_graph"}
"""Right pairs of which the parameter map stays open."""


def verdict(name: str, wrong: Path | None = None, side: str = "") -> str:
    """Return what `compare` says of a pair, of whose programs one, `side`, may come from a file with a mistake."""
    first, second, inputs, whose = pair(FILES[name], wrong, side)
    return parity.compare(first, second, inputs, load=whose).verdict


class TestLaws:
    @pytest.mark.parametrize("name", FILES)
    def test_a_right_pair_agrees(self, name: str) -> None:
        assert verdict(name) == ("cannot tell" if name in OPEN else "agrees")

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "at"), [(name, at) for name in FILES for at in range(MISTAKES[name])])
    def test_a_wrong_pair_is_not_said_to_agree(self, name: str, at: int, tmp_path: Path) -> None:
        source = FILES[name].read_text()
        mistake = load(FILES[name], source).MISTAKES[at]
        wrong = tmp_path / f"{name}_{at}.py"
        _ = wrong.write_text(plant(source, mistake))
        assert verdict(name, wrong, mistake["side"]) != "agrees"
