"""The floors of the packages, as import-linter checks them, and what each package is for: read from the repository itself."""

from __future__ import annotations

import ast
import tomllib
from functools import partial
from pathlib import Path

from tools.results.figures import Figure, Measurement, Results, fenced, table
from tools.results.recorded import ROOT

CONTRACTS = {
    "house": ("floors-house", "package"),
    "floors": ("floors-parity", "package of parity"),
    "backends": ("floors-backends", "part of a backend"),
}
"""By the id of a `layers` contract in pyproject.toml: the block that shows it, and what stands on its floors."""


def floors(contract: str) -> list[tuple[str, ...]]:
    """Return the packages of each floor, the highest first, of a contract by its id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (found,) = (each for each in settings["contracts"] if each.get("id") == contract)
    return [tuple(name.strip() for name in layer.split("|")) for layer in found["layers"]]


def container(contract: str) -> Path:
    """Return the folder whose packages a contract puts on floors."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (found,) = (each for each in settings["contracts"] if each.get("id") == contract)
    return ROOT.joinpath(*found["containers"][0].split("."))


def purpose(place: Path) -> str:
    """Return the first sentence of a module's or a package's docstring."""
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def render(contract: str, kind: str, results: Results) -> str:
    """Return the floors as a drawing, the highest first, and a row for each package."""
    _ = results
    numbered = list(reversed(list(enumerate(reversed(floors(contract)), 1))))
    drawing = "\n".join(f"{number}   {'   '.join(names)}" for number, names in numbered)
    rows = [(f"`{name}`", purpose(container(contract) / name)) for _, names in numbered for name in sorted(names)]
    return f"{fenced(drawing)}\n\n{table((kind, 'what it is for'), rows)}"


MEASUREMENTS: tuple[Measurement, ...] = ()
FIGURES = tuple(Figure(block, partial(render, contract, kind), measured=False) for contract, (block, kind) in CONTRACTS.items())
