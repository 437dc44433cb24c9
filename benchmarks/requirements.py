"""Requirements on time, memory and accuracy of the kernels, as data.

    ratio     median over rounds of time(implementation) / time(against)          at most
    speedup   median over rounds of time(against) / time(implementation)          at least
    growth    exponent of time over S: slope of log time on log S          at most
    fraction  rate of the products / rate of the framework's own GEMM      at least
    memory    extra bytes(against) / extra bytes(implementation)                  at least
    swell     exponent of extra memory over S                              at most
    runs      the call comes to its end                                    at least 1
    rms       root mean square error(implementation) / that of `against`          at most, the worst of output and gradients
    seconds   to compile                                                   at most
    beside    milliseconds of an import beyond those of its framework      at most

A name begins with its group: 1 and 2 are dense and causal calls of JAX and of torch, 3 masks with structure, 4 memory, 5 the
share of the GEMM's rate, 6 decoding, 7 the overhead of a call, 8 accuracy, 9 accelerators. "SDPA" is given (B, H, T, D) in
one piece, as it likes it best; "SDPA strided" what this project is given, (B, T, H, D), as a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from benchmarks.cases import BACKWARD, FORWARD, PROGRAMS, Case

RATIO, SPEEDUP, GROWTH, FRACTION = "ratio", "speedup", "growth", "fraction"
MEMORY, SWELL, RUNS, RMS, SECONDS, BESIDE, LAYER = "memory", "swell", "runs", "rms", "seconds", "beside", "layer"
LEAST = (SPEEDUP, FRACTION, MEMORY, RUNS)
"""Quantities of which there shall be at least so much; of the others at most."""
BEST = "best peer"
"""Whoever of the peers was fastest."""
LENGTHS = (512, 1024, 2048, 4096)
GROWING, SWELLING = (2048, 4096, 8192, 16384, 32768), (2048, 4096, 8192, 16384)
SHORT = {FORWARD: "fwd", BACKWARD: "fwd+bwd"}
FLEX = ("causal", "window", "segments", "padding", "prefix")
ACCELERATOR = "9"
"""The group of the requirements for accelerators; all others are for a CPU."""


@dataclass(frozen=True)
class Requirement:
    """One thing that must hold.

    Args:
        name: the number in the list, and what tells it from others of that number.
        quantity: see above; `LAYER` is a ratio or speed-up of whole layers.
        implementation: whose number it is: ours.
        against: who it is compared with; "" where nobody.
        cases: the calls; several for a growth.
        limit: of the quantity.
        least: whether the quantity must be at least, not at most, the limit.
    """

    name: str
    quantity: str
    implementation: str
    against: str
    cases: tuple[Case, ...]
    limit: float
    least: bool = False

    @property
    def what(self) -> str:
        """The requirement in words."""
        than = f" / {self.against}" if self.against else ""
        where = self.cases[0].name if len(self.cases) == 1 else ""
        if len(self.cases) > 1:
            sizes = f"S {self.cases[0].S}-{self.cases[-1].S}"
            where = f"{self.cases[0].mask} {sizes} {self.cases[0].dtype} {self.cases[0].program}"
        shown = f" / {self.implementation}" if self.least and self.against else ""
        subject = f"{self.against}{shown}" if shown else f"{self.implementation}{than}"
        return f"{self.quantity} of {subject}{': ' if where else ''}{where}"


def _requirement(name: str, quantity: str, implementation: str, against: str, limit: float, *cases: Case) -> Requirement:
    return Requirement(name, quantity, implementation, against, cases, limit, quantity in LEAST)


def _dense() -> Iterator[Requirement]:
    """Groups 1 and 2: JAX's "auto" against SDPA and jax.nn, torch's against SDPA."""
    limits = {
        ("float32", FORWARD): {"dense": 1.10, "causal": 1.20},
        ("float32", BACKWARD): {"dense": 1.05, "causal": 1.15},
        ("bfloat16", FORWARD): {"dense": 0.90, "causal": 1.00},
        ("bfloat16", BACKWARD): {"dense": 1.00, "causal": 1.00},
    }
    for (dtype, program), by_mask in limits.items():
        for (mask, limit), d, s in product(by_mask.items(), (64, 128), LENGTHS):
            case, tag = Case(mask, s, D=d, dtype=dtype, program=program), f"{mask}.{dtype}.{SHORT[program]}.D{d}.S{s}"
            yield _requirement(f"1.{tag}", RATIO, "jax auto", "SDPA", limit, case)
            yield _requirement(f"2.{tag}", RATIO, "torch auto", "SDPA", 1.02, case)
            yield _requirement(f"2.strided.{tag}", RATIO, "torch auto", "SDPA strided", 1.02, case)
    faster = {FORWARD: {"dense": 3.4, "causal": 4.5}, BACKWARD: {"dense": 4.0, "causal": 7.0}}
    for program, by_mask in faster.items():
        for mask, limit in by_mask.items():
            tag, case = f"{mask}.float32.{SHORT[program]}", Case(mask, 4096, program=program)
            yield _requirement(f"1.jaxnn.{tag}.S4096", SPEEDUP, "jax auto", "jax.nn", limit, case)
            for dtype, s in product(("float32", "bfloat16"), (64, 128, 256, *LENGTHS)):
                never = Case(mask, s, dtype=dtype, program=program)
                yield _requirement(f"1.never.{mask}.{dtype}.{SHORT[program]}.S{s}", RATIO, "jax auto", "jax.nn", 1.0, never)


def _structured() -> Iterator[Requirement]:
    """Group 3: masks with structure."""
    faster = {
        ("window", FORWARD): {"torch": 8.0, "jax": 7.0},
        ("segments", FORWARD): {"torch": 7.0, "jax": 3.5},
        ("padding", FORWARD): {"torch": 2.0, "jax": 2.0},
        ("prefix", FORWARD): {"torch": 1.75, "jax": 1.75},
        ("window", BACKWARD): {"torch": 6.0, "jax": 5.0},
        ("segments", BACKWARD): {"torch": 5.0, "jax": 3.5},
    }
    for (mask, program), by_side in faster.items():
        for side, limit in by_side.items():
            case = Case(mask, 4096, program=program)
            yield _requirement(f"3.{mask}.{SHORT[program]}.{side}", SPEEDUP, f"{side} auto", "SDPA", limit, case)
    for mask in FLEX:
        yield _requirement(f"3.flex.{mask}", RATIO, "torch auto", "FlexAttention", 1.0, Case(mask, 4096))
    for program in PROGRAMS:
        case = Case("window", 4096, program=program)
        yield _requirement(f"3.window.{SHORT[program]}.jaxnn", SPEEDUP, "jax auto", "jax.nn", 18.0, case)
    for side, program in product(("torch", "jax"), PROGRAMS):
        cases = (Case("window", s, program=program) for s in GROWING)
        yield _requirement(f"3.growth.{SHORT[program]}.{side}", GROWTH, f"{side} auto", "", 1.1, *cases)


def _memory() -> Iterator[Requirement]:
    """Group 4: memory."""
    for mask, side, program in product(("dense", *FLEX), ("torch", "jax"), PROGRAMS):
        limit, cases = (1.1 if program == FORWARD else 1.2), (Case(mask, s, program=program) for s in SWELLING)
        yield _requirement(f"4.{mask}.{SHORT[program]}.{side}", SWELL, f"{side} auto", "", limit, *cases)
    for mask in ("dense", "causal"):
        case = Case(mask, 4096, program=BACKWARD)
        yield _requirement(f"4.jaxnn.{mask}", MEMORY, "jax auto", "jax.nn", 40.0, case)
    for side in ("torch", "jax"):
        yield _requirement(f"4.trains.{side}", RUNS, f"{side} auto", "", 1.0, Case("causal", 32768, program=BACKWARD))


def _rest() -> Iterator[Requirement]:
    """Groups 5 to 8."""
    for (d, limit), side in product({64: 0.70, 128: 0.80}.items(), ("torch", "jax")):
        yield _requirement(f"5.D{d}.{side}", FRACTION, f"{side} auto", f"{side} GEMM", limit, Case("dense", 4096, D=d))
    for b in (1, 4):
        for dtype, limit in {"float32": 0.5, "bfloat16": 0.12}.items():
            case = Case("dense", 4096, 1, b, 32, 8, 128, dtype)
            yield _requirement(f"6.torch.{dtype}.B{b}", RATIO, "torch auto", "SDPA", limit, case)
            yield _requirement(f"6.strided.{dtype}.B{b}", RATIO, "torch auto", "SDPA strided", limit, case)
            yield _requirement(f"6.jax.{dtype}.B{b}", SPEEDUP, "jax auto", "jax.nn", 4.0, case)
    for side in ("torch", "jax"):
        # A quarter of the cache shall cost at most half.
        cases = (Case(mask, 4096, 1, 4, 32, 8, 128) for mask in ("quarter", "dense"))
        yield _requirement(f"6.valid.{side}", GROWTH, f"{side} auto", "", 0.5, *cases)
    yield Requirement("7.torch", LAYER, "torch module", "Linear + SDPA", (), 1.15)
    yield Requirement("7.nnx", LAYER, "jax module, compiled", "jax module, nnx.jit", (), 5.0, least=True)
    for mask, s in product(("dense", "causal", "window", "segments"), (1024, 4096, 16384)):
        yield _requirement(f"7.compile.{mask}.S{s}", SECONDS, "jax auto", "", 1.5, Case(mask, s, program=BACKWARD))
    yield Requirement("7.import.torch", BESIDE, "attention.torch_impl", "torch", (), 50.0)
    yield Requirement("7.import.jax", BESIDE, "attention.jax_impl", "jax and flax.nnx", (), 50.0)
    for mask, side, dtype in product(("dense", "causal"), ("torch", "jax"), ("float32", "bfloat16")):
        case = Case(mask, 1024, dtype=dtype, program=BACKWARD)
        yield _requirement(f"8.{mask}.{dtype}.{side}", RMS, f"{side} auto", "SDPA", 1.1, case)


def _accelerator() -> Iterator[Requirement]:
    """Group 9: where there is an accelerator."""
    for side, d, s in product(("torch", "jax"), (64, 128), (4096, 8192, 16384)):
        for mask, limit in {"dense": 1 / 0.95, "causal": 1 / 0.95, "window": 1.0, "segments": 1.0}.items():
            case = Case(mask, s, B=2, H=16, D=d, dtype="bfloat16")
            yield _requirement(f"9.{mask}.D{d}.S{s}.{side}", RATIO, f"{side} auto", BEST, limit, case)


REQUIREMENTS = (*_dense(), *_structured(), *_memory(), *_rest(), *_accelerator())
