"""Programs that can be diagnosed, behind one protocol; here the layers of our backends.

    program.outputs(probe) = outputs by the contract's names        program.unsupported(probe) = why it cannot run, or ""

Users' programs are in `user_program.py`.
"""

# The frameworks leave their types unknown.
# pyright: standard

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.contracts import backends
from attention.parity.contracts.probes import Probe
from attention.spec.params import Weights

Outputs = dict[str, np.ndarray]


class ProbedProgram(ABC):
    """A program that can be diagnosed."""

    name: str
    framework: str
    weights: Weights | None = None
    """Its canonical weights, if it takes no others."""

    @abstractmethod
    def outputs(self, probe: Probe) -> Outputs:
        """Return the outputs, by the contract's names, perhaps only the first of them.

        Raises:
            SideFailed: the program raised, or returned what is no output of the contract.
        """

    def unsupported(self, probe: Probe) -> str:
        """Return why the program cannot run this probe, or ""."""
        del probe
        return ""


@dataclass
class BackendProgram(ProbedProgram):
    """A backend of `contracts.backends`, or an object with its methods."""

    side: backends.Backend
    framework: str

    @property
    def name(self) -> str:  # type: ignore[override]  # a dataclass field would have to be given
        """The backend's name."""
        return self.side.name

    def outputs(self, probe: Probe) -> Outputs:
        results = self.side.run(probe, "auto").results
        return {name: results[name] for name in probe.contract.outputs}


@dataclass
class LibraryLayer(ProbedProgram):
    """The layer of one of our backends, forward only and one operation at a time; or the user's instance of it."""

    framework: str
    module: Any = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The framework's name."""
        return self.framework

    def outputs(self, probe: Probe) -> Outputs:
        layer = probe.contract.build(self.framework, seed=None, dtype=probe.dtype) if self.module is None else self.module
        # The weights of a user's module are restored.
        before = None if self.module is None else layer.weights()
        try:
            layer.load_weights(probe.weights)
            arrays = {name: _native(self.framework, x) for name, x in probe.arrays.items()}
            made = self._forward(layer, arrays, probe)
        finally:
            if before is not None:
                layer.load_weights(before)
        several = made if isinstance(made, tuple) else (made,)
        return dict(zip(probe.contract.outputs, (_numpy(self.framework, x) for x in several), strict=False))

    def _forward(self, layer: Any, arrays: Mapping[str, Any], probe: Probe) -> Any:
        if self.framework == "torch":
            torch = importlib.import_module("torch")
            restored = importlib.import_module("attention.parity.adapters.torch_program").restored
            with torch.no_grad(), restored(layer):
                return layer.train(probe.dropout_seed is not None)(**arrays, **probe.call())
        layer = importlib.import_module("flax.nnx").clone(layer)
        layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
        return layer(**arrays, **probe.call())


def _numpy(framework: str, array: Any) -> np.ndarray:
    if framework == "torch":
        return importlib.import_module("attention.torch_impl").params.to_numpy(array)
    return np.asarray(array)


def _native(framework: str, array: np.ndarray) -> Any:
    if framework == "torch":
        return importlib.import_module("attention.torch_impl").params.to_tensor(array)
    return importlib.import_module("jax.numpy").asarray(array)
