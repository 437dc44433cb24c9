"""The proof: outputs and gradients of both rooms, against one float64 oracle, within a budget of rounding errors.

>>> from attention import parity, spec
>>> report = parity.check(spec.MultiHeadAttention(embed_dim=6, num_heads=2))
>>> report.ok
True
"""

from attention._extras import require

require("jax", extra="all", wanted_by="parity (its error budgets are traced by JAX)")

from attention.parity.budget import Budget, budget, differentiated, rounding, stored, stored_gradient  # noqa: E402
from attention.parity.checks import check, check_probe, expect  # noqa: E402
from attention.parity.probes import Probe, probes  # noqa: E402
from attention.parity.report import Report, Row  # noqa: E402
from attention.parity.verdict import Verdict, judge  # noqa: E402

__all__ = [
    "Budget",
    "Probe",
    "Report",
    "Row",
    "Verdict",
    "budget",
    "check",
    "check_probe",
    "differentiated",
    "expect",
    "judge",
    "probes",
    "rounding",
    "stored",
    "stored_gradient",
]
