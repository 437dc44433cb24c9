"""Pretrained: trained models in Python packages, compared layer by layer."""
