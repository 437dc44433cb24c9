"""Benchmark suites: cases as data, with sizes by device.

suite -> masks x sizes x widths x dtypes x programs        what is measured: a call, a module, a compilation or an import
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from attention.spec.errors import OptionError, UnknownName
from benchmarks.cases import BACKWARD, FORWARD, PROGRAMS, Case

CALL, MODULE, COMPILE, IMPORT = "call", "module", "compile", "import"


@dataclass(frozen=True)
class Device:
    """What a kind of device is asked by default.

    Args:
        lengths: S of an ordinary suite.
        growth: S of a suite that follows the length.
        dtypes: of the inputs.
        heads: query and key/value heads.
        batch: rows.
    """

    lengths: tuple[int, ...]
    growth: tuple[int, ...]
    dtypes: tuple[str, ...]
    heads: int
    batch: int


DEVICES = {
    "cpu": Device((1024,), (1024, 2048, 4096, 8192), ("float32",), 8, 1),
    "accelerator": Device((4096, 8192, 16384), (4096, 8192, 16384, 32768), ("bfloat16",), 16, 2),
}


@dataclass(frozen=True)
class Suite:
    """Cases with something in common.

    Args:
        name: what the command line calls it.
        about: what it asks, in a line.
        masks: names of `cases.MASKS`.
        measures: `CALL`, `MODULE`, `COMPILE` or `IMPORT`.
        programs: of `cases.PROGRAMS`.
        groups: query heads per key/value head.
        heads: query heads; None: the device's.
        queries: T; None: as many as keys.
        length: S; None: the device's lengths.
        width: D.
        grows: whether its lengths are the device's `growth`.
    """

    name: str
    about: str
    masks: tuple[str, ...] = ()
    measures: str = CALL
    programs: tuple[str, ...] = PROGRAMS
    groups: int = 1
    heads: int | None = None
    queries: int | None = None
    length: int | None = None
    width: int = 64
    grows: bool = field(default=False)

    def cases(
        self,
        device: str = "cpu",
        lengths: Sequence[int] = (),
        dtypes: Sequence[str] = (),
        widths: Sequence[int] = (),
        programs: Sequence[str] = (),
    ) -> Iterator[Case]:
        """Yield the cases on a kind of device; what is given takes the place of the suite's own.

        Args:
            device: "cpu", or anything else for an accelerator.
            lengths: S.
            dtypes: of the inputs.
            widths: D.
            programs: those of the suite that are among them.
        """
        here = DEVICES["cpu" if device == "cpu" else "accelerator"]
        fixed = (self.length,) if self.length else here.growth if self.grows else here.lengths
        heads = self.heads or here.heads
        chosen = [program for program in self.programs if not programs or program in programs]
        for mask, size, width, dtype, program in product(
            self.masks, lengths or fixed, widths or (self.width,), dtypes or here.dtypes, chosen
        ):
            yield Case(mask, size, self.queries, here.batch, heads, heads // self.groups, width, dtype, program)


SUITES = {
    suite.name: suite
    for suite in (
        Suite("dense", "no mask", ("dense",)),
        Suite("causal", "each query sees what came before", ("causal",)),
        Suite("window", "the last 256 keys", ("window",)),
        Suite("segments", "8 packed documents of uneven length", ("segments",)),
        Suite("padding", "half of the keys are padding", ("padding",)),
        Suite("prefix", "open over the first half, causal after", ("prefix",)),
        Suite(
            "decode",
            "one query, 32/8 heads, a cache that is full or a quarter full",
            ("dense", "quarter"),
            programs=(FORWARD,),
            groups=4,
            heads=32,
            queries=1,
            length=4096,
            width=128,
        ),
        Suite("grouped", "causal, four query heads to a key/value head", ("causal",), groups=4),
        Suite("long", "time and memory as the context grows", ("dense", "causal", "window", "segments"), grows=True),
        Suite("overhead", "a layer of 10 tokens, (1, 10, 256)", measures=MODULE),
        Suite("compile", "time to compile", ("dense", "causal", "window", "segments"), COMPILE, (BACKWARD,), grows=True),
        Suite("imports", "time to import, in a process of its own", measures=IMPORT),
    )
}
DEFAULT = ("dense", "causal", "window", "segments", "padding", "prefix", "decode", "grouped", "overhead")


def find(name: str) -> Suite:
    """Return the suite called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in SUITES:
        raise UnknownName(f"suite {name!r} must be one of {', '.join(SUITES)}")
    return SUITES[name]


def check_cases(cases: Sequence[Case]) -> None:
    """Raise OptionError where nothing is left to measure."""
    if not cases:
        raise OptionError("suites and options given leave no case: forward+backward is not asked of every suite")
