"""The vision transformer: an eye, and a name for what its token of the whole has gathered.

    name ~ softmax(seen[whole] W + b)        seen = eye(patches)

References:
    Dosovitskiy et al., arXiv:2010.11929.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attention import spec
from examples.captioning.eye import Eye


@dataclass(frozen=True)
class VisionTransformer(spec.Architecture):
    """The model.

    Args:
        eye: that sees.
        names: V, how many there are.
    """

    eye: Eye
    names: int

    @property
    def parts(self) -> Mapping[str, spec.Architecture]:
        return {"eye": self.eye}

    @property
    def params(self) -> dict[str, spec.Param]:
        return {
            **self.part_params(),
            "readout.kernel": spec.Param((self.eye.embed_dim, self.names), "MV", inputs=1),
            "readout.bias": spec.Param((self.names,), "V"),
        }
