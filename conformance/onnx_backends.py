"""The backends as programs that answer ONNX's cases: one adapter for each operator, the same for both.

program.answer(case) = adapter(backend, case)        program.lacks(case) = why no contract says it, or None
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from conformance import onnx_attention, onnx_linear_attention, onnx_norm, onnx_rotary
from conformance.backends import Backend
from conformance.onnx_cases import Case

ADAPTERS: dict[str, Callable[[Backend, Case], dict[str, np.ndarray]]] = {
    "Attention": onnx_attention.answer,
    "RotaryEmbedding": onnx_rotary.answer,
    "RMSNormalization": onnx_norm.answer,
    "LinearAttention": onnx_linear_attention.answer,
}


@dataclass(frozen=True)
class BackendProgram:
    """One backend.

    Attributes:
        backend: the backend.
        kernel: which kernel of attention answers; None leaves it to the adapter.
    """

    backend: Backend
    kernel: str | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.backend.name if self.kernel is None else f"{self.backend.name} {self.kernel}"

    @property
    def operators(self) -> tuple[str, ...]:
        """Those that it is asked for."""
        return tuple(ADAPTERS)

    def ask(self, case: Case) -> Case:
        """Return the case as it is judged: as ONNX wrote it."""
        return case

    def lacks(self, case: Case) -> str | None:
        """Return what of the node no contract says, or None."""
        return onnx_linear_attention.lacks(case) if case.operator == "LinearAttention" else None

    def answer(self, case: Case) -> dict[str, np.ndarray]:
        """Return every output that the node asks for."""
        adapter: Callable[..., Any] = ADAPTERS[case.operator]
        if case.operator == "Attention":
            adapter = partial(adapter, kernel=self.kernel)
        return adapter(self.backend, case)
