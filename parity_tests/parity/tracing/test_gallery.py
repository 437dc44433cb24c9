"""The gallery: ports that people wrote, each with one mistake. `locate` shows the line of it in both files.

right port:  outputs agree in float64,     locate(...).found is False
wrong port:  outputs or gradients differ,  divergence.torch.line, divergence.jax.line in the lines that a reader wants
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from attention.parity.adapters import Arrays, Call, program
from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.numerics.error_budget import differentiated
from attention.parity.numerics.jaxpr_interpreter import JaxprInterpreter
from attention.parity.tracing import Divergence, Event, locate
from parity_tests.data.ports.catalog import PORTS
from parity_tests.data.ports.port import HERE, MEND, Port, mend

WANTED = 0.9
"""The share of the gallery whose mistake is shown in both files."""

PINS = (".float()", "float32", "jax.nn.dot_product_attention", "nnx.Embed")
"""What keeps a program in float32 although its inputs are float64, as the originals do."""


def named(port: Port) -> str:
    return port.name


each_port = pytest.mark.parametrize("port", PORTS, ids=named)


@cache
def located(port: Port, *, right: bool, gradients: bool) -> Divergence:
    torch_side, jax_side = port.sides(right=right)
    return locate(torch_side, jax_side, port.inputs(), gradients=gradients)


def distance(port: Port, *, right: bool) -> float:
    """Return the largest difference of what both sides make in float64, relative to the largest element of all.

    That is their outputs; and the gradients of what has one name in both files, if the mistake is in the gradients.
    """
    torch_side, jax_side = port.sides(right=right)
    call, rng = Call.of(port.inputs()), np.random.default_rng(2)
    first, second = program(torch_side, "torch"), JaxProgram(jax_side)
    made = first.run(call, dtype="float64").outputs
    cotangents = {name: rng.normal(size=x.shape) for name, x in made.items()} if port.gradients else None
    if cotangents:
        made |= first.run(call, cotangents=cotangents, dtype="float64").gradients
    # The interpreter rounds nothing, and so it cannot see a mistake that is one of rounding.
    rounds = "bfloat16" in port.path("jax").read_text()
    theirs = second.run(call, dtype="float64").outputs if rounds else exact(second, call, cotangents)
    names = made.keys() & theirs.keys()
    assert {name for name in (*made, *theirs) if name.startswith("output")} <= names
    assert all(made[name].shape == theirs[name].shape for name in names)
    size = max(np.abs(made[name]).max() for name in names)
    return float(max(np.abs(made[name] - theirs[name]).max() for name in names) / size)


def exact(side: JaxProgram, call: Call, cotangents: Arrays | None) -> Arrays:
    """Return what a JAX side makes in float64, by the interpreter of the budgets, which compiles nothing."""

    def outputs(params: Any, args: Any) -> Any:
        return side.outputs(side.pure(params, args, {}))

    with jax.enable_x64(True):
        given = side.arguments(call, dtype="float64")[:2]
        subject, arguments = (differentiated(outputs), (given, cotangents)) if cotangents else (outputs, given)
        jaxpr, shapes = jax.make_jaxpr(subject, return_shape=True)(*arguments)
        read = JaxprInterpreter().run(jaxpr, jax.tree.leaves(arguments))
    made = jax.tree.unflatten(jax.tree.structure(shapes), read)
    if not cotangents:
        return made
    made, (d_params, d_args) = made
    return made | {f"d {name}": x for name, x in {**d_params, **Call(d_args).leaves}.items()}


def is_shown(port: Port, side: str, event: Event | None) -> bool:
    """Return whether an event is at a line that a reader wants to be shown."""
    return event is not None and Path(event.file).name == port.path(side).name and event.line in port.shown(side)


class TestLaws:
    def test_the_gallery_holds_at_least_twenty_eight_ports(self) -> None:
        names = [port.name for port in PORTS]
        assert len(set(names)) == len(names) >= 28
        assert names == sorted(names)

    def test_every_file_is_in_the_catalogue(self) -> None:
        folder = PORTS[0].path("torch").parent
        files = {path.name for path in folder.glob("*.py")} - {"catalog.py", "port.py"}
        assert files == {port.path(framework).name for port in PORTS for framework in ("torch", "jax")}

    @each_port
    def test_a_port_has_one_mistake_and_a_line_to_look_at_in_both_files(self, port: Port) -> None:
        framework, line = port.planted()
        assert line in port.shown(framework)
        assert port.shown("torch")
        assert port.shown("jax")

    @each_port
    def test_the_right_port_and_the_wrong_one_differ_in_one_line(self, port: Port) -> None:
        framework, line = port.planted()
        source = port.path(framework).read_text()
        before, after = source.splitlines(), mend(source).splitlines()
        assert [i for i, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b] == [line]

    @each_port
    def test_the_right_port_agrees_and_the_wrong_one_does_not(self, port: Port) -> None:
        pinned = any(word in port.path(side).read_text() for side in ("torch", "jax") for word in PINS)
        assert distance(port, right=True) < (1e-6 if pinned else 1e-12)
        assert distance(port, right=False) > 1e-5


class TestValues:
    def test_mending_exchanges_the_line_below_the_comment(self) -> None:
        assert mend(f"if x:\n    {MEND}y = 2\n    y = 1\nz = 3{HERE}\n") == f"if x:\n    {MEND}y = 2\n    y = 2\nz = 3{HERE}\n"

    @pytest.mark.parametrize(
        "port", [*PORTS[::2], *(pytest.param(port, marks=pytest.mark.slow) for port in PORTS[1::2])], ids=named
    )
    def test_a_right_port_raises_no_alarm(self, port: Port) -> None:
        divergence = located(port, right=True, gradients=port.gradients)
        assert not divergence.found, str(divergence)

    # Backward traces are long, so that every fourth port stands for all.
    @pytest.mark.parametrize("port", PORTS[::4], ids=named)
    def test_the_gradients_of_a_right_port_raise_no_alarm(self, port: Port) -> None:
        divergence = located(port, right=True, gradients=True)
        assert not divergence.found, str(divergence)

    @each_port
    def test_a_wrong_port_is_found(self, port: Port) -> None:
        assert located(port, right=False, gradients=port.gradients).found

    def test_the_mistake_is_shown_in_both_files_for_nine_ports_of_ten(self, capsys: pytest.CaptureFixture[str]) -> None:
        hits, misses = [], []
        for port in PORTS:
            found = located(port, right=False, gradients=port.gradients)
            shown = is_shown(port, "torch", found.torch) and is_shown(port, "jax", found.jax)
            (hits if shown else misses).append(port.name)
        told = f"{len(hits)} of {len(PORTS)} mistakes shown in both files; elsewhere: {', '.join(misses) or 'none'}"
        with capsys.disabled():
            print(f"\n{told}")  # noqa: T201 - the gallery's result belongs in a log
        assert len(hits) >= WANTED * len(PORTS), told
        assert len(hits) >= WANTED * len(PORTS)
