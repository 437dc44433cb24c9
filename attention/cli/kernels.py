"""`attention kernels`: which kernel a call takes, why the others do not, what each costs, and tile sizes.

attention kernels explain --size 4096 --heads 8 --width 64 --mask "causal & window:256"
attention kernels measure benchmarks/results/rules-cpu.json      the evidence of the rules, measured anew
attention kernels tune                                           tile sizes for this machine
"""

from __future__ import annotations

from typing import Annotated

import typer

from attention.cli.application import Command, app, group

kernels_app = group("kernels", "Show, measure and tune the kernels of each backend.")
app.add_typer(kernels_app)

BACKENDS = ("torch", "jax")
Backend = Annotated[list[str] | None, typer.Option(help="torch or jax; repeat for both; default both.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16; default float32 and bfloat16.")]
Structure = Annotated[str | None, typer.Option(help="none, causal, window, documents, ...; default all.")]


@kernels_app.command(cls=Command)
def explain(
    backend: Backend = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    size: Annotated[str, typer.Option(metavar="[T,]S", help="Queries and keys: 4096, or 1,4096 to decode.")] = "16",
    batch: Annotated[int, typer.Option(help="B.", min=1)] = 2,
    heads: Annotated[int, typer.Option(help="H, query heads.", min=1)] = 4,
    kv_heads: Annotated[int | None, typer.Option(help="K, key/value heads; default H.", min=1)] = None,
    width: Annotated[int, typer.Option(help="D, of a head.", min=1)] = 8,
    mask: Annotated[
        str | None,
        typer.Option(help="causal, window:256, documents:8, lengths:half, prefix:512, joined by & | ~ and parentheses."),
    ] = None,
    softcap: Annotated[float | None, typer.Option(help="Bound of the scores.")] = None,
    dropout: Annotated[float, typer.Option(help="Probability of dropping a weight.")] = 0.0,
    intermediate: Annotated[
        list[str] | None, typer.Option(help="weights, logsumexp, ...: computed beside the kernel, which does not change.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Least precision of float32 products: default, high, highest.")] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="The call is differentiated.")] = False,
    peak: Annotated[float | None, typer.Option(help="GFLOP/s of a matrix product here, for the roofline.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s between memory and processor, for the roofline.")] = None,
) -> None:
    """Show the kernel that implementation="auto" chooses, the rule and its evidence, and why each other kernel is not chosen.

    Predicted costs stand beside each kernel; with --peak and --bandwidth, the least time that the roofline allows.
    """
    from attention.cli.kernel_explaining import Call, explained  # noqa: PLC0415 - NumPy is imported by the command that needs it
    from attention.spec.dtypes import numpy_dtype  # noqa: PLC0415

    _ = numpy_dtype(dtype)
    options = {"softcap": softcap, "dropout_rate": dropout, "dropout_seed": 0, "precision": precision}
    call = Call(
        dtype=dtype,
        sizes=_counts(size),
        batch=batch,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        width=width,
        mask=mask,
        gradient=gradient,
        options={**options, "return_intermediates": tuple(intermediate or ())},
    )
    for name in _backends(backend):
        for line in explained(name, call, peak=peak, bandwidth=bandwidth):
            typer.echo(line)


@kernels_app.command(cls=Command)
def measure(
    written: Annotated[str, typer.Argument(metavar="FILE", help="The file; rows of other calls on this machine stay in it.")],
    backend: Backend = None,
    dtype: Dtype = None,
    mask: Structure = None,
    size: Annotated[
        str | None, typer.Option(metavar="[LEAST,]MOST", help="Keys: of the powers of two from 64 to 4096, these.")
    ] = None,
) -> None:
    """Time every kernel on the calls that the rules of "auto" are made for, and write the times to a file."""
    from attention.cli import kernel_measuring  # noqa: PLC0415

    sizes = None if size is None else _counts(size)
    kernel_measuring.measure(written, _backends(backend), _checked(dtype), mask, sizes, typer.echo)


@kernels_app.command(cls=Command)
def tune(backend: Backend = None, dtype: Dtype = None, mask: Structure = None) -> None:
    """Measure tile sizes on this machine, and keep the fastest in the user's cache folder."""
    from attention.cli import kernel_measuring  # noqa: PLC0415

    kernel_measuring.tune(_backends(backend), _checked(dtype), mask, typer.echo)


def _checked(dtype: str | None) -> str | None:
    """Return a dtype's name.

    Raises:
        UnknownName: there is none.
    """
    from attention.spec.dtypes import numpy_dtype  # noqa: PLC0415

    if dtype is not None:
        _ = numpy_dtype(dtype)
    return dtype


def _backends(names: list[str] | None) -> tuple[str, ...]:
    """Return the backends of these names; both, if there are none.

    Raises:
        UnknownName: there is no such backend.
    """
    from attention.spec.errors import UnknownName  # noqa: PLC0415

    for name in names or ():
        if name not in BACKENDS:
            raise UnknownName.among("backend", name, BACKENDS)
    return tuple(name for name in BACKENDS if not names or name in names)


def _counts(text: str) -> tuple[int, int]:
    """Return T and S of "T,S", or of "S" where they are one.

    Raises:
        OptionError: the text is neither.
    """
    from attention.spec.errors import OptionError  # noqa: PLC0415

    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise OptionError(f"--size {text!r} must be one or two ints >= 1, such as 4096 or 1,4096")
    return int(parts[0]), int(parts[-1])
