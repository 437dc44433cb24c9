"""Mutation testing: how many known mistakes a parity test would notice.

A mutation takes the right probe and returns the wrong one, which a correct program then runs: the program is right, the call
is not. A parity test that passes all the same cannot see that mistake. Every option of a contract has one at least.

`CASE_MUTATIONS` are those of layers. Those of optimiser steps are `mutations.catalog_optimizers.STEP_MUTATIONS`; `catalogue` lists both.
"""

from attention.parity.mutations.case_mutation import CaseMutation
from attention.parity.mutations.cases_layers import ALIGNMENT, LAYERS
from attention.parity.mutations.cases_multi_head import MULTI_HEAD
from attention.parity.mutations.catalog_optimizers import STEP_MUTATIONS, StepMutation

__all__ = ["ALIGNMENT", "CASE_MUTATIONS", "LAYERS", "MULTI_HEAD", "CaseMutation", "StepMutation", "catalogue"]

CASE_MUTATIONS = (*MULTI_HEAD, *ALIGNMENT, *LAYERS)


def catalogue() -> tuple[CaseMutation | StepMutation, ...]:
    """Return every known mistake, of layers and of optimiser steps: all have a name, a knob, a story, a source and a probe."""
    return (*CASE_MUTATIONS, *STEP_MUTATIONS)
