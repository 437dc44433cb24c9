"""An ODE-RNN over irregular times: a neural vector field by RK4 between observations, a GRU update where one was made,
then a latent path decoded. Torch loops over time and substeps; the port nests scans."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = False

OBS, LATENT, WIDTH, STEPS, SUBSTEPS = 3, 6, 12, 7, 3


def inputs():
    rng = np.random.default_rng(119)
    times = np.cumsum(rng.uniform(0.1, 0.9, size=(2, STEPS)), axis=1).astype("float32")
    observed = rng.random((2, STEPS)) < 0.6
    observed[:, 0] = True
    return {"values": rng.normal(size=(2, STEPS, OBS)).astype("float32"), "times": times, "observed": observed}


class ODEFunc(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT + 1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Softplus())
        self.out = nn.Linear(WIDTH, LATENT)

    def forward(self, t, h):
        return self.out(self.net(torch.cat([h, torch.sin(t)], dim=-1)))


def rk4_step(func, t, dt, y):
    k1 = func(t, y)
    k2 = func(t + dt / 2, y + dt * k1 / 2)
    k3 = func(t + dt / 2, y + dt * k2 / 2)
    k4 = func(t + dt, y + dt * k3)
    return y + (k1 + 2 * k2 + 2 * k3 + k4) * dt / 6


def odeint(func, y, t0, t1):
    dt = (t1 - t0) / SUBSTEPS
    for i in range(SUBSTEPS):
        y = rk4_step(func, t0 + i * dt, dt, y)
    return y


class GRUUpdate(nn.Module):
    def __init__(self):
        super().__init__()
        self.update_gate = nn.Linear(LATENT + OBS, LATENT)
        self.reset_gate = nn.Linear(LATENT + OBS, LATENT)
        self.new_state = nn.Linear(LATENT + OBS, LATENT)

    def forward(self, h, x, mask):
        hx = torch.cat([h, x], dim=-1)
        u, r = torch.sigmoid(self.update_gate(hx)), torch.sigmoid(self.reset_gate(hx))
        n = torch.tanh(self.new_state(torch.cat([r * h, x], dim=-1)))
        h_new = (1 - u) * n + u * h
        return torch.where(mask, h_new, h)


class ODERNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.func = ODEFunc()
        self.cell = GRUUpdate()
        self.posterior = nn.Linear(LATENT, 2 * LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.ELU(), nn.Linear(WIDTH, OBS))

    def forward(self, values, times, observed):
        h = torch.zeros(values.shape[0], LATENT, dtype=values.dtype)
        prev_t = times[:, :1] - 0.1
        for i in range(STEPS):
            t = times[:, i : i + 1]
            h = odeint(self.func, h, prev_t, t)
            h = self.cell(h, values[:, i], observed[:, i : i + 1])
            prev_t = t
        mean, logvar = self.posterior(h).chunk(2, dim=-1)
        kl = -0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).sum(dim=-1)
        path, z = [mean], mean
        for i in range(STEPS - 1, 0, -1):
            z = odeint(self.func, z, times[:, i : i + 1], times[:, i - 1 : i])
            path.insert(0, z)
        return self.decoder(torch.stack(path, dim=1)), kl


def torch_side():
    torch.manual_seed(119)
    model = ODERNN()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5)
    return model


def affine(p, *parts):
    return jnp.concatenate(parts, axis=-1) @ p["w"] + p["b"]


def field(p, h, t):
    x = jax.nn.softplus(affine(p["f2"], jnp.tanh(affine(p["f1"], h, jnp.sin(t)))))
    return affine(p["f3"], x)


def evolve(p, h, start, stop):
    """Carries states (batch, LATENT) from times `start` to times `stop`, each (batch, 1)."""
    step = (stop - start) / SUBSTEPS

    def rk4(h, i):
        t = start + i * step
        a = field(p, h, t)
        b = field(p, h + 0.5 * step * a, t + 0.5 * step)
        c = field(p, h + 0.5 * step * b, t + 0.5 * step)
        d = field(p, h + step * c, t + step)
        return h + step * (a + 2.0 * (b + c) + d) / 6.0, None

    return jax.lax.scan(rk4, h, jnp.arange(SUBSTEPS, dtype=h.dtype))[0]


def observe(p, h, x):
    keep = jax.nn.sigmoid(affine(p["keep"], h, x))
    reset = jax.nn.sigmoid(affine(p["reset"], h, x))
    return keep * h + (1.0 - keep) * jnp.tanh(affine(p["candidate"], reset * h, x))


def ode_rnn(p, values, times, observed):
    t = jnp.swapaxes(times, 0, 1)[..., None]
    before = jnp.concatenate([t[:1] - 0.1, t[:-1]])

    def encode(h, row):
        x, seen, start, stop = row
        h = evolve(p, h, start, stop)
        return jnp.where(seen[:, None], observe(p, h, x), h), None

    h = jnp.zeros((values.shape[0], LATENT), values.dtype)
    h, _ = jax.lax.scan(encode, h, (jnp.swapaxes(values, 0, 1), observed.T, before, t))
    mean, log_var = jnp.split(affine(p["posterior"], h), 2, axis=-1)
    kl = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1.0 - log_var, axis=-1)

    def backward(z, span):
        earlier = evolve(p, z, *span)
        return earlier, earlier

    _, path = jax.lax.scan(backward, mean, (t[1:], t[:-1]), reverse=True)
    path = jnp.moveaxis(jnp.concatenate([path, mean[None]]), 0, 1)
    return affine(p["d2"], jax.nn.elu(affine(p["d1"], path))), kl


def convert(module):
    f, c, d = module.func, module.cell, module.decoder
    layers = {"f1": f.net[0], "f2": f.net[2], "f3": f.out, "keep": c.update_gate, "reset": c.reset_gate}
    layers |= {"candidate": c.new_state, "posterior": module.posterior, "d1": d[0], "d2": d[2]}
    return ode_rnn, {
        name: {"w": jnp.asarray(m.weight.detach().numpy()).T, "b": jnp.asarray(m.bias.detach().numpy())}
        for name, m in layers.items()
    }


def jax_side():
    leaves, tree = jax.tree.flatten(convert(ODERNN())[1])
    keys = jax.random.split(jax.random.key(19), len(leaves))
    return ode_rnn, jax.tree.unflatten(tree, [0.3 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves)])


MISTAKES = [
    {
        "name": "the third stage starts from the first stage's slope instead of the second's",
        "side": "torch",
        "old": "k3 = func(t + dt / 2, y + dt * k2 / 2)",
        "new": "k3 = func(t + dt / 2, y + dt * k1 / 2)",
        "line": 36,
    },
    {
        "name": "the reset gate is left out of the candidate state",
        "side": "torch",
        "old": "n = torch.tanh(self.new_state(torch.cat([r * h, x], dim=-1)))",
        "new": "n = torch.tanh(self.new_state(torch.cat([h, x], dim=-1)))",
        "line": 58,
    },
    {
        "name": "the substeps' times do not advance",
        "side": "jax",
        "old": "t = start + i * step",
        "new": "t = start",
        "line": 111,
    },
    {
        "name": "steps without an observation fall back to the previous state instead of the evolved one",
        "side": "jax",
        "old": """        h = evolve(p, h, start, stop)
        return jnp.where(seen[:, None], observe(p, h, x), h), None
""",
        "new": """        evolved = evolve(p, h, start, stop)
        return jnp.where(seen[:, None], observe(p, evolved, x), h), None
""",
        "line": 133,
    },
    {
        "name": "the last latent state is put before the path instead of after it",
        "side": "jax",
        "old": "jnp.concatenate([path, mean[None]])",
        "new": "jnp.concatenate([mean[None], path])",
        "line": 146,
    },
]
