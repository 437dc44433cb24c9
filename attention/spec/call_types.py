"""Call signatures of layers and of `dot_product_attention` for type checkers, generic in the array type of a backend.

f(x)                                      -> output
f(x, return_intermediates=("weights",))   -> output, intermediates
f(x, cache=cache)                         -> output, the new cache
"""

from __future__ import annotations

from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from attention.spec.axes import Array
from attention.spec.cache import Cache
from attention.spec.masks.algebra import Mask
from attention.spec.scores import ScoreMod

A = TypeVar("A")
"""The array type of a framework."""
C = TypeVar("C", bound=Cache)
Names = tuple[str, *tuple[str, ...]]
"""One or more names of intermediates."""


class AttendOptions(TypedDict, Generic[A], total=False):
    """Options of `dot_product_attention` that do not change the return type."""

    mask: Mask | None
    bias: A | None
    scale: float | None
    softcap: float | None
    score_mod: ScoreMod | None
    sinks: A | None
    dropout_rate: float
    dropout_seed: Any
    precision: str | None
    implementation: str


class LayerOptions(TypedDict, total=False):
    """Options of every attention layer that do not change the return type."""

    mask: Mask | None
    dropout_seed: Any
    implementation: str


class PlacedOptions(LayerOptions, total=False):
    """Options of a layer with positions for queries and keys."""

    query_positions: Array
    key_positions: Array


class MultiHeadOptions(PlacedOptions, Generic[A], total=False):
    """Options of `MultiHeadAttention`."""

    bias: A | None


class BlockOptions(LayerOptions, total=False):
    """Options of blocks and stacks."""

    positions: Array


class DecoderOptions(BlockOptions, total=False):
    """Options of decoder blocks and stacks."""

    memory_mask: Mask | None


class LatentOptions(BlockOptions, total=False):
    """Options of `LatentAttention`."""

    form: str


class MultiHeadCall(Protocol[A]):
    """The call of `MultiHeadAttention`."""

    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        cache: None = ..., return_intermediates: tuple[()] = ..., **options: Unpack[MultiHeadOptions[A]],
    ) -> A: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        cache: None = ..., return_intermediates: Names, **options: Unpack[MultiHeadOptions[A]],
    ) -> tuple[A, dict[str, A]]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        cache: C, return_intermediates: tuple[()] = ..., **options: Unpack[MultiHeadOptions[A]],
    ) -> tuple[A, C]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        cache: C, return_intermediates: Names, **options: Unpack[MultiHeadOptions[A]],
    ) -> tuple[A, dict[str, A], C]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        cache: Cache | None = ..., return_intermediates: tuple[str, ...] = ..., **options: Unpack[MultiHeadOptions[A]],
    ) -> A | tuple[A, dict[str, A]] | tuple[A, Cache] | tuple[A, dict[str, A], Cache]: ...  # fmt: skip


class LatentCall(Protocol[A]):
    """The call of `LatentAttention`."""

    @overload
    def __call__(
        self, x: A, *, cache: None = ..., return_intermediates: tuple[()] = ..., **options: Unpack[LatentOptions]
    ) -> A: ...
    @overload
    def __call__(
        self, x: A, *, cache: None = ..., return_intermediates: Names, **options: Unpack[LatentOptions]
    ) -> tuple[A, dict[str, A]]: ...
    @overload
    def __call__(
        self, x: A, *, cache: C, return_intermediates: tuple[()] = ..., **options: Unpack[LatentOptions]
    ) -> tuple[A, C]: ...
    @overload
    def __call__(
        self, x: A, *, cache: C, return_intermediates: Names, **options: Unpack[LatentOptions]
    ) -> tuple[A, dict[str, A], C]: ...
    @overload
    def __call__(
        self, x: A, *, cache: Cache | None = ..., return_intermediates: tuple[str, ...] = ..., **options: Unpack[LatentOptions]
    ) -> A | tuple[A, dict[str, A]] | tuple[A, Cache] | tuple[A, dict[str, A], Cache]: ...


class DifferentialCall(Protocol[A]):
    """The call of `DifferentialAttention`."""

    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        return_intermediates: tuple[()] = ..., **options: Unpack[PlacedOptions],
    ) -> A: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        return_intermediates: Names, **options: Unpack[PlacedOptions],
    ) -> tuple[A, dict[str, A]]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *,
        return_intermediates: tuple[str, ...], **options: Unpack[PlacedOptions],
    ) -> A | tuple[A, dict[str, A]]: ...  # fmt: skip


class AlignmentCall(Protocol[A]):
    """The call of `AlignmentAttention`: the weights are an output beside the context."""

    @overload
    def __call__(
        self, query: A, key: A, value: A | None = ..., *, return_intermediates: tuple[()] = ..., **options: Unpack[LayerOptions]
    ) -> tuple[A, A]: ...
    @overload
    def __call__(
        self, query: A, key: A, value: A | None = ..., *, return_intermediates: Names, **options: Unpack[LayerOptions]
    ) -> tuple[A, A, dict[str, A]]: ...
    @overload
    def __call__(
        self, query: A, key: A, value: A | None = ..., *, return_intermediates: tuple[str, ...], **options: Unpack[LayerOptions]
    ) -> tuple[A, A] | tuple[A, A, dict[str, A]]: ...


class LinearCall(Protocol[A]):
    """The call of `LinearAttention`: with a state, or with `return_state`, it returns the new state too."""

    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *, mask: Mask | None = ...,
        state: None = ..., return_state: Literal[False] = ..., implementation: str = ...,
    ) -> A: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *, mask: Mask | None = ...,
        state: A | None = ..., return_state: Literal[True], implementation: str = ...,
    ) -> tuple[A, A]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *, mask: Mask | None = ...,
        state: A, return_state: bool = ..., implementation: str = ...,
    ) -> tuple[A, A]: ...  # fmt: skip
    @overload
    def __call__(
        self, query: A, key: A | None = ..., value: A | None = ..., *, mask: Mask | None = ...,
        state: A | None = ..., return_state: bool = ..., implementation: str = ...,
    ) -> A | tuple[A, A]: ...  # fmt: skip


class FeedForwardCall(Protocol[A]):
    """The call of `FeedForward`."""

    def __call__(self, x: A, *, dropout_seed: Any = ...) -> A: ...


class EncoderCall(Protocol[A]):
    """The call of `EncoderBlock` and `Encoder`."""

    def __call__(self, x: A, **options: Unpack[BlockOptions]) -> A: ...


class DecoderCall(Protocol[A]):
    """The call of `DecoderBlock` and `Decoder`."""

    def __call__(self, x: A, memory: A, **options: Unpack[DecoderOptions]) -> A: ...


def split(attended: Any) -> tuple[Any, dict[str, Any] | None]:
    """Split a result of `dot_product_attention` into context and intermediates; None if none were named."""
    return cast("tuple[Any, dict[str, Any]]", attended) if isinstance(attended, tuple) else (attended, None)


def joined(output: Any, *more: Any) -> Any:
    """Return the output alone, or a tuple of the output and those of `more` that are not None."""
    others = tuple(x for x in more if x is not None)
    return (output, *others) if others else output
