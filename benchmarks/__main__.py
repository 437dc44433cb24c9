"""`python -m benchmarks`: time every kernel that passes parity.

Exit codes: 0 all is right, 1 a kernel is wrong or nothing could be timed, 2 the call cannot be answered (one line says
why), 130 interrupted.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

# JAX would take most of a GPU's memory for itself, and torch needs some beside it.
_ = os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    case: Annotated[
        list[str] | None, typer.Option(help="A case of attention.spec.cases; repeat for more; 'all' for all of them.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Queries and keys, T = S.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    rounds: Annotated[int, typer.Option(min=1, help="How often each program is timed; the median counts.")] = 7,
    backend: Annotated[list[str] | None, typer.Option(help="torch or jax; default both.")] = None,
    json: Annotated[str, typer.Option(metavar="PATH", help="Where the results go.")] = "build/bench.json",
    plot: Annotated[str, typer.Option(metavar="PATH", help="Where the plot goes; '' for none.")] = "build/bench.png",
) -> None:
    """Time every kernel of both backends, forward and forward + backward, in a layer of B 1, M 256, H 8, D 32.

    A kernel is first checked against the float64 oracle, and is timed only if it agrees. Kernels take turns in one
    process.
    """
    try:
        ok = _run(case or [], size, dtype, rounds, backend or ["torch", "jax"], json, plot)
    except KeyboardInterrupt:
        typer.echo("benchmarks: interrupted", err=True)
        raise typer.Exit(130) from None
    except ValueError as error:
        from attention.spec.errors import AttentionError  # noqa: PLC0415 - frameworks wait until the call is understood

        if not isinstance(error, AttentionError):
            raise
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if ok else 1)


def _run(names: list[str], size: int, dtype: str, rounds: int, backends: list[str], json: str, plot: str) -> bool:
    """Return whether all is right, having measured, shown and written everything."""
    from rich.console import Console  # noqa: PLC0415

    from attention.parity import sides  # noqa: PLC0415
    from attention.spec import MultiHeadAttention, cases  # noqa: PLC0415
    from attention.spec.errors import UnknownName  # noqa: PLC0415
    from attention.spec.params import numpy_dtype  # noqa: PLC0415
    from benchmarks import plot as plots  # noqa: PLC0415
    from benchmarks.results import Results, machine, writable  # noqa: PLC0415
    from benchmarks.suite import DEFAULT, grown, heads, measure  # noqa: PLC0415

    # Whatever can be wrong with the call is found before the first minute is spent.
    every = [name for name, case in cases.CASES.items() if isinstance(case.contract, MultiHeadAttention)]
    chosen = [cases.find(name) for name in (every if "all" in names else names or DEFAULT)]
    _ = [heads(case) for case in chosen]
    _ = numpy_dtype(dtype)
    for backend in backends:
        if backend not in sides.BACKENDS:
            raise UnknownName(f"backend {backend!r} must be one of {', '.join(sides.BACKENDS)}")
        _ = sides.find(backend)
    writable(json)
    if plot:
        plots.check_plot()
        writable(plot)
    rows, console = [], Console(stderr=True)
    for case in chosen:
        with console.status(f"{case.name}, {dtype}"):
            rows += measure(case, size=size, dtype=dtype, rounds=rounds, backends=backends)
    contract = grown(heads(chosen[0]))
    settings = {"B": 1, "S": size, "M": contract.embed_dim, "H": contract.num_heads, "D": contract.width}
    results = Results(tuple(rows), {**settings, "dtype": dtype, "rounds": rounds}, machine(backends))
    results.to_json(json)
    if plot:
        plots.draw(results, plot)
    Console().print(results.table())
    return results.ok


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
