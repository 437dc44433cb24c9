"""Bahdanau's translator: it looks back before it writes, and what it sees goes into its next state.

    read      h_s = [rightward GRU; leftward GRU]                                       s_0 = tanh(leftward_0 W + b)
    look      c_t = sum_s softmax_s(v . tanh(s_{t-1} W1 + h_s W2)) h_s                  spec.AlignmentAttention(Additive)
    write     s_t = GRU([y_{t-1}; c_t], s_{t-1})        logits_t = [s_t; y_{t-1}; c_t] W + b

`bahdanau_torch.py` and `bahdanau_jax.py` build it, each in its framework.

References:
    Bahdanau et al., arXiv:1409.0473, appendix A. Its deep output, a maxout layer, is one linear map here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples import recurrent


@dataclass(frozen=True)
class Translator(spec.Architecture):
    """What reads, looks and writes.

    Args:
        source_vocabulary: symbols of the source.
        target_vocabulary: symbols of the target.
        embed_dim: M, the width of a symbol.
        reader_dim: E, the width of each reader's state.
        writer_dim: the width of the writer's state, and of the hidden layer that scores an alignment.

    >>> Translator(500, 14, 32, 48, 64).params["attention.score_k_proj.kernel"].shape
    (96, 64)
    """

    source_vocabulary: int
    target_vocabulary: int
    embed_dim: int
    reader_dim: int
    writer_dim: int

    @property
    def reader(self) -> recurrent.Bidirectional:
        """Of the source."""
        return recurrent.Bidirectional(self.embed_dim, self.reader_dim)

    @property
    def attention(self) -> spec.AlignmentAttention:
        """Of the writer's states to the reader's."""
        return spec.AlignmentAttention(self.writer_dim, 2 * self.reader_dim, score=spec.Additive())

    @property
    def writer(self) -> recurrent.GRU:
        """Of the target."""
        return recurrent.GRU(self.embed_dim + 2 * self.reader_dim, self.writer_dim)

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"reader": self.reader, "attention": self.attention, "writer": self.writer}

    @property
    def params(self) -> dict[str, spec.Param]:
        spread = 1.0 / math.sqrt(self.embed_dim)
        seen = self.writer_dim + self.writer.input_dim
        return {
            "source_embed": spec.Param((self.source_vocabulary, self.embed_dim), "VM", spread=spread),
            "target_embed": spec.Param((self.target_vocabulary, self.embed_dim), "VM", spread=spread),
            **self.part_params(),
            "first.kernel": spec.Param((self.reader_dim, self.writer_dim), "EA", inputs=1),
            "first.bias": spec.Param((self.writer_dim,), "A"),
            "readout.kernel": spec.Param((seen, self.target_vocabulary), "AV", inputs=1),
            "readout.bias": spec.Param((self.target_vocabulary,), "V"),
        }
