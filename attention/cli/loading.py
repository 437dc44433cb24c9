"""Loaders of programs and inputs that the user names: modules, files and shapes.

    load("my.module:function")      load("ports/model.py:Block")
    load_inputs("inputs.npz")       load_inputs("x=2,7,16 ids=2,7:int64")       load_inputs("2,7,16")

The working directory is where modules are looked for first, as `python -m` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attention.spec.errors import FileError, OptionError, UnknownName

if TYPE_CHECKING:
    import numpy as np

WORD = r"(\w+=)?-?\d[\w,:-]*"
"""The shape of an input: no path and no program looks like it."""
_folders: set[Path] = set()


def load(spec: str) -> Any:
    """Return the object that `module:name` or `path/to/file.py:name` names; `name` may have dots.

    Raises:
        OptionError: the text has no colon.
        FileError: there is no such file.
        UnknownName: there is no such module, or no such name in it.
        SideFailed: the module raised while it was imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise OptionError(f"program {spec!r} must be module:name or path/to/file.py:name")
    found: Any = _file(Path(place)) if place.endswith(".py") else _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))) if hasattr(found, "__dict__") else ""
            raise UnknownName(f"program {spec!r}: {place} has no {part!r}; it has {public or 'nothing'}")
        found = getattr(found, part)
    return found


def program(spec: str) -> Any:
    """Return the program that a spec names: a class or a factory that needs no argument is called for it.

    A function is a program itself, unless its name begins with `make_`, `build_` or `create_`, or it is a class.

    Raises:
        SideFailed: the factory raised.
    """
    found = load(spec)
    name = getattr(found, "__name__", "")
    if not (isinstance(found, type) or name.startswith(("make_", "build_", "create_"))):
        return found
    return _called(found, spec)


def param_map(text: str) -> Any:
    """Return the parameter map in a file, or what `module:name` names; None for no text."""
    from attention.parity.param_mapping import ParamMap  # noqa: PLC0415 - the help of a command must not pay for it

    if not text:
        return None
    return load(text) if ":" in text else ParamMap.from_json(text)


def load_inputs(text: str) -> Any:
    """Return the inputs of a call: keyword arguments by name, positional ones in a tuple, or what a user's function returns.

    Args:
        text: a file of arrays (.npz, .npy, .safetensors); `module:function`, called without arguments; or shapes such as
            `x=2,7,16 mask=2,7:bool ids=2,7:int64`, filled with random numbers of seed 0 (integers from 0 to 9). Shapes without
            names, and what `np.savez` was given without names, are positional.

    Raises:
        FileError: the file is missing or cannot be read.
        OptionError: the text is none of these.
        SideFailed: the function raised.
    """
    if text.endswith((".npz", ".npy", ".safetensors")):
        return _stored(Path(text))
    if ":" not in text and not _is_shapes(text):
        raise OptionError(
            f"inputs {text!r} must be a .npz, .npy or .safetensors file, module:function, or sizes such as x=2,7,16"
        )
    if not _is_shapes(text):
        return _called(load(text), text)
    drawn = [_drawn(word, place) for place, word in enumerate(text.split())]
    named = {name: array for name, array in drawn if name}
    if named and len(named) < len(drawn):
        raise OptionError(f"inputs {text!r} must all have names, or none of them")
    return named or tuple(array for _, array in drawn)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileError(f"program {str(path)!r} must be a file")
    folder = path.parent.resolve()
    # A name of its own: two sides may both be called model.py, and one of them may be called torch.py.
    name = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(f"program {str(path)!r} must be a Python file")
    for framework in ("torch", "jax", "flax"):
        if importlib.util.find_spec(framework):
            _ = importlib.import_module(framework)
    _make_way(folder)
    # A file may import its neighbours, as it can when it is run.
    sys.path.insert(0, str(folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _ = _guarded(lambda: spec.loader.exec_module(module), str(path))  # pyright: ignore[reportOptionalMemberAccess]
    return module


def _make_way(folder: Path) -> None:
    """Forget the neighbours of files loaded from other folders, so that this folder's own are imported."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        home = Path(file).parent if file else None
        if home in _folders and home != folder and ((folder / f"{name}.py").exists() or (folder / name).is_dir()):
            del sys.modules[name]
    _folders.add(folder)


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        known = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise UnknownName(f"module {name!r} must be importable from here")
    return _guarded(lambda: importlib.import_module(name), name)


def _called(function: Any, spec: str) -> Any:
    if not callable(function):
        return function
    return _guarded(function, spec)


def _guarded(work: Any, spec: str) -> Any:
    """Return what the user's code returns; an exception is reported as the user's, with its file and line."""
    from attention.parity.adapters.user_errors import attributed_to  # noqa: PLC0415 - the help of a command must not pay for it

    with attributed_to(spec):
        return work()


def _stored(path: Path) -> Mapping[str, np.ndarray] | tuple[np.ndarray, ...] | np.ndarray:
    from attention.cli import array_files  # noqa: PLC0415 - the help of a command must not pay for it
    from attention.spec.storage import safetensors_format as tensors  # noqa: PLC0415
    from attention.spec.storage.disk import brief  # noqa: PLC0415

    if not path.is_file():
        raise FileError(f"inputs {brief(repr(str(path)))} must be a file")
    try:
        if path.suffix == ".safetensors":
            return tensors.read(path, "a file of arrays")[1]
        loaded = array_files.read(path)
        if not isinstance(loaded, dict):
            return loaded
        positional = all(name.startswith("arr_") for name in loaded)
        return tuple(loaded.values()) if positional else loaded
    # Each format raises errors of its own: zipfile's, safetensors', NumPy's.
    except Exception as error:  # noqa: BLE001
        raise FileError(f"inputs {brief(repr(str(path)))} must be a file of arrays: {brief(error)}") from None


def _is_shapes(text: str) -> bool:
    return bool(text.split()) and all(re.fullmatch(WORD, word) for word in text.split())


def _drawn(word: str, place: int) -> tuple[str, np.ndarray]:
    """Return the name of an input, or "", and random numbers of its shape: others for each name and place."""
    import ml_dtypes  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    name, _, rest = word.rpartition("=")
    shape, _, dtype = rest.partition(":")
    try:
        sizes = tuple(int(n) for n in shape.split(",") if n)
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype or "float32")
        _ = np.zeros(sizes, kind)
    except (ValueError, TypeError):
        raise OptionError(f"inputs {word!r} must be sizes, such as 2,7,16 or x=2,7,16:float32") from None
    rng = np.random.default_rng((place, *name.encode()))
    if kind.kind == "b":
        return name, rng.random(sizes) < 0.5
    return name, (rng.integers(0, 10, sizes) if kind.kind in "iu" else rng.normal(size=sizes)).astype(kind)
