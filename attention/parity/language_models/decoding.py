"""Compare decoding with a cache against the full forward pass, in each program and across the two.

    whole(tokens[row])        against        prefill(tokens[:, :split]), step, step, ...        with and without left padding

Every result is judged as logits are (`logits`): its distance from the float64 forward pass, divided by the distance of the
forward pass in the model's own dtype. The reference of a padded row is the forward pass of its tokens without padding.
"""

# Models come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.compare.recorded_model import RecordedModel, one_recording
from attention.parity.language_models.cached_model import CachedModel, Decoder, FunctionalDecoder
from attention.parity.language_models.decoded_tokens import checked_splits, tokens_of
from attention.parity.language_models.decoding_result import Decoding, DecodingRow
from attention.parity.language_models.logits import compare_logits
from attention.parity.language_models.recorded_decoder import RecordedDecoder
from attention.spec.errors import AttentionError, OptionError, ShapeError, SideFailed, shown
from attention.spec.numbers import is_count
from attention.spec.options import FUNCTION, MAPPING, Option, checked

COUNTS = Option(
    "a tuple of ints >= 0, or None",
    lambda value: value is None or (isinstance(value, (tuple, list)) and bool(value) and all(is_count(n, 0) for n in value)),
)
MAYBE = FUNCTION | ", or None"


@checked(splits=COUNTS, left_padding=COUNTS, torch_call=MAPPING, jax_call=MAPPING, torch_cache=MAYBE)
def compare_decoding(
    torch_side: Any,
    jax_side: Any,
    tokens: Any,
    *,
    splits: Sequence[int] | None = None,
    left_padding: Sequence[int] | None = None,
    torch_call: Mapping[str, Any] = {},
    jax_call: Mapping[str, Any] = {},
    torch_cache: Callable[[], Any] | None = None,
) -> Decoding:
    """Return the comparison of decoding with a cache and the full forward pass, of one model or of two.

    Args:
        torch_side: a torch module that takes and returns a cache as Hugging Face models do (`past_key_values`), or a
            `parity.CachedModel`; None compares the other side alone.
        jax_side: an NNX module whose layers have `decode` and `init_cache`; `(linen_module, variables)` whose attribute
            `decode` turns on the collection "cache"; or a `parity.CachedModel`; None compares the first side alone. Either
            side may be of either framework. Models are in evaluation mode, with equal weights if there are two. One of the
            two may be a `parity.RecordedModel`.
        tokens: ints `(B, T)`, or floats `(B, T, M)` for a layer, T at least 2, without padding. They run through the cache as
            they are: nothing is sampled. None for those of a recorded model, with its splits and its padding.
        splits: how many tokens the prefill has, each from 1 to T; None for 1, T // 2 and T - 1.
        left_padding: of B ints, the length of the padding before each row's tokens in a further run; None for no such
            run. A padded batch is `max(left_padding)` places longer; its padding holds the row's first token, masked.
        torch_call: further keywords of every call of the first program, such as `{"logits_to_keep": 0}`.
        jax_call: the same of the second program, such as `{"is_causal": True}`.
        torch_cache: makes an empty cache of the first program, such as `lambda: StaticCache(config, 64)`; None for its own.

    Returns:
        A row for each run: the whole passes of both sides beside each other, and each way of decoding.

    Raises:
        OptionError: a side has no cache that is known, or an option is out of its range.
        ShapeError: the tokens are not shaped so.
    """
    index = one_recording((torch_side, jax_side))
    if index is not None:
        golden = RecordedDecoder((torch_side, jax_side)[index])
        tokens, splits = golden.tokens if tokens is None else tokens, golden.splits if splits is None else splits
        left_padding = golden.padding if left_padding is None else left_padding
    tokens = tokens_of(tokens)
    splits = checked_splits(tokens, splits, left_padding)
    sides = [
        decoder_of(side, call, cache, tokens)
        for side, call, cache in ((torch_side, torch_call, torch_cache), (jax_side, jax_call, None))
        if side is not None
    ]
    if not sides:
        raise OptionError("torch_side and jax_side must not both be None")
    return Decoding(tuple(_rows(sides, tokens, splits, left_padding)))


def decoder_of(side: Any, call: Mapping[str, Any], cache: Callable[[], Any] | None, tokens: np.ndarray) -> Decoder:
    """Return a program behind the protocol of models with a cache.

    Raises:
        OptionError: it is of no kind that is known.
    """
    if isinstance(side, Decoder):
        return side
    if isinstance(side, RecordedModel):
        return RecordedDecoder(side)
    if isinstance(side, CachedModel):
        return FunctionalDecoder(side)
    # A framework that is not imported cannot have made the program.
    torch, flax = sys.modules.get("torch"), sys.modules.get("flax")
    if torch and isinstance(side, torch.nn.Module):
        from attention.parity.language_models.torch_cache import TorchDecoder  # noqa: PLC0415 - needs torch

        return TorchDecoder(side, call, cache)
    if flax:
        from attention.parity.language_models.flax_cache import LinenDecoder, NnxDecoder, linen, nnx  # noqa: PLC0415

        if isinstance(side, nnx.Module):
            return NnxDecoder(side, call)
        if isinstance(side, tuple) and len(side) == 2 and isinstance(side[0], linen.Module) and isinstance(side[1], Mapping):
            made = LinenDecoder(*side, call)
            made.width = tokens.shape[2] if tokens.ndim == 3 else None
            return made
    raise OptionError(
        f"side {shown(side)} must be a torch module with past_key_values, an NNX module with init_cache, (linen module, "
        "variables), or a parity.CachedModel"
    )


