"""`attention record`: a model's blocks, logits and decoding in a file, in the place of a side on another machine.

here   attention record original.py:make_model golden.safetensors --inputs input_ids=1,32:int64 --tokens 2,8:int64
there  attention layers golden.safetensors port.py:make_model        attention decoding ...        attention logits ...
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attention.cli.application import app, one_line

SIDE = "module:name or path/to/file.py:name; a class, or a function called make_..., build_... or create_..., is called."
FILE = ".safetensors"


@app.command()
def record(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {SIDE}")],
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, such as golden.safetensors.")],
    inputs: Annotated[
        str, typer.Option(help="A file of arrays; module:function; or shapes: 'x=2,7,16 ids=2,7:int64'. Blocks and logits.")
    ] = "",
    tokens: Annotated[str, typer.Option(help="Of the decoding: a file of arrays, module:function, or '2,8:int64'.")] = "",
    split: Annotated[list[int] | None, typer.Option(help="Tokens of the prefill; repeat for more; default three.")] = None,
    left_padding: Annotated[str, typer.Option(help="Places of padding before each row: '0,3'.")] = "",
) -> None:
    """Record a model: FILE then takes the place of a side in `attention layers`, `logits` and `decoding`."""
    with one_line():
        # Frameworks are imported by the command that needs them, and NumPy too.
        from attention.cli.decoding import padding_of, tokens_of  # noqa: PLC0415
        from attention.cli.loading import load_inputs, side  # noqa: PLC0415
        from attention.parity.language_models.record_model import record_model  # noqa: PLC0415

        given: Any = load_inputs(inputs) if inputs else None
        decoded = tokens_of(tokens) if tokens else None
        padding = padding_of(left_padding)
        record_model(path, side(model), given, tokens=decoded, splits=split or None, left_padding=padding, progress=_told)
    typer.echo(f"{path} written; where the other model is: attention layers {path} MODEL")


def _told(path: str) -> None:
    """Say which block is recorded, on stderr: a large model takes minutes."""
    typer.echo(path, err=True)


def side_or_recording(spec: str) -> Any:
    """Return the program that a spec names, or the recorded model in a file.

    Raises:
        FileError: the file is no recording of a model.
    """
    from attention.cli.loading import side  # noqa: PLC0415

    if not spec.endswith(FILE):
        return side(spec)
    from attention.parity.compare.recorded_model import recorded_model  # noqa: PLC0415 - it needs NumPy

    return recorded_model(spec)


def is_recording(spec: str) -> bool:
    """Return whether a file is a recording and not one of arrays.

    Raises:
        FileError: it cannot be read.
    """
    if not spec.endswith(FILE):
        return False
    from attention.parity.compare.recording_file import FORMAT  # noqa: PLC0415 - it needs NumPy
    from attention.spec.storage.disk import opened  # noqa: PLC0415
    from attention.spec.storage.safetensors_format import header  # noqa: PLC0415

    with opened(spec, "a safetensors file") as file:
        return header(file, f"file {spec!r} must be a safetensors file").metadata.get("format") == FORMAT
