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

SEEN = Path(wild.__file__).parent / "seen"
PAIRS = sorted(path.stem for path in SEEN.glob("p*.py"))
MISTAKES = {name: len(load(SEEN / f"{name}.py", (SEEN / f"{name}.py").read_text()).MISTAKES) for name in PAIRS}


def verdict(name: str, wrong: Path | None = None, side: str = "") -> str:
    """Return what `compare` says of a pair, of whose programs one, `side`, may come from a file with a mistake."""
    first, second, inputs, whose = pair(SEEN / f"{name}.py", wrong, side)
    return parity.compare(first, second, inputs, load=whose).verdict


class TestLaws:
    @pytest.mark.parametrize("name", PAIRS)
    def test_a_right_pair_agrees(self, name: str) -> None:
        assert verdict(name) == "agrees"

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "at"), [(name, at) for name in PAIRS for at in range(MISTAKES[name])])
    def test_a_wrong_pair_is_not_said_to_agree(self, name: str, at: int, tmp_path: Path) -> None:
        source = (SEEN / f"{name}.py").read_text()
        mistake = load(SEEN / f"{name}.py", source).MISTAKES[at]
        wrong = tmp_path / f"{name}_{at}.py"
        _ = wrong.write_text(plant(source, mistake))
        assert verdict(name, wrong, mistake["side"]) != "agrees"
