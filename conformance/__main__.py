"""What others wrote: `python -m conformance onnx` runs ONNX's operator tests, `modules` other people's attention beside ours.

Exit codes: 0 every case that the contracts cover passes, 1 one does not, 2 the call cannot be answered (one line says
why), 130 interrupted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

SUITES = {"transformers": "transformers_modules", "torch": "torch_mha", "flax": "flax_mha", "keras": "keras_layers"}
WIDTHS = (34, 8, 8, 10, 10, 10)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Ask what others wrote down about attention of this library."""


@app.command()
def onnx(
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Ask torch's and JAX's own attention, alone, as well.")
    ] = False,
    kernel: Annotated[str, typer.Option(help="Let this kernel answer for Attention: 'auto' or its name.")] = "",
    json: Annotated[str, typer.Option(metavar="PATH", help="Where every outcome goes; '' for nowhere.")] = "",
) -> None:
    """Run ONNX's tests of Attention, RotaryEmbedding, RMSNormalization and LinearAttention through both backends.

    A case passes if ONNX's own judge says so of every output, at its own tolerance.
    """
    _exit(lambda: _run(baselines, kernel, json))


@app.command()
def modules(
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"Among {', '.join(SUITES)}; default all but keras, which is not installed here.")
    ] = None,
    json: Annotated[str, typer.Option(metavar="PATH", help="Where every line goes; '' for nowhere.")] = "",
) -> None:
    """Compare the attention modules of transformers, torch and Flax with ours: the same weights, outputs and gradients.

    In float64 they agree to 1e-12; in float32 both backends keep within the rounding budget.
    """
    _exit(lambda: _modules(suites or [name for name in SUITES if name != "keras"], json))


def _modules(names: Sequence[str], json: str) -> bool:
    from attention.spec.errors import UnknownName  # noqa: PLC0415
    from conformance.peers import summary  # noqa: PLC0415
    from conformance.table import writable  # noqa: PLC0415

    for name in names:
        if name not in SUITES:
            raise UnknownName(f"suite {name!r} must be one of {', '.join(SUITES)}")
    if json:
        writable(json)
    ok, every = True, list[dict[str, object]]()
    for name in names:
        lines = importlib.import_module(f"conformance.{SUITES[name]}").run()
        every += [{"suite": name, **asdict(line), "passed": line.passed} for line in lines]
        for row in summary(lines):
            typer.echo("  ".join(f"{cell!s:{width}}" for cell, width in zip(row, WIDTHS, strict=False)).rstrip())
        ok = ok and all(line.passed for line in lines if line.backend != "theirs")
    if json:
        found = {"versions": {name: version(name) for name in names if name != "keras"}, "lines": every}
        _ = Path(json).write_text(dumps(found, indent=1) + "\n", encoding="utf-8")
    return ok


def _exit(run: Callable[[], bool]) -> None:
    """Run, and leave with the exit code that says how it went."""
    from attention.spec.errors import AttentionError  # noqa: PLC0415 - frameworks wait until the call is understood

    try:
        ok = run()
    except KeyboardInterrupt:
        typer.echo("conformance: interrupted", err=True)
        raise typer.Exit(130) from None
    except AttentionError as error:
        typer.echo(f"conformance: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if ok else 1)


def _run(baselines: bool, kernel: str, json: str) -> bool:
    """Return whether all is right, having asked, shown and written everything."""
    from attention._extras import require  # noqa: PLC0415

    require("onnx", extra="conformance", wanted_by="python -m conformance onnx")
    from rich.console import Console  # noqa: PLC0415

    from conformance.onnx_suite import whole  # noqa: PLC0415
    from conformance.table import writable  # noqa: PLC0415

    if json:
        writable(json)
    made = whole(baselines, kernel or None)
    console = Console()
    console.print(made.table())
    for remark in made.remarks():
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    if json:
        made.to_json(json)
    return made.ok


if __name__ == "__main__":
    app(prog_name="python -m conformance")
