"""Diagnosis: name the mistake in a port, or say that it is none of the known ones.

>>> from attention import parity, spec
>>> from attention.parity.diagnosis import diagnose
>>> contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
>>> diagnose("torch", "jax", contract).ok
True
"""

from attention.parity.diagnosis.diagnose import diagnose, examine
from attention.parity.diagnosis.result import Diagnosis, Finding
from attention.parity.mutations.mutation import Dial, Knob, Mistake
from attention.parity.mutations.registry import KNOBS, hypotheses

__all__ = ["KNOBS", "Diagnosis", "Dial", "Finding", "Knob", "Mistake", "diagnose", "examine", "hypotheses"]
