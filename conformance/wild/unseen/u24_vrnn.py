"""A variational RNN with its noise given: learned prior, posterior, Gaussian decoder, a GRU over both features. The port is a scan over plain arrays."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

X_DIM, H_DIM, Z_DIM, FEATURE = 7, 10, 4, 8


def inputs():
    rng = np.random.default_rng(204)
    return {
        "x": rng.uniform(size=(6, 3, X_DIM)).astype("float32"),
        "noise": rng.normal(size=(6, 3, Z_DIM)).astype("float32"),
        "lengths": np.array([6, 4, 5]),
    }


class Gaussian(nn.Module):
    """A hidden layer, then a mean and a standard deviation."""

    def __init__(self, n_in, n_out, squash_mean=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_in, FEATURE), nn.ReLU())
        self.mean = nn.Linear(FEATURE, n_out)
        self.std = nn.Sequential(nn.Linear(FEATURE, n_out), nn.Softplus())
        self.squash_mean = squash_mean

    def forward(self, *parts):
        hidden = self.net(torch.cat(parts, dim=1))
        mean = self.mean(hidden)
        return (torch.sigmoid(mean) if self.squash_mean else mean), self.std(hidden) + 1e-3


class VRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.phi_x = nn.Sequential(nn.Linear(X_DIM, FEATURE), nn.ReLU(), nn.Linear(FEATURE, FEATURE), nn.ReLU())
        self.phi_z = nn.Sequential(nn.Linear(Z_DIM, FEATURE), nn.ReLU())
        self.enc = Gaussian(FEATURE + H_DIM, Z_DIM)
        self.prior = Gaussian(H_DIM, Z_DIM)
        self.dec = Gaussian(FEATURE + H_DIM, X_DIM, squash_mean=True)
        self.rnn = nn.GRUCell(2 * FEATURE, H_DIM)
        self.h0 = nn.Parameter(torch.randn(H_DIM) * 0.5)

    def forward(self, x, noise, lengths):
        h = self.h0.expand(x.size(1), -1)
        klds, nlls, means = [], [], []
        for t in range(x.size(0)):
            phi_x_t = self.phi_x(x[t])
            enc_mean, enc_std = self.enc(phi_x_t, h)
            prior_mean, prior_std = self.prior(h)
            z_t = enc_mean + enc_std * noise[t]
            phi_z_t = self.phi_z(z_t)
            dec_mean, dec_std = self.dec(phi_z_t, h)
            h = self.rnn(torch.cat([phi_x_t, phi_z_t], dim=1), h)
            klds.append(self._kld_gauss(enc_mean, enc_std, prior_mean, prior_std))
            nlls.append(self._nll_gauss(dec_mean, dec_std, x[t]))
            means.append(dec_mean)
        mask = (torch.arange(x.size(0))[:, None] < lengths[None, :]).to(x.dtype)
        kld = (torch.stack(klds) * mask).sum(dim=0) / lengths
        nll = (torch.stack(nlls) * mask).sum(dim=0) / lengths
        return torch.stack(means), kld, nll, h

    def _kld_gauss(self, mean_1, std_1, mean_2, std_2):
        element = 2 * torch.log(std_2) - 2 * torch.log(std_1) + (std_1.pow(2) + (mean_1 - mean_2).pow(2)) / std_2.pow(2) - 1
        return 0.5 * element.sum(dim=1)

    def _nll_gauss(self, mean, std, x):
        return (torch.log(std) + 0.5 * math.log(2 * math.pi) + (x - mean).pow(2) / (2 * std.pow(2))).sum(dim=1)


def torch_side():
    torch.manual_seed(204)
    net = VRNN()
    for name, p in net.named_parameters():
        if name != "h0":
            nn.init.normal_(p, std=0.3)
    nn.init.normal_(net.dec.std[0].bias, mean=-1.0, std=0.3)
    return net


class Affine(NamedTuple):
    w: jax.Array
    b: jax.Array

    def __call__(self, x):
        return jnp.einsum("...i,io->...o", x, self.w) + self.b


class Normal(NamedTuple):
    """A diagonal Gaussian's network: one head gives location and raw scale side by side."""

    hidden: Affine
    head: Affine

    def __call__(self, x):
        loc, raw = jnp.split(self.head(jax.nn.relu(self.hidden(x))), 2, axis=-1)
        return loc, jax.nn.softplus(raw) + 1e-3


