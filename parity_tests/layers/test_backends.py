"""The backends mirror each other: the same files and signatures. Each check is also shown to fail.

ls(torch_impl) - kernels/* = ls(jax_impl) - kernels/*        signature(torch_impl.f) = signature(jax_impl.f)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attention import jax_impl, spec, torch_impl
from parity_tests.support.absent import needs

pytestmark = needs("torch", "jax")

# The layers: every class that a backend offers.
LAYERS = [name for name in torch_impl.__all__ if isinstance(getattr(torch_impl, name), type) and "Cache" not in name]
METHODS = ("__init__", "forward", "load_weights", "weights", "drop", "build_parts")
# A public name of a backend, and what `forward` is called where a framework wants another name.
SHARED = {name: name for name in ("dot_product_attention", "explain", "optimizer", "seed_at")} | {
    f"{layer}.{method}": f"{layer}.{method.replace('forward', '__call__')}"
    for layer in LAYERS
    for method in METHODS
    # What every layer is has no formula of its own.
    if (layer, method) != ("Layer", "forward")
}


def listing(backend: Path) -> set[str]:
    """The modules of a backend; of its kernels, the folder alone."""
    files = {path.relative_to(backend).as_posix() for path in backend.rglob("*.py")}
    return {name for name in files if not name.startswith("kernels/")} | {"kernels/__init__.py"} & files


def folder(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__).parent


def signature(backend: Any, name: str) -> list[tuple[str, str, object]]:
    """The parameters as (name, kind, default); what a framework calls its arrays is its own affair."""
    for part in name.split("."):
        backend = getattr(backend, part)
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(backend).parameters.values()]


def public(cls: type) -> set[str]:
    """The public methods and properties that a class and its forebears in this package define."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("attention.")]
    return {name for base in ours for name in vars(base) if not name.startswith("_")}


class TestFiles:
    def test_both_backends_have_the_same_files(self) -> None:
        assert listing(folder(torch_impl)) == listing(folder(jax_impl))
        assert {"attend.py", "kernels/__init__.py", "layers/multi_head.py"} <= listing(folder(jax_impl))

    @pytest.mark.parametrize("extra", ["fused.py", "layers/sparse.py"])
    def test_a_file_in_one_backend_alone_is_noticed(self, extra: str, tmp_path: Path) -> None:
        for name in (*listing(folder(jax_impl)), extra):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert listing(tmp_path) - listing(folder(jax_impl)) == {extra}

    def test_a_kernel_in_one_backend_alone_is_welcome(self, tmp_path: Path) -> None:
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "__init__.py").touch()
        (tmp_path / "kernels" / "flex.py").touch()
        assert listing(tmp_path) == {"kernels/__init__.py"}


class TestSignatures:
    @pytest.mark.parametrize("name", SHARED)
    def test_both_backends_have_the_same_signature(self, name: str) -> None:
        assert signature(torch_impl, name) == signature(jax_impl, SHARED[name])

    def test_both_backends_have_the_same_public_names(self) -> None:
        assert torch_impl.__all__ == jax_impl.__all__

    @pytest.mark.parametrize("name", LAYERS)
    def test_both_backends_have_the_same_methods(self, name: str) -> None:
        # Each framework calls its modules by a hook of its own.
        methods = public(getattr(torch_impl, name)) - {"forward"}
        assert methods == public(getattr(jax_impl, name)) - {"set_view"}
        assert methods <= set(METHODS)

    def test_the_arguments_of_the_functional_core_and_their_order(self) -> None:
        names = [name for name, _, _ in signature(jax_impl, "dot_product_attention")]
        assert names == [
            *("q", "k", "v", "mask", "bias", "scale", "softcap", "score_mod", "sinks", "dropout_rate", "dropout_seed"),
            *("precision", "return_intermediates", "implementation"),
        ]

    def test_a_contract_builds_the_layer_of_either_backend(self) -> None:
        contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
        assert type(contract.build("torch")) is torch_impl.MultiHeadAttention
        assert type(contract.build("jax", seed=3)) is jax_impl.MultiHeadAttention

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (lambda q, *, scale=None: (q, scale), lambda q, *, scale=1.0: (q, scale)),
            (lambda q, *, scale=None: (q, scale), lambda q, scale=None: (q, scale)),
            (lambda q, k: (q, k), lambda k, q: (q, k)),
            (lambda q, k=None: (q, k), lambda q, key=None: (q, key)),
            (lambda q: q, partial(lambda q, scale: (q, scale), scale=1)),
        ],
        ids=["default", "kind", "order", "name", "one more"],
    )
    def test_a_signature_that_differs_is_noticed(self, one: Callable[..., Any], other: Callable[..., Any]) -> None:
        holders = [type("Backend", (), {"f": staticmethod(f)}) for f in (one, other)]
        assert signature(holders[0], "f") != signature(holders[1], "f")
