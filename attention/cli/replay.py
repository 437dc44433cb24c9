"""`attention parity record` and `attention parity against`: the two sides of a proof on two machines.

gpu$  attention parity record --side torch out.safetensors
tpu$  attention parity against out.safetensors --side jax
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from attention.cli.application import one_line
from attention.cli.verify import parity_app

if TYPE_CHECKING:
    from attention.parity.compare.recording_file import Recording
    from attention.parity.results.report import Report

PROGRAM = "A program of yours: module:name or path/to/file.py:name, a model or a function."
OTHER = {"torch": "jax", "jax": "torch", "jax_eager": "torch", "numpy": "torch"}


@parity_app.command()
def record(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, such as out.safetensors.")],
    side: Annotated[str, typer.Option(help="torch, jax, jax_eager or numpy: what runs here.")],
    contract: Annotated[list[str] | None, typer.Option(help="A contract to run; repeat for more; default all.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 (default), float64, bfloat16 or float16; repeat for more.")
    ] = None,
    implementation: Annotated[str, typer.Option(help="A kernel's name, see 'attention kernels'; 'auto' picks.")] = "auto",
    program: Annotated[str | None, typer.Option(help=f"{PROGRAM} Needs --inputs.")] = None,
    inputs: Annotated[
        str | None, typer.Option(help="A file of arrays, module:function, or shapes such as 'x=2,7,16 ids=2,7:int64'.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the cotangents of a program.", min=0)] = 0,
) -> None:
    """Run one side and write down what it makes: outputs and every gradient, for a machine that has the other side."""
    with one_line():
        from attention.parity.compare.recording_file import write  # noqa: PLC0415 - frameworks are imported by the command that needs them

        if program is None:
            _refuse(inputs is not None, "--inputs", "--program")
            recording = _contracts(contract or [], side, dtype or ["float32"], implementation)
        else:
            _refuse(contract is not None, "--contract", "no --program")
            recording = _program(program, inputs, side, dtype or ["float32"], seed)
        write(path, recording)
    typer.echo(f"{len(recording.arrays)} arrays of {side} written; where the other side is: attention parity against {path}")


def _refuse(wrong: bool, option: str, wanted: str) -> None:
    """Refuse an option that another one makes pointless."""
    if wrong:
        from attention.spec.errors import OptionError  # noqa: PLC0415

        raise OptionError(f"{option} must come with {wanted}")


def _contracts(contracts: list[str], side: str, dtypes: list[str], implementation: str) -> Recording:
    from attention.parity.compare import recorded_contracts  # noqa: PLC0415

    with _told() as progress:
        return recorded_contracts.record(contracts, side, dtypes=dtypes, implementation=implementation, progress=progress)


def _program(program: str, inputs: str | None, side: str, dtypes: list[str], seed: int) -> Recording:
    from attention.cli import loading  # noqa: PLC0415
    from attention.parity.compare import replayed_program  # noqa: PLC0415

    _refuse(inputs is None, "--program", "--inputs")
    _refuse(len(dtypes) > 1, "--dtype once", "--program")
    given = loading.load_inputs(str(inputs))
    return replayed_program.record(loading.side(program), side, given, dtype=dtypes[0], seed=seed)


@parity_app.command()
def against(
    path: Annotated[str, typer.Argument(metavar="FILE", help="What 'attention parity record' wrote.")],
    side: Annotated[
        str | None,
        typer.Option(help="torch, jax, jax_eager or numpy: what runs here beside it; 'none'; default the other framework."),
    ] = None,
    program: Annotated[str | None, typer.Option(help=f"{PROGRAM} Needed if the recording is of a program.")] = None,
    load: Annotated[bool, typer.Option(help="Give the program here the recorded parameters.")] = True,
    params: Annotated[
        str | None, typer.Option(metavar="PATH", help="A saved parameter map, the program here being the first.")
    ] = None,
    json: Annotated[str | None, typer.Option(metavar="PATH", help="Write every verdict to this file.")] = None,
) -> None:
    """Judge a recording, and what runs here beside it, against the float64 oracle; exit 1 on a mismatch."""
    with one_line():
        from attention.parity.compare.recording_file import read  # noqa: PLC0415

        recording = read(path)
        if recording.kind == "program":
            report = _against_program(recording, program, side, params, load)
        else:
            _refuse(program is not None, "--program", "a recording of a program")
            report = _against_contracts(recording, side)
        report.show()
        if json is not None:
            report.to_json(json)
    raise typer.Exit(report.exit_code)


def _against_contracts(recording: Recording, side: str | None) -> Report:
    from attention.parity.compare import recorded_contracts  # noqa: PLC0415

    other = OTHER.get(str(recording.facts["side"]), "none")
    chosen = side or (other if find_spec(other) else "none")
    with _told() as progress:
        return recorded_contracts.against(recording, None if chosen == "none" else chosen, progress=progress)


def _against_program(recording: Recording, program: str | None, side: str | None, params: str | None, load: bool) -> Report:
    from attention.cli import loading  # noqa: PLC0415
    from attention.parity.compare import replayed_program  # noqa: PLC0415

    _refuse(program is None, "a recording of a program", "--program, the one to compare it with")
    chosen = side or OTHER.get(str(recording.facts["side"]), "jax")
    known = None
    if params is not None:
        from attention.parity.param_mapping.param_map import ParamMap  # noqa: PLC0415

        known = ParamMap.from_json(params)
    return replayed_program.against(recording, loading.side(str(program)), chosen, load=load, params=known)


@contextmanager
def _told() -> Iterator[Callable[[str], object]]:
    """Show what is being run, on stderr."""
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status("") as status:
        yield status.update
