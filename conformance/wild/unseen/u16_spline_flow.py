"""A neural spline flow: coupling layers of rational-quadratic splines with linear tails, densities of points. Port: vmapped scalars."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

DIM, BINS, HIDDEN, LAYERS, BOUND = 4, 5, 14, 3, 2.5
MIN_BIN_WIDTH, MIN_BIN_HEIGHT, MIN_DERIVATIVE = 1e-2, 1e-2, 1e-3


def inputs():
    return {"x": (1.4 * np.random.default_rng(116).normal(size=(9, DIM))).astype("float32")}


def searchsorted(bin_locations, values, eps=1e-6):
    bin_locations = bin_locations + eps * (torch.arange(bin_locations.shape[-1]) == bin_locations.shape[-1] - 1)
    return torch.sum(values[..., None] >= bin_locations, dim=-1) - 1


def knots(unnormalised, smallest):
    widths = F.softmax(unnormalised, dim=-1)
    widths = smallest + (1 - smallest * BINS) * widths
    cum = F.pad(torch.cumsum(widths, dim=-1), pad=(1, 0), mode="constant", value=0.0)
    cum = 2 * BOUND * cum - BOUND
    return cum, cum[..., 1:] - cum[..., :-1]


def unconstrained_rqs(x, w, h, d):
    inside = (x >= -BOUND) & (x <= BOUND)
    constant = float(np.log(np.exp(1 - MIN_DERIVATIVE) - 1))
    d = F.pad(d, pad=(1, 1), value=constant)
    y, logabsdet = rqs(x.clamp(-BOUND, BOUND), w, h, d)
    return torch.where(inside, y, x), torch.where(inside, logabsdet, torch.zeros_like(x))


def rqs(x, w, h, d):
    cumwidths, widths = knots(w, MIN_BIN_WIDTH)
    cumheights, heights = knots(h, MIN_BIN_HEIGHT)
    derivatives = MIN_DERIVATIVE + F.softplus(d)
    bin_idx = searchsorted(cumwidths, x)[..., None]

    def pick(t):
        return t.gather(-1, bin_idx)[..., 0]

    delta = pick(heights / widths)
    d0, d1 = pick(derivatives), pick(derivatives[..., 1:])
    theta = (x - pick(cumwidths)) / pick(widths)
    theta_one_minus_theta = theta * (1 - theta)
    numerator = pick(heights) * (delta * theta.pow(2) + d0 * theta_one_minus_theta)
    denominator = delta + (d0 + d1 - 2 * delta) * theta_one_minus_theta
    outputs = pick(cumheights) + numerator / denominator
    derivative_numerator = delta.pow(2) * (d1 * theta.pow(2) + 2 * delta * theta_one_minus_theta + d0 * (1 - theta).pow(2))
    return outputs, torch.log(derivative_numerator) - 2 * torch.log(denominator)


class CouplingNSF(nn.Module):
    def __init__(self):
        super().__init__()
        self.f1 = nn.Sequential(nn.Linear(DIM // 2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, (3 * BINS - 1) * DIM // 2))

    def forward(self, x):
        lower, upper = x[:, : DIM // 2], x[:, DIM // 2 :]
        out = self.f1(lower).reshape(-1, DIM // 2, 3 * BINS - 1)
        w, h, d = torch.split(out, [BINS, BINS, BINS - 1], dim=2)
        upper, logdet = unconstrained_rqs(upper, w / HIDDEN**0.5, h / HIDDEN**0.5, d)
        return torch.cat([lower, upper], dim=1), logdet.sum(dim=1)


class NeuralSplineFlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.flows = nn.ModuleList(CouplingNSF() for _ in range(LAYERS))
        self.log_scale = nn.Parameter(torch.zeros(LAYERS, DIM))
        self.shift = nn.Parameter(torch.zeros(LAYERS, DIM))

    def forward(self, x):
        log_det = torch.zeros(x.shape[0], dtype=x.dtype)
        for i, flow in enumerate(self.flows):
            x = x * torch.exp(self.log_scale[i]) + self.shift[i]
            log_det = log_det + self.log_scale[i].sum()
            x, ld = flow(x)
            log_det = log_det + ld
            x = torch.flip(x, dims=(1,))
        prior = torch.distributions.Normal(torch.zeros(DIM, dtype=x.dtype), torch.ones(DIM, dtype=x.dtype))
        return {"z": x, "log_prob": prior.log_prob(x).sum(dim=1) + log_det}


def torch_side():
    torch.manual_seed(116)
    net = NeuralSplineFlow()
    with torch.no_grad():
        net.log_scale.normal_(0, 0.2)
        net.shift.normal_(0, 0.3)
        for f in net.flows:
            f.f1[0].weight.normal_(0, 0.7)
            f.f1[2].weight.normal_(0, 0.8)
    return net


def edges(logits, floor):
    """The BINS + 1 borders of the bins between -BOUND and BOUND."""
    shares = floor + (1.0 - BINS * floor) * jax.nn.softmax(logits)
    return BOUND * (2.0 * jnp.concatenate([jnp.zeros(1, logits.dtype), jnp.cumsum(shares)]) - 1.0)


def spline(x, raw):
    """One scalar through its spline: (value, log of the slope)."""
    xs = edges(raw[:BINS] / np.sqrt(HIDDEN), MIN_BIN_WIDTH)
    ys = edges(raw[BINS : 2 * BINS] / np.sqrt(HIDDEN), MIN_BIN_HEIGHT)
    slopes = MIN_DERIVATIVE + jax.nn.softplus(raw[2 * BINS :])
    slopes = jnp.pad(slopes, 1, constant_values=1.0)
    clipped = jnp.clip(x, -BOUND, BOUND)
    k = jnp.clip(jnp.searchsorted(xs, clipped, side="right") - 1, 0, BINS - 1)
    width, height = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, left, right = height / width, slopes[k], slopes[k + 1]
    t = (clipped - xs[k]) / width
    mixed = t * (1.0 - t)
    below = s + (left + right - 2.0 * s) * mixed
    y = ys[k] + height * (s * t**2 + left * mixed) / below
    slope = s**2 * (right * t**2 + 2.0 * s * mixed + left * (1.0 - t) ** 2) / below**2
    out = jnp.abs(x) > BOUND
    return jnp.where(out, x, y), jnp.where(out, 0.0, jnp.log(slope))


def step(carry, p):
    x, log_det = carry
    x = jnp.exp(p["log_scale"]) * x + p["shift"]
    kept, changed = jnp.split(x, 2, axis=-1)
    raw = jnp.tanh(kept @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    changed, logs = jax.vmap(jax.vmap(spline))(changed, raw.reshape(*changed.shape, 3 * BINS - 1))
    x = jnp.concatenate([kept, changed], axis=-1)[:, ::-1]
    return (x, log_det + jnp.sum(logs, axis=-1) + jnp.sum(p["log_scale"])), None


def flow(params, x):
    (z, log_det), _ = jax.lax.scan(step, (x, jnp.zeros(x.shape[0], x.dtype)), params)
    log_normal = -0.5 * jnp.sum(z**2, axis=-1) - 0.5 * DIM * np.log(2 * np.pi)
    return {"z": z, "log_prob": log_normal + log_det}


def jax_side():
    net = torch_side()

    def stack(get):
        return jnp.stack([jnp.asarray(get(f.f1).detach().numpy()) for f in net.flows])

    return flow, {
        "log_scale": jnp.asarray(net.log_scale.detach().numpy()),
        "shift": jnp.asarray(net.shift.detach().numpy()),
        "w1": stack(lambda m: m[0].weight.T),
        "b1": stack(lambda m: m[0].bias),
        "w2": stack(lambda m: m[2].weight.T),
        "b2": stack(lambda m: m[2].bias),
    }


MISTAKES = [
    {
        "name": "the padded derivatives at the borders are not 1: the inverse of softplus is forgotten",
        "side": "torch",
        "old": "constant = float(np.log(np.exp(1 - MIN_DERIVATIVE) - 1))",
        "new": "constant = 1 - MIN_DERIVATIVE",
        "line": 35,
    },
    {
        "name": "the denominator's logarithm counts once instead of twice in the log-determinant",
        "side": "torch",
        "old": "torch.log(derivative_numerator) - 2 * torch.log(denominator)",
        "new": "torch.log(derivative_numerator) - torch.log(denominator)",
        "line": 58,
    },
    {
        "name": "the slopes at a bin's two ends are swapped in the derivative",
        "side": "jax",
        "old": "(right * t**2 + 2.0 * s * mixed + left * (1.0 - t) ** 2)",
        "new": "(left * t**2 + 2.0 * s * mixed + right * (1.0 - t) ** 2)",
        "line": 125,
    },
    {
        "name": "the affine map's log-determinant is a mean over the dimensions instead of a sum",
        "side": "torch",
        "old": "log_det = log_det + self.log_scale[i].sum()",
        "new": "log_det = log_det + self.log_scale[i].mean()",
        "line": 85,
    },
    {
        "name": "the base density's constant is that of one dimension",
        "side": "jax",
        "old": "- 0.5 * DIM * np.log(2 * np.pi)",
        "new": "- 0.5 * np.log(2 * np.pi)",
        "line": 142,
    },
]
