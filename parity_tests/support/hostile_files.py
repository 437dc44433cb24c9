"""Hostile files: valid files of every format, deterministic damage to them, and the outcome of a reader.

outcome(reader, path)        read, or refused by an AttentionError in one line of less than 500 characters
                             anything else, more than 5 s of CPU or more than 500 MB, is a fault

python -m parity_tests.support.hostile_files 2000        so many damaged files, spread over the formats; the worst are named
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention.spec.errors import AttentionError

SECONDS, MEGABYTES, CHARACTERS = 5.0, 500.0, 500

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: of the format, and of what is in the file.
        whole: a valid file.
        read: reads a file, to the end of what a user would do with it.
        head: how many bytes are structure rather than numbers; they are damaged more often.
        texts: the JSON texts inside, each as how to take it out of the file and how to put another in.
        place: the file's name below the folder that `read` is given the file in.
        beside: further files of the folder, by name.
    """

    name: str
    whole: bytes
    read: Read
    head: int
    texts: tuple[tuple[Callable[[bytes], str], Callable[[bytes, str], bytes]], ...] = ()
    place: str = "file"
    beside: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a reader made of a file.

    Attributes:
        said: "read", or the refusal.
        fault: why it is one, or "".
        seconds: of CPU.
        megabytes: the peak of what was allocated meanwhile.
    """

    said: str
    fault: str
    seconds: float
    megabytes: float


EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
DEEP, LONG = "\x00deep\x00", "\x00long\x00"
"""Stand in a tree for what `json.dumps` cannot write, and is put into the text."""
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**8, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "0", "x" * 3000,
    "\ud800", "\n\n", "a\0b", "../..", [], {}, [[]], [0], [None], ["a", "b"], {"a": 1}, {"type": "Dot"}, {"type": "Causal"},
    {"type": "Encoder", "block": None, "depth": 10**8}, list(range(2000)), [10**12] * 40, DEEP, LONG,
)  # fmt: skip


def damaged(of: Format, seed: int) -> bytes:
    """Return the file with one damage, or two, drawn from a seed."""
    rng = random.Random(f"{of.name} {seed}")  # noqa: S311 - it draws damage
    data = of.whole
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = _texts(of, data, rng) if of.texts and rng.random() < 0.5 else rng.choice(BYTES)(data, of.head, rng)
    return data


def _at(data: bytes, head: int, rng: random.Random) -> int:
    """Return a place in the file, in three of four cases in its structure."""
    end = min(head, len(data)) if rng.random() < 0.75 else len(data)
    return rng.randrange(max(end, 1))


def _flip(data: bytes, head: int, rng: random.Random) -> bytes:
    at = _at(data, head, rng)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else data


def _delete(data: bytes, head: int, rng: random.Random) -> bytes:
    at = _at(data, head, rng)
    return data[:at] + data[at + rng.choice((1, 1, 2, 8, 64)) :]


def _insert(data: bytes, head: int, rng: random.Random) -> bytes:
    at = _at(data, head, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 8, 64))) + data[at:]


def _truncate(data: bytes, head: int, rng: random.Random) -> bytes:
    return data[: _at(data, head, rng)]


def _extend(data: bytes, head: int, rng: random.Random) -> bytes:
    del head
    return data + rng.choice((b"\0", b"\xff" * 100, data))


def _extreme(data: bytes, head: int, rng: random.Random) -> bytes:
    """Write an extreme number over 1, 2, 4 or 8 bytes."""
    at, size = _at(data, head, rng), rng.choice((1, 2, 4, 8))
    number = rng.choice((*EXTREMES, len(data), len(data) + 1)) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


def _swap(data: bytes, head: int, rng: random.Random) -> bytes:
    """Exchange two chunks of one size."""
    size = rng.choice((1, 4, 8, 32))
    a, b = sorted((_at(data, head, rng), _at(data, head, rng)))
    b = max(b, a + size)
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def _repeat(data: bytes, head: int, rng: random.Random) -> bytes:
    """Write a chunk twice."""
    at, size = _at(data, head, rng), rng.choice((4, 8, 32, 128))
    return data[: at + size] + data[at : at + size] + data[at + size :]


BYTES = (_flip, _flip, _flip, _delete, _insert, _truncate, _extend, _extreme, _extreme, _extreme, _swap, _repeat)


def _texts(of: Format, data: bytes, rng: random.Random) -> bytes:
    """Damage one of the JSON texts of a file; where an earlier damage left none, the bytes."""
    take, put = rng.choice(of.texts)
    try:
        tree = json.loads(take(data))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return _flip(data, of.head, rng)
    return put(data, _written(_turned(tree, rng), rng))


def _turned(tree: Any, rng: random.Random) -> Any:
    """Return a tree with one node damaged."""
    path = rng.choice(list(_paths(tree)))
    if not path:
        return rng.choice(ODD)
    *way, last = path
    holder = tree
    for step in way:
        holder = holder[step]
    kind = rng.randrange(7)
    if kind == 6:
        holder[last] = DEEP
    elif kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    elif kind == 2:
        # A subtree of another place.
        holder[last] = json.loads(json.dumps(_found(tree, rng.choice(list(_paths(tree))))))
    elif kind == 3 and isinstance(holder[last], (int, float)):
        holder[last] = rng.choice((-1, 0, 1, 2, 10**5, 10**8, 2**31, 2**63, -(2**63), 10**25, 0.5, 1e300))
    else:
        holder[last] = rng.choice(ODD)
    return tree


def _paths(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in inner:
        yield from _paths(value, (*at, name))


def _found(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _written(tree: Any, rng: random.Random) -> str:
    text = json.dumps(tree)
    depth = rng.choice((150, 900, 100_000))
    text = text.replace(json.dumps(DEEP), rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))
    text = text.replace(json.dumps(LONG), "[" + "[]," * 100_000 + "[]]")
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        # Every name twice.
        text = f"{text[:-1]}, {text[1:]}"
    return text


@contextmanager
def _stopped(seconds: float) -> Iterator[None]:
    """Raise in the reader, where it does not end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s of CPU")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGPROF, stop)
    _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        _ = signal.setitimer(signal.ITIMER_PROF, 0)
        _ = signal.signal(signal.SIGPROF, old)


