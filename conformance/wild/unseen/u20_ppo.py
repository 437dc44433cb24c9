"""PPO on recorded rollouts: an actor-critic with a shared trunk, generalised advantages, clipped policy and value losses, entropy.
The port is Linen; its advantages are a reverse scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = False

STEPS, ENVS, OBS, ACTIONS, HID = 6, 4, 5, 3, 12
GAMMA, LAMBDA, CLIP, VALUE_COEF, ENTROPY_COEF = 0.97, 0.9, 0.2, 0.5, 0.02


def inputs():
    rng = np.random.default_rng(120)
    f = np.float32
    return {
        "obs": rng.normal(size=(STEPS, ENVS, OBS)).astype(f),
        "next_obs": rng.normal(size=(ENVS, OBS)).astype(f),
        "actions": rng.integers(0, ACTIONS, size=(STEPS, ENVS)),
        "old_log_probs": np.log(rng.uniform(0.2, 0.6, size=(STEPS, ENVS))).astype(f),
        "old_values": rng.normal(size=(STEPS, ENVS)).astype(f),
        "rewards": rng.normal(size=(STEPS, ENVS)).astype(f),
        "dones": rng.random((STEPS, ENVS)) < 0.25,
    }


class RunningNorm(torch.nn.Module):
    """Observations by fixed running statistics, clipped."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(OBS))
        self.register_buffer("var", torch.ones(OBS))

    def forward(self, x):
        return ((x - self.mean) / torch.sqrt(self.var + 1e-2)).clamp(-1.5, 1.5)


class ActorCritic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = RunningNorm()
        self.trunk = torch.nn.Sequential(
            torch.nn.Linear(OBS, HID), torch.nn.LayerNorm(HID), torch.nn.ELU(), torch.nn.Linear(HID, HID), torch.nn.Tanh()
        )
        self.actor = torch.nn.Linear(HID, ACTIONS)
        self.critic = torch.nn.Linear(HID, 1)

    def forward(self, obs):
        h = self.trunk(self.norm(obs))
        return self.actor(h), self.critic(h).squeeze(-1)


class PPO(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = ActorCritic()

    def advantages(self, rewards, values, dones, next_value):
        out = torch.zeros_like(rewards)
        last = torch.zeros_like(next_value)
        for t in reversed(range(STEPS)):
            nonterminal = 1.0 - dones[t].to(rewards.dtype)
            following = next_value if t == STEPS - 1 else values[t + 1]
            delta = rewards[t] + GAMMA * following * nonterminal - values[t]
            last = delta + GAMMA * LAMBDA * nonterminal * last
            out[t] = last
        return out

    def forward(self, obs, next_obs, actions, old_log_probs, old_values, rewards, dones):
        with torch.no_grad():
            next_value = self.policy(next_obs)[1]
            adv = self.advantages(rewards, old_values, dones, next_value)
            returns = adv + old_values
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        logits, values = self.policy(obs)
        dist = torch.distributions.Categorical(logits=logits)
        log_prob = dist.log_prob(actions)
        ratio = (log_prob - old_log_probs).exp()
        clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
        policy_loss = torch.max(-adv * ratio, -adv * clipped).mean()
        values_clipped = old_values + torch.clamp(values - old_values, -CLIP, CLIP)
        value_loss = 0.5 * torch.max((values - returns) ** 2, (values_clipped - returns) ** 2).mean()
        entropy = dist.entropy().mean()
        approx_kl = ((ratio - 1) - ratio.log()).mean()
        loss = policy_loss - ENTROPY_COEF * entropy + VALUE_COEF * value_loss
        return {"loss": loss, "policy": policy_loss, "value": value_loss, "entropy": entropy, "kl": approx_kl}


def torch_side():
    torch.manual_seed(120)
    agent = PPO()
    with torch.no_grad():
        for p in agent.parameters():
            p.normal_(0, 0.5)
        agent.policy.trunk[1].weight.uniform_(0.7, 1.3)
        agent.policy.norm.mean.normal_(0, 0.3)
        agent.policy.norm.var.uniform_(0.5, 2.0)
    return agent.eval()


class Agent(nn.Module):
    """Logits of the actions and the state's value, over any leading axes."""

    @nn.compact
    def __call__(self, obs):
        mean = self.variable("statistics", "mean", jnp.zeros, (OBS,)).value
        variance = self.variable("statistics", "variance", jnp.ones, (OBS,)).value
        x = jnp.clip((obs - mean) * jax.lax.rsqrt(variance + 1e-2), -1.5, 1.5)
        x = nn.elu(nn.LayerNorm(epsilon=1e-5, name="norm")(nn.Dense(HID, name="first")(x)))
        x = nn.tanh(nn.Dense(HID, name="second")(x))
        heads = nn.Dense(ACTIONS + 1, name="heads")(x)
        return heads[..., :ACTIONS], heads[..., ACTIONS]


def gae(rewards, values, dones, bootstrap):
    def backward(carry, step):
        advantage, after = carry
        reward, value, done = step
        alive = jnp.where(done, 0.0, 1.0)
        advantage = reward + GAMMA * alive * after - value + GAMMA * LAMBDA * alive * advantage
        return (advantage, value), advantage

    start = (jnp.zeros_like(bootstrap), bootstrap)
    return jax.lax.scan(backward, start, (rewards, values, dones), reverse=True)[1]


class Losses(nn.Module):
    def setup(self):
        self.agent = Agent()

    def __call__(self, obs, next_obs, actions, old_log_probs, old_values, rewards, dones):
        advantage = gae(rewards, old_values, dones, self.agent(next_obs)[1])
        target = jax.lax.stop_gradient(advantage + old_values)
        advantage = jax.lax.stop_gradient((advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8))
        logits, values = self.agent(obs)
        log_probs = nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
        log_ratio = chosen - old_log_probs
        ratio = jnp.exp(log_ratio)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - CLIP, 1.0 + CLIP) * advantage)
        near = old_values + jnp.clip(values - old_values, -CLIP, CLIP)
        errors = jnp.maximum(jnp.square(values - target), jnp.square(near - target))
        out = {"policy": -surrogate.mean(), "value": 0.5 * errors.mean()}
        out["entropy"] = -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))
        out["kl"] = jnp.mean(ratio - 1.0 - log_ratio)
        out["loss"] = out["policy"] + VALUE_COEF * out["value"] - ENTROPY_COEF * out["entropy"]
        return out


