"""`attention kernels`: which kernel a call takes, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from attention.cli.app import app, one_line


@app.command()
def kernels(
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    softcap: Annotated[float | None, typer.Option(help="Bound of the scores.")] = None,
    dropout: Annotated[float, typer.Option(help="Probability of dropping a weight.")] = 0.0,
    stage: Annotated[
        list[str] | None, typer.Option(help="Such as weights or logsumexp: made beside the kernel, which they never change.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Least precision of float32 products: default, high, highest.")] = None,
) -> None:
    """Show which kernel a call takes in each backend, and why the others do not, as implementation="auto" decides it."""
    options = {"softcap": softcap, "dropout_rate": dropout, "dropout_seed": 0, "precision": precision}
    with one_line():
        for room in ("torch", "jax"):
            for line in _explained(room, dtype, {**options, "return_stages": tuple(stage or ())}):
                typer.echo(line)


def _explained(backend: str, dtype: str, options: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each kernel of a backend, the chosen one first marked."""
    if find_spec(backend) is None:
        yield f"{backend:6} not installed: pip install 'attention[{backend}]'"
        return
    from attention.parity.sides import zeros  # noqa: PLC0415 - frameworks are imported by the command that needs them
    from attention.spec.errors import KernelRefused  # noqa: PLC0415

    room = import_module(f"attention.{backend}_impl")
    with zeros(backend, dtype) as make:
        arrays = [make((2, 16, 4, 8))] * 3
        chosen = ""
        for name in room.KERNELS:
            try:
                _ = room.explain(*arrays, implementation=name, **options)
            except KernelRefused as refusal:
                yield f"{backend:6} {refusal}"
                continue
            chosen = chosen or name
            yield f"{backend:6} kernel {name!r} " + ("runs" if name == chosen else f"could run; {chosen!r} is preferred")
