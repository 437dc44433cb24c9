"""`attention compare`: find the first operation at which anybody's two programs part, and name the mistake.

compare        outputs and gradients, within a budget of rounding errors
locate         where they part: the line of each file                        if they differ, or with --trace
diagnose       which knob of a contract explains it                          with --contract
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from attention.cli.application import app, one_line
from attention.cli.logits import compared, exit_code, show

if TYPE_CHECKING:
    from attention.parity.full_comparison import FullComparison
    from attention.spec.layers.contract import Contract

PROGRAM = "module:name or path/to/file.py:name; a class, or a function called make_..., build_... or create_..., is called."


@app.command()
def compare(
    torch_side: Annotated[str, typer.Argument(metavar="TORCH", help=f"The PyTorch side: {PROGRAM}")],
    jax_side: Annotated[str, typer.Argument(metavar="JAX", help="The JAX (or NumPy) side, in the same way.")],
    inputs: Annotated[
        str, typer.Option(help="A .npz, .npy or .safetensors file; module:function; or shapes: 'x=2,7,16 ids=2,7:int64'.")
    ] = "",
    contract: Annotated[
        str, typer.Option(help="The contract both should keep: a name of 'attention parity --list', or module:name.")
    ] = "",
    trace: Annotated[bool, typer.Option("--trace", help="Show where they part even if the comparison finds nothing.")] = False,
    gradients: Annotated[bool, typer.Option(help="Compare and trace gradients too.")] = True,
    values: Annotated[
        str, typer.Option(help="Whose parameter values both shall use, first or second: the load= of parity.compare.")
    ] = "",
    params: Annotated[str, typer.Option(metavar="PATH", help="A parameter map, as ParamMap.to_json writes it.")] = "",
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
    """Compare two programs of your own, find the first operation at which they part, and name the mistake.

    Exit codes: 0 they agree, 1 they differ, 2 cannot tell: one of them fails, nothing was compared, the parameter map is open.
    """
    if logits:
        with one_line():
            _check_alone({"--contract": contract, "--values": values, "--params": params, "--html": html, "--trace": trace})
            key, frameworks = next(iter(outputs or ()), ""), ("torch", "jax")
            logits_found = compared(torch_side, jax_side, inputs=inputs, key=key, frameworks=frameworks)
            show(logits_found, json)
        raise typer.Exit(exit_code(logits_found))
    with one_line():
        from attention.parity.results.report import EXIT_CODES  # noqa: PLC0415 - NumPy is imported by the command that needs it

        names = tuple(outputs or ()) or None
        found = _examined(
            torch_side, jax_side, inputs, contract, params, values, dtype, gradients=gradients, trace=trace, outputs=names
        )
        typer.echo(str(found))
        if json:
            _write_json(found, json)
        if html:
            found.to_html(html)
        code = EXIT_CODES[found.verdict]
    raise typer.Exit(code)


def _check_alone(given: Mapping[str, object]) -> None:
    """Refuse options that a comparison of logits does not have.

    Raises:
        OptionError: one was given.
    """
    from attention.spec.errors import OptionError  # noqa: PLC0415

    if wrong := [name for name, value in given.items() if value]:
        raise OptionError(f"{', '.join(wrong)} must not be given with --logits")


def _examined(
    torch_side: str,
    jax_side: str,
    inputs: str,
    contract: str,
    params: str,
    values: str,
    dtype: str,
    *,
    gradients: bool,
    trace: bool,
    outputs: tuple[str, ...] | None,
) -> FullComparison:
    """Return what was found out about the programs of these names."""
    # Frameworks are imported by the command that needs them, and NumPy too.
    from attention.cli.loading import load_inputs, side  # noqa: PLC0415
    from attention.parity.full_comparison import full_comparison  # noqa: PLC0415
    from attention.parity.param_mapping import ParamMap  # noqa: PLC0415

    return full_comparison(
        side(torch_side),
        side(jax_side),
        load_inputs(inputs) if inputs else None,
        contract=_contract(contract) if contract else None,
        params=ParamMap.from_json(params) if params else None,
        load=values or None,
        dtype=dtype,
        gradients=gradients,
        trace=trace,
        outputs=outputs,
    )


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


def _write_json(found: FullComparison, path: str) -> None:
    from json import dumps  # noqa: PLC0415

    from attention.parity.results.report import write  # noqa: PLC0415

    write(path, dumps(found.to_dict(), indent=1))
