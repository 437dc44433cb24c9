"""The kernel `varlen`: packed documents through torch's varlen_attn (FlashAttention).

    documents = runs of equal ids >= 0, one after another through all batch rows
    cu_q[i], cu_kv[i] = where document i begins among all B T queries and all B S keys
    context[cu_q[i] : cu_q[i + 1]] = attention(q, k, v of document i, s - t within the window)

Padding is a document too, without queries or without keys, and what belongs to it is made 0: nothing is gathered or scattered.
How many documents there are shapes the call, so the ids have to be known on the host; on an accelerator that waits for them.

References:
    Dao, "FlashAttention-2", arXiv:2307.08691; torch.nn.attention.varlen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from attention.spec.axes import Sizes
from attention.spec.kernels import Request
from attention.spec.masks.algebra import And, Mask
from attention.spec.masks.aligned import Aligned, Causal, Window
from attention.spec.masks.padding import Lengths
from attention.spec.masks.segments import Segments
from attention.torch_impl.kernels import derivatives, precision

FEATURES = ("E != D",)
NEEDED = {"scale", "window_size", "enable_gqa"}
"""What varlen_attn has to have arguments for, which it was given one release after another."""
WIDEST, ALIGNED = 256, 8
"""FlashAttention's heads: the widest, and what their width is a multiple of."""

Attend = Callable[..., Any]


@cache
def torch_varlen() -> Attend | None:
    """Return torch's function, or None if this torch has none that supports every option.

    Asked for late, since it brings half of torch's compiler with it.
    """
    if find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - torch 2.9 has no such module

    return varlen_attn if set(inspect.signature(varlen_attn).parameters) >= NEEDED else None


@dataclass(frozen=True, eq=False)
class Packing:
    """A mask as FlashAttention takes it.

    Attributes:
        cu_q: int32 `(documents + 1,)`, where each document's queries begin, and at last where all end.
        cu_kv: the same for the keys.
        max_q: the most queries of a document.
        max_kv: the most keys.
        window: keys seen before and after the query's own, -1 where there is no bound.
        rows: bool `(*batch, T)`, the queries that have a key; None: all.
        keys: bool `(*batch, S)`, the keys that have a query; None: all.
    """

    cu_q: np.ndarray
    cu_kv: np.ndarray
    max_q: int
    max_kv: int
    window: tuple[int, int]
    rows: np.ndarray | None
    keys: np.ndarray | None


_PACKED: WeakKeyDictionary[Request, Packing | str] = WeakKeyDictionary()
"""The result for a request, cached so that `refuses` and `run` do not count its documents twice."""


