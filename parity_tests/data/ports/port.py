"""A port: a model in plain PyTorch and in plain JAX, with one mistake in one line of one of the two files.

    # should be: scores = q @ k.T / math.sqrt(d)
    scores = q @ k.T

The comment mends the line below it: the right port is the wrong one with that line exchanged, so that the two differ in
nothing else, and in no line number. The files hold no other sign of the proof than this comment and a trailing `# here`
at the lines that a reader wants to be shown: those of the other file that do what the wrong one should have done, and the
one that first computes with the mistake, where the mistake itself computes nothing (a bool, a size, an epsilon).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

FOLDER = Path(__file__).parent
MEND, HERE = "# should be: ", "  # here"
Checkpoint = dict[str, np.ndarray]


@dataclass(frozen=True)
class Port:
    """Two files, `<name>_torch.py` and `<name>_jax.py`, of which one is a wrong port of the other.

    The PyTorch file offers `build()`, a module or a function, and `inputs(rng)`; the JAX file `build(checkpoint)`, which
    takes the module's `state_dict` as NumPy arrays and converts it, as every port has to.

    Args:
        name: how the files are called.
        mistake: what is wrong, in a sentence.
        gradients: the outputs are right, and only the gradients are not.
    """

    name: str
    mistake: str
    gradients: bool = False

    def path(self, framework: str) -> Path:
        return FOLDER / f"{self.name}_{framework}.py"

    def sides(self, *, right: bool, seed: int = 0) -> tuple[Any, Any]:
        """Return the PyTorch side and the JAX side, with equal weights: the files as they are, or mended."""
        side = _module(self.path("torch"), right=right).build()
        checkpoint = {}
        if isinstance(side, nn.Module):
            _ = fill(side, np.random.default_rng(seed)).eval()
            checkpoint = {name: x.numpy().copy() for name, x in side.state_dict().items()}
        return side, _module(self.path("jax"), right=right).build(checkpoint)

    def inputs(self, seed: int = 1) -> tuple[Any, ...]:
        """Return the positional inputs: NumPy arrays, floats as float32."""
        drawn = _module(self.path("torch"), right=True).inputs(np.random.default_rng(seed))
        return tuple(x.astype(np.float32) if x.dtype == np.float64 else x for x in drawn)

    def shown(self, framework: str) -> set[int]:
        """Return the numbers of the lines at which a reader looks for the mistake."""
        lines = self.path(framework).read_text().splitlines()
        return {i for i, line in enumerate(lines, 1) if line.endswith(HERE) or MEND in lines[i - 2]}

    def planted(self) -> tuple[str, int]:
        """Return the framework and the line of the mistake.

        Raises:
            ValueError: there is not exactly one.
        """
        sources = {framework: self.path(framework).read_text().splitlines() for framework in ("torch", "jax")}
        [where] = [(name, i + 1) for name, lines in sources.items() for i, line in enumerate(lines, 1) if MEND in line]
        return where


def mend(source: str) -> str:
    """Return the program with the line below each `# should be:` exchanged for what the comment says.

    >>> print(mend("def f(x):\\n    # should be: return x + 1\\n    return x"))
    def f(x):
        # should be: return x + 1
        return x + 1
    """
    lines = source.split("\n")
    for i, line in enumerate(lines):
        if line.lstrip().startswith(MEND):
            lines[i + 1] = line.replace(MEND, "", 1)
    return "\n".join(lines)


def fill(module: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Draw every weight, so that none is zero or one: a forgotten bias or norm would hide behind such a value."""
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(x, nn.Parameter) or "running" in name:
            _ = x.data.copy_(Tensor(_drawn(name, tuple(x.shape), rng)))
    return module


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return what a trained weight looks like: scales near 1, shifts near 0, kernels that keep the size of their input."""
    if len(shape) > 1:
        return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return 0.3 * rng.normal(size=shape) if "bias" in name or "mean" in name else rng.uniform(0.5, 1.5, size=shape)


class _Mended(SourceFileLoader):
    """Loads a file without its mistake."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(mend(Path(self.path).read_text()).encode(), self.path)


def _module(path: Path, *, right: bool) -> ModuleType:
    """Return a file of the gallery as a module, mended or as it is."""
    name = f"parity_tests.data.ports.{path.stem}"
    if not right:
        return importlib.import_module(name)
    name += "_right"
    if name not in sys.modules:
        spec = spec_from_loader(name, _Mended(name, str(path)))
        assert spec is not None
        assert spec.loader is not None
        # A dataclass looks up its own module by name.
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
