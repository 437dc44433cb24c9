"""Compare a trained model layer by layer, each layer on the hidden states it receives in the whole model.

    (values, sigma) = budget(the layer's formula on seen.arrays)        judge(output, values, sigma)
    output in {torch_impl's, jax_impl's, the model's own}                a row each

Every layer receives its input of *their* run of the whole model, so that errors do not accumulate: the row that fails is that
of the first layer whose weights, eps or rotary positions are read wrongly.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from attention.parity.contracts.backends import BACKENDS, Backend, find
from attention.parity.contracts.check import AGAIN, expect, verdicts
from attention.parity.contracts.probes import CALL, Probe
from attention.parity.numerics.comparison import Verdict
from attention.parity.numerics.error_budget import Budget, budget
from attention.parity.numerics.rounding_sites import ROUNDS, LayerProgram
from attention.parity.pretrained.inference import forward
from attention.parity.results import provenance
from attention.parity.results.report import Report, Row
from attention.spec.errors import OptionError, ShapeError, shown
from attention.spec.layers.contract import Contract
from attention.spec.options import ITERABLE, SWITCH, checked, function_of, instance, whole
from attention.spec.params import Weights, cast, check_weights

THEIRS = "theirs"
"""The name of the model's own implementation in the report."""

Budgets = Callable[[tuple[str, ...], int], Budget]
"""`(intermediates that a kernel rounds, runs) -> budget`, for one layer."""


@dataclass(frozen=True, eq=False)
class RecordedLayer:
    """One layer of a trained model, with the inputs it received and the outputs of the model's own code.

    Attributes:
        name: what the report calls it: "layers.3".
        contract: of the layer.
        weights: canonical, float32.
        arrays: its inputs, float32, by the names of the contract's inputs.
        call: further keywords of the call that the contract takes: `mask`, `memory_mask`, `positions`.
        theirs: the outputs of the model's own implementation, by the names of the contract's outputs, and intermediates such
            as "weights" that the contract returns; None if there are none.
    """

    name: str
    contract: Contract
    weights: Weights = field(repr=False)
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    call: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    theirs: Mapping[str, np.ndarray] | None = field(default=None, repr=False)


@checked(seen=ITERABLE, backends=ITERABLE, runs=whole(1, 2**16), gradients=SWITCH, progress=function_of(1))
def layerwise(
    seen: Iterable[RecordedLayer],
    backends: Sequence[str] = BACKENDS,
    runs: int = 16,
    *,
    gradients: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> Report:
    """Return the report of a model's layers, each on the inputs it received: a row for each layer and backend.

    Args:
        seen: the layers, in order; each is released before the next one is taken.
        backends: their names.
        runs: of each layer's budget; a layer that fails is compared again with more runs.
        gradients: whether the gradients of a random cotangent are compared as well, of every input and parameter.
            Without them the layers run without autograd, on the kernels of inference.
        progress: called with the name of each layer before it runs.

    Raises:
        UnknownName: no such backend.
        OptionError: a keyword that the contract does not take, or a result of theirs that it does not have.
        ParamError: the weights do not fit the contract.
        ShapeError: the arrays do not.
    """
    found = [find(backend) for backend in backends]
    rows: list[Row] = []
    for layer in seen:
        instance(RecordedLayer).check("seen", layer)
        _ = progress(layer.name)
        rows += _rows(layer, found, runs, gradients=gradients)
    advice = "parity.check(contract) of the layer that fails: if it agrees, look at how its weights and options were read"
    return Report(tuple(rows), advice=advice)


def _rows(layer: RecordedLayer, backends: Sequence[Backend], runs: int, *, gradients: bool) -> Iterator[Row]:
    probe = _probe(layer, gradients=gradients)

    @cache
    def outputs(runs: int) -> Budget:
        # The same for every kernel: one budget for all backends.
        return expect_outputs(probe, runs)

    @cache
    def budgets(rounds: tuple[str, ...], runs: int) -> Budget:
        return expect(probe, rounds, runs) if gradients else outputs(runs)

    facts = {"weights": provenance.digest(probe.weights), "matmul precision": "highest"}
    facts |= {"received": {name: list(x.shape) for name, x in probe.arrays.items()}}
    for backend in backends:
        ran = backend.run(probe, "auto") if gradients else forward(backend, probe)
        found = _judged(ran.results, ran.rounds, budgets, runs)
        yield Row(layer.name, probe.name, backend.name, ran.kernel, probe.dtype, found, facts=facts)
    if layer.theirs is None:
        return
    row = Row(layer.name, probe.name, THEIRS, THEIRS, probe.dtype, facts=facts)
    try:
        yield replace(row, verdicts=_judged(layer.theirs, (), budgets, runs))
    except ShapeError as error:
        # Outputs of another shape are a failure of this layer; the other layers are still compared.
        yield replace(row, failure=str(error))


def _judged(results: Mapping[str, np.ndarray], rounds: tuple[str, ...], budgets: Budgets, runs: int) -> tuple[Verdict, ...]:
    """Return a verdict on every result; if one fails, by a budget of more runs."""
    found = verdicts(results, budgets(rounds, runs))
    if all(verdict.agrees for verdict in found):
        return found
    return verdicts(results, budgets(rounds, max(runs, AGAIN)))


def _probe(layer: RecordedLayer, *, gradients: bool) -> Probe:
    """Return the call that the layer received, with a random cotangent for each output if gradients are compared."""
    contract = layer.contract
    taken = [name for name in CALL if name in contract.call_kwargs]
    if unknown := sorted(set(layer.call) - set(taken)):
        raise OptionError(f"{layer.name} call {shown(unknown[0])} must be one of {', '.join(taken) or 'nothing'}")
    check_weights(contract.params, layer.weights, "float32")
    arrays = {name: np.asarray(x, np.float32) for name, x in layer.arrays.items()}
    shapes = contract.results(arrays)
    rng = np.random.default_rng(0)
    cotangents = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in contract.outputs if gradients}
    return Probe(
        "what it received",
        contract.pinned(),
        "float32",
        cast(layer.weights, "float32"),
        arrays,
        cotangents,
        intermediates=_intermediates(layer, tuple(shapes)),
        **layer.call,
    )


def _intermediates(layer: RecordedLayer, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the intermediates that `theirs` has: the backends return the same."""
    allowed = known if "intermediates" in layer.contract.call_kwargs else layer.contract.outputs
    if unknown := sorted(set(layer.theirs or ()) - set(allowed)):
        raise OptionError(f"{layer.name} theirs {shown(unknown[0])} must be one of {', '.join(allowed)}")
    return tuple(name for name in layer.theirs or () if name not in layer.contract.outputs)


def expect_outputs(probe: Probe, runs: int = 8) -> Budget:
    """Return the budget of a float32 probe without gradients; otherwise as `check.expect`.

    Args:
        probe: the call; its cotangents are ignored.
        runs: of the Monte Carlo arithmetic.
    """
    contract = probe.contract
    arrays = {**{name: np.zeros(shape) for name, shape in contract.optional(probe.arrays).items()}, **probe.arrays}
    program = LayerProgram(contract.unresolved(), (*contract.outputs, *probe.intermediates))
    setting = contract.resolve(probe.arrays, **probe.call())
    # What a kernel may round on purpose makes no difference here: float32 is stored as it is computed, and a logsumexp that
    # is kept instead of the weights is one of the backward pass.
    flags = dict.fromkeys(ROUNDS, np.bool_(False))
    return budget(program, (probe.weights, arrays, setting, flags), dtype=probe.dtype, runs=runs)
