"""The application that the commands join, and how all of them end.

with one_line(): ...      a user's mistake is one line on stderr and exit code 2, never a traceback of ours
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from attention._extras import namesake

app = typer.Typer(
    name="attention",
    help="One attention, two frameworks, proven equal. Begin with: attention parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn a user's mistake or an interrupt into one line on stderr and the right exit code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("attention: interrupted", err=True)
        raise typer.Exit(130) from None
    except ValueError as error:
        # To name the class would cost `attention --help` an import of NumPy.
        from attention.spec.errors import AttentionError  # noqa: PLC0415

        if not isinstance(error, AttentionError):
            raise
        typer.echo(f"attention: {error}", err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """Run the command line."""
    if warning := namesake():
        typer.echo(f"attention: {warning}", err=True)
    app()
