"""A variational autoencoder on flat images with the noise given: reconstruction, KL term and the loss. Port: plain functions, a list."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

PIXELS, HIDDEN, LATENT = 36, 24, 8


def inputs():
    rng = np.random.default_rng(17)
    return rng.uniform(size=(4, PIXELS)).astype("float32"), rng.normal(size=(4, LATENT)).astype("float32")


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())
        self.fc_mu = nn.Linear(HIDDEN, LATENT)
        self.fc_logvar = nn.Linear(HIDDEN, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, PIXELS))

    def reparameterize(self, mu, logvar, eps):
        std = torch.exp(0.5 * logvar)
        return mu + eps * std

    def forward(self, x, eps):
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        z = self.reparameterize(mu, logvar, eps)
        logits = self.decoder(z)
        bce = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
        return {"recon": torch.sigmoid(logits), "kl": kld, "loss": (bce + kld).mean()}


def torch_side():
    torch.manual_seed(1717)
    vae = VAE()
    with torch.no_grad():
        for p in vae.parameters():
            p.mul_(1.8)
    return vae


def mlp(layers, h):
    *front, (w, b) = layers
    for weight, bias in front:
        h = jax.nn.silu(h @ weight + bias)
    return h @ w + b


def vae(params, x, eps):
    h = jax.nn.silu(mlp(params["enc"], x))
    w, b = params["moments"]
    mu, logvar = jnp.split(h @ w + b, 2, axis=-1)
    sigma = jnp.exp(logvar / 2)
    z = mu + sigma * eps
    logits = mlp(params["dec"], z)
    nll = jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    kl = 0.5 * jnp.sum(mu**2 + sigma**2 - 1.0 - logvar, axis=-1)
    return {"recon": jax.nn.sigmoid(logits), "kl": kl, "loss": jnp.mean(jnp.sum(nll, axis=-1) + kl)}


def init(key):
    sizes = {"enc": [(PIXELS, HIDDEN), (HIDDEN, HIDDEN)], "dec": [(LATENT, HIDDEN), (HIDDEN, PIXELS)]}
    params = {}
    for name, shapes in sizes.items():
        params[name] = []
        for n, m in shapes:
            key, sub = jax.random.split(key)
            params[name].append((jax.random.normal(sub, (n, m)) / n**0.5, jnp.zeros(m)))
    params["moments"] = (jax.random.normal(key, (HIDDEN, 2 * LATENT)) / HIDDEN**0.5, jnp.zeros(2 * LATENT))
    return params


def jax_side():
    return vae, init(jax.random.key(17))


def convert(module):
    def pair(layer):
        return jnp.asarray(layer.weight.detach().numpy().T), jnp.asarray(layer.bias.detach().numpy())

    mu, logvar = pair(module.fc_mu), pair(module.fc_logvar)
    return vae, {
        "enc": [pair(module.encoder[0]), pair(module.encoder[2])],
        "moments": tuple(jnp.concatenate(both, axis=-1) for both in zip(mu, logvar)),
        "dec": [pair(module.decoder[0]), pair(module.decoder[2])],
    }


MISTAKES = [
    {
        "name": "the log variance is taken for the log standard deviation",
        "side": "jax",
        "old": "sigma = jnp.exp(logvar / 2)",
        "new": "sigma = jnp.exp(logvar)",
        "line": 61,
    },
    {
        "name": "the KL term lacks its factor one half",
        "side": "jax",
        "old": "kl = 0.5 * jnp.sum(mu**2",
        "new": "kl = jnp.sum(mu**2",
        "line": 65,
    },
    {
        "name": "the reconstruction loss is averaged over pixels, not summed",
        "side": "jax",
        "old": "jnp.mean(jnp.sum(nll, axis=-1) + kl)",
        "new": "jnp.mean(jnp.mean(nll, axis=-1) + kl)",
        "line": 66,
    },
    {
        "name": "the encoder's last activation is missing",
        "side": "torch",
        "old": "nn.Linear(HIDDEN, HIDDEN), nn.SiLU())",
        "new": "nn.Linear(HIDDEN, HIDDEN))",
        "line": 22,
    },
]
