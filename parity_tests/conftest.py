"""How the tests run: on the CPU, one thread a worker, the same examples every time in CI, and nothing compiled twice.

Only environment variables are set here, before any framework is imported; a test pays for the frameworks it uses.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

DEFAULTS = {
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core, and threads of several workers on one core only wait for each other.
    DEFAULTS["OMP_NUM_THREADS"] = "1"
os.environ.update(DEFAULTS | os.environ)

# A first example compiles and a second does not, so a deadline would measure the compiler.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "local")
