"""The layers in Flax NNX: an `nnx.Module` for each contract."""
