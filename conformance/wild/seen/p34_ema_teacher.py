"""BYOL: an online network with a predictor, a teacher that follows it by an exponential moving average (buffers). Port: NNX."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LOADED = True

DIM, HIDDEN, OUT, TAU = 10, 16, 8, 0.95


def inputs():
    rng = np.random.default_rng(34)
    return tuple(rng.normal(size=(5, DIM)).astype("float32") for _ in range(2))


class BYOL(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT))
        self.predictor = nn.Sequential(nn.Linear(OUT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT))
        for name, p in self.online.named_parameters():
            self.register_buffer("target_" + name.replace(".", "_"), p.detach() + 0.2 * torch.randn_like(p))

    def teacher(self, x):
        x = F.linear(x, self.target_0_weight, self.target_0_bias)
        x = F.layer_norm(x, (HIDDEN,), self.target_1_weight, self.target_1_bias)
        return F.linear(F.relu(x), self.target_3_weight, self.target_3_bias)

    def regression_loss(self, p, z):
        return 2 - 2 * F.cosine_similarity(p, z.detach(), dim=-1)

    @torch.no_grad()
    def moved(self):
        """The teacher's next kernel of its first layer."""
        return TAU * self.target_0_weight + (1 - TAU) * self.online[0].weight

    def forward(self, x1, x2):
        p1, p2 = self.predictor(self.online(x1)), self.predictor(self.online(x2))
        z1, z2 = self.teacher(x1), self.teacher(x2)
        loss = (self.regression_loss(p1, z2) + self.regression_loss(p2, z1)).mean()
        return loss, self.moved()


def torch_side():
    torch.manual_seed(34)
    model = BYOL()
    with torch.no_grad():
        model.online[1].weight.uniform_(0.5, 1.5)
        model.online[1].bias.normal_(0, 0.3)
    return model


class Teacher(nnx.Variable):
    """What is not trained by gradient."""


class Encoder(nnx.Module):
    def __init__(self, kind):
        self.w1, self.b1 = kind(jnp.zeros((DIM, HIDDEN))), kind(jnp.zeros(HIDDEN))
        self.scale, self.shift = kind(jnp.ones(HIDDEN)), kind(jnp.zeros(HIDDEN))
        self.w2, self.b2 = kind(jnp.zeros((HIDDEN, OUT))), kind(jnp.zeros(OUT))

    def __call__(self, x):
        h = x @ self.w1[...] + self.b1[...]
        h = jax.nn.standardize(h, axis=-1, epsilon=1e-5) * self.scale[...] + self.shift[...]
        return nnx.relu(h) @ self.w2[...] + self.b2[...]


class Byol(nnx.Module):
    def __init__(self, rngs):
        self.student = Encoder(nnx.Param)
        self.teacher = Encoder(Teacher)
        self.predict_in = nnx.Linear(OUT, HIDDEN, rngs=rngs)
        self.predict_out = nnx.Linear(HIDDEN, OUT, rngs=rngs)

    def loss(self, student_view, teacher_view):
        p = self.predict_out(nnx.relu(self.predict_in(self.student(student_view))))
        z = jax.lax.stop_gradient(self.teacher(teacher_view))
        p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        return jnp.sum(jnp.square(p - z), axis=-1)

    def __call__(self, x1, x2):
        loss = jnp.mean(self.loss(x1, x2) + self.loss(x2, x1))
        follow = TAU * self.teacher.w1[...] + (1 - TAU) * self.student.w1[...]
        return loss, jax.lax.stop_gradient(follow).T


def jax_side():
    source, model = torch_side(), Byol(nnx.Rngs(0))
    state = source.state_dict()
    names = {"w1": "0.weight", "b1": "0.bias", "scale": "1.weight", "shift": "1.bias", "w2": "3.weight", "b2": "3.bias"}
    for ours, theirs in names.items():
        for encoder, key in ((model.student, "online." + theirs), (model.teacher, "target_" + theirs.replace(".", "_"))):
            value = state[key].numpy()
            getattr(encoder, ours)[...] = jnp.asarray(value.T)
    for ours, theirs in ((model.predict_in, source.predictor[0]), (model.predict_out, source.predictor[2])):
        ours.kernel[...] = jnp.asarray(theirs.weight.detach().numpy().T)
        ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
    return model


MISTAKES = [
    {
        "name": "the gradient flows into the teacher's view (only gradients show it)",
        "side": "jax",
        "old": "z = jax.lax.stop_gradient(self.teacher(teacher_view))",
        "new": "z = self.teacher(teacher_view)",
        "line": 83,
    },
    {
        "name": "the moving average is weighted the other way round",
        "side": "jax",
        "old": "follow = TAU * self.teacher.w1[...] + (1 - TAU) * self.student.w1[...]",
        "new": "follow = (1 - TAU) * self.teacher.w1[...] + TAU * self.student.w1[...]",
        "line": 90,
    },
    {
        "name": "each view is compared with the teacher's value of the same view",
        "side": "torch",
        "old": "self.regression_loss(p1, z2) + self.regression_loss(p2, z1)",
        "new": "self.regression_loss(p1, z1) + self.regression_loss(p2, z2)",
        "line": 45,
    },
    {
        "name": "the prediction is not normalised",
        "side": "jax",
        "old": "        p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)\n",
        "new": "",
        "line": 84,
    },
]