def outcome(read: Read, path: Path) -> Outcome:
    """Return what a reader makes of a file; a warning is a fault too."""
    said, fault = "read", ""
    tracemalloc.start()
    start = time.process_time()
    try:
        with _stopped(2 * SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            _ = read(path)
    except AttentionError as error:
        said = str(error)
        if len(said) >= CHARACTERS or "\n" in said:
            fault = f"{type(error).__name__} of {len(said)} characters, {said.count(chr(10)) + 1} lines: {said[:300]!r}"
    # Whatever else a reader raises is what is looked for.
    except Exception as error:  # noqa: BLE001
        said = fault = f"{type(error).__name__}: {str(error)[:300]}"
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    if not fault and (seconds > SECONDS or peak > MEGABYTES):
        fault = f"{seconds:.1f} s, {peak:.0f} MB: {said[:200]!r}"
    return Outcome(said, fault, seconds, peak)


def put(of: Format, data: bytes, folder: Path) -> Path:
    """Write a damaged file, and what lies beside it, into a folder of its own; return its path."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**of.beside, of.place: data}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_bytes(content)
    return folder / of.place


def campaign(of: Format, seeds: range, folder: Path) -> list[tuple[int, Outcome]]:
    """Return what became of the file damaged by each seed."""
    return [(seed, outcome(of.read, put(of, damaged(of, seed), folder / "damaged"))) for seed in seeds]


def main(count: int) -> int:
    """Read `count` damaged files, say what became of them, and return how many faults there are."""
    from parity_tests.support.hostile_formats import formats  # noqa: PLC0415 - imports every reader

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        every = formats(folder)
        each = -(-count // len(every))
        found = {of.name: campaign(of, range(each), folder) for of in every}
    for name, outcomes in found.items():
        read = sum(o.said == "read" for _, o in outcomes)
        slowest, largest = max(o.seconds for _, o in outcomes), max(o.megabytes for _, o in outcomes)
        _said(f"{name:28} {len(outcomes)} files: {read} read, the rest refused; at most {slowest:.2f} s, {largest:.0f} MB")
    faults = [f"{name}, seed {seed}: {o.fault}" for name, outcomes in found.items() for seed, o in outcomes if o.fault]
    for fault in faults[:40]:
        _said(fault)
    _said(f"{sum(map(len, found.values()))} files, {len(faults)} faults")
    return len(faults)


def _said(line: str) -> None:
    _ = sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]))))
