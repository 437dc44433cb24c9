"""The commands: importing this file adds each of them to the application, in the order of the help."""

from attention.cli import verify, compare, layers, decoding, logits, record, replay, cases, kernels, bench  # noqa: I001 - the order of the help
from attention.cli.application import app, run

__all__ = ["app", "bench", "cases", "compare", "decoding", "kernels", "layers", "logits", "record", "replay", "run", "verify"]
