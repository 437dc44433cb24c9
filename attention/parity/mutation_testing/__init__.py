"""Mutants: planted mistakes that real people made, each a knob of a call turned wrongly.

A mutant takes the right probe and returns the wrong one, which an honest side then runs: the program is correct, the call is
not. A parity test that lets one live cannot see that mistake. Every option of a contract has one at least.

`MUTANTS` are those of layers. Optimiser steps have a contract and a catalogue of their own, `optimizers.mutations.MISTAKES`;
`catalogue` lists both.
"""

from attention.parity.mutation_testing.layers import ALIGNMENT, LAYERS
from attention.parity.mutation_testing.multi_head import MULTI_HEAD
from attention.parity.mutation_testing.mutant import Mutant
from attention.parity.optimizers.mutations import MISTAKES, StepMistake

__all__ = ["ALIGNMENT", "LAYERS", "MULTI_HEAD", "MUTANTS", "Mutant", "StepMistake", "catalogue"]

MUTANTS = (*MULTI_HEAD, *ALIGNMENT, *LAYERS)


def catalogue() -> tuple[Mutant | StepMistake, ...]:
    """Return every known mistake, of layers and of optimiser steps: all have a name, a knob, a story, a source and a probe."""
    return (*MUTANTS, *MISTAKES)
