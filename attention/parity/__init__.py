"""Parity: compare outputs and gradients of two programs within a rounding-error budget.

>>> from attention import parity, spec
>>> report = parity.check(spec.MultiHeadAttention(embed_dim=6, num_heads=2))
>>> report.ok
True

    check             a contract: every probe, both backends, against the float64 oracle
    compare           any two programs: modules, functions, of torch, JAX or NumPy
    locate            the operations at which two programs part, with the line of each file
    diagnose          which mutation of a contract explains a program; diagnose_step, of an optimiser's step
    full_comparison   compare, then locate and name the mistake
    layerwise         two models block by block, each block on what it really received
    compare_logits    two language models, position by position; compare_decoding, with their caches
    record_model      a model's blocks, logits and decoding for another machine; recorded_model is a side of the three there
    worst_input       the input on which two programs differ most
    tolerances        numbers for a test of your own; assert_close applies them
    train             one recipe followed by torch.optim and by optax, inside an envelope of perturbed replicas
"""

import importlib
from typing import TYPE_CHECKING, Any

from attention._extras import require

require("jax", extra="all", wanted_by="parity (its error budgets are traced by JAX)")

from attention.parity import mutation_testing, rendering  # noqa: E402 - what these import was just asked for
from attention.parity.adapters import (  # noqa: E402
    Call,
    Made,
    Program,
    program,
)
from attention.parity.blocks.layerwise import layerwise  # noqa: E402
from attention.parity.compare import assert_close, compare, tolerances  # noqa: E402
from attention.parity.compare.recorded_model import RecordedModel, recorded_model  # noqa: E402
from attention.parity.contracts.check import check, check_probe, expect  # noqa: E402
from attention.parity.contracts.probes import Probe, probes  # noqa: E402
from attention.parity.diagnosis import Diagnosis, diagnose  # noqa: E402
from attention.parity.full_comparison import FullComparison, full_comparison  # noqa: E402
from attention.parity.language_models import CachedModel, Decoding, LogitsComparison, compare_decoding, compare_logits  # noqa: E402
from attention.parity.language_models.record_model import record_model  # noqa: E402
from attention.parity.numerics.comparison import Verdict, judge  # noqa: E402
from attention.parity.numerics.dtype_rounding import rounding, stored, stored_gradient  # noqa: E402
from attention.parity.numerics.error_budget import Budget, budget, differentiated  # noqa: E402
from attention.parity.param_mapping import ParamMap, match  # noqa: E402
from attention.parity.pretrained.layerwise import RecordedLayer  # noqa: E402
from attention.parity.results.report import Report, Row  # noqa: E402
from attention.parity.tracing import Divergence, locate  # noqa: E402
from attention.parity.worst_inputs import WorstInput, worst_input  # noqa: E402

if TYPE_CHECKING:
    from attention.parity.optimizers.diagnose_step import diagnose_step
    from attention.parity.training import Recipe, Training, recipe_for, train

# How results are shown.
rendering.install()

__all__ = [
    "Budget",
    "CachedModel",
    "Call",
    "Decoding",
    "Diagnosis",
    "Divergence",
    "FullComparison",
    "LogitsComparison",
    "Made",
    "ParamMap",
    "Probe",
    "Program",
    "Recipe",
    "RecordedLayer",
    "RecordedModel",
    "Report",
    "Row",
    "Training",
    "Verdict",
    "WorstInput",
    "assert_close",
    "budget",
    "check",
    "check_probe",
    "compare",
    "compare_decoding",
    "compare_logits",
    "diagnose",
    "diagnose_step",
    "differentiated",
    "expect",
    "full_comparison",
    "judge",
    "layerwise",
    "locate",
    "match",
    "mutation_testing",
    "probes",
    "program",
    "recipe_for",
    "record_model",
    "recorded_model",
    "rounding",
    "stored",
    "stored_gradient",
    "tolerances",
    "train",
    "worst_input",
]


_TRAINS = {
    "diagnose_step": "attention.parity.optimizers.diagnose_step",
    **dict.fromkeys(("Recipe", "Training", "recipe_for", "train"), "attention.parity.training"),
}


def __getattr__(name: str) -> Any:
    # optax and torch are needed to run optimisers, and for nothing else here.
    if name not in _TRAINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("optax", "torch"):
        require(package, extra="all", wanted_by=f"parity.{name}")
    return getattr(importlib.import_module(_TRAINS[name]), name)
