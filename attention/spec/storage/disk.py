"""Bounded reads and atomic writes of files.

    with opened(path, "a GGUF file") as file: ...        a regular file; no folder, device or pipe, which may have no end
    parsed(text, "path 'index.json'")                    JSON: at most 8 MiB, 100 levels, 64-bit integers, no name twice
    with replaced(path) as partial: ...                  what was written to `partial` takes the place of `path`

Files are untrusted: size, depth and types are checked before any value is used.
"""

# JSON may hold anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from attention.spec.errors import AttentionError, FileError, shown

MOST_JSON, MOST_MARKS = 8 * 2**20, 2**20
"""Bytes of a JSON text, and commas and opening brackets in it: a parsed value takes tens of bytes."""

DEEPEST = 100
"""Levels of a JSON text: far from Python's own limit, which recursive functions over it would meet."""

_DIGITS = 20
"""Digits of an integer: enough for 64 bits, and few enough that nothing takes long with it."""

_LONGEST = 200


def brief(value: object, most: int = _LONGEST) -> str:
    """Return the text of a value for an error message, in one line, its middle left out where it is long.

    >>> brief("abc" * 1000, 20)
    'abcabcabc...cabcabc'
    """
    text = str(value).replace("\n", " ")
    if len(text) > most:
        text = f"{text[: most // 2 - 1]}...{text[-(most // 2 - 3) :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def listed(faults: list[str], most: int = 300) -> str:
    """Return the first faults of a list, for an error message of `most` characters, and how many there are besides.

    >>> listed(["missing a", "missing b", "missing c"], 20)
    'missing a; missing b; and 1 more'
    """
    shown, space = list[str](), most
    for fault in (brief(fault, 110) for fault in faults):
        space -= len(fault)
        if shown and space < 0:
            break
        shown.append(fault)
    left = len(faults) - len(shown)
    return "; ".join([*shown, *([f"and {left} more"] if left else [])])


@contextmanager
def opened(path: str | os.PathLike[str], wanted: str) -> Generator[BufferedReader]:
    """Open a regular file for reading.

    Args:
        path: of the file.
        wanted: what it must be, for the errors: "a GGUF file".

    Raises:
        FileError: the path is no path, or there is no regular file that may be read.
    """
    said = f"path {_named(path)} must be {wanted}"
    try:
        place = Path(path)
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            raise FileError(f"{said}: it is a folder; give a file in it")
        if not stat.S_ISREG(kind):
            raise FileError(f"{said}: it is no regular file")
        with place.open("rb") as file:
            yield file
    except OSError as error:
        raise FileError(f"{said}: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        # Ours pass through: they are ValueErrors too.
        if isinstance(error, AttentionError):
            raise
        raise FileError(f"{said}: {brief(error)}") from error


def content(path: str | os.PathLike[str], wanted: str, most: int | None = None) -> bytes:
    """Return all bytes of a regular file.

    Args:
        path: of the file.
        wanted: as `opened`.
        most: bytes that it may have; None: as many as there are.

    Raises:
        FileError: as `opened`, or it is larger.
    """
    with opened(path, wanted) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise FileError(f"path {_named(path)} has {size} bytes and must have at most {most}, as {wanted}")
        return file.read(size)


def read_json(path: str | os.PathLike[str], wanted: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileError: as `content` and `parsed`.
    """
    return parsed(content(path, wanted, MOST_JSON), f"path {_named(path)} must be {wanted}")


def parsed(text: str | bytes, said: str) -> Any:
    """Return the value of a JSON text.

    Args:
        text: UTF-8 where it is bytes.
        said: the beginning of the error: "path 'index.json' must be JSON".

    Raises:
        FileError: it is no JSON, or larger or deeper than any of ours, or names something twice.
    """
    if len(text) > MOST_JSON:
        raise FileError(f"{said}: {len(text)} bytes of JSON must be at most {MOST_JSON}")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        _check_marks(text)
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
        if "\\u" in text:
            # Half a surrogate pair is a text that cannot be written anywhere.
            _ = json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FileError(f"{said}: {brief(error)}") from None
    _check_depth(value, said)
    return value


def _check_marks(text: str) -> None:
    marks = sum(map(text.count, ",[{"))
    if marks > MOST_MARKS:
        raise ValueError(f"{marks} commas and brackets must be at most {MOST_MARKS}")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"integer of {len(digits)} digits must have at most {_DIGITS}")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"name {brief(repr(twice), 60)} must stand once in an object")
    return found


def _check_depth(value: Any, said: str) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [y for x in level if isinstance(x, (dict, list)) for y in (x.values() if isinstance(x, dict) else x)]
        if not level:
            return
    raise FileError(f"{said}: JSON must be at most {DEEPEST} levels deep")


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give a path beside `path` to write to, and move what was written onto `path`: a crash leaves the old file as it was.

    Of a link, the file that it leads to is replaced.

    Raises:
        FileError: the path cannot be written, or is a folder, a device or a pipe, which a file must not take the place of.
    """
    said = f"path {_named(path)} must be writable"
    partial: Path | None = None
    try:
        target = Path(os.path.realpath(Path(path)))
        if _is_special(target):
            raise FileError(f"{said}: it is no regular file")
        partial = target.parent / f".{target.name}.{os.getpid()}.partial"
        yield partial
        _ = partial.replace(target)
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, AttentionError):
            raise
        raise FileError(f"{said}: {brief(error)}") from error
    finally:
        if partial is not None:
            # Clean-up errors are ignored if the write failed.
            with suppress(OSError, ValueError):
                partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all; to a device or a pipe, such as /dev/stdout, it is written as it is.

    Raises:
        FileError: the path cannot be written.
    """
    try:
        # As the path is given: what /dev/stdout leads to may have no name.
        if _is_special(Path(path)) and not Path(path).is_dir():
            _ = Path(path).write_text(text, encoding="utf-8")
            return
    except (OSError, TypeError, ValueError) as error:
        raise FileError(f"path {_named(path)} must be writable: {brief(error)}") from error
    with replaced(path) as partial:
        _ = partial.write_text(text, encoding="utf-8")


def _is_special(path: Path) -> bool:
    """Return whether there is something that is no regular file."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _named(path: object) -> str:
    return brief(repr(str(Path(path)))) if isinstance(path, (str, os.PathLike)) else shown(path)
