"""Sampling: a text written token by token, the same one by every backend.

    next = argmax_v  logits_v / temperature + g_v        g_v = -log(-log u_v),  u_v uniform in (0, 1)
    next = argmax_v  logits_v                            temperature 0

The first is a draw from softmax(logits / temperature). The noise g of a place depends on the seed, the place and the token
alone, by the generator that draws first weights and dropout: integers, equal everywhere. Logits of two frameworks differ in
their last digits, so two texts part only where the two best sums are as near each other as that: see `Written.margin`.

References:
    Gumbel, Statistical theory of extreme values, 1954; Maddison et al., "A* sampling", NIPS 2014 (the argmax is a draw).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attention.spec import random

Reader = Callable[[Sequence[int]], np.ndarray]
"""Told the next tokens of a text, returns the logits `(V,)` of what follows them: `reader` of either backend."""


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        tokens: those that it chose.
        margin: by how much of a logit, at the closest call, the token that was chosen beat the next best one.
    """

    tokens: tuple[int, ...]
    margin: float


def write(
    read: Reader, prompt: Sequence[int], count: int, *, temperature: float = 0.0, seed: int = 0, end: int | None = None
) -> Written:
    """Return how a model goes on from a prompt.

    Args:
        read: the model, told nothing yet.
        prompt: tokens, at least one.
        count: the most tokens to write.
        temperature: 0 takes the likeliest token, 1 draws from the model's own chances.
        seed: of the draws.
        end: a token after which nothing more is written, or None.
    """
    written: list[int] = []
    margin, logits = np.inf, read(prompt)
    for place in range(len(prompt), len(prompt) + count):
        sums = logits.astype(np.float64)
        if temperature:
            sums = sums / temperature + gumbel(seed, place, len(sums))
        token = int(np.argmax(sums))
        margin = min(margin, (temperature or 1.0) * float(sums[token] - np.partition(sums, -2)[-2]))
        written.append(token)
        if token == end or len(written) == count:
            break
        logits = read([token])
    return Written(tuple(written), margin)


def gumbel(seed: int, place: int, count: int) -> np.ndarray:
    """Return the noise `(count,)` float64 of one place of a text.

    >>> bool(abs(gumbel(0, 5, 100_000).mean() - np.euler_gamma) < 0.01)
    True
    """
    of = random.fold_in(random.key(seed), place)
    # The midpoints of the generator's steps, for neither log takes 0 or 1.
    uniform = (random.mantissa(of, np.arange(count, dtype=np.int64)) + 0.5) / 2.0**23
    return -np.log(-np.log(uniform))
