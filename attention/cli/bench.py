"""`attention bench`: run the benchmarks of a checkout of the repository.

attention bench ARGUMENTS = python -m benchmarks ARGUMENTS

The installed package has no benchmarks: they need adapters of a dozen other libraries, results and plots. They stand beside the
package in its repository, and this command runs them from there.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

from attention.cli.application import Command, app


@app.command(
    cls=Command,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Time every kernel that is right, and its peers; in a checkout of the repository. See: attention bench --help."""
    _application()(context.args, prog_name="attention bench")


def _application() -> typer.Typer:
    """Return the command line of the benchmarks that stand beside this package.

    Raises:
        MissingExtra: there are none: this is an installed package.
    """
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "__main__.py").exists():
        from attention.spec.errors import MissingExtra  # noqa: PLC0415 - `attention --help` needs no NumPy

        raise MissingExtra(f"benchmarks must stand beside the package, in a checkout of its repository; {root} has none")
    # The first place, so that no other package of that name is taken for ours.
    sys.path.insert(0, str(root))
    return importlib.import_module("benchmarks.__main__").app
