"""Compare a trained model layer by layer, each layer on the hidden states it receives in the whole model.

    (values, sigma) = budget(the layer's formula on seen.arrays)        judge(output, values, sigma)
    output in {torch_impl's, jax_impl's, the model's own}                a row each

Every layer receives its input of *their* run of the whole model, so that errors do not accumulate: the row that fails is that
of the first layer whose weights, eps or rotary positions are read wrongly.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from attention.parity.contracts.backends import BACKENDS, Backend, BackendRun, JaxBackend, TorchBackend, find, named
from attention.parity.contracts.check import AGAIN, expect, verdicts
from attention.parity.contracts.probes import CALL, Probe
from attention.parity.numerics.comparison import Verdict
from attention.parity.numerics.error_budget import Budget, budget
from attention.parity.numerics.rounding_sites import ROUNDS, LayerProgram
from attention.parity.results import provenance
from attention.parity.results.report import Report, Row
from attention.spec.errors import OptionError, ShapeError, shown
from attention.spec.kernels import Kernel, recorded
from attention.spec.layers.contract import Contract
from attention.spec.options import ITERABLE, SWITCH, checked, function_of, instance, whole
from attention.spec.params import Weights, cast, check_weights

THEIRS = "theirs"
"""What the report calls the model's own implementation."""

Budgets = Callable[[tuple[str, ...], int], Budget]
"""`(intermediates that a kernel rounds, runs) -> budget`, for one layer."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One layer of a trained model, with what it received and what their own code made of it.

    Attributes:
        name: what the report calls it: "layers.3".
        contract: what we say the layer is.
        weights: canonical, float32.
        arrays: what it received, float32, by the names of the contract's inputs.
        call: further keywords of the call that the contract takes: `mask`, `memory_mask`, `positions`.
        theirs: what the model's own implementation gave, by the names of the contract's outputs, and of intermediates such as
            "weights" where the contract returns them; None where there is nothing to compare with.
    """

    name: str
    contract: Contract
    weights: Weights = field(repr=False)
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    call: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    theirs: Mapping[str, np.ndarray] | None = field(default=None, repr=False)


