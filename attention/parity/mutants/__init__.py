"""Mutants: planted mistakes that real people made, each a knob of a call turned wrongly.

A mutant takes the right probe and returns the wrong one, which an honest side then runs: the program is correct, the call is
not. A parity test that lets one live cannot see that mistake. Every option of a contract has one at least.

`MUTANTS` are those of layers. Optimiser steps have a contract and a catalogue of their own, `doctor.step_mistakes.MISTAKES`;
`catalogue` lists both.
"""

from attention.parity.doctor.step_mistakes import MISTAKES, StepMistake
from attention.parity.mutants.layers import ALIGNMENT, LAYERS
from attention.parity.mutants.multi_head import MULTI_HEAD
from attention.parity.mutants.mutant import Mutant

__all__ = ["ALIGNMENT", "LAYERS", "MULTI_HEAD", "MUTANTS", "Mutant", "StepMistake", "catalogue"]

MUTANTS = (*MULTI_HEAD, *ALIGNMENT, *LAYERS)


def catalogue() -> tuple[Mutant | StepMistake, ...]:
    """Return every known mistake, of layers and of optimiser steps: all have a name, a knob, a story, a source and a probe."""
    return (*MUTANTS, *MISTAKES)