@dataclass(frozen=True)
class Varlen:
    """Torch's attention of documents of various lengths.

    Attributes:
        attend: gives what does the work, with the arguments of torch's varlen_attn, or None where nothing does.
        devices: where it runs.
        dtypes: what it takes.
    """

    name: str = "varlen"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")
    attend: Callable[[], Attend | None] = torch_varlen
    devices: tuple[str, ...] = ("cuda",)
    dtypes: tuple[str, ...] = ("bfloat16", "float16")

    def refuses(self, request: Request) -> str | None:
        """Refuse what FlashAttention has no argument for, and masks that are no documents in one piece."""
        return (
            self._lacks_here(request)
            or derivatives.refuses(request.q, request.k, request.v)
            or request.lacks(*FEATURES, *self.dtypes)
            or precision.refuses(request)
            or (found if isinstance(found := packing(request), str) else None)
        )

    def _lacks_here(self, request: Request) -> str | None:
        if request.device not in self.devices:
            return f"has no {request.device}"
        if self.attend() is None:
            return f"torch {torch.__version__} has no varlen_attn with {', '.join(sorted(NEEDED))}"
        if torch.compiler.is_compiling():
            return "has no compiled form: documents are counted before they are attended to"
        if any(derivatives.is_transformed(x) for x in (request.q, request.k, request.v)):
            return "has no transform of torch.func"
        if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
            return "does not support axes of size 0"
        width = max(request.sizes.D, request.sizes.E)
        return f"has no head wider than {WIDEST}: D or E is {width}" if width > WIDEST else None

    def run(self, request: Request) -> dict[str, Tensor]:
        """Return the context."""
        of, found, attend = request.sizes, packing(request), self.attend()
        # `refuses` ran before.
        assert isinstance(found, Packing)  # noqa: S101
        assert attend is not None  # noqa: S101
        device = request.q.device
        rows, keys = (None if x is None else torch.from_numpy(x).to(device)[..., None, None] for x in (found.rows, found.keys))
        given = [_only(seen, x) for seen, x in ((rows, request.q), (keys, request.k), (keys, request.v))]
        width = -(-max(of.D, of.E) // ALIGNED) * ALIGNED
        q, k, v = (pad(x, (0, width - x.shape[-1])).flatten(0, -3) for x in given)
        cu_q, cu_kv = (torch.from_numpy(x).to(device) for x in (found.cu_q, found.cu_kv))
        out = attend(
            *(q, k, v, cu_q, cu_kv, found.max_q, found.max_kv),
            scale=request.scale,
            window_size=found.window,
            enable_gqa=of.group > 1,
        )
        out = derivatives.last(self.name, out)[..., : of.E].reshape(*of.batch, of.T, of.H, of.E)
        return {"context": _only(rows, out)}


def _only(seen: Tensor | None, x: Tensor) -> Tensor:
    """Return `x` with zeros for masked tokens, whose gradient is then 0 for any kernel."""
    return x if seen is None else torch.where(seen, x, torch.zeros_like(x))


def packing(request: Request) -> Packing | str:
    """Return a request's mask as documents, or why it is none."""
    if request not in _PACKED:
        _PACKED[request] = _packing(request.mask, request.sizes)
    return _PACKED[request]


def _packing(mask: Mask | None, of: Sizes) -> Packing | str:
    queries, keys = np.zeros((*of.batch, of.T), np.int64), np.zeros((*of.batch, of.S), np.int64)
    spans: list[Aligned] = []
    segments: Segments | None = None
    absent: list[Lengths] = []
    for term in _terms(mask):
        match term:
            case Causal() | Window() if term.query_positions is None:
                spans.append(term)
            case Segments() if segments is None:
                segments = term
            case Lengths():
                absent.append(term)
            case _:
                return f"has no {type(term).__name__} here: one Segments, Lengths, Causal and Window, joined by &, are all"
    if segments is not None:
        queries, keys = queries + _host(segments.kv if segments.q is None else segments.q), keys + _host(segments.kv)
    for count in absent:
        keys = np.where(_exist(count.kv, of.S, count.padding), keys, -1)
        queries = queries if count.q is None else np.where(_exist(count.q, of.T, count.padding), queries, -1)
    return _documents(_Runs.of(queries), _Runs.of(keys), spans, of)


def _terms(mask: Mask | None) -> list[Mask]:
    """Return the masks of a conjunction."""
    if isinstance(mask, And):
        return _terms(mask.left) + _terms(mask.right)
    return [] if mask is None else [mask]


def _host(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _exist(counts: Tensor, n: int, padding: str) -> np.ndarray:
    known, at = _host(counts)[..., None], np.arange(n)
    return at >= n - known if padding == "left" else at < known


@dataclass(frozen=True, eq=False)
class _Runs:
    """Neighbours of one batch row and one id, in order, with all batch rows in one line.

    Attributes:
        row: integers `(runs,)`, counted through all batch axes.
        id: the id they share; negative: padding.
        start: where they begin in their row.
        length: how many they are.
    """

    row: np.ndarray
    id: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray) -> _Runs:
        n = ids.shape[-1]
        flat = np.maximum(ids, -1).reshape(-1)
        first = np.empty(flat.size, bool)
        first[1:] = flat[1:] != flat[:-1]
        first[::n] = True
        (start,) = np.nonzero(first)
        return cls(start // n, flat[start], start % n, np.diff(start, append=flat.size))

    @property
    def names(self) -> list[tuple[int, int]]:
        return list(zip(self.row.tolist(), self.id.tolist(), strict=True))


def _documents(queries: _Runs, keys: _Runs, spans: list[Aligned], of: Sizes) -> Packing | str:
    """Return the documents that queries and keys share, in order, with the padding between them; or why there are none."""
    of_name = {name: i for i, name in enumerate(keys.names) if name[1] >= 0}
    for runs in (queries, keys):
        named = [name for name in runs.names if name[1] >= 0]
        if len(set(named)) < len(named):
            return "does not support documents in several segments"
    pairs = [of_name.get(name, -1) for name in queries.names]
    met = np.array([i for i in pairs if i >= 0], np.int64)
    if np.any(np.diff(met) < 0):
        return "has no documents that keys hold in another order than queries"
    read = np.array(pairs) >= 0
    window = _window(spans)
    if window != (-1, -1):
        shifts = {of.S - of.T if span.align == "end" else 0 for span in spans}
        apart = (queries.start[read] + min(shifts) != keys.start[met]) | (queries.length[read] != keys.length[met])
        if len(shifts) > 1 or bool(np.any(apart)):
            return "has no diagonal beside that of the documents themselves"
    unread = np.ones(keys.length.size, bool)
    unread[met] = False
    cu_q, cu_kv = _offsets(queries, keys, pairs)
    return Packing(
        cu_q,
        cu_kv,
        int(np.diff(cu_q).max()),
        int(np.diff(cu_kv).max()),
        window,
        None if read.all() else np.repeat(read, queries.length).reshape(*of.batch, of.T),
        None if not unread.any() else np.repeat(~unread, keys.length).reshape(*of.batch, of.S),
    )


def _offsets(queries: _Runs, keys: _Runs, pairs: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where documents begin; padding on one side is a document that is empty on the other."""
    made: list[tuple[int, int]] = []
    done = 0
    lengths = keys.length.tolist()
    for count, pair in zip(queries.length.tolist(), pairs, strict=True):
        if pair < 0:
            made.append((count, 0))
            continue
        made.extend((0, n) for n in lengths[done:pair])
        made.append((count, lengths[pair]))
        done = pair + 1
    made.extend((0, n) for n in lengths[done:])
    ends = np.cumsum(np.array(made, np.int64), axis=0)
    both = np.concatenate([np.zeros((1, 2), np.int64), ends]).astype(np.int32)
    return both[:, 0].copy(), both[:, 1].copy()


def _window(spans: list[Aligned]) -> tuple[int, int]:
    """Return how many keys all of the masks show before a query's own and after it, -1 for all."""
    before = [span.before for span in spans if isinstance(span, Window) and span.before is not None]
    after = [0 if isinstance(span, Causal) else span.after for span in spans if isinstance(span, (Causal, Window))]
    bounded = [n for n in after if n is not None]
    return min(before, default=-1), min(bounded, default=-1)
