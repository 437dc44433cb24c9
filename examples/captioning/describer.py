"""The describer: a writer that looks at the image again for every word.

    seen = eye(patches)        h[0] = tanh(begin seen[whole])        h[t] = writer(word[t - 1], h[t - 1])
    context[t], a[t] = attention(h[t], seen[patches])        word[t] ~ softmax(readout(tanh(mix [h[t], context[t]])))

`a[t]`, over the places of the image, is where the writer looks for its word t. It looks after its state and before its word,
so all the words of a known caption are one call.

References:
    Xu et al., "Show, attend and tell", arXiv:1502.03044; Luong et al., arXiv:1508.04025, for attention after the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples.captioning.eye import Eye
from examples.recurrent import GRU


@dataclass(frozen=True)
class Describer(spec.Architecture):
    """The model.

    Args:
        eye: that sees.
        vocabulary: V, words.
        word_dim: width of a word.
        hidden_dim: E, width of the writer's state.
    """

    eye: Eye
    vocabulary: int
    word_dim: int
    hidden_dim: int

    @property
    def writer(self) -> GRU:
        """Writes the caption."""
        return GRU(self.word_dim, self.hidden_dim)

    @property
    def attention(self) -> spec.AlignmentAttention:
        """From the writer's states to the patches, by Bahdanau's score."""
        return spec.AlignmentAttention(self.hidden_dim, self.eye.embed_dim, score=spec.Additive(self.eye.embed_dim))

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"eye": self.eye, "writer": self.writer, "attention": self.attention}

    @property
    def params(self) -> dict[str, spec.Param]:
        word, seen, state = self.word_dim, self.eye.embed_dim, self.hidden_dim
        return {
            "words": spec.Param((self.vocabulary, word), "VM", spread=1.0 / math.sqrt(word)),
            **self.part_params(),
            "begin.kernel": spec.Param((seen, state), "ME", inputs=1),
            "begin.bias": spec.Param((state,), "E"),
            "mix.kernel": spec.Param((state + seen, state), "EM", inputs=1),
            "mix.bias": spec.Param((state,), "M"),
            "readout.kernel": spec.Param((state, self.vocabulary), "MV", inputs=1),
            "readout.bias": spec.Param((self.vocabulary,), "V"),
        }