@dataclass
class Whole:
    """The full forward pass of a program, the reference of its decoding.

    Attributes:
        made: outputs in its own dtype, (B, T, ...); None if it failed.
        exact: in float64; None where that cannot be had.
        failure: why there is none of them, or "".
    """

    made: np.ndarray | None
    exact: np.ndarray | None
    failure: str = ""


def whole_pass(side: Decoder, tokens: np.ndarray) -> Whole:
    """Return the full forward pass of a program, in its own dtype and in float64."""
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape[:2])
    try:
        made = side.whole(tokens, positions)
    except AttentionError as error:
        return Whole(None, None, str(error))
    try:
        return Whole(made, side.whole(tokens, positions, wide=True))
    except (AttentionError, MemoryError) as error:
        return Whole(made, None, str(error))


def _rows(
    sides: Sequence[Decoder], tokens: np.ndarray, splits: Sequence[int], left_padding: Sequence[int] | None
) -> Iterator[DecodingRow]:
    wholes = [whole_pass(side, tokens) for side in sides]
    # Of equal models, one float64 run is the measure of both.
    exact = next((whole.exact for whole in wholes if whole.exact is not None), None)
    for side, whole in zip(sides, wholes, strict=True):
        if whole.made is None:
            yield DecodingRow(side.name, "whole pass", failure=whole.failure)
    known = [(side, whole) for side, whole in zip(sides, wholes, strict=True) if whole.made is not None]
    if len(known) == 2:
        # The reference is the program with the float64 run: a wrong program must not explain its own error.
        (first, one), (second, other) = known[::-1] if known[0][1].exact is None and exact is not None else known
        yield _judged(second.name, f"whole pass beside that of {first.name}", other.made, one, exact)
    for side, whole in known:
        # A model that differs from the other as a whole is still measured by its own float64.
        own = whole.exact if whole.exact is not None or len(sides) == 1 else exact
        made = yield from _decoded(side, whole, own, tokens, splits, left_padding)
        measured = exact is None or known[0][1].exact is not None
        if made is not None and len(known) == 2 and side is known[1][0] and measured:
            yield _judged(side.name, f"decoded, beside the whole pass of {known[0][0].name}", made, known[0][1], exact)


def _decoded(
    side: Decoder,
    whole: Whole,
    exact: np.ndarray | None,
    tokens: np.ndarray,
    splits: Sequence[int],
    left_padding: Sequence[int] | None,
) -> Any:
    """Yield a row for each way of decoding, and return the outputs of the first."""
    batch, length = tokens.shape[:2]
    first: np.ndarray | None = None
    for padding in (None, left_padding):
        if padding is None and first is not None:
            continue
        for split in (1,) if side.single else splits:
            run = "one token at a time" if split == 1 else f"prefill {split} + {length - split} steps"
            run += "" if padding is None else f", left padding {', '.join(map(str, padding))}"
            if padding is not None and not side.takes_padding:
                yield DecodingRow(side.name, run, failure="it takes no padding, so that this run was left out")
                continue
            try:
                made = padded(side, tokens, split, padding or (0,) * batch)
            except AttentionError as error:
                yield DecodingRow(side.name, run, failure=str(error))
                continue
            first = made if first is None and padding is None else first
            yield _judged(side.name, run, made, whole, exact)
    return first


def padded(side: Decoder, tokens: np.ndarray, split: int, padding: Sequence[int]) -> np.ndarray:
    """Return the outputs of the tokens, decoded with places of padding before them."""
    batch, length = tokens.shape[:2]
    most = max(padding)
    places = np.arange(most + length) - np.asarray(padding)[:, None]
    # Rows with less padding end earlier; later tokens are ignored.
    positions = np.where(places < 0, -1, places)
    filled = np.take_along_axis(tokens, np.clip(places, 0, length - 1).reshape(batch, -1, *[1] * (tokens.ndim - 2)), axis=1)
    made = side.decode(filled, positions, split + most)
    return np.stack([made[row, start : start + length] for row, start in enumerate(padding)])


def _judged(name: str, run: str, made: np.ndarray | None, whole: Whole, exact: np.ndarray | None) -> DecodingRow:
    assert whole.made is not None  # noqa: S101 - for the type checker
    flat = [None if x is None else x.reshape(*x.shape[:2], -1) for x in (made, whole.made, exact)]
    try:
        return DecodingRow(name, run, compare_logits(flat[0], flat[1], exact=flat[2], top_k=(1,), name=f"{name}, {run}"))
    except (ShapeError, SideFailed) as error:
        return DecodingRow(name, run, failure=str(error))
