"""ONNX's operator tests: one node, its inputs, the outputs that ONNX expects, and ONNX's own judgement of ours.

agrees = |got - wanted| <= atol + rtol |wanted|, NaN equal to NaN        rtol, atol the case's, 1e-3 and 1e-7

The judge is `onnx.backend.test.runner`, which asks for the shape and the dtype too, and widens rtol to 2**-6 ("two
bfloat16 ULPs") where the output is bfloat16; nothing is widened here.

References:
    https://onnx.ai/onnx/repo-docs/OnnxBackendTest.html
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case import node as suite
from onnx.backend.test.runner import Runner

MODULES = {
    "Attention": "attention",
    "RotaryEmbedding": "rotaryembedding",
    "RMSNormalization": "rmsnormalization",
    "LinearAttention": "linear_attention",
}
"""The operators that the contracts speak about, and the modules in which ONNX wrote their tests."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: as ONNX has it, with its "test_" in front.
        operator: the kind of node.
        opset: the version of the operators.
        attributes: of the node, those that are written down.
        inputs: by the schema's names; an absent optional input is absent here.
        outputs: what ONNX expects, by the schema's names, of the outputs that the node asks for.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    name: str
    operator: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rtol: float
    atol: float

    def without(self, output: str) -> Case:
        """Return the same test, which does not ask for one of the outputs."""
        return replace(self, outputs={name: x for name, x in self.outputs.items() if name != output})

    def within(self, rtol: float) -> Case:
        """Return the same test with another relative tolerance."""
        return replace(self, rtol=rtol)

    def mismatch(self, got: Mapping[str, np.ndarray]) -> str | None:
        """Return the first line of what is wrong with the outputs `got`, or None if ONNX's runner agrees."""
        for name, wanted in self.outputs.items():
            if name not in got:
                return f"{name}: absent"
            try:
                Runner.assert_similar_outputs([wanted], [got[name]], self.rtol, self.atol)
            except AssertionError as error:
                return f"{name}: {' '.join(str(error).split())[:160]}"
        return None


@cache
def collect(operator: str) -> tuple[Case, ...]:
    """Return every test of an operator, in ONNX's order, without the `_expanded` twins, which have the same numbers."""
    _ = importlib.import_module(f"{suite.__name__}.{MODULES[operator]}")
    # The tests write themselves down here as their module is imported. `collect_testcases`, which returns this list, first
    # imports those of all 200 operators: 8 seconds for what takes 0.3.
    found = suite._NodeTestCases  # noqa: SLF001
    return tuple(_read(test) for test in found if test.model.graph.node[0].op_type == operator and "_expanded" not in test.name)


def _read(test: Any) -> Case:
    """Return ONNX's test as a case."""
    node, opset = test.model.graph.node[0], test.model.opset_import[0].version
    schema = onnx.defs.get_schema(node.op_type, opset)
    (inputs, outputs), *others = test.data_sets
    if others:
        warnings.warn(f"{test.name} has {len(others)} more data sets, which are not run", stacklevel=2)
    return Case(
        test.name,
        node.op_type,
        opset,
        {attribute.name: _value(attribute) for attribute in node.attribute},
        _named(schema.inputs, node.input, inputs),
        _named(schema.outputs, node.output, outputs),
        test.rtol,
        test.atol,
    )


def _value(attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _named(formals: Any, actuals: Any, arrays: Any) -> dict[str, np.ndarray]:
    """Return arrays by the schema's names: an empty actual name is an absent argument, and has no array."""
    present = [formal.name for formal, actual in zip(formals, actuals, strict=False) if actual]
    return dict(zip(present, arrays, strict=True))
