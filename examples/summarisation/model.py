"""The model: a pointer-generator, whose attention over the source is also the probability of copying a word from there.

    states = reader(source)        h[t] = writer(target[: t])        context[t], a[t] = attention(h[t], states)
    said[t] = softmax(readout(tanh(mix [h[t], context[t]])))         own[t] = sigmoid(gate [h[t], context[t], x[t]])
    P[t, w] = own[t] said[t, w] + (1 - own[t]) sum of a[t, s] over all s where source[s] = w

So a word that the model has no number for can be written, if the source has it. The writer is given no context, so all its
states are one call.

References:
    See, Liu and Manning, arXiv:1704.04368, equations 8 and 9, without coverage; Luong et al., arXiv:1508.04025, for attention
    after the writer's state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples.recurrent import GRU, Bidirectional

TINY = 1e-20
"""Added below the logarithm of a probability, which may be 0 in float32."""


@dataclass(frozen=True)
class PointerGenerator(spec.Architecture):
    """The model.

    Args:
        vocabulary: V, how many words it can say by itself.
        embed_dim: width of a word.
        hidden_dim: M, width of the writer's state; each reader of the source has half of it.
        dropout_rate: of words, on both sides.
    """

    vocabulary: int
    embed_dim: int = 96
    hidden_dim: int = 192
    dropout_rate: float = 0.2

    @property
    def reader(self) -> Bidirectional:
        """Reads the source from both ends."""
        return Bidirectional(self.embed_dim, self.hidden_dim // 2)

    @property
    def writer(self) -> GRU:
        """Writes the target."""
        return GRU(self.embed_dim, self.hidden_dim)

    @property
    def attention(self) -> spec.AlignmentAttention:
        """From the writer's states to the reader's."""
        return spec.AlignmentAttention(self.hidden_dim, score=spec.General())

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"reader": self.reader, "writer": self.writer, "attention": self.attention}

    @property
    def params(self) -> dict[str, spec.Param]:
        words, state = self.embed_dim, self.hidden_dim
        return {
            "embed": spec.Param((self.vocabulary, words), "VM", spread=1.0 / math.sqrt(words)),
            **self.part_params(),
            "begin.kernel": spec.Param((state, state), "ME", inputs=1),
            "begin.bias": spec.Param((state,), "E"),
            "mix.kernel": spec.Param((2 * state, words), "EM", inputs=1),
            "readout.kernel": spec.Param((words, self.vocabulary), "MV", inputs=1),
            "readout.bias": spec.Param((self.vocabulary,), "V"),
            "gate.kernel": spec.Param((2 * state + words, 1), "EA", inputs=1),
            "gate.bias": spec.Param((1,), "A"),
        }
