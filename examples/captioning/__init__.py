"""Captioning: what an image shows, told from where the model looks: scenes of digits in words, and single digits by name."""
