"""`attention layers`: compare two models block by block, each block on what it really received.

attention layers original.py:make_model port.py:make_model --inputs input_ids=1,32:int64
"""

from __future__ import annotations

from typing import Annotated

import typer

from attention.cli.application import ARRAYS, PROGRAM, Command, app, show_report

RECORDED = " Or a file of 'attention record'."


@app.command(cls=Command)
def layers(
    torch_model: Annotated[str, typer.Argument(metavar="TORCH", help=f"The nn.Module: {PROGRAM}{RECORDED}")],
    jax_model: Annotated[
        str, typer.Argument(metavar="JAX", help=f"The NNX module or (linen module, variables), likewise.{RECORDED}")
    ],
    inputs: Annotated[str, typer.Option(help=f"Of both models, unless one is a recording: {ARRAYS}")] = "",
    params: Annotated[
        str, typer.Option(metavar="MAP", help="Which parameter is which: a file of ParamMap.to_json, or module:name.")
    ] = "",
    gradients: Annotated[bool, typer.Option(help="Compare the gradients of each block too.")] = False,
    json: Annotated[str, typer.Option(metavar="PATH", help="Write the certificate to this file.")] = "",
    html: Annotated[str, typer.Option(metavar="PATH", help="Write one page with everything to this file.")] = "",
) -> None:
    """Compare compare two models block by block, each block on what it really received, and their whole outputs.

    A block that differs is wrong by itself: it received what the other model's block received.
    """
    # Frameworks are imported by the command that needs them, and NumPy too.
    from attention.cli.loading import load_inputs, param_map  # noqa: PLC0415
    from attention.cli.recordings import FILE, program_or_recording  # noqa: PLC0415
    from attention.parity.blocks.layerwise import layerwise  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    known = param_map(params)
    if not inputs and not any(spec.endswith(FILE) for spec in (torch_model, jax_model)):
        raise OptionError("--inputs must be given, unless a model is a recording")
    pair = program_or_recording(torch_model), program_or_recording(jax_model)
    report = layerwise(*pair, load_inputs(inputs) if inputs else None, params=known, gradients=gradients, progress=_report)
    show_report(report)
    if json:
        report.to_json(json)
    if html:
        report.to_html(html)
    raise typer.Exit(report.exit_code)


def _report(path: str) -> None:
    """Print the block that is compared on stderr: a large model takes minutes."""
    typer.echo(path, err=True)
