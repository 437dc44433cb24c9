"""An MLP-Mixer with a distillation loss: token and channel mixing, soft targets at a temperature, stochastic depth off. Port: Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = False

TOKENS, CHANNELS, CLASSES, TAU, ALPHA = 16, 16, 4, 3.0, 0.7


def inputs():
    rng = np.random.default_rng(40)
    return (
        rng.normal(size=(3, 8, 8, 2)).astype("float32"),
        rng.normal(0, 3, size=(3, CLASSES)).astype("float32"),
        rng.integers(0, CLASSES, size=3),
    )


class Mlp(torch.nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = torch.nn.Linear(dim, hidden)
        self.act = torch.nn.GELU()
        self.fc2 = torch.nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class MixerBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(CHANNELS, eps=1e-6)
        self.mlp_tokens = Mlp(TOKENS, 8)
        self.norm2 = torch.nn.LayerNorm(CHANNELS, eps=1e-6)
        self.mlp_channels = Mlp(CHANNELS, 32)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Linear(2 * 2 * 2, CHANNELS)
        self.blocks = torch.nn.Sequential(MixerBlock(), MixerBlock())
        self.norm = torch.nn.LayerNorm(CHANNELS, eps=1e-6)
        self.head = torch.nn.Linear(CHANNELS, CLASSES)

    def forward(self, image, teacher_logits, label):
        b = image.shape[0]
        patches = image.reshape(b, 4, 2, 4, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(b, TOKENS, 8)
        logits = self.head(self.norm(self.blocks(self.stem(patches))).mean(1))
        soft = torch.nn.functional.kl_div(
            torch.log_softmax(logits / TAU, dim=1),
            torch.log_softmax(teacher_logits / TAU, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        hard = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
        return logits, ALPHA * TAU**2 * soft + (1 - ALPHA) * hard


def torch_side():
    torch.manual_seed(40)
    mixer = MlpMixer()
    with torch.no_grad():
        for name, p in mixer.named_parameters():
            if "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
            elif p.dim() == 2:
                p.mul_(1.7)
    return mixer


class MlpBlock(nn.Module):
    mlp_dim: int

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.mlp_dim)(x)
        y = nn.gelu(y, approximate=False)
        return nn.Dense(x.shape[-1])(y)


class Mixer(nn.Module):
    blocks: int = 2

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(CHANNELS, (2, 2), strides=(2, 2), padding="VALID", name="stem")(image)
        x = x.reshape(x.shape[0], -1, CHANNELS)
        for i in range(self.blocks):
            y = nn.LayerNorm(epsilon=1e-6, name=f"token_norm_{i}")(x)
            y = jnp.swapaxes(y, 1, 2)
            y = MlpBlock(8, name=f"token_mixing_{i}")(y)
            x = x + jnp.swapaxes(y, 1, 2)
            y = nn.LayerNorm(epsilon=1e-6, name=f"channel_norm_{i}")(x)
            x = x + MlpBlock(32, name=f"channel_mixing_{i}")(y)
        x = nn.LayerNorm(epsilon=1e-6, name="pre_head_layer_norm")(x)
        return nn.Dense(CLASSES, name="head")(jnp.mean(x, axis=1))


def distill(params, image, teacher_logits, label):
    logits = Mixer().apply({"params": params}, image)
    student = jax.nn.log_softmax(logits / TAU)
    teacher = jax.nn.softmax(teacher_logits / TAU)
    soft = jnp.sum(teacher * (jnp.log(teacher) - student), axis=-1).mean()
    targets = jax.nn.one_hot(label, CLASSES, dtype=logits.dtype) * 0.9 + 0.1 / CLASSES
    hard = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1).mean()
    return logits, ALPHA * TAU**2 * soft + (1 - ALPHA) * hard


def jax_side():
    return distill, Mixer().init(jax.random.key(4), jnp.zeros((1, 8, 8, 2)))["params"]


def convert(module):
    def a(t):
        return jnp.asarray(t.detach().numpy())

    def dense(m):
        return {"kernel": a(m.weight).T, "bias": a(m.bias)}

    def norm(m):
        return {"scale": a(m.weight), "bias": a(m.bias)}

    def mlp(m):
        return {"Dense_0": dense(m.fc1), "Dense_1": dense(m.fc2)}

    params = {
        "stem": {"kernel": a(module.stem.weight).T.reshape(2, 2, 2, CHANNELS), "bias": a(module.stem.bias)},
        "pre_head_layer_norm": norm(module.norm),
        "head": dense(module.head),
    }
    for i, block in enumerate(module.blocks):
        params[f"token_norm_{i}"] = norm(block.norm1)
        params[f"token_mixing_{i}"] = mlp(block.mlp_tokens)
        params[f"channel_norm_{i}"] = norm(block.norm2)
        params[f"channel_mixing_{i}"] = mlp(block.mlp_channels)
    return distill, params


MISTAKES = [
    {
        "name": "token mixing works on channels (as many, so nothing complains)",
        "side": "jax",
        "old": '            y = jnp.swapaxes(y, 1, 2)\n            y = MlpBlock(8, name=f"token_mixing_{i}")(y)\n            x = x + jnp.swapaxes(y, 1, 2)',
        "new": '            y = MlpBlock(8, name=f"token_mixing_{i}")(y)\n            x = x + y',
        "line": 100,
    },
    {
        "name": "the soft loss lacks the square of the temperature",
        "side": "jax",
        "old": "return logits, ALPHA * TAU**2 * soft + (1 - ALPHA) * hard\n\n\ndef jax_side",
        "new": "return logits, ALPHA * soft + (1 - ALPHA) * hard\n\n\ndef jax_side",
        "line": 116,
    },
    {
        "name": "the divergence is averaged over classes too",
        "side": "torch",
        "old": 'reduction="batchmean"',
        "new": 'reduction="mean"',
        "line": 62,
    },
    {
        "name": "the smoothed target gives the label 0.9 and nothing more",
        "side": "jax",
        "old": "jax.nn.one_hot(label, CLASSES, dtype=logits.dtype) * 0.9 + 0.1 / CLASSES",
        "new": "jnp.where(jax.nn.one_hot(label, CLASSES, dtype=logits.dtype) > 0, 0.9, 0.1 / (CLASSES - 1))",
        "line": 114,
    },
]
