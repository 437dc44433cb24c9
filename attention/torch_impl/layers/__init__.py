"""Layers in torch: an `nn.Module` for each contract."""
