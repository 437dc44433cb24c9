"""ONNX's suite: all of its cases, all programs, one table.

outcomes = judge(program, case) for every operator, program, case
"""

from __future__ import annotations

from importlib.metadata import version

from attention.spec.errors import UnknownName
from conformance.backends import BACKENDS
from conformance.baselines import BASELINES
from conformance.onnx_backends import BackendProgram
from conformance.onnx_cases import MODULES, collect
from conformance.table import Conformance, Program, run


def whole(baselines: bool = False, kernel: str | None = None) -> Conformance:
    """Return what becomes of every case.

    Args:
        baselines: whether the frameworks' own functions are asked as well.
        kernel: which kernel of each backend answers for Attention; None leaves it to the adapter.

    Raises:
        UnknownName: not both backends have a kernel of that name.
    """
    first, *others = (backend.module.kernels.KERNELS for backend in BACKENDS)
    shared = [name for name in first if all(name in kernels for kernels in others)]
    if kernel not in (None, "auto", *shared):
        raise UnknownName(f"kernel {kernel!r} must be 'auto' or, in both backends, {' or '.join(shared)}")
    backends = tuple(BackendProgram(backend, kernel) for backend in BACKENDS)
    programs: tuple[Program, ...] = (*backends, *(BASELINES if baselines else ()))
    versions = {name: version(name) for name in ("onnx", "torch", "jax")}
    return Conformance(tuple(run(programs, MODULES, collect)), versions, tuple(program.name for program in backends))
