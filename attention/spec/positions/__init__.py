"""Positions: rotary embeddings and their scalings, score biases, and the check of explicit positions.

q, k = turned by their positions             Rotary, AxialRotary                  `rotary.py`, `rotary_*.py`
scores + bias[h, t, s]                       Alibi, RelativeBias, RelativeKeys    `score_bias.py`
positions that come with a call              check_positions                      `explicit_positions.py`
"""

from attention.spec.positions.axial_rotary import AxialRotary
from attention.spec.positions.explicit_positions import (
    Positions,
    Rotation,
    ScoreBias,
    check_integral,
    check_positions,
    shared_length,
)
from attention.spec.positions.rotary import Rotary, Scaling
from attention.spec.positions.rotary_frequency_scaling import LinearScaling, Llama3Scaling, YarnScaling
from attention.spec.positions.rotary_length_scaling import DynamicNTKScaling, LongRopeScaling
from attention.spec.positions.rotation import STYLES
from attention.spec.positions.score_bias import Alibi, RelativeBias, RelativeKeys

__all__ = [
    "STYLES",
    "Alibi",
    "AxialRotary",
    "DynamicNTKScaling",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Positions",
    "RelativeBias",
    "RelativeKeys",
    "Rotary",
    "Rotation",
    "Scaling",
    "ScoreBias",
    "YarnScaling",
    "check_integral",
    "check_positions",
    "shared_length",
]
