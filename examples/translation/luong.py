"""Luong's translator: it writes first and looks back then, so all that is known of a target is read at once.

    read      h_s = [rightward GRU; leftward GRU]                                       s_0 = tanh(leftward_0 W + b)
    write     s_t = GRU(y_{t-1}, s_{t-1})
    look      c_t = sum_s softmax_s((s_t W) . h_s) h_s                                  spec.AlignmentAttention(General)
    choose    a_t = tanh([c_t; s_t] W)        logits_t = a_t Y^T + b                    Y: the embeddings y are rows of

`luong_torch.py` and `luong_jax.py` build it, each in its framework.

References:
    Luong et al., arXiv:1508.04025, global attention without input feeding; Press and Wolf, arXiv:1608.05859 (one Y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples import recurrent


@dataclass(frozen=True)
class Translator(spec.Architecture):
    """What reads, writes and looks.

    Args:
        source_vocabulary: symbols of the source.
        target_vocabulary: symbols of the target.
        embed_dim: M, the width of a symbol.
        reader_dim: E, the width of each reader's state.
        writer_dim: the width of the writer's state.

    >>> Translator(4000, 3000, 96, 96, 192).params["attention.score_proj.kernel"].shape
    (192, 192)
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
        return spec.AlignmentAttention(self.writer_dim, 2 * self.reader_dim, score=spec.General())

    @property
    def writer(self) -> recurrent.GRU:
        """Of the target."""
        return recurrent.GRU(self.embed_dim, self.writer_dim)

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"reader": self.reader, "attention": self.attention, "writer": self.writer}

    @property
    def params(self) -> dict[str, spec.Param]:
        # With much smaller embeddings the tied logits stay equal for an epoch.
        spread = 0.3
        return {
            "source_embed": spec.Param((self.source_vocabulary, self.embed_dim), "VM", spread=spread),
            "target_embed": spec.Param((self.target_vocabulary, self.embed_dim), "VM", spread=spread),
            "logit_bias": spec.Param((self.target_vocabulary,), "V"),
            **self.part_params(),
            "first.kernel": spec.Param((self.reader_dim, self.writer_dim), "EA", inputs=1),
            "first.bias": spec.Param((self.writer_dim,), "A"),
            "readout.kernel": spec.Param((2 * self.reader_dim + self.writer_dim, self.embed_dim), "AM", inputs=1),
        }
