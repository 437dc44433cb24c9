"""Evaluation of this package: its false positives, the accuracy of the diagnosis, and fuzzing of all options."""
