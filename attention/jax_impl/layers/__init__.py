"""Layers in Flax NNX: an `nnx.Module` for each contract."""