class Cell(NamedTuple):
    """A GRU; gates in the order reset, update, new."""

    from_x: Affine
    from_h: Affine

    def __call__(self, x, h):
        xr, xz, xn = jnp.split(self.from_x(x), 3, axis=-1)
        hr, hz, hn = jnp.split(self.from_h(h), 3, axis=-1)
        reset, update = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        return h + (1.0 - update) * (jnp.tanh(xn + reset * hn) - h)


class Weights(NamedTuple):
    see: tuple[Affine, Affine]
    latent: Affine
    posterior: Normal
    prior: Normal
    emit: Normal
    cell: Cell
    start: jax.Array


def divergence(loc_q, scale_q, loc_p, scale_p):
    ratio = jnp.square(scale_q / scale_p)
    shift = jnp.square((loc_q - loc_p) / scale_p)
    return 0.5 * jnp.sum(ratio + shift - 1.0 - jnp.log(ratio), axis=-1)


def vrnn(weights, x, noise, lengths):
    first, second = weights.see
    seen = jax.nn.relu(second(jax.nn.relu(first(x))))  # every step at once

    def step(h, now):
        target, feature, e = now
        posterior = weights.posterior(jnp.concatenate([feature, h], -1))
        prior = weights.prior(h)
        z = jax.nn.relu(weights.latent(posterior[0] + posterior[1] * e))
        after = weights.cell(jnp.concatenate([feature, z], -1), h)
        loc, scale = weights.emit(jnp.concatenate([z, h], -1))
        loc = jax.nn.sigmoid(loc)
        logp = jax.scipy.stats.norm.logpdf(target, loc, scale).sum(-1)
        return after, (loc, divergence(*posterior, *prior), -logp)

    h = jnp.tile(weights.start, (x.shape[1], 1))
    h, (locs, kl, nll) = jax.lax.scan(step, h, (x, seen, noise))
    live = jnp.arange(x.shape[0])[:, None] < lengths
    kl, nll = (jnp.where(live, v, 0.0).sum(0) / lengths for v in (kl, nll))
    return locs, kl, nll, h


def jax_side():
    state = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def affine(*keys):
        return Affine(
            jnp.concatenate([state[k + ".weight"].T for k in keys], axis=1), jnp.concatenate([state[k + ".bias"] for k in keys])
        )

    def normal(key):
        return Normal(affine(key + ".net.0"), affine(key + ".mean", key + ".std.0"))

    cell = Cell(*(Affine(state[f"rnn.weight_{s}"].T, state[f"rnn.bias_{s}"]) for s in ("ih", "hh")))
    return vrnn, Weights(
        see=(affine("phi_x.0"), affine("phi_x.2")),
        latent=affine("phi_z.0"),
        posterior=normal("enc"),
        prior=normal("prior"),
        emit=normal("dec"),
        cell=cell,
        start=state["h0"],
    )


MISTAKES = [
    {
        "name": "the GRU's reset gate is left out of the new gate's hidden bias",
        "side": "jax",
        "old": "jnp.tanh(xn + reset * hn)",
        "new": "jnp.tanh(xn + reset * (hn - self.from_h.b[2 * H_DIM :]) + self.from_h.b[2 * H_DIM :])",
        "line": 120,
    },
    {
        "name": "the divergence is from the prior to the posterior instead of the other way",
        "side": "jax",
        "old": "divergence(*posterior, *prior)",
        "new": "divergence(*prior, *posterior)",
        "line": 152,
    },
    {
        "name": "a step's decoder reads the state after the step instead of before it",
        "side": "jax",
        "old": "weights.emit(jnp.concatenate([z, h], -1))",
        "new": "weights.emit(jnp.concatenate([z, after], -1))",
        "line": 149,
    },
    {
        "name": "the Gaussian's squared error is divided by the variance instead of twice the variance",
        "side": "torch",
        "old": "(x - mean).pow(2) / (2 * std.pow(2))",
        "new": "(x - mean).pow(2) / std.pow(2)",
        "line": 78,
    },
    {
        "name": "the GRU's input is concatenated as (latent, observation) features",
        "side": "torch",
        "old": "torch.cat([phi_x_t, phi_z_t], dim=1)",
        "new": "torch.cat([phi_z_t, phi_x_t], dim=1)",
        "line": 64,
    },
]
