"""`attention decoding`: compare decoding with a cache with the whole pass, in one model or across two.

attention decoding original.py:make_model port.py:make_model --tokens tokens.npy --split 4 --left-padding 0,3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attention.cli.application import PROGRAM, Command, app
from attention.cli.wording import spoken

if TYPE_CHECKING:
    from attention.parity.language_models import Decoding


@app.command(cls=Command)
def decoding(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"A model with a cache, a parity.CachedModel, or a file of 'attention record': {PROGRAM}"
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A second one, to be compared with the first.")] = "",
    tokens: Annotated[
        str, typer.Option(help="A file of arrays, module:function, or a shape; default '2,8:int64', or those of a recording.")
    ] = "",
    split: Annotated[list[int] | None, typer.Option(help="Tokens of the prefill; repeat for more; default three.")] = None,
    left_padding: Annotated[str, typer.Option(help="Positions of padding before each row: '0,3'.")] = "",
    json: Annotated[str, typer.Option(metavar="PATH", help="Write every row to this file.")] = "",
) -> None:
    """Compare prefill and steps with the whole pass, in each model and across two, with and without left padding.

    A model differs from itself where a step of the cache makes other logits than the whole pass.
    """
    found = _compared(model, other, tokens, split, left_padding)
    typer.echo(spoken(str(found)))
    if json:
        found.to_json(json)
    raise typer.Exit({"agrees": 0, "differs": 1}.get(found.verdict, 2))


def _compared(model: str, other: str, tokens: str, split: list[int] | None, left_padding: str) -> Decoding:
    # Frameworks are imported by the command that needs them, and NumPy too.
    from attention.cli.recordings import FILE, program_or_recording  # noqa: PLC0415
    from attention.parity.language_models import compare_decoding  # noqa: PLC0415

    recorded = model.endswith(FILE) or other.endswith(FILE)
    given = None if recorded and not tokens else tokens_of(tokens or "2,8:int64")
    models = program_or_recording(model), program_or_recording(other) if other else None
    return compare_decoding(*models, given, splits=split or None, left_padding=padding_of(left_padding))


def padding_of(text: str) -> list[int] | None:
    """Return the ints of `--left-padding`; None for none."""
    from attention.spec.errors import OptionError  # noqa: PLC0415 - NumPy is imported by the command that needs it

    try:
        return [int(word) for word in text.split(",") if word.strip()] or None
    except ValueError:
        raise OptionError(f"--left-padding {text!r} must be ints, such as 0,3") from None


def tokens_of(text: str) -> Any:
    """Return the array that `--tokens` names; what names several arrays is returned as it is, and refused later."""
    from attention.cli.loading import load_inputs  # noqa: PLC0415 - NumPy is imported by the command that needs it

    given: Any = load_inputs(text)
    if isinstance(given, (tuple, dict)) and len(given) == 1:
        given = next(iter(given.values())) if isinstance(given, dict) else given[0]
    return given
