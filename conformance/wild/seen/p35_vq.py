"""A vector quantiser between a convolutional encoder and decoder: nearest code, straight-through gradient, losses. Plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LOADED = True

CODES, CODE_DIM, CH, BETA = 16, 6, 10, 0.25


def inputs():
    return {"audio": np.random.default_rng(35).normal(size=(2, 3, 16)).astype("float32")}


class VectorQuantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CODES, CODE_DIM)

    def forward(self, z):
        z = z.transpose(1, 2).contiguous()
        flat = z.view(-1, CODE_DIM)
        d = flat.pow(2).sum(1, keepdim=True) + self.embedding.weight.pow(2).sum(1) - 2 * flat @ self.embedding.weight.t()
        indices = d.argmin(dim=1)
        z_q = self.embedding(indices).view(z.shape)
        loss = F.mse_loss(z_q, z.detach()) + BETA * F.mse_loss(z_q.detach(), z)
        z_q = z + (z_q - z).detach()
        return z_q.transpose(1, 2), loss, indices.view(z.shape[:2])


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([nn.Conv1d(3, CH, 4, stride=2, padding=1), nn.Conv1d(CH, CODE_DIM, 3, padding=1)])
        self.vq = VectorQuantizer()
        self.dec = nn.ModuleList([nn.Conv1d(CODE_DIM, CH, 3, padding=1), nn.ConvTranspose1d(CH, 3, 4, stride=2, padding=1)])

    def forward(self, audio):
        z = self.enc[1](F.relu(self.enc[0](audio)))
        q, vq_loss, indices = self.vq(z)
        recon = self.dec[1](F.relu(self.dec[0](q)))
        return recon, F.mse_loss(recon, audio) + vq_loss, indices


def torch_side():
    torch.manual_seed(350)
    model = VQVAE()
    nn.init.normal_(model.vq.embedding.weight, std=0.5)
    for conv in (*model.enc, *model.dec):
        conv.weight.data.mul_(2)
    return model


DIMS = ("NWC", "WIO", "NWC")


def conv(p, x, stride=1):
    return jax.lax.conv_general_dilated(x, p["w"], (stride,), [(1, 1)], dimension_numbers=DIMS) + p["b"]


def conv_up(p, x):
    # the transpose of a convolution of width 4, stride 2, padding 1: spread by 2, padded by 4 - 1 - 1
    return jax.lax.conv_general_dilated(x, p["w"], (1,), [(2, 2)], lhs_dilation=(2,), dimension_numbers=DIMS) + p["b"]


def quantise(codebook, z):
    gap = z[..., None, :] - codebook
    index = jnp.argmin(jnp.sum(gap**2, axis=-1), axis=-1)
    q = codebook[index]
    codebook_loss = jnp.mean(jnp.square(q - jax.lax.stop_gradient(z)))
    commitment = jnp.mean(jnp.square(jax.lax.stop_gradient(q) - z))
    straight = z + jax.lax.stop_gradient(q - z)
    return straight, codebook_loss + BETA * commitment, index


def vqvae(params, audio):
    x = jnp.swapaxes(audio, 1, 2)
    z = conv(params["encoder"]["out"], jax.nn.relu(conv(params["encoder"]["in"], x, stride=2)))
    q, loss, index = quantise(params["codes"], z)
    y = conv_up(params["decoder"]["out"], jax.nn.relu(conv(params["decoder"]["in"], q)))
    loss = loss + jnp.mean((y - x) ** 2)
    return jnp.swapaxes(y, 1, 2), loss, index


def jax_side():
    m = torch_side()

    def kernel(c):
        return {"w": jnp.asarray(c.weight.detach().numpy().transpose(2, 1, 0)), "b": jnp.asarray(c.bias.detach().numpy())}

    up = m.dec[1]  # (in, out, width), to be correlated with: flipped
    flipped = {
        "w": jnp.asarray(up.weight.detach().numpy().transpose(2, 0, 1)[::-1].copy()),
        "b": jnp.asarray(up.bias.detach().numpy()),
    }
    return vqvae, {
        "encoder": {"in": kernel(m.enc[0]), "out": kernel(m.enc[1])},
        "codes": jnp.asarray(m.vq.embedding.weight.detach().numpy()),
        "decoder": {"in": kernel(m.dec[0]), "out": flipped},
    }


MISTAKES = [
    {
        "name": "the straight-through gradient is missing: nothing flows back into the encoder from the reconstruction",
        "side": "jax",
        "old": "straight = z + jax.lax.stop_gradient(q - z)",
        "new": "straight = q",
        "line": 76,
    },
    {
        "name": "beta weighs the codebook loss instead of the commitment (only the gradient shows it)",
        "side": "jax",
        "old": "return straight, codebook_loss + BETA * commitment, index",
        "new": "return straight, BETA * codebook_loss + commitment, index",
        "line": 77,
    },
    {
        "name": "the distances lack the codes' own squared norms",
        "side": "torch",
        "old": "flat.pow(2).sum(1, keepdim=True) + self.embedding.weight.pow(2).sum(1) - 2 * flat",
        "new": "flat.pow(2).sum(1, keepdim=True) - 2 * flat",
        "line": 27,
    },
    {
        "name": "the transposed convolution is padded by one too few at its start and one too many at its end",
        "side": "jax",
        "old": "(1,), [(2, 2)], lhs_dilation=(2,)",
        "new": "(1,), [(1, 3)], lhs_dilation=(2,)",
        "line": 67,
    },
]
