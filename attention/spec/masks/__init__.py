"""Masks: which keys a query may attend to. True = may attend, everywhere.

    allowed[t, s] = s <= p(t)                                   Causal                          aligned.py
    allowed[t, s] = p(t) - before <= s <= p(t) + after          Window(before, after)           aligned.py
    allowed[t, s] = s // size == p(t) // size                   Chunked(size)                   aligned.py
    allowed[t, s] = s < length                                  Prefix(length)                  padding.py
    allowed[t, s] = s < kv, t < q                               Lengths(kv, q)                  padding.py
    allowed[t, s] = q[t] == kv[s] >= 0                          Segments(kv, q)                 segments.py
    allowed[b, h, t, s] = array[b, h, t, s]                     DenseMask(array)                dense.py
    allowed[b, h, t, s] = masks[h or b][b, h, t, s]             PerHead(masks), PerRow(masks)   selection.py
    allowed[t, s] = mask[q[t], k[s]] and q[t] >= 0 <= k[s]      Placed(mask, q, k)              selection.py
    p(t) = t  or  t + S - T  or  query_positions[t]             align="start", align="end", explicit

Masks compose with `&`, `|` and `~` (algebra.py). Structure (an alignment, a window) is hashable and never traced;
data (lengths, ids, an array) is traced, so a mask passes through `jax.jit` and `torch.compile` as an argument (tree.py).
Predicates use operators only: the same predicate serves NumPy, torch, JAX and kernels that evaluate one element at a time
(grid.py).
"""

from attention.spec.masks.algebra import And, Mask, Not, Or
from attention.spec.masks.aligned import Aligned, Causal, Chunked, Window
from attention.spec.masks.dense import DenseMask
from attention.spec.masks.fields import MOST
from attention.spec.masks.padding import Lengths, Prefix
from attention.spec.masks.segments import Segments
from attention.spec.masks.selection import PerHead, PerRow, Placed
from attention.spec.masks.tile_schedule import Schedule, schedule

__all__ = [
    "KINDS",
    "MOST",
    "Aligned",
    "And",
    "Causal",
    "Chunked",
    "DenseMask",
    "Lengths",
    "Mask",
    "Not",
    "Or",
    "PerHead",
    "PerRow",
    "Placed",
    "Prefix",
    "Schedule",
    "Segments",
    "Window",
    "schedule",
]

KINDS = (Causal, Window, Chunked, Prefix, Segments, Lengths, DenseMask, PerHead, PerRow, Placed, And, Or, Not)
"""Every concrete mask, for backends that must register them with their framework."""
