"""The command-line application: how every command shows its help, checks its options, reports errors and exits.

exit code 0    agrees, or done        1    differs        2    cannot tell, or bad usage        130    interrupted

A user's mistake is one line on stderr, never a traceback. Output paths are checked before the work begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from attention._extras import namesake
from attention.cli.examples import EXAMPLES
from attention.cli.wording import renamed, spoken

if TYPE_CHECKING:
    from attention.parity.results.report import Report

PROGRAM = "module:name or path/to/file.py:name; a class, or a function called make_..., build_... or create_..., is called."
ARRAYS = "a .npz, .npy or .safetensors file; module:function; or shapes: 'x=2,7,16 ids=2,7:int64'."
"""How help says what a user names."""
EXITS = "Exit codes: 0 agrees (or done), 1 differs, 2 cannot tell or bad usage (one line says why), 130 interrupted."
MODULES = {"python -m attention.cli": "attention", "python -m benchmarks": "attention bench"}
"""Other ways to start a program, and the name that the examples use."""
NEEDED = {"html": ("jinja2", "matplotlib"), "plot": ("matplotlib",), "plots": ("matplotlib",)}
"""Options that write a file, and the packages that write it."""


class Command(TyperCommand):
    """A command whose help opens with an example, and whose errors are one line each."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_example(ctx, formatter)
        super().format_help(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write_paragraph()
        formatter.write_text(EXITS)

    def invoke(self, ctx: Any) -> Any:
        with one_line(ctx):
            check_outputs(ctx.params)
            return super().invoke(ctx)


class Group(TyperGroup):
    """A group of commands, with the same help; they are listed in the order of the examples."""

    def list_commands(self, ctx: Any) -> list[str]:
        order, path = list(EXAMPLES), path_of(ctx)
        place = {name: order.index(full) for name in self.commands if (full := f"{path} {name}".strip()) in order}
        return sorted(self.commands, key=lambda name: place.get(name, len(order)))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_example(ctx, formatter)
        super().format_help(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write_paragraph()
        formatter.write_text(EXITS)

    def invoke(self, ctx: Any) -> Any:
        # A group may run by itself, and an interrupt may come between the commands.
        with one_line(ctx):
            return super().invoke(ctx)


def group(name: str, about: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(
        name=name,
        cls=Group,
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


app = group("attention", "One attention, two frameworks, proven equal; and a tool that compares any two programs.")


def _version(wanted: bool) -> None:
    if wanted:
        from attention import __version__  # noqa: PLC0415 - only this option needs it

        typer.echo(f"attention-parity {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version, and stop."),
) -> None:
    """One attention, two frameworks, proven equal; and a tool that compares any two programs."""


def path_of(ctx: Any) -> str:
    """Return the command's name as examples are listed: "kernels explain"; "" for the program itself."""
    path = ctx.command_path
    for started, name in MODULES.items():
        if path.startswith(started):
            path = name + path[len(started) :]
    return path.partition(" ")[2]


def write_example(ctx: Any, formatter: Any) -> None:
    """Write the example of a command, if it has one, as the first lines of its help."""
    if lines := EXAMPLES.get(path_of(ctx), ()):
        formatter.write("Example:\n")
        formatter.write("".join(f"  {line}\n" for line in lines))
        formatter.write("\n")


@contextmanager
def one_line(ctx: Any = None) -> Iterator[None]:
    """Turn a user's mistake or an interrupt into one line on stderr and the right exit code.

    Args:
        ctx: of the command, whose options the message names.
    """
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
        typer.echo(f"attention: {renamed(str(error), flags(ctx))}", err=True)
        raise typer.Exit(2) from None


def flags(ctx: Any) -> dict[str, str]:
    """Return how a command spells each of its parameters: {"dtype": "--dtype", "first": "FIRST"}."""
    params = ctx.command.params if ctx is not None else ()
    return {p.name: max(p.opts, key=len) if p.param_type_name == "option" else p.metavar or p.name.upper() for p in params}


def check_outputs(given: dict[str, Any]) -> None:
    """Check that the files that a command is to write can be written.

    Raises:
        FileError: a path cannot be written.
        MissingExtra: a package that writes one is not installed.
    """
    for name in ("json", *NEEDED, "written"):
        path = given.get(name)
        if path is None or path == "":
            continue
        from attention._extras import require  # noqa: PLC0415 - only commands that write need these
        from attention.cli.output_paths import check_writable  # noqa: PLC0415

        for package in NEEDED.get(name, ()):
            require(package, extra="report", wanted_by=f"--{name}")
        check_writable(path, folder=name == "plots")


def given(ctx: typer.Context, names: Sequence[str]) -> list[str]:
    """Return those of a command's options, by their flags, that the user gave."""
    said = flags(ctx)
    return [said[name] for name in names if _source(ctx, name) == "COMMANDLINE"]


def _source(ctx: Any, name: str) -> str:
    return getattr(ctx.get_parameter_source(name), "name", "")


def refuse(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that mean nothing for this call.

    Args:
        ctx: of the command.
        names: of its parameters.
        why: "must come with --train".

    Raises:
        OptionError: one was given.
    """
    if wrong := given(ctx, names):
        from attention.spec.errors import OptionError  # noqa: PLC0415 - it loads NumPy

        raise OptionError(f"{', '.join(wrong)} {why}")


def show_report(report: Report, *, values: bool = False) -> None:
    """Print a report, in at most 100 columns, with the options of the command line in the place of Python's arguments.

    Args:
        report: what was compared.
        values: whether the command has the option --values.
    """
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    with console.capture() as captured:
        report.show(console)
    typer.echo(spoken(captured.get(), values=values), nl=False)


@contextmanager
def status() -> Iterator[Callable[[str], object]]:
    """Give a function that shows on stderr what is being run."""
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status("") as shown:
        yield shown.update


def run() -> None:
    """Run the command line."""
    if warning := namesake():
        typer.echo(f"attention: {warning}", err=True)
    app()
