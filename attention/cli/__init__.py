"""The command line.

    attention parity      the proof: both backends against the float64 oracle; exits 1 on a mismatch
    attention compare     your own pair of programs: where they part, and the mistake's name
    attention layers      two models block by block, each on what it really received
    attention decoding    decoding with a cache beside the whole pass
    attention logits      the logits of two language models, position by position
    attention cases       the cases as files, for a third implementation in any language
    attention kernels     what runs here, and why the rest does not
    attention bench       how fast it is, beside its peers; in a checkout of the repository

Exit codes: 0 all agree, 1 something differs, 2 the call cannot be answered (one line says why), 130 interrupted.
Each command has a file of its own, which imports a framework only when its command runs.
"""

from attention.cli import (
    bench,
    cases,
    compare,
    decoding,
    kernels,
    layers,
    logits,
    recordings,
    replay,
    verify,
)
from attention.cli.application import app, main

__all__ = [
    "app",
    "bench",
    "cases",
    "compare",
    "decoding",
    "kernels",
    "layers",
    "logits",
    "main",
    "recordings",
    "replay",
    "verify",
]
