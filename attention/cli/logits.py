"""`attention logits`: compare the logits of two language models, from files or from two programs.

attention logits ours.npy theirs.npy --exact exact.npy
attention logits port.py:model original.py:model --inputs ids=2,16:int64
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attention.cli.application import ARRAYS, PROGRAM, Command, app
from attention.cli.wording import spoken

if TYPE_CHECKING:
    from attention.parity.language_models import LogitsComparison

FILES = (".npy", ".npz", ".safetensors")
LOGITS = f"A .npy, .npz or .safetensors file, or a program: {PROGRAM}"


@app.command(cls=Command)
def logits(
    actual: Annotated[str, typer.Argument(metavar="ACTUAL", help=f"The logits in question. {LOGITS}")],
    expected: Annotated[str, typer.Argument(metavar="EXPECTED", help="The logits that they should equal, in the same way.")],
    exact: Annotated[str, typer.Option(help="A file of the logits in float64; of two programs, the second is run so.")] = "",
    inputs: Annotated[str, typer.Option(help=f"Of two programs: {ARRAYS}")] = "",
    key: Annotated[str, typer.Option(help="Which array of a file, or output of a program, holds the logits.")] = "",
    mask: Annotated[str, typer.Option(help="A file of the positions that count: (..., T), 1 or True at those.")] = "",
    labels: Annotated[str, typer.Option(help="A file of the tokens that follow each position, -100 for none.")] = "",
    dtype: Annotated[str, typer.Option(help="What the models compute in; default that of the logits.")] = "",
    json: Annotated[str, typer.Option(metavar="PATH", help="Write every number to this file.")] = "",
    plot: Annotated[str, typer.Option(metavar="PATH", help="Draw error and KL along the positions to this picture.")] = "",
) -> None:
    """Compare logits position by position: errors, KL divergence, top-k agreement, argmax flips, perplexity.

    With --exact, the float64 logits of either model, the error is compared with what rounding explains; without it the verdict
    may be "cannot tell".
    """
    found = compared(actual, expected, exact, inputs, key, mask, labels, dtype)
    show(found, json, plot)
    raise typer.Exit(exit_code(found))


def show(found: LogitsComparison, json: str, plot: str = "") -> None:
    """Print a comparison, and write it to the files that are named."""
    typer.echo(spoken(str(found)))
    if json:
        found.to_json(json)
    if plot:
        found.plot(plot)


def exit_code(found: LogitsComparison) -> int:
    """Return 0 if the logits agree, 1 if they differ, 2 if it cannot be told."""
    return {"agrees": 0, "differs": 1}.get(found.verdict, 2)


def compared(
    actual: str,
    expected: str,
    exact: str = "",
    inputs: str = "",
    key: str = "",
    mask: str = "",
    labels: str = "",
    dtype: str = "",
    frameworks: tuple[str, str] = ("jax", "jax"),
) -> LogitsComparison:
    """Return the comparison of two files or two programs; `frameworks` are those of plain functions."""
    from attention.cli.recordings import is_recording  # noqa: PLC0415
    from attention.parity.language_models import compare_logits  # noqa: PLC0415 - NumPy is imported by the command that needs it
    from attention.spec.errors import OptionError  # noqa: PLC0415

    recorded = [is_recording(side) for side in (actual, expected)]
    files = [side.endswith(FILES) and not of for side, of in zip((actual, expected), recorded, strict=True)]
    if files[0] != files[1]:
        raise OptionError(f"ACTUAL {actual!r} and EXPECTED {expected!r} must be two files or two programs")
    if files[0] and inputs:
        raise OptionError("--inputs must come with two programs")
    stored = _recorded if any(recorded) else partial(_made, frameworks=frameworks)
    sides = _stored(actual, expected, exact, key) if files[0] else stored(actual, expected, exact, inputs, key)
    valid = _array(mask).astype(bool) if mask else None
    following = _array(labels) if labels else None
    return compare_logits(**sides, mask=valid, labels=following, dtype=dtype or None, name=f"{actual} and {expected}")


def _stored(actual: str, expected: str, exact: str, key: str) -> dict[str, Any]:
    found = {"actual": _array(actual, key), "expected": _array(expected, key)}
    return {**found, "exact": _array(exact, key)} if exact else found


def _made(
    actual: str, expected: str, exact: str, inputs: str, key: str, frameworks: tuple[str, str] = ("jax", "jax")
) -> dict[str, Any]:
    """Return the logits of two programs in their own dtype, and of the second in float64 where no file has them."""
    from attention.cli.loading import load_inputs, program  # noqa: PLC0415
    from attention.parity import adapters  # noqa: PLC0415
    from attention.parity.adapters.inputs import call_of  # noqa: PLC0415

    call = call_of(load_inputs(inputs) if inputs else ())
    first, second = (
        adapters.program(program(each), framework) for each, framework in zip((actual, expected), frameworks, strict=True)
    )
    wide = _array(exact, key) if exact else _chosen(second.run(call, dtype="float64").outputs, expected, key)
    made = {name: _chosen(each.run(call).outputs, each.name, key) for name, each in (("actual", first), ("expected", second))}
    return {**made, "exact": wide}


def _recorded(actual: str, expected: str, exact: str, inputs: str, key: str) -> dict[str, Any]:
    """Return the logits of a recorded model and of a program on the recorded inputs, and of the program in float64."""
    from attention.cli.recordings import program_or_recording  # noqa: PLC0415
    from attention.parity import adapters  # noqa: PLC0415
    from attention.parity.compare.recorded_model import RecordedModel, one_recording  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    if inputs:
        raise OptionError("--inputs must come with two programs: a recording has its own")
    sides = [program_or_recording(spec) for spec in (actual, expected)]
    golden: RecordedModel = sides[one_recording(sides) or 0]
    call = golden.program.call
    run = adapters.program(next(side for side in sides if side is not golden))
    logits = _chosen(golden.program.made.outputs, golden.name, key), _chosen(run.run(call).outputs, run.name, key)
    if not exact and not golden.program.exact:
        # The model that is expected is the one whose float64 run is the measure.
        return {
            "actual": logits[0],
            "expected": logits[1],
            "exact": _chosen(run.run(call, dtype="float64").outputs, run.name, key),
        }
    wide = _array(exact, key) if exact else _chosen(golden.program.exact, golden.name, key)
    return {"actual": logits[1], "expected": logits[0], "exact": wide}


def _array(path: str, key: str = "") -> Any:
    from attention.cli.loading import load_inputs  # noqa: PLC0415
    from attention.spec.errors import OptionError  # noqa: PLC0415

    if not path.endswith(FILES):
        raise OptionError(f"file {path!r} must end in {', '.join(FILES)}")
    found = load_inputs(path)
    return _chosen(dict(enumerate(found)) if isinstance(found, tuple) else found, path, key)


def _chosen(found: Any, where: str, key: str) -> Any:
    """Return the one array, the one that is named, or the one called logits.

    Raises:
        UnknownName: it is not there, or there are several and none is named.
    """
    from attention.spec.errors import UnknownName  # noqa: PLC0415

    if not isinstance(found, Mapping):
        return found
    named = {str(name): array for name, array in found.items()}
    wanted = [key, f"output.{key}"] if key else ["logits", "output.logits", *(named if len(named) == 1 else ())]
    for name in wanted:
        if name in named:
            return named[name]
    raise UnknownName(f"--key {key!r} of {where} must be one of {', '.join(list(named)[:16])}")
