"""Soft actor-critic's losses: a tanh-squashed Gaussian, twin critics, targets moved by Polyak's average. The port is functions of a dict, the critics under vmap."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from torch.func import functional_call

LOADED = True

BATCH, OBS, ACT, HIDDEN = 7, 5, 3, 16
GAMMA, TAU, TARGET_ENTROPY = 0.97, 0.1, -float(ACT)
LOG_STD_MIN, LOG_STD_MAX = -3.0, 1.0
LOW, HIGH = (-1.0, -2.0, 0.0), (1.0, 1.0, 3.0)


def inputs():
    rng = np.random.default_rng(208)
    draw = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    return {
        "obs": draw(BATCH, OBS),
        "action": rng.uniform(LOW, HIGH, size=(BATCH, ACT)).astype("float32"),
        "reward": draw(BATCH),
        "next_obs": draw(BATCH, OBS),
        "done": np.array([False, True, False, False, True, False, False]),
        "noise": draw(BATCH, ACT),
        "next_noise": draw(BATCH, ACT),
    }


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(OBS, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc_mean = nn.Linear(HIDDEN, ACT)
        self.fc_logstd = nn.Linear(HIDDEN, ACT)
        low, high = torch.tensor(LOW), torch.tensor(HIGH)
        self.register_buffer("action_scale", (high - low) / 2.0)
        self.register_buffer("action_bias", (high + low) / 2.0)

    def forward(self, obs, noise):
        x = F.relu(self.fc2(F.relu(self.fc1(obs))))
        mean, log_std = self.fc_mean(x), self.fc_logstd(x)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)
        std = log_std.exp()
        u = mean + std * noise
        action = torch.tanh(u) * self.action_scale + self.action_bias
        log_prob = Normal(mean, std).log_prob(u)
        log_prob = log_prob - 2 * (math.log(2) - u - F.softplus(-2 * u)) - torch.log(self.action_scale)
        return action, log_prob.sum(-1)


class SoftQNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(OBS + ACT, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, 1)

    def forward(self, x, a):
        x = torch.cat([x, a], 1)
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.fc3(x).squeeze(-1)


class SACLosses(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = Actor()
        self.qf1, self.qf2 = SoftQNetwork(), SoftQNetwork()
        self.qf1_target, self.qf2_target = SoftQNetwork(), SoftQNetwork()
        self.log_alpha = nn.Parameter(torch.tensor(-0.7))

    def soft_update(self, online, target):
        moved = dict(online.named_parameters())
        return {name: TAU * moved[name] + (1 - TAU) * p for name, p in target.named_parameters()}

    def forward(self, obs, action, reward, next_obs, done, noise, next_noise):
        alpha = self.log_alpha.exp()
        with torch.no_grad():
            next_action, next_log_pi = self.actor(next_obs, next_noise)
            params1 = self.soft_update(self.qf1, self.qf1_target)
            params2 = self.soft_update(self.qf2, self.qf2_target)
            q1_next = functional_call(self.qf1_target, params1, (next_obs, next_action))
            q2_next = functional_call(self.qf2_target, params2, (next_obs, next_action))
            min_q_next = torch.min(q1_next, q2_next) - alpha * next_log_pi
            target = reward + (1 - done.to(reward.dtype)) * GAMMA * min_q_next
        q1, q2 = self.qf1(obs, action), self.qf2(obs, action)
        qf_loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        pi, log_pi = self.actor(obs, noise)
        min_q_pi = torch.min(self.qf1(obs, pi), self.qf2(obs, pi))
        actor_loss = (alpha.detach() * log_pi - min_q_pi).mean()
        alpha_loss = (-alpha * (log_pi.detach() + TARGET_ENTROPY)).mean()
        return {"actor": actor_loss, "alpha": alpha_loss, "critic": qf_loss, "log_pi": log_pi, "pi": pi, "target": target}


def torch_side():
    torch.manual_seed(208)
    net = SACLosses()
    for p in net.parameters():
        if p.ndim:
            nn.init.normal_(p, std=0.4 if p.ndim == 2 else 0.2)
    return net


def dense(p, x):
    return jnp.einsum("...i,io->...o", x, p["w"]) + p["b"]


def trunk(layers, x):
    for p in layers:
        x = jnp.maximum(dense(p, x), 0)
    return x


def act(policy, obs, draw):
    """An action, and the logarithm of its density, from a standard normal draw."""
    low, high = np.array(LOW), np.array(HIGH)
    half = (high - low) / 2
    hidden = trunk(policy["trunk"], obs)
    centre, spread = jnp.split(dense(policy["heads"], hidden), 2, axis=-1)
    log_sigma = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(spread) + 1) / 2
    raw = centre + jnp.exp(log_sigma) * draw
    density = -0.5 * draw**2 - log_sigma - 0.5 * math.log(2 * math.pi)
    stretch = 2 * (math.log(2) - raw + jax.nn.log_sigmoid(2 * raw)) + np.log(half)
    return low + half * (jnp.tanh(raw) + 1), jnp.sum(density - stretch, axis=-1)


def value(critic, obs, action):
    hidden = trunk(critic["trunk"], jnp.concatenate([obs, action], axis=-1))
    return hidden @ critic["out"]["w"][:, 0] + critic["out"]["b"][0]


values = jax.vmap(value, in_axes=(0, None, None))  # (critics, batch)


def losses(params, obs, action, reward, next_obs, done, noise, next_noise):
    frozen = jax.lax.stop_gradient
    temperature = jnp.exp(params["log_temperature"])
    slow = jax.tree.map(lambda new, old: old + TAU * (new - old), params["critics"], params["slow"])
    ahead, ahead_density = act(params["policy"], next_obs, next_noise)
    future = values(slow, next_obs, ahead).min(axis=0) - temperature * ahead_density
    goal = frozen(reward + GAMMA * jnp.where(done, 0.0, future))
    errors = values(params["critics"], obs, action) - goal
    critic = jnp.mean(errors**2, axis=1).sum()
    chosen, density = act(params["policy"], obs, noise)
    worth = values(params["critics"], obs, chosen).min(axis=0)
    actor = jnp.mean(frozen(temperature) * density - worth)
    alpha = -temperature * jnp.mean(frozen(density) + TARGET_ENTROPY)
    return {"actor": actor, "alpha": alpha, "critic": critic, "log_pi": density, "pi": chosen, "target": goal}


def jax_side():
    source = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}

    def layer(*keys):
        weights = [source[k + ".weight"].T for k in keys]
        biases = [source[k + ".bias"] for k in keys]
        return {"w": jnp.concatenate(weights, axis=1), "b": jnp.concatenate(biases)}

    def critic(key):
        return {"trunk": [layer(key + ".fc1"), layer(key + ".fc2")], "out": layer(key + ".fc3")}

    def pair(*keys):
        return jax.tree.map(lambda *a: jnp.stack(a), *[critic(k) for k in keys])

    policy = {"trunk": [layer("actor.fc1"), layer("actor.fc2")], "heads": layer("actor.fc_mean", "actor.fc_logstd")}
    params = {"policy": policy, "log_temperature": source["log_alpha"]}
    params |= {"critics": pair("qf1", "qf2"), "slow": pair("qf1_target", "qf2_target")}
    return losses, params


MISTAKES = [
    {
        "name": "the Polyak average keeps tau of the target instead of moving by tau to the critic",
        "side": "jax",
        "old": "old + TAU * (new - old)",
        "new": "new + TAU * (old - new)",
        "line": 146,
    },
    {
        "name": "the log standard deviation is clipped to its range instead of squashed into it",
        "side": "torch",
        "old": "log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)",
        "new": "log_std = torch.clamp(log_std, LOG_STD_MIN, LOG_STD_MAX)",
        "line": 50,
    },
    {
        "name": "the critics' goal is not kept from the gradient",
        "side": "jax",
        "old": "goal = frozen(reward + GAMMA * jnp.where(done, 0.0, future))",
        "new": "goal = reward + GAMMA * jnp.where(done, 0.0, future)",
        "line": 149,
    },
    {
        "name": "the log-probability is averaged over the action's entries instead of summed",
        "side": "torch",
        "old": "return action, log_prob.sum(-1)",
        "new": "return action, log_prob.mean(-1)",
        "line": 56,
    },
    {
        "name": "the change of variables of the squashing is added instead of subtracted",
        "side": "jax",
        "old": "jnp.sum(density - stretch, axis=-1)",
        "new": "jnp.sum(density + stretch, axis=-1)",
        "line": 132,
    },
]
