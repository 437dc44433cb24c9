"""Imports: which module may load which packages.

    import attention          loads nothing but the standard library
    spec, checkpoints         load no framework
    torch_impl                never loads JAX, and works where JAX is not installed
    jax_impl                  never loads PyTorch, and works where PyTorch is not installed

Each check has a counterpart that plants the forbidden import and expects the check to fail.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.support.absent import needs

ROOT = Path(__file__).parents[1]
JAX = frozenset({"jax", "jaxlib", "flax", "optax"})
FRAMEWORKS = JAX | {"torch", "transformers"}

# What a package may not load. Every module of it is imported, not its `__init__` alone.
FORBIDDEN = {"spec": FRAMEWORKS, "checkpoints": FRAMEWORKS, "torch_impl": JAX, "jax_impl": frozenset({"torch"})}

HOUSE = "Knowledge flows down the house, never up or across"
BACKENDS = "The two backends hold the same files, in the same order of knowledge"
FLOORS = "The packages of the proof stand on floors, and import from lower ones alone"
CIRCLES = "No circle between files below the proof"
PLAIN = "spec and checkpoints know no framework"

WALK = """
import importlib, pkgutil
backend = importlib.import_module("attention.{backend}")
for module in pkgutil.walk_packages(backend.__path__, backend.__name__ + "."):
    importlib.import_module(module.name)
"""

# The import system is made to answer as it does on a machine where the package was never installed.
ABSENT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_all_but(name, path=None, target=None):
    return None if name.partition(".")[0] in {absent!r} else find(name, path, target)
PathFinder.find_spec = find_all_but
"""


