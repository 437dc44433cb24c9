"""A torch model that takes and returns a cache as Hugging Face models do, behind the protocol of `cached_model`.

    outputs = model(tokens, past_key_values=cache, use_cache=True)        outputs.logits, outputs.past_key_values

Any cache class works: it is only passed on. `attention_mask` and `position_ids` describe padding, if the model takes them.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from attention.parity.adapters.user_errors import attributed_to
from attention.parity.blocks.torch_untouched import untouched
from attention.parity.language_models.cached_model import Decoder, float64, outputs_of
from attention.parity.numerics.dtype_rounding import rounding
from attention.parity.numerics.stochastic_rounding_torch import noisy
from attention.spec.errors import OptionError, SideFailed

CACHES = ("past_key_values", "past_key_value", "cache_params", "past", "cache", "state")
"""Names under which a model takes its cache; it returns it under the same name."""


class TorchDecoder(Decoder):
    """A torch module with a cache argument.

    Args:
        model: the module, which is run as it is and left as it was.
        call: further keywords of every call.
        cache: makes an empty cache; None lets the model make its own.

    Raises:
        OptionError: the model takes no cache.
    """

    def __init__(self, model: nn.Module, call: Mapping[str, Any], cache: Callable[[], Any] | None) -> None:
        self.model, self.call, self.make = model, dict(call), cache
        self.name = f"torch {type(model).__name__}"
        takes = inspect.signature(model.forward).parameters
        self.takes = set(takes)
        found = [name for name in CACHES if name in takes]
        if not found and any(each.kind is each.VAR_KEYWORD for each in takes.values()):
            # A wrapper that passes on all its arguments takes those of the wrapped model.
            found = [CACHES[0]]
            self.takes |= {"attention_mask", "position_ids", "use_cache"}
        if not found:
            raise OptionError(
                f"{self.name} takes {', '.join(takes)[:120]}, and must take a cache as {CACHES[0]}; a model of another "
                "kind can be described by a parity.CachedModel"
            )
        self.cache = found[0]
        # An encoder-decoder decodes with names of its own; what the encoder reads is in `call`.
        self.prefix = "decoder_" if "decoder_input_ids" in self.takes else ""
        self.takes_padding = f"{self.prefix}attention_mask" in self.takes
        self.device = next((x.device for x in (*model.parameters(), *model.buffers())), torch.device("cpu"))

    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        with self.running(), attributed_to(self.name):
            given = self._given(tokens, positions, positions) | ({"use_cache": False} if "use_cache" in self.takes else {})
            if not wide:
                return outputs_of(self.name, self._made(tokens, given))
            with noisy(None, rounding("float32")):
                return float64(self.name, self._made(tokens, given))

    def start(self, batch: int, length: int) -> Any:
        return (self.make() if self.make else None), np.zeros((batch, 0), np.int64)

    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        held, before = cache
        seen = np.concatenate([before, positions], axis=1)
        given = self._given(tokens, positions, seen) | ({"use_cache": True} if "use_cache" in self.takes else {})
        if held is not None:
            given[self.cache] = held
        made = self._made(tokens, given)
        held = made.get(self.cache) if isinstance(made, Mapping) else getattr(made, self.cache, None)
        if held is None and isinstance(made, tuple) and len(made) > 1:
            held = made[1]
        if held is None:
            raise SideFailed(f"output of {self.name} must hold its cache as {self.cache}: nothing was decoded with a cache")
        return outputs_of(self.name, made), (held, seen)

    def _given(self, tokens: np.ndarray, positions: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
        """Return the keywords of a call: the mask, and the positions if the model takes them, only where there is padding."""
        if not (seen < 0).any():
            return dict(self.call)
        given = {**self.call, f"{self.prefix}attention_mask": self._tensor((seen >= 0).astype(np.int64))}
        places = {f"{self.prefix}position_ids": self._tensor(np.maximum(positions, 0))}
        return given | {name: x for name, x in places.items() if name in self.takes}

    def _made(self, tokens: np.ndarray, given: Mapping[str, Any]) -> Any:
        if self.prefix:
            return self.model(decoder_input_ids=self._tensor(tokens), **given)
        return self.model(self._tensor(tokens), **given)

    @contextmanager
    def running(self) -> Iterator[None]:
        with untouched(self.model):
            yield

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)
