"""Optimizers: one step of each (SGD, Adam, Lion, RMSprop, Adagrad, Adafactor), gradient clipping, learning-rate schedules.

>>> from attention import spec
>>> spec.optimizers.Adam(1e-3, clip=spec.optimizers.Clip(1.0)).learning_rate
0.001
"""

from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.schedules import Clip, CosineRate, LinearRate, WarmUp
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

__all__ = [
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Clip",
    "CosineRate",
    "LinearRate",
    "Lion",
    "RMSprop",
    "WarmUp",
]
