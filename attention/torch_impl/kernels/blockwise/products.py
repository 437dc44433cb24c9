"""A block by plain matrix products, for every device and every option that the fused kernel lacks.

    x   = c tanh(q k^T * scale / c) + added         lse = log sum exp x          out = (exp(x - lse) * keep / (1 - rate)) v
    p   = exp(x - lse)   lse over all blocks        delta = sum(g * out) - g_lse
    dv  = (p * keep / (1 - rate))^T g               dx = p * (g v^T * keep / (1 - rate) - delta)
    dq  = dx * (1 - (capped / c)^2) * scale k       dk its transpose with q      d added = dx

References:
    Dao et al., arXiv:2205.14135, algorithm 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """The options that apply to every score.

    Attributes:
        scale: factor of `q . k`.
        softcap: bound of the scores, or None.
        rate: of dropout.
    """

    scale: float
    softcap: float | None = None
    rate: float = 0.0

    def scores(self, q: Tensor, k: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the scores `(b, h, t, s)` and, under a soft cap, its derivative at each."""
        x = torch.matmul(q, k.mT).mul_(self.scale)
        slope = None
        if self.softcap is not None:
            x = x.div_(self.softcap).tanh_()
            slope = 1.0 - x * x
            x = x.mul_(self.softcap)
        return x if added is None else x.add_(added), slope

    def kept(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Return what dropout leaves of `x`."""
        return x if keep is None else torch.where(keep, x, 0.0)


def forward(rule: Rule, q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the context `(b, h, t, E)` and logsumexp `(b, h, t)`; all is in the compute dtype."""
    x, _ = rule.scores(q, k, added)
    lse = torch.logsumexp(x, -1)
    weights = x.sub_(finite(lse).unsqueeze(-1)).exp_()
    # Scaled after the product, which has fewer elements.
    out = torch.matmul(rule.kept(weights, keep), v)
    return out if keep is None else out.div_(1.0 - rule.rate), lse


def backward(
    rule: Rule,
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    delta: Tensor,
    lse: Tensor,
    added: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and `added`.

    Args:
        rule: scale, soft cap and dropout rate.
        g: gradient of the context, `(b, h, t, E)`.
        q: queries.
        k: keys.
        v: values.
        delta: `(b, h, t)`, see above.
        lse: `(b, h, t)`, of the whole row; finite for an empty row.
        added: as in `forward`.
        keep: as in `forward`.
    """
    x, slope = rule.scores(q, k, added)
    weights = x.sub_(lse.unsqueeze(-1)).exp_()
    g = g if keep is None else g / (1.0 - rule.rate)
    dv = torch.matmul(rule.kept(weights, keep).mT, g)
    dx = rule.kept(torch.matmul(g, v.mT), keep).sub_(delta.unsqueeze(-1)).mul_(weights)
    inner = (dx if slope is None else dx * slope) * rule.scale
    return torch.matmul(inner, k), torch.matmul(inner.mT, q), dv, dx


def finite(lse: Tensor) -> Tensor:
    """Return logsumexp with 0 for empty rows: -inf - -inf is NaN."""
    return lse.masked_fill(lse == -torch.inf, 0.0)
