"""The diagnosis of one attention of a port, against the contract that a config gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention.parity.diagnosis.result import ProgramDiagnosis
from attention.spec.layers.multi_head import MultiHeadAttention

MOST_NAMED = 3
"""The largest number of equally good names that are reported."""


@dataclass(frozen=True, eq=False)
class LayerDiagnosis:
    """One attention beside that of a transformers model, whose config gives the contract.

    Attributes:
        path: of the module of transformers.
        other: of its counterpart.
        kind: the "model_type" of the config.
        contract: of the config.
        own: the diagnosis of the module of transformers: it agrees.
        diagnosis: of the counterpart.
        alike: how many layers have this contract.
    """

    path: str
    other: str
    kind: str
    contract: MultiHeadAttention
    own: ProgramDiagnosis
    diagnosis: ProgramDiagnosis
    alike: int = 1

    @property
    def name(self) -> str:
        """The mutation, or ""; several if no probe distinguishes them."""
        explanations = self.diagnosis.explanations
        return "; or ".join(explanation.names[0] for explanation in explanations) if len(explanations) <= MOST_NAMED else ""

    def __str__(self) -> str:
        head = f"{self.other or self.diagnosis.name}, by the contract of the config of {self.kind} ({self.path} agrees with it)"
        if not self.name:
            said = self.diagnosis.lines()[0].partition(": ")[2]
            return f"{head}: {said}"
        # The first line of the diagnosis is the name, which comes first here.
        return "\n".join([self.name, f"    in {head}", *self.diagnosis.lines()[1:]])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "path": self.path,
            "other": self.other,
            "model_type": self.kind,
            "contract": repr(self.contract),
            "layers of this contract": self.alike,
            "name": self.name,
            "diagnosis": self.diagnosis.to_dict(),
        }
