"""Claims: what of a page no results file backs, what it says twice, and what it names that is not there.

a number outside a block and outside code is a claim that nobody measures again, unless it is in `KNOWN`
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.results.pages import outside
from tools.results.recorded import ROOT, digest

KNOWN = {
    r"Python 3\.\d+": "a version that is required",
    r"^\d+\. ": "an item of a list",
    r"^## \d+\.\d+\.\d+": "a version of this package",
    r"\bISO 8601\b": "a standard",
    r"\barXiv:\S+": "a paper",
    r"\b(?:gives|is|as|from|at|weights|context|gradient) 0\b": "a value that is defined",
    r"\bversion 1\b": "of a format",
}
"""Numbers that are no measurements, with why."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = ("pycon", "python", "console", "json", "toml")
"""Fences that hold code. What a `text` fence shows was printed by something, and is checked."""
CODE = re.compile(r"`([^`\n]+)`")
NUMBER = re.compile(r"(?<!\w)(?<![A-Za-z][-.])\d|\b[x\N{MULTIPLICATION SIGN}]\d")
"""A digit that begins a number, and no name such as float64, T5 or GPT-2."""
MEASURE = re.compile(r"[<>=~ ]*\d[\d., /e-]*(?:x|%|s|ms|us|ns|min|h|[kMG]i?B|times)?")
"""Inline code that is nothing but a number is no code."""
SPELLED = re.compile(
    r"\b(?:four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundreds?|thousands?|dozens?|half|thirds?|quarters?|fifth|sixth|tenth|hundredth|thousandth|percent"
    r"|twice as|(?:two|three) times)\b",
    re.IGNORECASE,
)
"""Numbers in words; two or three of something may be said."""


SUFFIXES = "py|md|json|toml|txt|png|html"
FOLDERS = ("attention", "benchmarks", "conformance", "docs", "examples", "parity_tests", "results", "tools")
PATH = re.compile(rf"(?<![\w/.<>*}}-])((?:[\w.-]+/)*[\w-]+\.(?:{SUFFIXES}))(?![\w*<{{])")
FOREIGN = {"docs/gguf.md": "of ggml-org/ggml"}
"""Pages of other repositories, whose name is said beside them."""


def unbacked(text: str) -> list[str]:
    """Return the lines that hold a number outside a block and outside code, which no results file backs."""
    return [
        line.strip() for line in _prose(outside(text)).splitlines() if NUMBER.search(_unknown(line)) or SPELLED.search(line)
    ]


def _prose(text: str) -> str:
    """Return a page without code: fences of code, indented lines, inline code that is no bare number, and link targets."""
    text = FENCE.sub(lambda found: "" if found[1] in RUN else found[2], text)
    text = re.sub(r"^ {4,}\S.*$", "", text, flags=re.MULTILINE)
    text = CODE.sub(lambda found: found[1] if MEASURE.fullmatch(found[1]) else "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def _unknown(line: str) -> str:
    return re.sub("|".join(KNOWN), "", line)


def undrawn(text: str, digests: Mapping[str, str], beside: Path = ROOT) -> list[str]:
    """Return the pictures of this repository that a page shows and no measurement drew.

    Args:
        text: of the page.
        digests: the SHA-256 of every recorded picture, by path from the root of the repository.
        beside: the folder of the page, from which it names its pictures.
    """
    named = [path for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) if "://" not in path]
    shown = {path: Path(os.path.normpath(beside / path)) for path in named}
    return [
        path
        for path, place in shown.items()
        if not place.exists() or digests.get(place.relative_to(ROOT).as_posix()) != digest(place)
    ]


def repeated(text: str) -> list[str]:
    """Return the sentences, table rows and fences that a page holds twice; five words or fewer may recur."""
    counts = Counter(" ".join(sentence.lower().split()) for sentence in _sentences(text))
    return [sentence for sentence, count in counts.items() if count > 1 and len(sentence.split()) > 5]


def _sentences(text: str) -> Iterator[str]:
    yield from (found[2] for found in FENCE.finditer(text))
    for paragraph in re.split(r"\n\s*\n", FENCE.sub("", text)):
        rows = [line for line in paragraph.splitlines() if line.startswith("|") and line.strip("|-: ")]
        rest = " ".join(line for line in paragraph.splitlines() if not line.startswith("|"))
        yield from rows
        yield from re.split(r"(?<=[.?!])\s+", rest)


def paths(text: str) -> set[str]:
    """Return the files that a text names: below a folder of this repository, or a page anywhere."""
    found = set(PATH.findall(text))
    return {path for path in found if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) or path.endswith(".md")}


def absent(text: str, beside: Path = ROOT) -> list[str]:
    """Return the files that a text names and that are neither in the repository, its docs, nor the folder `beside`."""
    places = (ROOT, ROOT / "docs", beside)
    return sorted(path for path in paths(text) - FOREIGN.keys() if not any((place / path).exists() for place in places))


def unknown_commands(text: str) -> list[str]:
    """Return the `make` targets and `python -m` modules that a text names and that do not exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+)(?=[\w\s-]*:)", makefile, re.MULTILINE))
    patterns = tuple(re.findall(r"^([\w-]+-)%:", makefile, re.MULTILINE))
    named = re.findall(r"(?:`|^\$ |^ {4})make ([a-z][\w-]*(?: [a-z][\w-]*)*)", text, re.MULTILINE)
    asked = {target for words in named for target in words.split()}
    missing = [f"make {target}" for target in asked if target not in targets and not target.startswith(patterns)]
    modules = set(re.findall(r"python -m (\w+(?:\.\w+)*)(?!\w|\.\$)", text))
    return sorted([*missing, *(f"python -m {module}" for module in modules if not _is_module(module))])


def _is_module(name: str) -> bool:
    """Return whether a module of this repository can be run; others are none of ours."""
    place = ROOT.joinpath(*name.split("."))
    return name.partition(".")[0] not in FOLDERS or place.with_suffix(".py").exists() or (place / "__main__.py").exists()
