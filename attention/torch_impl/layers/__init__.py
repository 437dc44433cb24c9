"""The layers in PyTorch: an `nn.Module` for each contract."""
