"""ELMo-like tagger: character CNN with highway layers, two bidirectional LSTM layers, a scalar mix of the layers. The port is Linen with RNN."""

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

CHARS, CHAR_DIM, PROJ, TAGS = 20, 4, 10, 6
FILTERS = ((1, 4), (2, 5), (3, 7))  # width, number
TOTAL = sum(n for _, n in FILTERS)
HIGHWAYS, LAYERS = 2, 2


def inputs():
    return (np.random.default_rng(106).integers(0, CHARS, size=(2, 5, 6)),)


class Highway(nn.Module):
    def __init__(self, dim, num_layers):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(num_layers)])

    def forward(self, x):
        for layer in self.layers:
            nonlinear, gate = layer(x).chunk(2, dim=-1)
            nonlinear, gate = torch.relu(nonlinear), torch.sigmoid(gate)
            x = gate * x + (1 - gate) * nonlinear
        return x


class CharacterEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.char_embedding = nn.Embedding(CHARS, CHAR_DIM)
        self.convs = nn.ModuleList([nn.Conv1d(CHAR_DIM, n, width) for width, n in FILTERS])
        self.highways = Highway(TOTAL, HIGHWAYS)
        self.projection = nn.Linear(TOTAL, PROJ)

    def forward(self, chars):
        b, t, w = chars.shape
        x = self.char_embedding(chars.view(b * t, w)).transpose(1, 2)
        pooled = [conv(x).amax(dim=-1) for conv in self.convs]
        token = torch.tanh(torch.cat(pooled, dim=-1))
        return self.projection(self.highways(token)).view(b, t, -1)


