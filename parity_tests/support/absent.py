"""Tests without a framework: those that need it are skipped with the reason, all others run.

    import torch        in a file of this folder, without torch: the name stands for an `Absent`
    Absent              may be named, passed on and inherited from; a test that calls it is skipped, with the reason

Only imports written in this folder are answered so. The package under test, and every library, gets the ImportError that it
would get anywhere; one that says that a framework is absent skips the test, and any other is a failure as ever.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1]
# What extras bring, by the names under which it is imported.
# fmt: off
OPTIONAL = (
    "torch", "jax", "jaxlib", "flax", "optax", "scipy", "transformers", "tokenizers", "onnx", "matplotlib", "jinja2",
    "babel", "sklearn", "sentencepiece", "rdata", "gguf", "accelerate", "sacrebleu", "rouge_score", "jiwer", "importlinter",
)
# fmt: on
ABSENT = frozenset(name for name in OPTIONAL if find_spec(name) is None)
MET: dict[str, str] = {}
"""Which files of tests hold an `Absent`, and why."""


class Absent:
    """What a test holds in place of a module, a function or a class that is not there."""

    running = False
    """Whether a test runs; while files are collected, what is called is absent too."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __repr__(self) -> str:
        # Without an address: a test that is named by it has to have one name in every process.
        return f"<{self._reason}>"

    def _use(self, *given: Any, **options: Any) -> Any:
        del given, options
        if Absent.running:
            pytest.skip(self._reason)
        return self

    __call__ = __getitem__ = __or__ = __ror__ = __neg__ = __add__ = __sub__ = __mul__ = __rmul__ = __truediv__ = __pow__ = _use
    __enter__ = __float__ = __int__ = __array__ = _use

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter([self._use()])

    # With these it is a collection, as what tests are parametrised over has to be.
    def __len__(self) -> int:
        return 1

    def __contains__(self, item: object) -> bool:
        return bool(self._use(item))

    def __getattr__(self, name: str) -> Any:
        # pytest and typing look for double-underscored names, and take their absence for an answer.
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return () if any(isinstance(base, type) for base in bases) else (Inherited,)

    def __instancecheck__(self, instance: object) -> bool:
        return False


class Inherited:
    """What a class that is derived from an absent one is derived from."""

    def __init__(self, *given: Any, **options: Any) -> None:
        del given, options
        pytest.skip("its class is derived from one that is not installed")


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test, or a class of them, that starts programs which use what may be absent."""
    missing = [name for name in names if name in ABSENT]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def reason(error: BaseException | None) -> str | None:
    """Return what is said of a test that failed for want of a framework, or None where that was not why."""
    while error is not None:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if missing in ABSENT:
            return f"{missing} is not installed"
        # What was raised while that was handled, such as a refusal that was expected with another text.
        error = error.__cause__ or error.__context__
    return None


def named(value: Any) -> str | None:
    """Return why a test may not be given `value` as a parameter, or None if it may."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(named, value)), None)  # the words of a command
    if isinstance(value, Absent):
        return value._reason  # noqa: SLF001 - of this file
    missing = value.removesuffix("_impl") if isinstance(value, str) else ""
    return f"{missing} is not installed" if missing in ABSENT else None


def importing(
    name: str,
    globals: Any = None,  # noqa: A002 - as Python calls it
    locals: Any = None,  # noqa: A002
    fromlist: Any = (),
    level: int = 0,
) -> Any:
    """Import as Python does, and answer with an `Absent` where a file of this folder imports what is not there."""
    try:
        return _import(name, globals, locals, fromlist, level)
    except ImportError as error:
        why = reason(error)
        file = (globals or {}).get("__file__", "")
        if why is None or not Path(file).is_relative_to(FOLDER):
            raise
        MET[file] = why
        if not fromlist:
            return Absent(why)
        return SimpleNamespace(**{each: _one(name, each, why, globals, level) for each in fromlist})


def _one(module: str, name: str, why: str, scope: Any, level: int) -> Any:
    """Return one name of a module, or an `Absent`."""
    try:
        return getattr(_import(module, scope, None, (name,), level), name)
    except ImportError as error:
        if reason(error) is None:
            raise
        return Absent(why)


_import = builtins.__import__


def watch() -> None:
    """Answer the imports of this folder, if a framework is absent."""
    if ABSENT:
        builtins.__import__ = importing
