"""What a translator writes of a text, and where it looked, in either framework.

    y_t = argmax logits(y_0 ... y_{t-1}, source)        until the end, or until there is no more room

`writing_torch.py` and `writing_jax.py` do it, each in its framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples import heatmap
from examples.translation import writing_jax, writing_torch
from examples.translation.corpus import Corpus, Tokens

WRITE = {"torch": writing_torch.write, "jax": writing_jax.write}
LOSSES = {"torch": writing_torch.loss, "jax": writing_jax.loss}


def write(backend: str, model: Any, corpus: Corpus, texts: Sequence[Tokens]) -> list[heatmap.HeatMap]:
    """Return what a trained model writes of each text, and where it looked."""
    source, lengths = corpus.source(texts)
    numbers, looks = WRITE[backend](model, source, lengths, corpus.taught.target.shape[1])
    written = [corpus.said.decode(row) for row in numbers]
    return [
        heatmap.HeatMap(look[: len(words), : len(text)], text, words, backend)
        for text, words, look in zip(texts, written, looks, strict=True)
    ]


def draw(corpus: Corpus, texts: Sequence[Tokens], models: Mapping[str, Any], folder: Path) -> None:
    """Draw where the model of each backend looked, a row each."""
    maps = [write(backend, model, corpus, texts) for backend, model in models.items()]
    heatmap.draw(maps, folder / "alignment.png", heatmap.apart(*maps))
