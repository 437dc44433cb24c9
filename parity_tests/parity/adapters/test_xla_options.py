"""Options of XLA's compiler: those that another version of it does not know are left out."""

from __future__ import annotations

import jax

from attention.parity.adapters.xla_options import known

OURS = {"xla_backend_optimization_level": 0, "xla_allow_excess_precision": False}


def test_what_the_compiler_does_not_know_is_left_out() -> None:
    assert known(OURS | {"xla_of_another_year": True}) == OURS
    assert jax.jit(lambda x: x + 1, compiler_options=known({"xla_of_another_year": 3}))(1.0) == 2
