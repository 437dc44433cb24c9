"""The doctor: names the mistake in a port, or says that it does not know it.

>>> from attention import parity, spec
>>> from attention.parity.doctor import diagnose
>>> contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
>>> diagnose("torch", "jax", contract).ok
True
"""

from attention.parity.doctor.diagnosis import Diagnosis, Finding
from attention.parity.doctor.examination import diagnose, examine
from attention.parity.doctor.knob import Dial, Knob, Mistake
from attention.parity.doctor.knobs import KNOBS, hypotheses

__all__ = ["KNOBS", "Diagnosis", "Dial", "Finding", "Knob", "Mistake", "diagnose", "examine", "hypotheses"]
