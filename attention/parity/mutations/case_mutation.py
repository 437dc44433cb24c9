"""A mutant: a call turned wrongly, so that an honest side that runs it is wrong in one known way."""

from __future__ import annotations

from dataclasses import dataclass

from attention.parity.mutations.operators import Operator
from attention.parity.mutations.registry import KINDS


@dataclass(frozen=True)
class CaseMutation:
    """A planted mistake.

    Args:
        name: what is wrong.
        knob: what is turned wrongly: one of `mutations.registry.KINDS`, whose story and source are the mutant's.
        case: the contract in `spec.cases` that must notice.
        probe: what a test's data need so that the mistake shows.
        plant: makes the wrong call out of the right one.
    """

    name: str
    kind: str
    case: str
    probe: str
    operator: Operator

    @property
    def story(self) -> str:
        """How the mistake comes about."""
        return KINDS[self.kind].story

    @property
    def source(self) -> str:
        """Who made it."""
        return KINDS[self.kind].source