@checked(seen=ITERABLE, backends=ITERABLE, runs=whole(1, 2**16), gradients=SWITCH, progress=function_of(1))
def layerwise(
    seen: Iterable[Seen],
    backends: Sequence[str] = BACKENDS,
    runs: int = 16,
    *,
    gradients: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> Report:
    """Return the report of a model's layers, each on what it received: a row for each layer and side.

    Args:
        seen: the layers, in order; each is let go before the next one is asked for.
        backends: names of sides.
        runs: of each layer's budget; what fails is judged again by one of more runs.
        gradients: whether the gradients of a random cotangent are compared as well, of every input and parameter.
            Without them the layers run as they do where nothing is learned, on the kernels that are chosen then.
        progress: told of each layer before it runs.

    Raises:
        UnknownName: no such backend.
        OptionError: a keyword that the contract does not take, or a result of theirs that it does not have.
        ParamError: the weights do not fit the contract.
        ShapeError: the arrays do not.
    """
    found = [find(backend) for backend in backends]
    rows: list[Row] = []
    for layer in seen:
        instance(Seen).check("seen", layer)
        _ = progress(layer.name)
        rows += _rows(layer, found, runs, gradients=gradients)
    advice = "parity.check(contract) of the layer that fails: if it agrees, look at how its weights and options were read"
    return Report(tuple(rows), advice=advice)


def _rows(layer: Seen, backends: Sequence[Backend], runs: int, *, gradients: bool) -> Iterator[Row]:
    probe = _probe(layer, gradients=gradients)

    @cache
    def outputs(runs: int) -> Budget:
        # The same for every kernel, so that one budget serves all sides.
        return expect_outputs(probe, runs)

    @cache
    def budgets(rounds: tuple[str, ...], runs: int) -> Budget:
        return expect(probe, rounds, runs) if gradients else outputs(runs)

    facts = {"weights": provenance.digest(probe.weights), "matmul precision": "highest"}
    facts |= {"received": {name: list(x.shape) for name, x in probe.arrays.items()}}
    for side in backends:
        ran = side.run(probe, "auto") if gradients else forward(side, probe)
        found = _judged(ran.results, ran.rounds, budgets, runs)
        yield Row(layer.name, probe.name, side.name, ran.kernel, probe.dtype, found, facts=facts)
    if layer.theirs is None:
        return
    row = Row(layer.name, probe.name, THEIRS, THEIRS, probe.dtype, facts=facts)
    try:
        yield replace(row, verdicts=_judged(layer.theirs, (), budgets, runs))
    except ShapeError as error:
        # What they made does not even fit: that is a finding about the pair, and the other layers are judged all the same.
        yield replace(row, failure=str(error))


def _judged(results: Mapping[str, np.ndarray], rounds: tuple[str, ...], budgets: Budgets, runs: int) -> tuple[Verdict, ...]:
    """Return a verdict on every result; what fails is judged again, by a budget of more runs."""
    found = verdicts(results, budgets(rounds, runs))
    if all(verdict.agrees for verdict in found):
        return found
    return verdicts(results, budgets(rounds, max(runs, AGAIN)))


def _probe(layer: Seen, *, gradients: bool) -> Probe:
    """Return the call that the layer really got, with a random cotangent for each output where gradients are asked for."""
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


def _intermediates(layer: Seen, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the intermediates that theirs shows: ours are asked for the same."""
    allowed = known if "intermediates" in layer.contract.call_kwargs else layer.contract.outputs
    if unknown := sorted(set(layer.theirs or ()) - set(allowed)):
        raise OptionError(f"{layer.name} theirs {shown(unknown[0])} must be one of {', '.join(allowed)}")
    return tuple(name for name in layer.theirs or () if name not in layer.contract.outputs)


def expect_outputs(probe: Probe, runs: int = 8) -> Budget:
    """Return what a correct program makes of a float32 probe, and how far it may stray: `check.expect` without gradients.

    Args:
        probe: the call; its cotangents are not looked at.
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


def forward(side: Backend, probe: Probe) -> BackendRun:
    """Return what a side makes of a probe where nothing is learned: its outputs and intermediates, on inference's kernels."""
    if isinstance(side, TorchBackend):
        return _torch(probe)
    if isinstance(side, JaxBackend):
        return _jax(probe, compiled=side.compiled)
    # The formula in NumPy has no gradients that could be left out.
    return side.run(probe, "auto")


def _torch(probe: Probe) -> BackendRun:
    torch, params = importlib.import_module("torch"), importlib.import_module("attention.torch_impl").params
    layer = probe.contract.build("torch", weights=probe.weights)
    layer.train(probe.dropout_seed is not None)
    inputs = {name: params.to_tensor(x) for name, x in probe.arrays.items()}
    with torch.no_grad(), recorded() as kernels:
        results = named(probe, layer(**inputs, **probe.call(), **_asked(probe.intermediates)))
    return BackendRun({name: params.to_numpy(x) for name, x in results.items()}, tuple(kernels))


def _jax(probe: Probe, *, compiled: bool) -> BackendRun:
    import jax  # noqa: PLC0415 - only this side needs it
    from flax import nnx  # noqa: PLC0415

    with jax.enable_x64(False):
        layer = nnx.eval_shape(lambda: probe.contract.build("jax", seed=None))
        layer.load_weights(probe.weights)
        layer.set_attributes(deterministic=probe.dropout_seed is None, raise_if_not_found=False)
        graph, learned, rest = nnx.split(layer, nnx.Param, ...)
        program, chosen = _jax_program(graph, probe.intermediates, compiled=compiled)
        given = jax.tree.map(jax.numpy.asarray, (probe.arrays, probe.call()))
        results = named(probe, program(learned, rest, *given))
        return BackendRun({name: np.asarray(x) for name, x in results.items()}, chosen[_shapes((learned, *given))])


@cache
def _jax_program(
    graph: Any, intermediates: tuple[str, ...], *, compiled: bool
) -> tuple[Callable[..., Any], dict[Any, tuple[Kernel, ...]]]:
    """Return the layer, and where it writes down its kernels while it is traced.

    Layers that differ in data alone share one compilation.
    """
    import jax  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    chosen: dict[Any, tuple[Kernel, ...]] = {}

    def program(learned: Any, rest: Any, arrays: Any, call: Any) -> Any:
        with recorded() as kernels:
            made = nnx.merge(graph, learned, rest)(**arrays, **call, **_asked(intermediates))
        chosen[_shapes((learned, arrays, call))] = tuple(kernels)
        return made

    return (jax.jit(program) if compiled else program), chosen


def _shapes(tree: Any) -> Any:
    """Return what a compilation depends on: structure and shapes."""
    import jax  # noqa: PLC0415

    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def _asked(intermediates: tuple[str, ...]) -> dict[str, Any]:
    """Return the keyword that asks for intermediates, which some layers lack."""
    return {"return_intermediates": intermediates} if intermediates else {}
