"""Deep Sets: a shared encoder of the elements, pooled by masked sum, mean and maximum, then a decoder. Port: Flax Linen."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True

FEATURES, HIDDEN, OUT, MAX_SIZE = 5, 16, 4, 8


def inputs():
    rng = np.random.default_rng(33)
    sizes = np.array([8, 5, 3])
    return {
        "points": rng.normal(size=(3, MAX_SIZE, FEATURES)).astype("float32"),
        "valid": np.arange(MAX_SIZE) < sizes[:, None],
    }


class DeepSet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.phi = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ELU(alpha=0.5), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Softplus()
        )
        self.rho = torch.nn.Sequential(
            torch.nn.Linear(3 * HIDDEN, HIDDEN), torch.nn.PReLU(HIDDEN), torch.nn.Linear(HIDDEN, OUT)
        )

    def forward(self, points, valid):
        h = self.phi(points)
        keep = valid.unsqueeze(-1)
        total = (h * keep).sum(dim=1)
        mean = total / keep.sum(dim=1)
        top = h.masked_fill(~keep, float("-inf")).amax(dim=1)
        return self.rho(torch.cat([total / MAX_SIZE, mean, top], dim=-1))


def torch_side():
    torch.manual_seed(3333)
    model = DeepSet()
    with torch.no_grad():
        model.rho[1].weight.uniform_(0.05, 0.5)
        for m in (model.phi[0], model.phi[2], model.rho[0]):
            m.weight.mul_(2.5)
            m.bias.normal_(0, 0.4)
    return model


class ParametricRelu(nn.Module):
    @nn.compact
    def __call__(self, x):
        slope = self.param("negative_slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slope * x)


class SetEncoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(HIDDEN)(x)
        x = nn.elu(x, alpha=0.5)
        x = nn.Dense(HIDDEN)(x)
        return nn.softplus(x)


class DeepSetsModel(nn.Module):
    @nn.compact
    def __call__(self, points, valid):
        z = SetEncoder()(points)
        m = valid[:, :, None]
        summed = jnp.sum(z, axis=1, where=m)
        averaged = jnp.mean(z, axis=1, where=m)
        largest = jnp.max(z, axis=1, where=m, initial=-jnp.inf)
        pooled = jnp.concatenate([summed / MAX_SIZE, averaged, largest], axis=-1)
        y = ParametricRelu()(nn.Dense(HIDDEN, name="decode_in")(pooled))
        return nn.Dense(OUT, name="decode_out")(y)


def jax_side():
    model = torch_side()

    def dense(m):
        return {"kernel": jnp.asarray(m.weight.detach().numpy().T), "bias": jnp.asarray(m.bias.detach().numpy())}

    return DeepSetsModel(), {
        "params": {
            "SetEncoder_0": {"Dense_0": dense(model.phi[0]), "Dense_1": dense(model.phi[2])},
            "decode_in": dense(model.rho[0]),
            "ParametricRelu_0": {"negative_slope": jnp.asarray(model.rho[1].weight.detach().numpy())},
            "decode_out": dense(model.rho[2]),
        }
    }


MISTAKES = [
    {
        "name": "the mean divides by the padded size",
        "side": "jax",
        "old": "averaged = jnp.mean(z, axis=1, where=m)",
        "new": "averaged = jnp.sum(z, axis=1, where=m) / z.shape[1]",
        "line": 74,
    },
    {
        "name": "the maximum sees the padding",
        "side": "jax",
        "old": "largest = jnp.max(z, axis=1, where=m, initial=-jnp.inf)",
        "new": "largest = jnp.max(z, axis=1)",
        "line": 75,
    },
    {
        "name": "ELU with alpha 1 instead of 0.5",
        "side": "jax",
        "old": "x = nn.elu(x, alpha=0.5)",
        "new": "x = nn.elu(x)",
        "line": 63,
    },
    {
        "name": "a ReLU follows the parametric one",
        "side": "torch",
        "old": "torch.nn.PReLU(HIDDEN), torch.nn.Linear(HIDDEN, OUT)",
        "new": "torch.nn.PReLU(HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, OUT)",
        "line": 29,
    },
]
