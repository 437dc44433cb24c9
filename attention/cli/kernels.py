"""`attention kernels`: which kernel a call takes, why the others do not, and what each would cost.

attention kernels --explain --size 4096 --heads 8 --width 64 --mask "causal & window:256"
attention kernels --measure benchmarks/results/rules-cpu.json      the evidence of the rules, anew
attention kernels --tune                                           tile sizes for this machine
"""

from __future__ import annotations

from typing import Annotated

import typer

from attention.cli.application import app, one_line

ROOMS = ("torch", "jax")


@app.command()
def kernels(
    dtype: Annotated[str | None, typer.Option(help="float32 (default), float64, bfloat16 or float16.")] = None,
    softcap: Annotated[float | None, typer.Option(help="Bound of the scores.")] = None,
    dropout: Annotated[float, typer.Option(help="Probability of dropping a weight.")] = 0.0,
    intermediate: Annotated[
        list[str] | None, typer.Option(help="Such as weights or logsumexp: made beside the kernel, which they never change.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Least precision of float32 products: default, high, highest.")] = None,
    size: Annotated[str | None, typer.Option(metavar="[T,]S", help="Queries and keys: 4096, or 1,4096 to decode.")] = None,
    batch: Annotated[int, typer.Option(help="B.", min=1)] = 2,
    heads: Annotated[int, typer.Option(help="H, query heads.", min=1)] = 4,
    kv_heads: Annotated[int | None, typer.Option(help="K, key/value heads; default H.", min=1)] = None,
    width: Annotated[int, typer.Option(help="D, of a head.", min=1)] = 8,
    mask: Annotated[
        str | None,
        typer.Option(help="causal, window:256, documents:8, lengths:half, prefix:512, joined by & | ~ and parentheses."),
    ] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="The call is differentiated.")] = False,
    backend: Annotated[list[str] | None, typer.Option(help="torch or jax; repeat for both; default both.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the rule with its evidence, and predicted costs.")] = False,
    peak: Annotated[float | None, typer.Option(help="GFLOP/s of a matrix product here, for the roofline.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s between memory and processor, for the roofline.")] = None,
    measure: Annotated[
        str | None, typer.Option(metavar="PATH", help="Time every kernel here on the calls of the rules, into this file.")
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Measure tile sizes on this machine and keep the fastest.")] = False,
) -> None:
    """Show which kernel a call takes in each backend, and why the others do not, as implementation="auto" decides it."""
    with one_line():
        backends = _backends(backend)
        if measure is not None or tune:
            from attention.cli import kernel_measuring  # noqa: PLC0415 - NumPy is imported by the command that needs it

            sizes = None if size is None else _counts(size)
            if measure is not None:
                kernel_measuring.measure(measure, backends, dtype, mask, sizes, typer.echo)
            if tune:
                kernel_measuring.tune(backends, dtype, mask, typer.echo)
            return
        from attention.cli.kernel_explaining import Call, explained  # noqa: PLC0415

        options = {"softcap": softcap, "dropout_rate": dropout, "dropout_seed": 0, "precision": precision}
        call = Call(
            dtype=dtype or "float32",
            sizes=_counts(size or "16"),
            batch=batch,
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            width=width,
            mask=mask,
            gradient=gradient,
            options={**options, "return_intermediates": tuple(intermediate or ())},
        )
        for name in backends:
            for line in explained(name, call, full=explain, peak=peak, bandwidth=bandwidth):
                typer.echo(line)


def _backends(backend: list[str] | None) -> tuple[str, ...]:
    for name in backend or ():
        if name not in ROOMS:
            raise _refused("UnknownName", f"backend {name!r} must be one of {', '.join(ROOMS)}")
    return tuple(name for name in ROOMS if not backend or name in backend)


def _counts(text: str) -> tuple[int, int]:
    """Return T and S of "T,S", or of "S" where they are one."""
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise _refused("OptionError", f"--size {text!r} must be S, or T,S: ints >= 1")
    return int(parts[0]), int(parts[-1])


def _refused(kind: str, text: str) -> ValueError:
    from attention.spec import errors  # noqa: PLC0415

    return getattr(errors, kind)(text)
