"""The reference layer of a contract: a function of the caller's own arrays, to which a mutation can be applied.

layer(*arrays, **call) = run(mutate(probe of the call))       on NumPy, torch or JAX arrays; torch and JAX pass gradients
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention.parity.contracts import backends
from attention.parity.contracts.probes import CALL, Probe
from attention.spec.axes import COMPUTE
from attention.spec.errors import DTypeError, OptionError, ShapeError, shown
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights


@dataclass(frozen=True, eq=False)
class Layer:
    """The layer of a contract.

    Attributes:
        contract: the layer.
        weights: canonical; a mutation may make the layer compute with others.
        backend: "numpy", "torch" or "jax".
        operator: returns the wrong call for a right one, or the call unchanged.
    """

    contract: Contract
    weights: Weights
    backend: str
    operator: Callable[[Probe], Probe]

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Return the layer's output, or a tuple where the contract has several.

        Args:
            given: arrays in the order of `contract.inputs`; NumPy's, or the backend's own.
            named: further arrays and the keywords that the contract takes, such as `mask`.

        Raises:
            OptionError: a keyword that the contract does not take, or too many arrays.
            DTypeError: an input that is no float array.
        """
        arrays, call = self._sorted(given, named)
        numbers = {name: _as_numpy(name, x) for name, x in arrays.items()}
        kind = next(iter(self.weights.values()), next(iter(numbers.values()))).dtype
        if self.backend == "numpy":
            # Operators compute in the dtype of the weights; the formula receives the caller's own digits.
            arrays, numbers = numbers, {name: x.astype(kind) for name, x in numbers.items()}
        right = Probe("the test's own", self.contract, str(kind), self.weights, numbers, {}, **call)
        wrong = self.operator(right)
        changed = _changed(arrays, right, wrong, self.backend)
        if self.backend == "numpy":
            return _unpacked(self.contract, backends.NumpyBackend().run(replace(wrong, arrays=changed), "auto").results)
        native = all(isinstance(x, np.ndarray) for x in arrays.values())
        made = _torch(wrong, changed) if self.backend == "torch" else _jax(wrong, changed)
        named_outputs = dict(zip(self.contract.outputs, made if isinstance(made, tuple) else (made,), strict=True))
        return _unpacked(self.contract, {n: _as_numpy(n, x) for n, x in named_outputs.items()} if native else named_outputs)

    def _sorted(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays by the names of the contract's inputs, and the other keywords."""
        names = list(self.contract.inputs)
        inputs = {*names, *({"bias"} & self.contract.call_kwargs)}
        keywords = {name for name in CALL if name in self.contract.call_kwargs}
        if len(given) > len(names):
            raise OptionError(f"positional arguments {len(given)} must be at most {len(names)}: {', '.join(names)}")
        both = {**dict(zip(names, given, strict=False)), **named}
        if wrong := sorted(set(both) - inputs - keywords):
            raise OptionError(f"argument {shown(wrong[0])} must be one of {', '.join(sorted(inputs | keywords))}")
        arrays = {name: x for name, x in both.items() if name in inputs and x is not None}
        first = next(iter(self.contract.inputs))
        if first not in arrays:
            raise ShapeError(f"argument {first!r} is missing and must be an array (*batch, T, {self.contract.inputs[first]})")
        return arrays, {name: x for name, x in both.items() if name in keywords}


def _unpacked(contract: Contract, results: Mapping[str, Any]) -> Any:
    first, *rest = (results[name] for name in contract.outputs)
    return (first, *rest) if rest else first


def _as_numpy(name: str, x: Any) -> np.ndarray:
    """Return any framework's array as NumPy's; one that is being traced has no numbers, and random ones replace it."""
    if hasattr(x, "detach"):
        return importlib.import_module("attention.torch_impl.params").to_numpy(x)
    if _is_traced(x):
        return np.random.default_rng(0).normal(size=x.shape).astype(x.dtype)
    array = np.asarray(x)
    if array.dtype.name not in COMPUTE:
        raise DTypeError(f"argument {name!r} {array.dtype} must be a float array")
    return array


def _is_traced(x: Any) -> bool:
    if isinstance(x, np.ndarray) or not type(x).__module__.startswith("jax"):
        return False
    return isinstance(x, importlib.import_module("jax").core.Tracer)


def _changed(arrays: Mapping[str, Any], right: Probe, wrong: Probe, backend: str) -> dict[str, Any]:
    """Return the inputs of the wrong call as the backend's arrays.

    An unchanged input is the caller's array itself; a changed one is the caller's plus a constant, so that gradients flow as
    they would through the caller's.
    """
    to = {"numpy": np.asarray, "torch": _tensor, "jax": _jax_array}[backend]
    own = {id(x): arrays[name] for name, x in right.arrays.items()}

    def change(name: str, x: np.ndarray) -> Any:
        if id(x) in own:
            return to(own[id(x)])
        if name not in arrays:
            return to(x)
        before = right.arrays[name]
        with np.errstate(invalid="ignore"):
            shift = np.where((before == x) | (np.isnan(before) & np.isnan(x)), 0, x - before).astype(x.dtype)
        return to(arrays[name]) + to(shift)

    return {name: change(name, x) for name, x in wrong.arrays.items()}


def _tensor(x: Any) -> Any:
    return importlib.import_module("attention.torch_impl.params").to_tensor(x)


def _jax_array(x: Any) -> Any:
    return importlib.import_module("jax.numpy").asarray(x)


def _torch(probe: Probe, arrays: Mapping[str, Any]) -> Any:
    layer = probe.contract.build("torch", weights=probe.weights, dtype=probe.dtype)
    layer.train(probe.dropout_seed is not None)
    return layer(**arrays, **probe.call())


def _jax(probe: Probe, arrays: Mapping[str, Any]) -> Any:
    layer = probe.contract.build("jax", weights=probe.weights, dtype=probe.dtype)
    layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
    return layer(**arrays, **probe.call())
