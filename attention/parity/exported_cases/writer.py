"""Export every named case with the oracle's results and their error budgets.

    for each contract, dtype and probe:        arrays + (oracle, sigma) = budget(oracle and its gradients)

The export is written beside the folder and then moved into it, file by file, the index last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from safetensors.numpy import save

from attention import __version__
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Probe, probes
from attention.parity.exported_cases.call_arrays import gathered, notes
from attention.parity.exported_cases.file_format import FORMAT, INDEX, VERSION, Entry, Index, is_export, read_index, sha256
from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS
from attention.parity.numerics.rounding_sites import ROUNDS
from attention.spec import cases
from attention.spec.axes import COMPUTE
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import AttentionError, FileError, OptionError, UnknownName, shown
from attention.spec.files import encode


def export(
    folder: str | os.PathLike[str],
    contracts: Sequence[str] = (),
    dtypes: Sequence[str] = ("float32",),
    *,
    rounds: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> Index:
    """Write cases to a folder, in the place of an export that is there.

    Args:
        folder: made if it is absent; empty, or an export.
        contracts: names of `spec.cases`; none means all.
        dtypes: of weights and inputs.
        rounds: intermediates that the implementations to be judged round to the dtype of their inputs on purpose: "weights",
            "d scores", "logsumexp". The budget allows for that and for nothing else.
        seed: of all numbers.
        force: write into a folder that holds other files; they stay as they are, but for those of the same names.
        progress: called with each call before it runs.

    Raises:
        UnknownName: no such contract, dtype or intermediate.
        OptionError: the seed is no int >= 0.
        FileError: the folder holds other files, or cannot be written.
    """
    named = [cases.find(name) for name in contracts] if contracts else list(cases.CASES.values())
    for dtype in dtypes:
        _ = numpy_dtype(dtype)
    for intermediate in rounds:
        if intermediate not in ROUNDS:
            raise UnknownName(f"rounds {shown(intermediate)} must be one of {', '.join(map(repr, ROUNDS))}")
    if seed < 0:
        raise OptionError(f"seed {seed} must be an int >= 0")
    target = Path(folder)
    _check_free(target, force=force)
    recipe = _Recipe(tuple(named), tuple(dtypes), tuple(rounds), seed, progress)
    partial = target.resolve().parent / f".{target.resolve().name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        index = recipe.write(partial)
        _move(partial, target, index)
    except OSError as error:
        raise FileError(f"folder {shown(str(target))} must be writable: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


@dataclass(frozen=True)
class _Recipe:
    cases: tuple[cases.Case, ...]
    dtypes: tuple[str, ...]
    rounds: tuple[str, ...]
    seed: int
    progress: Callable[[str], object]

    def write(self, folder: Path) -> Index:
        """Write every call, then the index, and return it."""
        entries = tuple(self._entries(folder))
        about = {c.name: {"about": c.about, "source": c.source, "contract": encode(c.contract)} for c in self.cases}
        index = Index(entries, about, versions(), self.seed, self.rounds)
        _ = (folder / INDEX).write_text(index.to_json(), encoding="utf-8")
        return index

    def _entries(self, folder: Path) -> Iterator[Entry]:
        for case in self.cases:
            (folder / case.name).mkdir()
            for dtype in self.dtypes:
                for probe in probes(case.contract, dtype, self.seed):
                    entry = Entry(case.name, probe.name, dtype)
                    _ = self.progress(str(entry))
                    content = self.content(entry, probe)
                    for name, data in zip(entry.files, content.values(), strict=True):
                        _ = (folder / name).write_bytes(data)
                    yield replace(entry, sha256={suffix: sha256(data) for suffix, data in content.items()})

    def content(self, entry: Entry, probe: Probe) -> dict[str, bytes]:
        """Return the content of both files of a call, by suffix."""
        expected = expect(probe, self.rounds)
        arrays = gathered(probe, expected)
        facts = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(entry, name) for name in ("case", "probe", "dtype")},
            "computes_in": COMPUTE[probe.dtype],
            "contract": encode(probe.contract),
            "training": probe.dropout_seed is not None,
            "results": list(expected.value),
            "limits": {"rms": MOST_RMS, "max": MOST_MAX},
            "notes": notes(probe, arrays),
        }
        return {"json": (json.dumps(facts, indent=1) + "\n").encode(), "safetensors": save(arrays)}


def versions() -> dict[str, str]:
    """Return the versions of what made the numbers."""
    packages = ("numpy", "jax", "ml_dtypes", "safetensors")
    return {"attention": __version__, **{name: metadata.version(name) for name in packages}}


def _check_free(target: Path, *, force: bool) -> None:
    """Raise FileError unless the folder may be written to."""
    if target.exists() and not target.is_dir():
        raise FileError(f"folder {str(target)!r} is a file, but must be a folder or absent")
    if target.is_dir() and any(target.iterdir()) and not force and not is_export(target):
        raise FileError(
            f"folder {str(target)!r} holds other files, but must be absent, empty or an export; --force writes beside them"
        )


def _move(partial: Path, target: Path, index: Index) -> None:
    """Move a whole export onto its folder: the old index goes first and the new one comes last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _removed(target):
        (target / name).unlink(missing_ok=True)
    for entry in index.entries:
        for name in entry.files:
            (target / name).parent.mkdir(exist_ok=True)
            _ = (partial / name).replace(target / name)
    _ = (partial / INDEX).replace(target / INDEX)
    for folder in filter(Path.is_dir, list(target.iterdir())):
        # Contracts that the old export had and the new one has not; a folder that holds anything stays.
        with suppress(OSError):
            folder.rmdir()


def _removed(target: Path) -> list[str]:
    """Return the files of an old export, its index first; none that its index does not name."""
    if not is_export(target):
        return []
    try:
        return [INDEX, *(name for entry in read_index(target).entries for name in entry.files)]
    except AttentionError:
        # An index of another version, or a damaged one, is not trusted.
        return [INDEX]
