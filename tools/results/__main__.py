"""`python -m tools.results`: measure, write the pages, and say what no file backs.

Exit codes: 0 all is well, 1 a page says what no file backs, 2 the call cannot be answered (one line says why).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attention.spec.errors import AttentionError, UnknownName
from tools.results import claims, running
from tools.results.pages import pages, rendered
from tools.results.recorded import ROOT, read
from tools.results.registry import MEASUREMENTS


def record(names: Sequence[str], *, written: bool) -> None:
    """Measure, keep what the pages need, and write the pages.

    Args:
        names: of measurements.
        written: whether the command has been run already, and what it wrote is there.
    """
    for name in names:
        if name not in MEASUREMENTS:
            raise UnknownName(f"measurement {name!r} must be one of {', '.join(MEASUREMENTS)}")
    for name in names:
        if not written:
            running.run(MEASUREMENTS[name])
        print(running.collect(MEASUREMENTS[name]).write().relative_to(ROOT))
    render()


def render() -> None:
    """Write the blocks of every page anew."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        made = rendered(text)
        if made != text:
            _ = page.write_text(made, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} written anew")


def pictures() -> dict[str, str]:
    """Return the SHA-256 of every recorded picture, by path."""
    found = (read(name) for name in MEASUREMENTS)
    return {path: sha for one in found if one for path, sha in one.pictures.items()}


def complaints(page: Path) -> Iterator[str]:
    """Yield what is wrong with a page, a line each."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    if rendered(text) != text:
        yield f"{name}: a block is not what its results file says: `make results` writes it anew"
    yield from (f"{name}: no results file backs: {line}" for line in claims.unbacked(text))
    yield from (f"{name}: no measurement drew {path} as it is" for path in claims.undrawn(text, pictures(), page.parent))
    yield from (f"{name}: says twice: {sentence}" for sentence in claims.repeated(text))
    yield from (f"{name}: names {path}, which is not there" for path in claims.absent(text, page.parent))
    yield from (f"{name}: names {command!r}, which is not there" for command in claims.unknown_commands(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.results", description="What the pages show, and what backs it.")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the command of a measurement, keep its results, write the pages")
    _ = recording.add_argument("names", nargs="+", metavar="NAME", help=f"among {', '.join(MEASUREMENTS)}")
    _ = recording.add_argument("--written", action="store_true", help="take what an earlier run of the command wrote")
    _ = commands.add_parser("render", help="write the blocks of every page from the results")
    _ = commands.add_parser("check", help="say what no file backs, what is said twice, and what is not there")
    given = parser.parse_args(arguments)
    try:
        if given.command == "record":
            record(given.names, written=given.written)
        elif given.command == "render":
            render()
        else:
            found = [line for page in pages() for line in complaints(page)]
            print("\n".join(found) or "every number has its file")
            return 1 if found else 0
    except AttentionError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