def convert(module):
    sd = {k: jnp.asarray(v.numpy()) for k, v in module.policy.state_dict().items()}

    def dense(*keys):
        return {
            "kernel": jnp.concatenate([sd[k + ".weight"] for k in keys]).T,
            "bias": jnp.concatenate([sd[k + ".bias"] for k in keys]),
        }

    params = {
        "first": dense("trunk.0"),
        "norm": {"scale": sd["trunk.1.weight"], "bias": sd["trunk.1.bias"]},
        "second": dense("trunk.3"),
        "heads": dense("actor", "critic"),
    }
    statistics = {"mean": sd["norm.mean"], "variance": sd["norm.var"]}
    return Losses(), {"params": {"agent": params}, "statistics": {"agent": statistics}}


def jax_side():
    return Losses(), Losses().init(jax.random.key(20), **{k: jnp.asarray(v) for k, v in inputs().items()})


MISTAKES = [
    {
        "name": "the advantage's recursion does not stop where an episode ends",
        "side": "torch",
        "old": "last = delta + GAMMA * LAMBDA * nonterminal * last",
        "new": "last = delta + GAMMA * LAMBDA * last",
        "line": 69,
    },
    {
        "name": "advantages are divided by the biased standard deviation",
        "side": "jax",
        "old": "advantage.std(ddof=1)",
        "new": "advantage.std()",
        "line": 138,
    },
    {
        "name": "the returns are made of normalised advantages",
        "side": "torch",
        "old": """            returns = adv + old_values
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
""",
        "new": """            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
            returns = adv + old_values
""",
        "line": 77,
    },
    {
        "name": "the clipped value loss takes the smaller error instead of the larger",
        "side": "jax",
        "old": "errors = jnp.maximum(jnp.square(values - target)",
        "new": "errors = jnp.minimum(jnp.square(values - target)",
        "line": 146,
    },
    {
        "name": "normalised observations are clipped only from above",
        "side": "torch",
        "old": "torch.sqrt(self.var + 1e-2)).clamp(-1.5, 1.5)",
        "new": "torch.sqrt(self.var + 1e-2)).clamp(max=1.5)",
        "line": 39,
    },
]
