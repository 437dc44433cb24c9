"""Evaluation of the proof: accuracy of the diagnosis, unlisted mutations, the false positive rate."""
