"""`attention replay`: compare a recording with a program or a backend that runs here.

a backend on contracts    both against the float64 oracle        attention replay torch.safetensors --backend jax
a program                 beside a program of this machine       attention replay out.safetensors port.py:forward
a model                   block by block                         attention layers golden.safetensors port.py:make_model
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attention.cli.application import PROGRAM, Command, app, refuse, show_report, status

if TYPE_CHECKING:
    from attention.parity.compare.recording_file import Recording
    from attention.parity.results.report import Report

OTHER = {"torch": "jax", "jax": "torch", "jax_eager": "torch", "numpy": "torch"}
"""The framework that a recording is compared with by default."""


@app.command(cls=Command)
def replay(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What 'attention record' wrote.")],
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help=f"Beside the recording of a program: {PROGRAM}", show_default=False)
    ] = "",
    backend: Annotated[
        str, typer.Option(help="Beside contracts: torch, jax, jax_eager, numpy or none; default the other framework, if here.")
    ] = "",
    framework: Annotated[
        str, typer.Option(help="Beside a program: torch, jax or numpy, of a plain function; default the other framework.")
    ] = "",
    load: Annotated[bool, typer.Option(help="Beside a program: give it the recorded parameters.")] = True,
    params: Annotated[
        str, typer.Option(metavar="MAP", help="Beside a program: a saved parameter map, whose first program is PROGRAM.")
    ] = "",
    json: Annotated[str | None, typer.Option(metavar="PATH", help="Write every verdict to this file.")] = None,
) -> None:
    """Compare a recording, and what runs here beside it, with the float64 reference."""
    from attention.parity.compare.recording_file import read  # noqa: PLC0415 - frameworks are imported by the command that needs them
    from attention.spec.errors import OptionError  # noqa: PLC0415

    recording = read(file)
    if recording.kind == "model":
        told = ", ".join(f"attention {word} {file} MODEL" for word in ("layers", "logits", "decoding"))
        raise OptionError(f"FILE {file!r} is the recording of a model, which these compare with another: {told}")
    if recording.kind == "program":
        refuse(context, ("backend",), "must come with a recording of contracts")
        if not program:
            raise OptionError("PROGRAM must be given: the recording is of a program")
        report = _program(recording, program, framework, params, load=load)
    else:
        refuse(context, ("program", "framework", "load", "params"), "must come with a recording of a program")
        report = _contracts(recording, backend)
    show_report(report)
    if json is not None:
        report.to_json(json)
    raise typer.Exit(report.exit_code)


def _contracts(recording: Recording, backend: str) -> Report:
    from attention.parity.compare import recorded_contracts  # noqa: PLC0415

    other = OTHER.get(str(recording.facts["side"]), "none")
    chosen = backend or (other if find_spec(other) else "none")
    with status() as progress:
        return recorded_contracts.against(recording, None if chosen == "none" else chosen, progress=progress)


def _program(recording: Recording, program: str, framework: str, params: str, *, load: bool) -> Report:
    from attention.cli import loading  # noqa: PLC0415
    from attention.parity.compare import replayed_program  # noqa: PLC0415

    chosen = framework or OTHER.get(str(recording.facts["side"]), "jax")
    given: Any = loading.param_map(params)
    return replayed_program.against(recording, loading.program(program), chosen, load=load, params=given)
