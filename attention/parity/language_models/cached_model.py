"""Models with a key/value cache, behind one protocol: the full forward pass, and the same tokens in pieces.

    whole(tokens) = outputs (B, T, ...)        start(B, T) = cache        step(cache, piece, positions) = outputs, cache

`CachedModel` is a model that its user describes by three functions. The other files of this package adapt a torch model with a
`past_key_values` argument, and Flax modules.
"""

# Models, caches and arrays are whatever a user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from attention.parity.adapters.user_errors import attributed_to
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.dtype_rounding import rounding
from attention.spec.errors import SideFailed
from attention.spec.options import FUNCTION, TEXT, Option, check_options, one_of


class Decoder(ABC):
    """A model of one framework that can be run whole and piece by piece.

    Attributes:
        name: what reports call it.
        takes_padding: whether a piece may hold padding, whose positions are -1.
        single: whether a piece is one token, so that there is no prefill.
    """

    name: str
    takes_padding: bool
    single: bool = False

    @abstractmethod
    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        """Return the outputs of the whole pass, (B, T, ...), without a cache; `wide` runs it in float64.

        Raises:
            SideFailed: the model raised, or it does not run in float64.
        """

    @abstractmethod
    def start(self, batch: int, length: int) -> Any:
        """Return an empty cache for so many rows and tokens."""

    @abstractmethod
    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        """Return the outputs of the next tokens, (B, t, ...), and the cache with them; positions are (B, t)."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Restore the state of the model after the body."""
        yield

    def decode(self, tokens: np.ndarray, positions: np.ndarray, split: int) -> np.ndarray:
        """Return the outputs of all tokens, (B, T, ...): a prefill of the first `split`, then one token at a time.

        Raises:
            SideFailed: the model raised.
        """
        with self.running(), attributed_to(self.name):
            cache, made = self.start(*tokens.shape[:2]), []
            for first, last in pieces(tokens.shape[1], split):
                outputs, cache = self.step(cache, tokens[:, first:last], positions[:, first:last])
                if outputs.shape[:2] != (tokens.shape[0], last - first):
                    raise SideFailed(
                        f"output of {self.name} {outputs.shape} must begin with (B, t) = {tokens[:, first:last].shape[:2]}"
                    )
                made.append(outputs)
        return np.concatenate(made, axis=1)


def pieces(length: int, split: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece begins and ends: the prefill, then one token each."""
    yield 0, split
    for t in range(split, length):
        yield t, t + 1


ANY = Option("any tree of arrays", lambda _: True)


@dataclass(frozen=True)
class CachedModel:
    """A model with a cache, as three functions of its user's.

        CachedModel(step, init_cache, whole, params)

    Args:
        step: `step(params, cache, tokens, positions)` returns `(outputs, cache)`: tokens are `(B, t)` ints or `(B, t, M)`
            floats, positions `(B, t)` ints, -1 at padding; outputs are `(B, t, V)`.
        init_cache: `init_cache(batch, length)` returns an empty cache for so many rows and tokens.
        whole: `whole(params, tokens, positions)` returns the outputs of all tokens at once, `(B, T, V)`.
        params: any tree of arrays, passed on to the functions; in JAX it is cast for the float64 run.
        framework: of the functions, "jax" or "torch": they receive tokens and positions as its arrays.
        takes_padding: whether positions may be -1.
        name: what reports call it.

    Raises:
        OptionError: a field is not what it must be.
    """

    step: Callable[..., Any]
    init_cache: Callable[..., Any]
    whole: Callable[..., Any]
    params: Any = field(default=None, repr=False)
    framework: str = "jax"
    takes_padding: bool = False
    name: str = ""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "step": FUNCTION,
        "init_cache": FUNCTION,
        "whole": FUNCTION,
        "framework": one_of("jax", "torch"),
        "name": TEXT,
    }

    def __post_init__(self) -> None:
        check_options(self, "CachedModel ")


class FunctionalDecoder(Decoder):
    """A `CachedModel` behind the protocol."""

    def __init__(self, model: CachedModel) -> None:
        self.model = model
        self.name = model.name or f"{model.framework} {getattr(model.step, '__name__', 'step')}"
        self.takes_padding = model.takes_padding

    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        with self.running(), attributed_to(self.name):
            if not wide:
                return outputs_of(self.name, self.model.whole(self.model.params, *self._native(tokens, positions)))
            return float64(self.name, self._whole_wide(tokens, positions))

    def _whole_wide(self, tokens: np.ndarray, positions: np.ndarray) -> Any:
        if self.model.framework == "torch":
            from attention.parity.numerics.stochastic_rounding_torch import noisy  # noqa: PLC0415 - only this needs torch

            with noisy(None, rounding("float32")):
                return self.model.whole(self.model.params, *self._native(tokens, positions))
        import jax  # noqa: PLC0415

        with jax.enable_x64(True):
            params = jax.tree.map(lambda x: np.asarray(x, np.float64) if _is_float(x) else x, self.model.params)
            given = (tokens.astype(np.float64) if is_float(tokens) else tokens), positions
            return np.asarray(outputs_of(self.name, self.model.whole(params, *map(jax.numpy.asarray, given))))

    def start(self, batch: int, length: int) -> Any:
        return self.model.init_cache(batch, length)

    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        made = self.model.step(self.model.params, cache, *self._native(tokens, positions))
        if not isinstance(made, tuple) or len(made) != 2:
            raise SideFailed(f"step of {self.name} must return (outputs, cache), and returned a {type(made).__name__}")
        return outputs_of(self.name, made[0]), made[1]

    @contextmanager
    def running(self) -> Iterator[None]:
        if self.model.framework != "torch":
            yield
            return
        import torch  # noqa: PLC0415

        from attention.parity.adapters.torch_program import same_draws  # noqa: PLC0415

        with torch.no_grad(), same_draws():
            yield

    def _native(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        if self.model.framework == "torch":
            import torch  # noqa: PLC0415

            return tuple(torch.from_numpy(np.array(array)) for array in arrays)
        import jax.numpy as jnp  # noqa: PLC0415

        return tuple(jnp.asarray(array) for array in arrays)


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape") and is_float(x)


def outputs_of(name: str, made: Any) -> np.ndarray:
    """Return the logits, or the hidden states, of a model's return value, as a NumPy array.

    Raises:
        SideFailed: there is no array of floats.
    """
    if isinstance(made, Mapping):
        made = next((made[key] for key in ("logits", "last_hidden_state") if key in made), made)
    for key in ("logits", "last_hidden_state"):
        made = getattr(made, key, made)
    if isinstance(made, (tuple, list)) and made:
        made = made[0]
    if not hasattr(made, "dtype") or not hasattr(made, "shape"):
        raise SideFailed(f"output of {name} is a {type(made).__name__}, and must be logits or hidden states, (B, t, ...)")
    if hasattr(made, "detach"):
        from attention.torch_impl.params import to_numpy  # noqa: PLC0415 - a tensor is there, so torch is too

        made = to_numpy(made)  # pyright: ignore[reportArgumentType] - it is a tensor
    array = np.asarray(made)
    if not is_float(array):
        raise SideFailed(f"output of {name} is {array.dtype}, and must be floats")
    return array


def float64(name: str, made: Any) -> np.ndarray:
    """Return outputs that were computed in float64.

    Raises:
        SideFailed: they were not, as where a layer casts to a dtype of its own.
    """
    array = outputs_of(name, made)
    if array.dtype != np.float64:
        raise SideFailed(f"{name} computes in {array.dtype} where it is given float64")
    return array
