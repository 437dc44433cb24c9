"""Smoke test of the installed package: what its extras brought works, and what they did not bring is asked for in one line.

    python -I tools/smoke.py                 without an extra: no backend is there
    python -I tools/smoke.py torch           one backend, alone
    python -I tools/smoke.py torch jax       both, and the comparison of the two

It is run by an interpreter into which a wheel was installed (tools/dist.py), and reads nothing of the checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attention

EAGER = set(sys.modules) & {"numpy", "torch", "jax"}
BACKENDS = ("torch", "jax")


def main(installed: list[str]) -> None:
    """Check the package, and every backend: that it works if it is installed, and that it is asked for if not."""
    check_package()
    for backend in BACKENDS:
        if backend in installed:
            check_backend(backend)
        else:
            check_refusal(backend)
    check_command(installed)
    if "jax" in installed:
        check_parity(installed)
    print(f"smoke test: {' and '.join(installed) or 'no backend'}, Python {sys.version.split()[0]}: passed")


def check(ok: object, what: str) -> None:
    """End with a line that says what is wrong, unless it is right."""
    if not ok:
        raise SystemExit(f"smoke test: {what}")


def check_package() -> None:
    """Check that the package is the installed one, imports lazily, and computes the formula without a framework."""
    from attention import spec  # noqa: PLC0415 - what the first import brings is looked at before

    check(not EAGER, f"import attention loads {EAGER}")
    check(Path(attention.__file__).is_relative_to(sys.prefix), f"{attention.__file__} is not in {sys.prefix}")
    check(version("attention-parity") == attention.__version__, "the distribution and the package differ in version")
    check(sorted(outputs(spec)) == ["output", "weights"], "the formula gives an output and the weights")


def outputs(spec: Any) -> dict[str, Any]:
    """Return what the formula makes of one call, in NumPy."""
    import numpy as np  # noqa: PLC0415

    contract, x = layer(spec)
    made = contract.formula(np, contract.init(0), {"query": x}, contract.resolve({"query": x}))
    return {name: made[name] for name in ("output", "weights")}


def layer(spec: Any) -> tuple[Any, Any]:
    """Return a contract and its input `(B, T, M)`, float64."""
    import numpy as np  # noqa: PLC0415

    contract = spec.MultiHeadAttention(8, 4, num_kv_heads=2, positions=spec.Rotary(), mask=spec.Causal())
    return contract, np.random.default_rng(0).standard_normal((2, 5, 8))


def check_backend(backend: str) -> None:
    """Check that a layer, built and loaded from a file, gives what the formula gives, in float64."""
    import numpy as np  # noqa: PLC0415

    from attention import spec  # noqa: PLC0415

    contract, x = layer(spec)
    with tempfile.TemporaryDirectory() as folder:
        attention.save(Path(folder) / "layer.safetensors", contract, contract.init(0))
        found = attention.load(Path(folder) / "layer.safetensors", backend=backend)
    check(contract.build(backend) is not None, "a contract builds")
    if backend == "torch":
        import torch  # noqa: PLC0415

        y = found.double()(torch.from_numpy(x))
        y.sum().backward()
        made, gradient = y.detach().numpy(), found.q_proj.weight.grad
    else:
        import jax  # noqa: PLC0415

        x = x.astype("float32")
        made, gradient = np.asarray(found(x)), jax.grad(lambda x: found(x).sum())(x)
    error = np.abs(made - outputs(spec)["output"]).max()
    check(error < (1e-12 if backend == "torch" else 1e-5), f"{backend} differs from the formula by {error}")
    check(gradient is not None and bool((gradient != 0).any()), f"{backend} has no gradient")


def check_refusal(backend: str) -> None:
    """Check that a backend that is not installed is refused in one line that says what to install."""
    from attention import spec  # noqa: PLC0415
    from attention.spec.errors import MissingExtra  # noqa: PLC0415

    wanted = f"{backend}_impl needs {backend}, which is not installed: pip install 'attention-parity[{backend}]'"
    for ask in (lambda: layer(spec)[0].build(backend), lambda: getattr(attention, f"{backend}_impl")):
        try:
            ask()
        except MissingExtra as refusal:
            check(str(refusal) == wanted, f"got {str(refusal)!r}, wanted {wanted!r}")
        else:
            check(False, f"{backend} is not installed, and was not asked for")


def check_command(installed: list[str]) -> None:
    """Check that the command of the package starts, and shows the kernels of what is installed."""
    said = {name: "kernel 'reference'" if name in installed else "not installed: pip install" for name in BACKENDS}
    wanted = {"--help": ["attention compare", "verify"], "kernels explain": [f"{name:6} {line}" for name, line in said.items()]}
    for word, lines in wanted.items():
        done = subprocess.run(
            [Path(sys.prefix) / "bin" / "attention", *word.split()], capture_output=True, text=True, check=False
        )
        check(done.returncode == 0 and not done.stderr, f"attention {word} ends with {done.returncode}: {done.stderr}")
        check(all(line in done.stdout for line in lines), f"attention {word} says {done.stdout!r}, without one of {lines}")


def check_parity(installed: list[str]) -> None:
    """Check that every backend that is installed agrees with the oracle on one contract."""
    from attention import parity, spec  # noqa: PLC0415

    contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
    rows = parity.check_probe("smoke", parity.probes(contract)[0], installed)
    report = parity.Report(tuple(rows))
    check(report.ok, str(report))


if __name__ == "__main__":
    main(sys.argv[1:])
