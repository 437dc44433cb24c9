"""Training: the same steps in both frameworks, compared within the divergence that rounding alone causes."""

from attention._extras import require

for package in ("optax", "torch"):
    require(package, extra="all", wanted_by="parity.train")

from attention.parity.training.layer_recipe import recipe_for  # noqa: E402
from attention.parity.training.recipe import Batch, Recipe  # noqa: E402
from attention.parity.training.result import Training  # noqa: E402
from attention.parity.training.train import train  # noqa: E402 - what these import was just asked for

__all__ = ["Batch", "Recipe", "Training", "recipe_for", "train"]
