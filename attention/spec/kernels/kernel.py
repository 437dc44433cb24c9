"""Kernels: what a call asks for, who can answer it, and why the others cannot.

    choose(kernels, request) = the first kernel that does not refuse, with every refusal and its reason
    "auto" asks in the order of the rule that holds (rules.py), then in that of the table, to the reference at last

A refusal is data, not an exception: "auto" and `attention kernels explain` read the same one. Nothing falls back silently.
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from attention.spec.attend import STAGES
from attention.spec.axes import COMPUTE, Array, Sizes, check_broadcast, dtype_name
from attention.spec.errors import KernelRefused, OptionError, ShapeError, UnknownName, shown
from attention.spec.kernels.auto_rules import Rule, first
from attention.spec.masks import Mask
from attention.spec.numbers import is_symbolic
from attention.spec.options import ARRAY, Option, checked, instance, one_of
from attention.spec.random import count, keep_threshold
from attention.spec.scores import ScoreMod, check_cap

PRECISIONS = (None, "default", "high", "highest")
"""Least precision of a float32 product, rising. None: whatever the framework is set to. "highest": no TF32, no bf16 passes."""

PRECISION = one_of(*filter(None, PRECISIONS), none=True)


REQUEST = instance(Sizes)


@dataclass(frozen=True, eq=False)
class Request:
    """One attention call, checked. Arrays are the framework's own; the rest is structure.

    Attributes:
        q: `(*batch, T, H, D)`.
        k: `(*batch, S, K, D)`.
        v: `(*batch, S, K, E)`.
        sizes: the sizes by axis letter.
        dtype: the dtype of q, k and v.
        scale: what `q . k` is multiplied by.
        mask: holds the framework's own arrays, or None.
        bias: broadcasts to `(*batch, H, T, S)`, or None.
        softcap: bound of the scores, or None.
        score_mod: `(score, b, h, t, s) -> score`, or None.
        sinks: `(H,)`, or None.
        dropout_rate: in [0, 1).
        dropout_seed: an int or an integer scalar; None only at rate 0.
        precision: one of `PRECISIONS`.
        stages: names of the stages to return.
        device: "cpu", "cuda", "tpu" and so on.
    """

    q: Array
    k: Array
    v: Array
    sizes: Sizes
    dtype: str
    scale: float
    mask: Mask | None = None
    bias: Array = None
    softcap: float | None = None
    score_mod: ScoreMod | None = None
    sinks: Array = None
    dropout_rate: float = 0.0
    dropout_seed: Array = None
    precision: str | None = None
    stages: tuple[str, ...] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        REQUEST.check("sizes", self.sizes)
        check_cap(self.softcap)
        if self.score_mod is not None and not callable(self.score_mod):
            raise OptionError(f"score_mod {shown(self.score_mod)} must be a function (score, b, h, t, s) -> score, or None")
        _ = keep_threshold(self.dropout_rate)
        check_precision(self.precision)
        _ = stage_names(self.stages)
        if self.dropout_rate and not any(map(is_symbolic, self.sizes.scores)):
            _ = count(self.sizes.scores)
        if self.dropout_rate and self.dropout_seed is None:
            raise OptionError(f"dropout_seed None must be an integer when dropout_rate is {self.dropout_rate}")
        if self.bias is not None:
            ARRAY.check("bias", self.bias)
            check_broadcast("bias", self.bias, self.sizes.scores, "(*batch, H, T, S)")
        if self.sinks is not None:
            ARRAY.check("sinks", self.sinks)
        if self.sinks is not None and tuple(self.sinks.shape) != (self.sizes.H,):
            raise ShapeError(f"sinks {tuple(self.sinks.shape)} must be (H,) = ({self.sizes.H},)")

    @property
    def compute(self) -> str:
        """The dtype in which softmax and sums run."""
        return COMPUTE[self.dtype]

    @property
    def needs_shield(self) -> bool:
        """Whether a row may be empty or a key unseen, so that NaN there must be kept out."""
        return self.mask is not None and not (self.sizes.T == self.sizes.S and self.mask.keeps_self)

    @property
    def differentiated(self) -> bool | None:
        """Whether a gradient will be asked for: None where the framework does not say, as JAX does not."""
        known = [getattr(x, "requires_grad", None) for x in (self.q, self.k, self.v)]
        return None if None in known else any(known)

    def lacks(self, *features: str) -> str | None:
        """Return why a kernel that has only `features` must refuse, or None.

        Features: "softcap", "score_mod", "sinks", "dropout", "bias", "wide bias", "E != D", a dtype's name.
        """
        asked = {
            "softcap": self.softcap is not None,
            "score_mod": self.score_mod is not None,
            "sinks": self.sinks is not None,
            "dropout": self.dropout_rate > 0,
            "bias": self.bias is not None,
            "wide bias": self.bias is not None and dtype_name(self.bias) != self.dtype,
            "E != D": self.sizes.E != self.sizes.D,
            self.dtype: True,
        }
        missing = [name for name, wanted in asked.items() if wanted and name not in features]
        return f"has no {', no '.join(missing)}" if missing else None


def stage_names(given: Any) -> tuple[str, ...]:
    """Return the names of stages that a call asks for, none for None.

    Raises:
        OptionError: not a tuple or list of names among `STAGES`.

    >>> stage_names("weights")
    Traceback (most recent call last):
    attention.spec.errors.OptionError: return_stages 'weights' must be a tuple of names: ('weights',)
    """
    if given is None or (type(given) is tuple and not given):
        return ()
    if type(given) is str and given in STAGES:
        raise OptionError(f"return_stages {given!r} must be a tuple of names: ({given!r},)")
    if not isinstance(given, (tuple, list)):
        raise OptionError(f"return_stages {shown(given)} must be a tuple of names among {', '.join(STAGES)}")
    for stage in given:
        if not (type(stage) is str and stage in STAGES):
            raise OptionError(f"return_stages {shown(stage)} must be among {', '.join(STAGES)}")
    return tuple(given)


def check_precision(precision: str | None) -> None:
    """Raise OptionError unless `precision` is one of `PRECISIONS`."""
    PRECISION.check("precision", precision)


OPTIONAL = ("bias", "sinks", "state")
"""Arrays of a call that may be absent."""


class Kernel(Protocol):
    """One way to compute attention."""

    @property
    def name(self) -> str:
        """The name that `implementation=` takes."""
        ...

    @property
    def rounds(self) -> tuple[str, ...]:
        """What the kernel rounds on purpose; a budget takes it into account, and nothing else.

        A stage's name: written down in the dtype of the inputs. "d " and a stage: its gradient is. "logsumexp": the
        backward pass makes the weights anew from it, and takes sum(weights * d weights) from the context as it was returned.
        """
        ...

    def refuses(self, request: Request) -> str | None:
        """Return why this kernel cannot answer the request, or None if it can."""
        ...

    def run(self, request: Request) -> dict[str, Array]:
        """Return "context" `(*batch, T, H, E)`, and those of the stages that the request names which it can give."""
        ...


REFERENCE = "reference"
"""The kernel that takes every call: where "auto" ends. What stands behind it in a table is for those who ask by name."""


class Kernels(dict[str, Kernel]):
    """A room's kernels by name, in order of preference, and the rules by which "auto" departs from that order.

    Args:
        kernels: of a room.
        rules: the first that holds gives the order.
    """

    def __init__(self, kernels: Iterable[Kernel], rules: tuple[Rule, ...] = ()) -> None:
        super().__init__({kernel.name: kernel for kernel in kernels})
        self.rules = rules


def _is_table(value: object) -> bool:
    """Return whether a value is a mapping of kernels by name, and not empty."""
    return isinstance(value, Mapping) and bool(value) and all(hasattr(kernel, "refuses") for kernel in value.values())


RULES = Option(
    "a tuple of rules, or None", lambda value: isinstance(value, tuple) and all(isinstance(rule, Rule) for rule in value)
)
REQUESTED = instance(Request, wanted="a Request")


@dataclass(frozen=True)
class Choice:
    """The kernel that answers a request, why those before it do not, and the rule that put them in this order.

    Attributes:
        kernel: the one that answers.
        refusals: (name, reason) of each that was asked before.
        rule: None where no rule holds, so that the table's own order counts, and for a kernel asked for by name.
    """

    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]
    rule: Rule | None = None


@checked(kernels=Option("a table of kernels", _is_table), request=REQUESTED)
def choose(
    kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto", rules: tuple[Rule, ...] | None = None
) -> Choice:
    """Return the first kernel that takes the request, or the one asked for by name.

    Args:
        kernels: a room's table, in order of preference.
        request: the call.
        implementation: "auto" or a kernel's name.
        rules: the first that holds changes the order; None: those of the table.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel asked for by name refuses, or all that "auto" may ask do.
    """
    rule = None
    if type(implementation) is str and implementation == "auto":
        known: tuple[Rule, ...] = getattr(kernels, "rules", ()) if rules is None else rules
        RULES.check("rules", known)
        rule = first(known, request) if known else None
        asked = order(kernels, rule)
    elif isinstance(implementation, str) and implementation in kernels:  # pyright: ignore[reportUnnecessaryIsInstance]
        asked = [implementation]
    else:
        raise UnknownName(f"implementation {shown(implementation)} must be 'auto' or one of {', '.join(kernels)}")
    refusals: list[tuple[str, str]] = []
    for name in asked:
        kernel = kernels[name]
        reason = kernel.refuses(request)
        if reason is None:
            for record in _RECORDS:
                record.append(kernel)
            return Choice(kernel, tuple(refusals), rule)
        refusals.append((name, reason))
    raise KernelRefused("; ".join(f"kernel {name!r} refuses: {reason}" for name, reason in refusals))


def order(kernels: Mapping[str, Kernel], rule: Rule | None = None) -> list[str]:
    """Return the names in the order in which "auto" asks: those of the rule that are there, then the table to its reference."""
    names = [name for name in rule.prefer if name in kernels] if rule is not None else []
    for name in kernels:
        if name not in names:
            names.append(name)
        if name == REFERENCE:
            break
    return names


def answer(kernels: Mapping[str, Kernel], request: Request, implementation: str = "auto") -> dict[str, Array]:
    """Return the context by the chosen kernel, and the stages asked for.

    A stage that the kernel does not write down is computed beside it by the formula, so that to look at the weights
    never changes the context.

    Args:
        kernels: a room's table, which holds the `REFERENCE`.
        request: the call.
        implementation: "auto" or a kernel's name.

    Raises:
        UnknownName: no kernel has that name.
        KernelRefused: the kernel asked for by name refuses, or all do.
    """
    made = choose(kernels, request, implementation).kernel.run(request)
    if all(stage in made for stage in request.stages):
        return made
    return {**kernels[REFERENCE].run(request), **made}


_RECORDS: list[list[Kernel]] = []


@contextmanager
def recorded() -> Generator[list[Kernel]]:
    """Give a list to which every kernel that is chosen inside is appended: what a whole model really ran on.

    A compiled program chooses while it is traced, not when it runs.
    """
    record: list[Kernel] = []
    _RECORDS.append(record)
    try:
        yield record
    finally:
        _RECORDS.remove(record)
