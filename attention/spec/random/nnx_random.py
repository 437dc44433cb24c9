"""The random streams of Flax NNX in NumPy, and the masks of its Dropout.

    stream()       = fold_in(key, count), and count goes up by one        stream.fork() = a stream of that key
    rngs.dropout   = the stream of that name, or "default"                a seed is key(seed), whatever the stream's name
    nnx.Dropout(rate, rngs=rngs): stream = rngs.dropout.fork(); each call keeps bernoulli(stream(), 1 - rate, shape)

A torch program that draws keys in the order of the NNX program, from streams of the same seeds, drops the same numbers
and, by nnx_initializers.py, begins with the same weights. As in flax 0.12.

>>> from attention.spec.random import nnx_random
>>> rngs = nnx_random.Rngs(0, dropout=1)                             # nnx.Rngs(0, dropout=1)
>>> nnx_random.dropout_mask(rngs.dropout.fork(), 0.5, (4,)).shape  # what nnx.Dropout(0.5, rngs=rngs) keeps of four
(4,)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attention.spec.axes import Array
from attention.spec.errors import OptionError, UnknownName, shown
from attention.spec.numbers import is_finite
from attention.spec.random import jax_random
from attention.spec.random.counter_bits import Key
from attention.spec.random.jax_random import Shape


class RngStream:
    """Keys of one name, one after another.

    Args:
        key: an int, a key, or the two words of one.

    Attributes:
        key: what all are made of.
        count: how many were drawn.
    """

    def __init__(self, key: Array) -> None:
        self.key: Key = jax_random.key(key) if isinstance(key, (int, np.integer)) else jax_random.from_key_data(key)
        self.count = 0

    def __call__(self) -> Key:
        """Return the next key."""
        self.count += 1
        return jax_random.fold_in(self.key, self.count - 1)

    def fork(self) -> RngStream:
        """Return a stream of the next key."""
        return RngStream(self())

    def split(self, num: int) -> tuple[RngStream, ...]:
        """Return a stream for each child of the next key: those that NNX holds in one, with an axis."""
        return tuple(RngStream(child) for child in jax_random.split(self(), num))


class Rngs:
    """Streams by name; one that is not there is the stream `default`.

    Args:
        default: the seed or key of the stream "default", or all streams by name.
        streams: by name; each an int, a key or a stream, whose key is taken and whose count is not.

    Raises:
        UnknownName: neither the stream nor `default` exists.
    """

    def __init__(self, default: Array = None, **streams: Array) -> None:
        if isinstance(default, dict):
            streams = {**default, **streams}
        elif default is not None:
            streams["default"] = default
        self._streams = {name: RngStream(x.key if isinstance(x, RngStream) else x) for name, x in streams.items()}

    def __getitem__(self, name: str) -> RngStream:
        """Return the stream of this name, or `default`."""
        found = self._streams.get(name, self._streams.get("default"))
        if found is None:
            raise UnknownName(
                f"stream {shown(name)} must be one of {', '.join(self._streams) or 'none'}, or there be a default"
            )
        return found

    def __getattr__(self, name: str) -> RngStream:
        # Attributes that Python itself looks up, such as for copying, are not streams.
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __call__(self) -> Key:
        """Return the next key of `default`."""
        return self["default"]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __contains__(self, name: str) -> bool:
        return name in self._streams

    def fork(self) -> Rngs:
        """Return streams of each stream's next key."""
        return Rngs({name: stream.fork() for name, stream in self._streams.items()})

    def split(self, num: int) -> tuple[Rngs, ...]:
        """Return this many sets of streams: what each member of an ensemble has that is made under `nnx.vmap`."""
        parts = {name: stream.split(num) for name, stream in self._streams.items()}
        return tuple(Rngs({name: found[i] for name, found in parts.items()}) for i in range(num))


Drawn = Rngs | RngStream | Key
"""Where a key comes from: the next one of a stream, or this one."""


def next_key(rngs: Drawn, name: str) -> Key:
    """Return the next key of the named stream, of the stream, or the key itself."""
    if isinstance(rngs, Rngs):
        return rngs[name]()
    return rngs() if isinstance(rngs, RngStream) else jax_random.from_key_data(rngs)


def mask_shape(rate: float, shape: Shape, broadcast_dims: Sequence[int] = ()) -> Shape:
    """Return the shape in which `nnx.Dropout` draws: 1 along the axes that share a mask.

    Raises:
        OptionError: a rate outside [0, 1], or no such axis.
    """
    if not (is_finite(rate) and 0.0 <= rate <= 1.0):
        raise OptionError(f"rate {rate} must be in [0, 1]")
    wrong = [dim for dim in broadcast_dims if not -len(shape) <= dim < len(shape)]
    if wrong:
        raise OptionError(f"broadcast_dims {tuple(broadcast_dims)} must be axes of {shape}")
    shared = {dim % len(shape) for dim in broadcast_dims}
    return tuple(1 if axis in shared else n for axis, n in enumerate(shape))


def dropout_mask(rngs: Drawn, rate: float, shape: Shape, broadcast_dims: Sequence[int] = ()) -> np.ndarray:
    """Return what `nnx.Dropout(rate, broadcast_dims)` keeps of an input: True where it is kept, and then over 1 - rate.

    Args:
        rngs: where the key comes from, as `rngs` of its call; a layer made with `rngs` calls `rngs.dropout.fork()`.
        rate: probability of dropping, in [0, 1]; at 0 and 1 no key is drawn.
        shape: of the input.
        broadcast_dims: axes along which one mask holds.

    Raises:
        OptionError: a rate outside [0, 1], or no such axis.
    """
    drawn = mask_shape(rate, shape, broadcast_dims)
    if rate in (0.0, 1.0):
        return np.full(shape, rate == 0.0)
    return np.broadcast_to(jax_random.bernoulli(next_key(rngs, "dropout"), 1.0 - rate, drawn), shape)
