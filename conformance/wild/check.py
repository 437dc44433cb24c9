"""Verifies the files of a folder with plain torch and JAX: `python -m conformance.wild.check [FILE or FOLDER ...] [--number]`.

The right pair must agree in float32 (1e-5) and in float64 (1e-10, input gradients 1e-9), relative to the RMS of the array; each
mistake must change an output or an input gradient by more than 1e-4. `--number` writes the line numbers of MISTAKES first.
"""

import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx

from conformance.wild.packages import Missing, replaced
from conformance.wild.packages import source as package_source

Arrays = list[np.ndarray]


def load(path: Path, source: str) -> types.ModuleType:
    """The file's text as a module, planted mistake and all."""
    module = types.ModuleType(f"wild_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and flax look their module up
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the files are our own
    return module


def plant(source: str, mistake: dict[str, Any]) -> str:
    """The file's text with one mistake, outside of the list of mistakes: one in a package is written to PLANTED."""
    head, mark, tail = source.partition("\nMISTAKES")
    old, new = mistake["old"], mistake["new"]
    if "module" in mistake:
        old, new = "\nPLANTED = ()\n", f"\nPLANTED = {((mistake['module'], old, new),)!r}\n"
    return replaced(head, old, new) + mark + tail


def line(source: str, mistake: dict[str, Any]) -> int:
    """The line, counted from 1, where a mistake begins: of the file, or of the module of a package."""
    text = package_source(mistake["module"]).read_text() if "module" in mistake else source.partition("\nMISTAKES")[0]
    return text.partition(mistake["old"])[0].count("\n") + 1


def leaves(tree: Any) -> Iterator[Any]:
    """The arrays of nested tuples, lists and dicts, keys in order."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    else:
        yield tree


def cotangents(outputs: list[Any]) -> list[np.ndarray]:
    """One seeded direction per output, the same for both sides."""
    rng = np.random.default_rng(7)
    return [rng.normal(size=tuple(o.shape)) for o in outputs]


def named(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments."""
    return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})


def run_torch(module: torch.nn.Module, inputs: Any, dtype: torch.dtype) -> Callable[[], tuple[Arrays, Arrays]]:
    """Outputs and input gradients of the torch side."""
    module = module.to(dtype)
    args, kwargs = named(inputs)

    def tensor(x: np.ndarray) -> torch.Tensor:
        t = torch.from_numpy(np.array(x))
        return t.to(dtype).requires_grad_() if t.is_floating_point() else t

    def run() -> tuple[Arrays, Arrays]:
        given, by_name = [tensor(a) for a in args], {k: tensor(v) for k, v in kwargs.items()}
        outputs = list(leaves(module(*given, **by_name)))
        kept = [o for o in outputs if o.requires_grad]
        wanted = [t for t in [*given, *(by_name[k] for k in sorted(by_name))] if t.requires_grad]
        grads: list[Any] = []
        if kept and wanted:
            total = sum(
                (o * torch.from_numpy(c).to(dtype)).sum()
                for o, c in zip(outputs, cotangents(outputs), strict=True)
                if o.requires_grad
            )
            grads = list(torch.autograd.grad(total, wanted, allow_unused=True))  # type: ignore[arg-type]
            grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]
        return [o.detach().numpy() for o in outputs], [g.numpy() for g in grads]

    return run


def pure(program: Any) -> tuple[Callable[..., Any], Any]:
    """A JAX program as (function of parameters and inputs, parameters)."""
    if isinstance(program, nnx.Module):
        graph, state = nnx.split(program)
        return lambda s, *a, **k: nnx.merge(graph, s)(*a, **k), state
    if isinstance(program, tuple) and isinstance(program[0], linen.Module):
        return program[0].apply, program[1]
    if isinstance(program, tuple):
        return program
    return lambda p, *a, **k: p(*a, **k), program


def floating(x: Any) -> bool:
    """Whether an array is one of real numbers."""
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


def run_jax(program: Any, inputs: Any, dtype: Any) -> tuple[Callable[[], Arrays], Callable[[], Arrays]]:
    """Outputs, and input gradients, of the JAX side: each compiled only if it is asked for."""
    function, params = pure(program)

    def cast(x: Any) -> Any:
        return jnp.asarray(x, dtype) if floating(x) else x

    params = jax.tree.map(cast, params)
    args, kwargs = named(inputs)
    every = [*(np.asarray(a) for a in args), *(np.asarray(kwargs[k]) for k in sorted(kwargs))]
    which = [i for i, a in enumerate(every) if np.issubdtype(a.dtype, np.floating)]

    def call(params: Any, flat: list[Any]) -> list[Any]:
        rest = flat[len(args) :]
        return list(leaves(function(params, *flat[: len(args)], **dict(zip(sorted(kwargs), rest, strict=True)))))

    def summed(real: list[Any], params: Any, flat: list[Any]) -> Any:
        flat = list(flat)
        for i, x in zip(which, real, strict=True):
            flat[i] = x
        outputs = call(params, flat)
        return sum(jnp.sum(o * c) for o, c in zip(outputs, cotangents(outputs), strict=True) if floating(o))

    flat = [cast(a) for a in every]

    def outputs() -> Arrays:
        return [np.asarray(o) for o in jax.jit(call)(params, flat)]

    def gradients() -> Arrays:
        if not which:
            return []
        return [np.asarray(g) for g in jax.jit(jax.grad(summed))([flat[i] for i in which], params, flat)]

    return outputs, gradients


