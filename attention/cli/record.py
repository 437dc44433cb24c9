"""`attention record`: write the results of a program to a file, for a comparison on another machine.

here   attention record model original.py:make_model golden.safetensors --inputs input_ids=1,32:int64 --tokens 2,8:int64
there  attention layers golden.safetensors port.py:make_model        attention decoding ...        attention logits ...

here   attention record program original.py:forward out.safetensors --inputs x=2,7,16
there  attention replay out.safetensors port.py:forward

here   attention record contracts torch.safetensors --backend torch
there  attention replay torch.safetensors
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attention.cli.application import ARRAYS, PROGRAM, Command, app, group, status

record_app = group("record", "Record what a program makes, in a file for another machine.")
app.add_typer(record_app)

Written = Annotated[str, typer.Argument(metavar="FILE", help="The file to write, such as golden.safetensors.")]


@record_app.command(cls=Command)
def model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"An nn.Module or NNX module: {PROGRAM}")],
    written: Written,
    inputs: Annotated[str, typer.Option(help=f"Of the whole model, for blocks and logits: {ARRAYS}")] = "",
    tokens: Annotated[str, typer.Option(help="To decode: a file of arrays, module:function, or '2,8:int64'.")] = "",
    split: Annotated[
        list[int] | None, typer.Option(help="With --tokens: tokens of the prefill; repeat for more; default three.")
    ] = None,
    left_padding: Annotated[str, typer.Option(help="With --tokens: positions of padding before each row: '0,3'.")] = "",
) -> None:
    """Record a model's blocks, logits and decoding: FILE then stands for it in `attention layers`, `logits` and `decoding`."""
    # Frameworks are imported by the command that needs them, and NumPy too.
    from attention.cli.decoding import padding_of, tokens_of  # noqa: PLC0415
    from attention.cli.loading import load_inputs, program  # noqa: PLC0415
    from attention.cli.output_paths import make_folder  # noqa: PLC0415
    from attention.parity.language_models.record_model import record_model  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    if not inputs and not tokens:
        raise OptionError("--inputs must be given, or --tokens")
    if (split or left_padding) and not tokens:
        raise OptionError("--split and --left-padding must come with --tokens")
    given: Any = load_inputs(inputs) if inputs else None
    decoded = tokens_of(tokens) if tokens else None
    padding = padding_of(left_padding)
    make_folder(written)
    record_model(written, program(model), given, tokens=decoded, splits=split or None, left_padding=padding, progress=_report)
    typer.echo(f"{written} written; where the other model is: attention layers {written} MODEL")


def _report(path: str) -> None:
    """Print the block that is recorded on stderr: a large model takes minutes."""
    typer.echo(path, err=True)


@record_app.command("program", cls=Command)
def program_(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help=f"A model or a function: {PROGRAM}")],
    written: Written,
    inputs: Annotated[str, typer.Option(help=ARRAYS)],
    framework: Annotated[str, typer.Option(help="torch, jax or numpy: what a plain function is written in.")] = "torch",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the cotangents.", min=0)] = 0,
) -> None:
    """Record a program's outputs and the gradients of its inputs and parameters, for `attention replay`."""
    from attention.cli import loading  # noqa: PLC0415
    from attention.cli.output_paths import make_folder  # noqa: PLC0415
    from attention.parity.compare import replayed_program  # noqa: PLC0415
    from attention.parity.compare.recording_file import write  # noqa: PLC0415

    given = loading.load_inputs(inputs)
    recording = replayed_program.record(loading.program(program), framework, given, dtype=dtype, seed=seed)
    make_folder(written)
    write(written, recording)
    typer.echo(f"{len(recording.arrays)} arrays written; where the other program is: attention replay {written} PROGRAM")


@record_app.command(cls=Command)
def contracts(
    written: Written,
    backend: Annotated[str, typer.Option(help="torch, jax, jax_eager or numpy: what runs here.")],
    contract: Annotated[list[str] | None, typer.Option(help="A contract to run; repeat for more; default all.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 (default), float64, bfloat16 or float16; repeat for more.")
    ] = None,
    implementation: Annotated[
        str, typer.Option(help="A kernel's name, see 'attention kernels explain'; 'auto' picks.")
    ] = "auto",
) -> None:
    """Record what a backend makes of contracts: outputs and every gradient, for `attention replay`."""
    from attention.cli.output_paths import make_folder  # noqa: PLC0415
    from attention.parity.compare import recorded_contracts  # noqa: PLC0415
    from attention.parity.compare.recording_file import write  # noqa: PLC0415

    options: dict[str, Any] = {"dtypes": dtype or ["float32"], "implementation": implementation}
    with status() as progress:
        recording = recorded_contracts.record(contract or [], backend, progress=progress, **options)
    make_folder(written)
    write(written, recording)
    typer.echo(f"{len(recording.arrays)} arrays of {backend} written; where the other backend is: attention replay {written}")
