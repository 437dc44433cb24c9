"""Request: one checked attention call, as data for kernels and rules.

request.lacks("bias", "float32") = the option or dtype that a kernel with only these features cannot serve, or None
"""

# Values are whatever a user passed, of types that strict mode cannot know.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention.spec.attend import INTERMEDIATES
from attention.spec.axes import COMPUTE, Array, Sizes, check_broadcast, dtype_name
from attention.spec.errors import OptionError, ShapeError, shown
from attention.spec.masks import Mask
from attention.spec.numbers import is_symbolic
from attention.spec.options import ARRAY, instance, one_of
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
        scale: factor of `q . k`.
        mask: holds the framework's own arrays, or None.
        bias: broadcasts to `(*batch, H, T, S)`, or None.
        softcap: bound of the scores, or None.
        score_mod: `(score, b, h, t, s) -> score`, or None.
        sinks: `(H,)`, or None.
        dropout_rate: in [0, 1).
        dropout_seed: an int or an integer scalar; None only at rate 0.
        precision: one of `PRECISIONS`.
        intermediates: names of the intermediates to return.
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
    intermediates: tuple[str, ...] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        REQUEST.check("sizes", self.sizes)
        check_cap(self.softcap)
        if self.score_mod is not None and not callable(self.score_mod):
            raise OptionError(f"score_mod {shown(self.score_mod)} must be a function (score, b, h, t, s) -> score, or None")
        _ = keep_threshold(self.dropout_rate)
        check_precision(self.precision)
        _ = intermediate_names(self.intermediates)
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
    def needs_zero_masking(self) -> bool:
        """Whether the mask may leave a query without keys, or a key without queries, whose NaN must be kept out."""
        return self.mask is not None and not (self.sizes.T == self.sizes.S and self.mask.keeps_self)

    @property
    def differentiated(self) -> bool | None:
        """Whether a gradient will be computed: None if unknown, as in JAX."""
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


def intermediate_names(given: Any) -> tuple[str, ...]:
    """Return the checked names of intermediates of a call, none for None.

    Raises:
        OptionError: not a tuple or list of names among `INTERMEDIATES`.

    >>> intermediate_names("weights")
    Traceback (most recent call last):
    attention.spec.errors.OptionError: return_intermediates 'weights' must be a tuple of names: ('weights',)
    """
    if given is None or (type(given) is tuple and not given):
        return ()
    if type(given) is str and given in INTERMEDIATES:
        raise OptionError(f"return_intermediates {given!r} must be a tuple of names: ({given!r},)")
    if not isinstance(given, (tuple, list)):
        raise OptionError(f"return_intermediates {shown(given)} must be a tuple of names among {', '.join(INTERMEDIATES)}")
    for intermediate in given:
        if not (type(intermediate) is str and intermediate in INTERMEDIATES):
            raise OptionError(f"return_intermediates {shown(intermediate)} must be among {', '.join(INTERMEDIATES)}")
    return tuple(given)


def check_precision(precision: str | None) -> None:
    """Raise OptionError unless `precision` is one of `PRECISIONS`."""
    PRECISION.check("precision", precision)


OPTIONAL = ("bias", "sinks", "state")
"""Arrays of a call that may be absent."""
