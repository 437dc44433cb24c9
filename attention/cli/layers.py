"""`attention layers`: two models block by block, each block on what it really received.

attention layers original.py:make_model port.py:make_model --inputs input_ids=1,32:int64
"""

from __future__ import annotations

from typing import Annotated

import typer

from attention.cli.application import app, one_line

SIDE = "module:name or path/to/file.py:name; a class, or a function called make_..., build_... or create_..., is called."

RECORDED = " Or a file of 'attention record'."


@app.command()
def layers(
    torch_model: Annotated[str, typer.Argument(metavar="TORCH", help=f"The nn.Module: {SIDE}{RECORDED}")],
    jax_model: Annotated[str, typer.Argument(metavar="JAX", help="The NNX module or (linen module, variables).")],
    inputs: Annotated[
        str, typer.Option(help="A file of arrays; module:function; or shapes: 'x=2,7,16 ids=2,7:int64'. Not of a recording.")
    ] = "",
    params: Annotated[str, typer.Option(metavar="PATH", help="A parameter map, as ParamMap.to_json writes it.")] = "",
    gradients: Annotated[bool, typer.Option(help="Compare the gradients of each block too.")] = False,
    json: Annotated[str, typer.Option(metavar="PATH", help="Write the certificate to this file.")] = "",
    html: Annotated[str, typer.Option(metavar="PATH", help="Write one page with everything to this file.")] = "",
) -> None:
    """Compare two models block by block, each block on what it really received, and their whole outputs.

    Exit codes: 0 all agree, 1 something differs, 2 cannot tell.
    """
    with one_line():
        # Frameworks are imported by the command that needs them, and NumPy too.
        from attention.cli.loading import load_inputs  # noqa: PLC0415
        from attention.cli.recordings import FILE, side_or_recording  # noqa: PLC0415
        from attention.parity.blocks.layerwise import layerwise  # noqa: PLC0415
        from attention.parity.param_mapping import ParamMap  # noqa: PLC0415
        from attention.spec.errors import OptionError  # noqa: PLC0415

        given = ParamMap.from_json(params) if params else None
        if not inputs and not any(spec.endswith(FILE) for spec in (torch_model, jax_model)):
            raise OptionError("--inputs must be given, unless a side is a recording")
        pair = side_or_recording(torch_model), side_or_recording(jax_model)
        report = layerwise(*pair, load_inputs(inputs) if inputs else None, params=given, gradients=gradients, progress=_told)
        report.show()
        if json:
            report.to_json(json)
        if html:
            report.to_html(html)
    raise typer.Exit(report.exit_code)


def _told(path: str) -> None:
    """Say which block is compared, on stderr: a large model takes minutes."""
    typer.echo(path, err=True)
