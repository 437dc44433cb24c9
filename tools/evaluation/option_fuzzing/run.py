"""Run a range of draws, and shrink each that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from attention.spec.errors import OptionError
from tools.evaluation.option_fuzzing.check import PROGRAMS, Disagreement, Programs, check_draw
from tools.evaluation.option_fuzzing.draws import Draw, drawn
from tools.evaluation.option_fuzzing.shrink import code, shrunk


@dataclass(frozen=True)
class Failure:
    """A draw on which programs disagree.

    Attributes:
        number: which draw.
        plain: the draw, shrunk.
        found: where they disagree on it.
    """

    number: int
    plain: Draw
    found: tuple[Disagreement, ...]

    def lines(self) -> Iterator[str]:
        """Yield where programs disagree, and the program that shows it again."""
        yield f"draw {self.number}, shrunk:"
        yield from (f"  {disagreement}" for disagreement in self.found)
        yield code(self.plain)


@dataclass
class Tally:
    """What became of a range of draws.

    Attributes:
        seed: of the draws.
        draws: how many ran.
        failures: those on which programs disagree.
        seconds: of processor time that all of them took.
    """

    seed: int = 0
    draws: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all programs agree on every draw."""
        return not self.failures

    def lines(self) -> Iterator[str]:
        """Yield what a terminal shows."""
        for failure in self.failures:
            yield from failure.lines()
            yield f"again: python -m tools.evaluation random-options --seed {self.seed} --first {failure.number} --draws 1"
        each = self.seconds / self.draws if self.draws else 0.0
        yield f"{self.draws} draws of seed {self.seed}, {each:.2f} s of processor time each: {len(self.failures)} disagree"


def random_options(
    draws: int = 2000,
    seed: int = 0,
    *,
    first: int = 0,
    programs: Programs | None = None,
    progress: Callable[[Tally], object] = lambda _: None,
) -> Tally:
    """Return what becomes of `draws` random draws, from number `first` on.

    Args:
        draws: how many, at least 1.
        seed: of all draws, an int >= 0.
        first: the number of the first one, >= 0.
        programs: what is compared, by name; the formula and both layers if None.
        progress: told of the tally after each draw.

    Raises:
        OptionError: a number outside its range.
    """
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0), ("first", first, 0)):
        if value < least:
            raise OptionError(f"{name} {value} must be an int >= {least}")
    tally, begun = Tally(seed), time.process_time()
    for number in range(first, first + draws):
        draw = drawn(number, seed)
        found = check_draw(draw, programs)
        if found:
            tally.failures.append(failure(number, draw, found, programs or PROGRAMS))
        tally.draws, tally.seconds = tally.draws + 1, time.process_time() - begun
        _ = progress(tally)
    return tally


def failure(number: int, draw: Draw, found: tuple[Disagreement, ...], programs: Programs) -> Failure:
    """Return a failing draw, shrunk.

    Args:
        number: which draw.
        draw: the draw.
        found: where programs disagree on it.
        programs: what was compared.
    """
    wanted = found[0]
    those = {name: programs[name] for name in wanted.programs}

    def fails(plainer: Draw) -> bool:
        # A draw that raises is no plainer form of one that differs.
        return any(disagreement.raised == wanted.raised for disagreement in check_draw(plainer, those))

    plain = shrunk(draw, fails)
    return Failure(number, plain, check_draw(plain, programs))
