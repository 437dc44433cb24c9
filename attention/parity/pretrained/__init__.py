"""Pretrained: trained models in packages, layer by layer."""
