"""The contracts of layers, one file each."""
