"""`attention compare`: whether two programs differ beyond rounding, at which line, and which known mistake it is.

compare        outputs and gradients, within a budget of rounding errors
locate         the operation and the line of each file at which they part        if they differ, or with --trace
diagnose       which known mistake explains each program                         with --contract
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attention.cli.application import ARRAYS, PROGRAM, Command, app, given, refuse
from attention.cli.logits import compared, exit_code, show
from attention.cli.wording import spoken

if TYPE_CHECKING:
    from attention.parity.full_comparison import FullComparison
    from attention.spec.layers.contract import Contract

OF_INPUTS = ("trace", "gradients", "values", "params", "dtype", "outputs")
"""Options that mean something for a call on inputs alone."""
OF_CONTRACT = ("torch_params", "jax_params")
BACKENDS = ("torch", "jax")


@app.command(cls=Command)
def compare(
    context: typer.Context,
    torch_program: Annotated[
        str, typer.Argument(metavar="TORCH", help=f"The PyTorch program: {PROGRAM} With --contract also 'torch', our layer.")
    ],
    jax_program: Annotated[
        str, typer.Argument(metavar="JAX", help="The JAX (or NumPy) program, likewise; with --contract also 'jax'.")
    ],
    inputs: Annotated[str, typer.Option(help=f"Of both programs: {ARRAYS}")] = "",
    contract: Annotated[
        str, typer.Option(help="The contract that both should keep: a name of 'attention verify --list', or module:name.")
    ] = "",
    trace: Annotated[
        bool, typer.Option("--trace", help="Trace both programs even if the comparison finds no difference.")
    ] = False,
    gradients: Annotated[bool, typer.Option(help="Compare and trace gradients too.")] = True,
    values: Annotated[
        str, typer.Option(help="Whose parameter values both programs use: first or second. Without it, each has its own.")
    ] = "",
    params: Annotated[
        str, typer.Option(metavar="MAP", help="Which parameter is which: a file of ParamMap.to_json, or module:name.")
    ] = "",
    torch_params: Annotated[
        str,
        typer.Option(
            metavar="MAP", help="With --contract: the contract's parameters in TORCH, as a map or a function of them."
        ),
    ] = "",
    jax_params: Annotated[str, typer.Option(metavar="MAP", help="The same for JAX.")] = "",
    dtype: Annotated[str, typer.Option(help="What floats are cast to for the comparison.")] = "float32",
    outputs: Annotated[
        list[str] | None, typer.Option(help="An output to compare, by name or pattern such as logits; repeat for more.")
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Compare logits position by position, as 'attention logits' does, and no more.")
    ] = False,
    json: Annotated[str, typer.Option(metavar="PATH", help="Write the certificate to this file.")] = "",
    html: Annotated[str, typer.Option(metavar="PATH", help="Write one page with everything to this file.")] = "",
) -> None:
    """Compare two programs, locate the first operation at which they differ, and name the mistake.

    The reference is one of the two programs, run in float64. "cannot tell" means that a program failed, that nothing was
    compared, or that it is open which parameter is which.
    """
    from attention.spec.errors import OptionError  # noqa: PLC0415 - NumPy is imported by the command that needs it

    if logits:
        refuse(context, ("contract", "html", *(set(OF_INPUTS) - {"outputs"}), *OF_CONTRACT), "must not be given with --logits")
        if outputs and len(outputs) > 1:
            raise OptionError("--outputs must be given once with --logits")
        found = compared(torch_program, jax_program, inputs=inputs, key=next(iter(outputs or ()), ""), frameworks=BACKENDS)
        show(found, json)
        raise typer.Exit(exit_code(found))
    if not inputs:
        refuse(context, OF_INPUTS, "must come with --inputs")
    if not contract:
        refuse(context, OF_CONTRACT, "must come with --contract")
    if not given(context, ("inputs", "contract")):
        raise OptionError("--inputs must be given, or --contract")
    options: dict[str, Any] = {"dtype": dtype, "gradients": gradients, "trace": trace, "outputs": tuple(outputs or ()) or None}
    maps = {"params": params, "torch_params": torch_params, "jax_params": jax_params}
    full = _compared((torch_program, jax_program), inputs, contract, maps, load=values or None, **options)
    _finish(full, json, html)


def _finish(full: FullComparison, json: str, html: str) -> None:
    """Print a comparison, write it to the files that are named, and exit with the code of its verdict."""
    from attention.parity.results.report import EXIT_CODES, write  # noqa: PLC0415

    typer.echo(spoken(str(full)))
    if json:
        from json import dumps  # noqa: PLC0415

        write(json, dumps(full.to_dict(), indent=1))
    if html:
        full.to_html(html)
    raise typer.Exit(EXIT_CODES[full.verdict])


def _compared(names: tuple[str, str], inputs: str, contract: str, maps: dict[str, str], **options: Any) -> FullComparison:
    """Return the comparison of the programs of these names."""
    # Frameworks are imported by the command that needs them, and NumPy too.
    from attention.cli.loading import load_inputs, param_map, program  # noqa: PLC0415
    from attention.parity.full_comparison import full_comparison  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    found = _contract(contract) if contract else None
    if inputs and (ours := set(names) & set(BACKENDS)):
        raise OptionError(f"program {ours.pop()!r} must be module:name or path/to/file.py:name, where --inputs is given")
    found_maps = {name: param_map(text) for name, text in maps.items()}
    first, second = (name if found is not None and name in BACKENDS else program(name) for name in names)
    return full_comparison(first, second, load_inputs(inputs) if inputs else None, contract=found, **options, **found_maps)


def _contract(name: str) -> Contract:
    """Return a contract by its name among the cases, or a user's own.

    Raises:
        UnknownName: there is none.
        OptionError: what the name stands for is no contract.
    """
    from attention.cli.loading import load  # noqa: PLC0415
    from attention.spec import cases  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415
    from attention.spec.layers.contract import Contract  # noqa: PLC0415

    if ":" not in name:
        return cases.find(name).contract
    found = load(name)
    if not isinstance(found, Contract):
        raise OptionError(
            f"contract {name!r} is a {type(found).__name__}, and must be a contract, such as spec.MultiHeadAttention"
        )
    return found
