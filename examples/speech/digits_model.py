"""The model: it listens, and for each word that it writes looks back at the moment when the word was said.

    states = reader(tanh(ear sound))        h[t] = writer([word[t - 1], context[t - 1]], h[t - 1])
    context[t], a[t] = attention(h[t], states)        P[t] = softmax(readout [h[t], context[t]])

References:
    Bahdanau et al., arXiv:1409.0473; Chan et al., Listen, Attend and Spell, arXiv:1508.01211.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples.recurrent import GRU, Bidirectional


@dataclass(frozen=True)
class Listener(spec.Architecture):
    """The model.

    Args:
        vocabulary: V, how many words it can write.
        sound_dim: features of a step of sound.
        hidden_dim: M, width of the writer's state; each reader has half of it.
        embed_dim: width of a word.
    """

    vocabulary: int
    sound_dim: int
    hidden_dim: int = 128
    embed_dim: int = 32

    @property
    def reader(self) -> Bidirectional:
        """Hears the sound from both ends."""
        return Bidirectional(self.hidden_dim, self.hidden_dim // 2)

    @property
    def writer(self) -> GRU:
        """Writes the words."""
        return GRU(self.embed_dim + self.hidden_dim, self.hidden_dim)

    @property
    def attention(self) -> spec.AlignmentAttention:
        """From the writer's state to moments of the sound."""
        return spec.AlignmentAttention(self.hidden_dim, score=spec.Additive(hidden=self.hidden_dim // 2))

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"reader": self.reader, "writer": self.writer, "attention": self.attention}

    @property
    def params(self) -> dict[str, spec.Param]:
        return {
            "ear.kernel": spec.Param((self.sound_dim, self.hidden_dim), "EM", inputs=1),
            "ear.bias": spec.Param((self.hidden_dim,), "M"),
            "embed": spec.Param((self.vocabulary, self.embed_dim), "VE", spread=0.3),
            **self.part_params(),
            "readout.kernel": spec.Param((2 * self.hidden_dim, self.vocabulary), "MV", inputs=1),
            "readout.bias": spec.Param((self.vocabulary,), "V"),
        }