class ScalarMix(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.scalar_parameters = nn.Parameter(torch.zeros(n))
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def forward(self, tensors):
        weights = torch.softmax(self.scalar_parameters, dim=0)
        return self.gamma * sum(w * t for w, t in zip(weights, tensors))


class ElmoTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedder = CharacterEncoder()
        self.forward_layers = nn.ModuleList([nn.LSTM(PROJ, PROJ, batch_first=True) for _ in range(LAYERS)])
        self.backward_layers = nn.ModuleList([nn.LSTM(PROJ, PROJ, batch_first=True) for _ in range(LAYERS)])
        self.scalar_mix = ScalarMix(LAYERS + 1)
        self.tag = nn.Linear(2 * PROJ, TAGS)

    def forward(self, chars):
        token = self.token_embedder(chars)
        states = [torch.cat([token, token], dim=-1)]
        f = b = token
        for i, (fwd, bwd) in enumerate(zip(self.forward_layers, self.backward_layers)):
            f_out, _ = fwd(f)
            b_out = bwd(b.flip(1))[0].flip(1)
            f, b = (f_out, b_out) if i == 0 else (f + f_out, b + b_out)
            states.append(torch.cat([f, b], dim=-1))
        return torch.log_softmax(self.tag(self.scalar_mix(states)), dim=-1)


def torch_side():
    torch.manual_seed(106)
    model = ElmoTagger()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layers" in name and "bias_" in name:
                p.copy_(torch.randint(-8, 9, p.shape) / 16)  # sums of two are exact in float32
            elif "embedding" not in name:
                p.normal_(0.0, 0.4)
        model.scalar_mix.scalar_parameters.copy_(torch.tensor([0.2, -0.5, 0.9]))
        model.scalar_mix.gamma.fill_(1.7)
    return model.eval()


class CharCNN(fnn.Module):
    @fnn.compact
    def __call__(self, ids):
        chars = fnn.Embed(CHARS, CHAR_DIM, name="chars")(ids)
        found = []
        for width, n in FILTERS:
            maps = fnn.Conv(n, (width,), padding="VALID", name=f"width{width}")(chars)
            found.append(jnp.tanh(maps).max(axis=-2))
        x = jnp.concatenate(found, axis=-1)
        for i in range(HIGHWAYS):
            carry = fnn.sigmoid(fnn.Dense(TOTAL, name=f"carry{i}")(x))
            changed = fnn.relu(fnn.Dense(TOTAL, name=f"transform{i}")(x))
            x = changed + carry * (x - changed)
        return fnn.Dense(PROJ, name="project")(x)


class BiLM(fnn.Module):
    @fnn.compact
    def __call__(self, ids):
        words = CharCNN(name="words")(ids)
        mix = fnn.softmax(self.param("mix", fnn.initializers.zeros, (LAYERS + 1,)))
        left = right = words
        start = (jnp.zeros((ids.shape[0], PROJ), words.dtype),) * 2
        total = mix[0] * jnp.concatenate([words, words], axis=-1)
        for i in range(LAYERS):
            ahead = fnn.RNN(fnn.OptimizedLSTMCell(PROJ, name=f"left{i}"))(left, initial_carry=start)
            backward = fnn.RNN(fnn.OptimizedLSTMCell(PROJ, name=f"right{i}"), reverse=True, keep_order=True)
            back = backward(right, initial_carry=start)
            if i > 0:
                ahead, back = ahead + left, back + right
            left, right = ahead, back
            total = total + mix[i + 1] * jnp.concatenate([left, right], axis=-1)
        gamma = self.param("gamma", fnn.initializers.ones, ())
        return fnn.log_softmax(fnn.Dense(TAGS, name="tagger")(gamma * total))


def lstm_params(lstm):
    w_ih, w_hh = lstm.weight_ih_l0.detach().chunk(4), lstm.weight_hh_l0.detach().chunk(4)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().chunk(4)
    cell = {}
    for n, gate in enumerate("ifgo"):
        cell[f"i{gate}"] = {"kernel": w_ih[n].T.numpy()}
        cell[f"h{gate}"] = {"kernel": w_hh[n].T.numpy(), "bias": bias[n].numpy()}
    return cell


def dense(weight, bias):
    return {"kernel": weight.detach().T.numpy(), "bias": bias.detach().numpy()}


def jax_side():
    source = torch_side()
    encoder = source.token_embedder
    words = {"chars": {"embedding": encoder.char_embedding.weight.detach().numpy()}}
    for (width, _), conv in zip(FILTERS, encoder.convs):
        words[f"width{width}"] = {"kernel": conv.weight.detach().permute(2, 1, 0).numpy(), "bias": conv.bias.detach().numpy()}
    for i, layer in enumerate(encoder.highways.layers):
        words[f"transform{i}"] = dense(layer.weight[:TOTAL], layer.bias[:TOTAL])
        words[f"carry{i}"] = dense(layer.weight[TOTAL:], layer.bias[TOTAL:])
    words["project"] = dense(encoder.projection.weight, encoder.projection.bias)
    params = {"words": words, "tagger": dense(source.tag.weight, source.tag.bias)}
    for i in range(LAYERS):
        params[f"left{i}"] = lstm_params(source.forward_layers[i])
        params[f"right{i}"] = lstm_params(source.backward_layers[i])
    params["mix"] = source.scalar_mix.scalar_parameters.detach().numpy()
    params["gamma"] = source.scalar_mix.gamma.detach().numpy()
    return BiLM(), {"params": jax.tree.map(jnp.asarray, params)}


MISTAKES = [
    {
        "name": "the highway's gate carries the transformed part instead of the input",
        "side": "torch",
        "old": "x = gate * x + (1 - gate) * nonlinear",
        "new": "x = gate * nonlinear + (1 - gate) * x",
        "line": 31,
    },
    {
        "name": "the backward layers' outputs are left in reversed order",
        "side": "torch",
        "old": "b_out = bwd(b.flip(1))[0].flip(1)",
        "new": "b_out = bwd(b.flip(1))[0]",
        "line": 77,
    },
    {
        "name": "the character convolutions pad the word (SAME, the default of Flax)",
        "side": "jax",
        "old": 'fnn.Conv(n, (width,), padding="VALID", name',
        "new": 'fnn.Conv(n, (width,), padding="SAME", name',
        "line": 103,
    },
    {
        "name": "the weights of the scalar mix are taken as they are, without a softmax",
        "side": "jax",
        "old": 'mix = fnn.softmax(self.param("mix", fnn.initializers.zeros, (LAYERS + 1,)))',
        "new": 'mix = self.param("mix", fnn.initializers.zeros, (LAYERS + 1,))',
        "line": 117,
    },
]
