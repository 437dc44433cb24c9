"""Diagnosis: name the mistake in a port, or report that it is none of the known ones.

>>> from attention import parity, spec
>>> from attention.parity.diagnosis import diagnose
>>> contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
>>> diagnose("torch", "jax", contract).ok
True
"""

from attention.parity.diagnosis.diagnose import diagnose, diagnose_program
from attention.parity.diagnosis.result import Diagnosis, ProgramDiagnosis
from attention.parity.mutations.mutation import FittedScalar, Mutation, MutationKind
from attention.parity.mutations.registry import KINDS, hypotheses

__all__ = [
    "KINDS",
    "Diagnosis",
    "FittedScalar",
    "Mutation",
    "MutationKind",
    "ProgramDiagnosis",
    "diagnose",
    "diagnose_program",
    "hypotheses",
]
