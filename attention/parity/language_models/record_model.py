"""Record a model for another machine: its blocks and logits on inputs, its decoding on tokens.

here     record_model("golden.safetensors", torch_model, {"input_ids": ids}, tokens=ids)
there    layerwise(recorded_model("golden.safetensors"), port)
"""

# Models come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attention.parity.adapters.inputs import call_of
from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.untouched import own_draws
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run
from attention.parity.blocks.layerwise import instrumented
from attention.parity.compare.recording_file import Recording, write
from attention.parity.compare.replayed_program import encoded
from attention.parity.language_models.decoded_tokens import checked_splits, tokens_of
from attention.parity.language_models.decoding import COUNTS, MAYBE, decoder_of, padded, whole_pass
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.dtype_rounding import rounding
from attention.spec.errors import AttentionError, OptionError, SideFailed
from attention.spec.options import FUNCTION, MAPPING, PATH, checked

NO_CALL: dict[str, Any] = {"call": {"args": {"tuple": []}, "kwargs": {"dict": {}}}, "blocks": []}


@checked(path=PATH, splits=COUNTS, left_padding=COUNTS, decode_call=MAPPING, cache=MAYBE, progress=FUNCTION)
def record_model(
    path: str | os.PathLike[str],
    model: Any,
    inputs: Any = None,
    *,
    tokens: Any = None,
    splits: Sequence[int] | None = None,
    left_padding: Sequence[int] | None = None,
    decode_call: Mapping[str, Any] = {},
    cache: Callable[[], Any] | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> None:
    """Write what a model makes to a file, by which another model is judged on another machine (see `recorded_model`).

    The file holds the parameters, the outputs, in float64 too where the model runs in it, and for each block what it received
    and returned. It is as large as the model.

    Args:
        path: the file, such as "golden.safetensors".
        model: as `layerwise` takes it, in evaluation mode.
        inputs: as `layerwise` takes them; None records the decoding alone.
        tokens: to be decoded, as `compare_decoding` takes them; None records no decoding.
        splits: as `compare_decoding`.
        left_padding: as `compare_decoding`.
        decode_call: further keywords of every call of the decoding.
        cache: makes an empty cache, as the `torch_cache` of `compare_decoding`.
        progress: called with the path of each block before it is recorded.

    Raises:
        OptionError: neither inputs nor tokens, a model of a kind whose parts cannot be seen, or an option that no file holds.
        ShapeError: the tokens are not shaped so.
        SideFailed: the model raised.
        FileError: the path cannot be written.
    """
    if inputs is None and tokens is None:
        raise OptionError("inputs None must be given, or tokens")
    arrays: dict[str, Arrays] = {}
    with own_draws():
        facts = dict(NO_CALL) if inputs is None else _blocks(arrays, model, call_of(inputs), progress)
        facts |= {"decoding": [], "takes_padding": False, "single": False}
        if tokens is not None:
            name, described = _decoding(arrays, model, tokens, splits, left_padding, decode_call, cache)
            facts = {"side": "torch" if hasattr(model, "named_parameters") else "jax", "name": name, **facts, **described}
    flat = {f"{group}/{name}": x for group, held in arrays.items() for name, x in held.items()}
    write(path, Recording("model", facts, flat))


def _blocks(arrays: dict[str, Arrays], model: Any, call: Call, progress: Callable[[str], object]) -> dict[str, Any]:
    """Add the outputs of the whole model and its blocks, and return the notes of the recording."""
    side = instrumented(model, call)
    run = side.record(call, set(side.parts))
    described: list[dict[str, Any]] = []
    for path in side.parts:
        received = run.received[path].leaves if path in run.received else {}
        if received:
            _ = progress(path)
            arrays[f"received/{len(described)}"], arrays[f"returned/{len(described)}"] = received, _returned(side, path, run)
            described.append({"path": path, "calls": run.calls[path]})
    arrays |= {"inputs": call.leaves, "params": side.program.params, "outputs": run.outputs, "exact": _exact(side, call, run)}
    return {"side": side.program.framework, "name": side.program.name, "call": encoded(call), "blocks": described}


def _returned(side: InstrumentedModel, path: str, run: Run) -> Arrays:
    received = run.received[path]
    made = side.part(path, received, list(received.leaves)).run(Call(tuple(received.leaves.values())))
    return {name: x for name, x in made.outputs.items() if is_float(x) or x.dtype.kind in "iub"}


def _exact(side: InstrumentedModel, call: Call, run: Run) -> Arrays:
    """Return the outputs of the whole model in float64; none where it does not run in it."""
    try:
        made = (
            side.perturbed(call, None, rounding("float32"))
            if side.perturbs
            else side.program.run(call, dtype="float64").outputs
        )
    except (SideFailed, MemoryError):
        return {}
    same = {name: x.shape for name, x in made.items()} == {name: x.shape for name, x in run.outputs.items()}
    return {name: x.astype(np.float64) if is_float(x) else x for name, x in made.items()} if same else {}


def _decoding(
    arrays: dict[str, Arrays],
    model: Any,
    tokens: Any,
    splits: Sequence[int] | None,
    left_padding: Sequence[int] | None,
    call: Mapping[str, Any],
    cache: Callable[[], Any] | None,
) -> tuple[str, dict[str, Any]]:
    """Add the outputs of decoding, and return the model's name and the notes of the recording."""
    tokens = tokens_of(tokens)
    side = decoder_of(model, call, cache, tokens)
    counts = checked_splits(tokens, splits, left_padding)
    whole = whole_pass(side, tokens)
    if whole.made is None:
        raise SideFailed(whole.failure)
    held: Arrays = {"tokens": tokens, "whole": whole.made} | ({} if whole.exact is None else {"exact": whole.exact})
    described: list[dict[str, Any]] = []
    for padding in (None, *([tuple(left_padding)] if left_padding is not None and side.takes_padding else [])):
        for split in (1,) if side.single else counts:
            run: dict[str, Any] = {"split": split, "padding": None if padding is None else list(padding), "failure": ""}
            try:
                held[str(len(described))] = padded(side, tokens, split, padding or (0,) * len(tokens))
            except AttentionError as error:
                run["failure"] = str(error)
            described.append(run)
    arrays["decoding"] = held
    return side.name, {"decoding": described, "takes_padding": side.takes_padding, "single": side.single}
