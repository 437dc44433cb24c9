"""Training: the same steps in both frameworks, judged by how far rounding alone drives a run from its twin."""

from attention.parity.training.lockstep import train
from attention.parity.training.recipe import Batch, Recipe
from attention.parity.training.result import Training

__all__ = ["Batch", "Recipe", "Training", "train"]