def apart(first: Arrays, second: Arrays) -> float:
    """The largest relative RMS difference between two lists of arrays; infinite where shapes, or NaN, differ."""
    if [a.shape for a in first] != [b.shape for b in second]:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = max(float(np.sqrt(np.mean(x * x))), float(np.sqrt(np.mean(y * y))))
        error = float(np.sqrt(np.mean((x - y) ** 2)))
        worst = max(worst, float("inf") if not np.isfinite(error) else error / size if size else 0.0)
    return worst


def check_file(path: Path) -> list[str]:
    """What is wrong with one file; prints one line of what was measured."""
    source = path.read_text()
    right, faults, seen = load(path, source), [], []
    given = right.inputs()
    jax_program = right.jax_side() if right.LOADED else right.convert(right.torch_side())
    t32, _ = run_torch(right.torch_side(), given, torch.float32)()
    single = apart(t32, run_jax(jax_program, given, jnp.float32)[0]())
    with jax.enable_x64(True):
        t64, t64_grads = run_torch(right.torch_side(), given, torch.float64)()
        outputs, gradients = run_jax(jax_program, given, jnp.float64)
        j64, j64_grads = outputs(), gradients()
    double, grads = apart(t64, j64), apart(t64_grads, j64_grads)
    exact = (1e-6, 1e-6) if getattr(right, "SINGLE", False) else (1e-10, 1e-9)
    if single > 1e-5 or double > exact[0] or grads > exact[1]:
        faults.append(f"the right pair differs: float32 {single:.1e}, float64 {double:.1e}, its gradients {grads:.1e}")
    if not right.LOADED:
        random = apart(t32, run_jax(right.jax_side(), given, jnp.float32)[0]())
        if random < 1e-3:
            faults.append("LOADED is False, yet jax_side() returns what the torch side does")
    if not 3 <= len(right.MISTAKES) <= 5:
        faults.append(f"{len(right.MISTAKES)} mistakes; wanted 3 to 5")
    for m in right.MISTAKES:
        try:
            by = measure(path, source, m, given, (t64, t64_grads), (j64, j64_grads))
        except Exception as error:  # noqa: BLE001 - whatever a broken file does is reported with its name
            faults.append(f"{m['name']}: {type(error).__name__}: {str(error)[:300]}")
            continue
        seen.append(by)
        if by.startswith("!"):
            faults.append(f"{m['name']} ({m['side']}): {by}")
        if line(source, m) != m["line"]:
            faults.append(f"{m['name']}: line {m['line']} is not where `old` begins; --number writes it")
    print(f"{path.stem:28} f32 {single:.0e} f64 {double:.0e} grad {grads:.0e}  mistakes: {', '.join(seen)}", flush=True)  # noqa: T201
    return faults


def measure(path: Path, source: str, m: dict[str, Any], given: Any, right_torch: Any, right_jax: Any) -> str:
    """By how much one mistake changes outputs, or gradients where it leaves the outputs alone."""
    wrong = load(path, plant(source, m))
    if m["side"] == "torch":
        right, right_grads = right_torch
        now, now_grads = run_torch(wrong.torch_side(), given, torch.float64)()
        change, kind = apart(right, now), "output"
        if change <= 1e-4:
            change, kind = apart(right_grads, now_grads), "gradient"
    else:
        right, right_grads = right_jax
        program = wrong.jax_side() if wrong.LOADED else wrong.convert(wrong.torch_side())
        with jax.enable_x64(True):
            outputs, gradients = run_jax(program, given, jnp.float64)
            change, kind = apart(right, outputs()), "output"
            if change <= 1e-4:
                change, kind = apart(right_grads, gradients()), "gradient"
    fine = 1e-4 < change < float("inf")
    return f"{'' if fine else '! '}{change:.0e} {kind}"


def number(path: Path) -> None:
    """Writes the line of each mistake into the file."""
    source = path.read_text()
    head = source.partition("\nMISTAKES")[0]
    lines = iter([line(source, m) for m in load(path, source).MISTAKES])
    tail = re.sub(r'"line": \d+', lambda _: f'"line": {next(lines)}', source[len(head) :])
    _ = path.write_text(head + tail)


def main(arguments: list[str]) -> int:
    """0 if every file is right."""
    jax.config.update("jax_disable_most_optimizations", True)
    torch.set_num_threads(1)
    places = [Path(a) for a in arguments if not a.startswith("--")] or [Path(__file__).parent / "seen"]
    files = sorted(f for p in places for f in (p.glob("*.py") if p.is_dir() else [p]) if f.stem != "__init__")
    bad = skipped = 0
    for path in files:
        faults: list[str] = []
        try:
            if "--number" in arguments:
                number(path)
            faults = check_file(path)
        except Missing as package:
            print(f"{path.stem}: skipped, {package}")  # noqa: T201
            skipped += 1
        except Exception as error:  # noqa: BLE001 - whatever a broken file does is reported with its name
            faults = [f"{type(error).__name__}: {str(error)[:1500]}"]
        for fault in faults:
            print(f"{path.stem}: {fault}")  # noqa: T201
        bad += bool(faults)
    print(f"{len(files) - bad - skipped} of {len(files) - skipped} files are right, {skipped} skipped")  # noqa: T201
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