def python(program: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `program` in a fresh interpreter that finds the package `attention` of `folder` first."""
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def loaded_by(program: str, folder: Path = ROOT) -> set[str]:
    """The top-level packages beyond the standard library that a fresh interpreter loads for `program`."""
    result = python(f"import sys\nbefore = set(sys.modules)\n{program}\nprint(*(set(sys.modules) - before))", folder)
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in result.stdout.split()} - sys.stdlib_module_names


def plant(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_text(text)


class TestLoaded:
    def test_attention_loads_the_standard_library_alone(self) -> None:
        assert loaded_by("import attention, attention as a; dir(a); a.__version__") == {"attention"}

    def test_a_third_package_is_noticed(self, tmp_path: Path) -> None:
        plant(tmp_path, {"attention/__init__.py": "import third", "third.py": ""})
        assert loaded_by("import attention", tmp_path) == {"attention", "third"}

    @pytest.mark.parametrize("backend", FORBIDDEN)
    def test_backend_loads_no_foreign_framework(self, backend: str) -> None:
        assert loaded_by(WALK.format(backend=backend)) & FORBIDDEN[backend] == set()

    @pytest.mark.parametrize("backend", FORBIDDEN)
    def test_a_foreign_framework_in_a_deep_module_is_noticed(self, backend: str, tmp_path: Path) -> None:
        foreign = min(FORBIDDEN[backend])
        deep = f"attention/{backend}/layers/deep.py"
        plant(tmp_path, {f"attention/{backend}/__init__.py": "", f"attention/{backend}/layers/__init__.py": ""})
        plant(tmp_path, {"attention/__init__.py": "", deep: f"import {foreign}", f"{foreign}.py": ""})
        assert loaded_by(WALK.format(backend=backend), tmp_path) & FORBIDDEN[backend] == {foreign}

    @needs("torch", "jax")
    def test_every_public_name_is_there(self) -> None:
        result = python("import attention\nfor name in attention.__all__: getattr(attention, name)")
        assert result.returncode == 0, result.stderr

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        result = python("import attention\nattention.nowhere")
        assert result.stderr.endswith("AttributeError: module 'attention' has no attribute 'nowhere'\n")


class TestMissingExtra:
    @pytest.mark.parametrize(
        "program",
        ["import attention; attention.{backend}", "from attention import {backend}", "import attention.{backend}.attend"],
    )
    @pytest.mark.parametrize(("backend", "package"), [("torch_impl", "torch"), ("jax_impl", "jax"), ("jax_impl", "flax")])
    def test_one_line_names_the_extra(self, program: str, backend: str, package: str) -> None:
        result = python(ABSENT.format(absent={package}) + program.format(backend=backend))
        extra = backend.removesuffix("_impl")
        wanted = f"{backend} needs {package}, which is not installed: pip install 'attention-parity[{extra}]'"
        assert result.stderr.splitlines()[-1] == f"attention.spec.errors.MissingExtra: {wanted}"
        assert "During handling of the above exception" not in result.stderr

    def test_the_proof_asks_for_jax(self) -> None:
        result = python(ABSENT.format(absent={"jax"}) + "from attention import parity")
        assert "MissingExtra: parity (its error budgets are traced by JAX) needs jax" in result.stderr.splitlines()[-1]
        assert result.stderr.endswith("which is not installed: pip install 'attention-parity[all]'\n")

    @needs("jax")
    def test_training_asks_for_torch(self) -> None:
        result = python(ABSENT.format(absent={"torch"}) + "import attention.parity.training")
        wanted = "parity.train needs torch, which is not installed: pip install 'attention-parity[all]'"
        assert result.stderr.splitlines()[-1] == f"attention.spec.errors.MissingExtra: {wanted}"

    @pytest.mark.parametrize(("backend", "ones"), [("torch", "torch.ones"), ("jax", "jax.numpy.ones")])
    def test_the_other_backend_works_alone(self, backend: str, ones: str) -> None:
        absent = set(FORBIDDEN[f"{backend}_impl"])
        contract = "attention.spec.MultiHeadAttention(embed_dim=8, num_heads=2)"
        call = f"import attention, {backend}\nprint(*{contract}.build('{backend}')({ones}((2, 3, 8))).shape)"
        result = python(ABSENT.format(absent=absent) + call)
        assert result.stdout.split() == ["2", "3", "8"], result.stderr


@needs("importlinter")
class TestLinter:
    """The rules of the backends as import-linter reads them in pyproject.toml."""

    def lint(self, folder: Path, planted: dict[str, str]) -> subprocess.CompletedProcess[str]:
        _ = shutil.copytree(ROOT / "attention", folder / "attention", ignore=shutil.ignore_patterns("__pycache__"))
        _ = shutil.copy(ROOT / "pyproject.toml", folder)
        for name, line in planted.items():
            with (folder / "attention" / name).open("a") as file:
                _ = file.write(f"\n{line}\n")
        return python("from importlinter.cli import lint_imports_command\nlint_imports_command(['--no-cache'])", folder)

    def test_the_house_keeps_its_rules(self, tmp_path: Path) -> None:
        result = self.lint(tmp_path, {})
        assert result.returncode == 0, result.stdout

    @pytest.mark.parametrize(
        ("file", "line", "rule"),
        [
            ("torch_impl/masks.py", "import jax", "torch_impl never sees JAX"),
            ("jax_impl/masks.py", "import torch", "jax_impl never sees PyTorch"),
            ("torch_impl/masks.py", "import attention.jax_impl", HOUSE),
            ("spec/masks/__init__.py", "import attention.parity", HOUSE),
            ("utils.py", "", HOUSE),
            ("spec/masks/__init__.py", "import torch", PLAIN),
            ("checkpoints/__init__.py", "import transformers", PLAIN),
            ("jax_impl/only_here.py", "", BACKENDS),
            ("spec/masks/drawing.py", "import attention.spec.masks.algebra", CIRCLES),
            ("torch_impl/norms.py", "import attention.torch_impl.layers.layer", CIRCLES),
            ("parity/results/report.py", "import attention.parity.rendering", FLOORS),
            ("parity/numerics/noise.py", "import attention.parity.adapters", FLOORS),
            ("parity/tracing/trace.py", "import attention.parity.compare.compare", FLOORS),
            ("parity/stray.py", "", FLOORS),
        ],
    )
    def test_a_planted_import_breaks_its_rule(self, file: str, line: str, rule: str, tmp_path: Path) -> None:
        result = self.lint(tmp_path, {file: line})
        assert result.returncode == 1, result.stdout
        assert f"{rule} BROKEN" in result.stdout


def test_the_folders_of_tests_are_packages() -> None:
    folders = {path.name for path in (ROOT / "parity_tests" / "parity").iterdir() if any(path.glob("test_*.py"))}
    packages = {path.parent.name for path in (ROOT / "attention" / "parity").glob("*/__init__.py")}
    assert folders <= packages, folders - packages
    others = {path.name for path in (ROOT / "parity_tests").iterdir() if any(path.glob("test_*.py"))}
    places = {path.name for parent in ("", "attention", "attention/spec") for path in (ROOT / parent).iterdir()}
    assert others <= places, others - places
