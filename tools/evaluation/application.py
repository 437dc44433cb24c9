"""The command line of the evaluation."""

from attention.cli.application import group

app = group("evaluation", "How often the proof is wrong: about right programs, and about formula and layers.")
