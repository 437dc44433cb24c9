"""CTC loss over a small recogniser: strided convolutions, linear head, forward algorithm in log space. Port: a scan over time; a dict."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

LOADED = True

BINS, HID, VOCAB, FRAMES, LABELS = 10, 12, 7, 24, 4


def inputs():
    rng = np.random.default_rng(29)
    return {
        "spectrogram": rng.normal(size=(2, FRAMES, BINS)).astype("float32"),
        "labels": np.array([[2, 2, 5, 1], [3, 6, 4, 0]]),
        "label_lengths": np.array([4, 3]),
        "frame_lengths": np.array([12, 10]),  # after the stride
    }


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(BINS, HID, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(HID, HID, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(HID)
        self.ctc_lo = nn.Linear(HID, VOCAB)
        self.criterion = nn.CTCLoss(blank=0, reduction="none")

    def forward(self, spectrogram, labels, label_lengths, frame_lengths):
        x = spectrogram.transpose(1, 2)
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x)) + x
        logits = self.ctc_lo(self.norm(x.transpose(1, 2)))
        log_probs = torch.log_softmax(logits, dim=-1)
        loss = self.criterion(log_probs.transpose(0, 1), labels, frame_lengths, label_lengths)
        return {"log_probs": log_probs, "loss": (loss / label_lengths).mean()}


def torch_side():
    torch.manual_seed(29)
    net = Recogniser()
    net.norm.weight.data.uniform_(0.5, 1.5)
    net.norm.bias.data.normal_(0, 0.3)
    net.ctc_lo.weight.data.mul_(3)
    return net


def conv1d(p, x, stride):
    return (
        jax.lax.conv_general_dilated(x, p["kernel"], (stride,), ((1, 1),), dimension_numbers=("NWC", "WIO", "NWC")) + p["bias"]
    )


def ctc(log_probs, labels, label_lengths, frame_lengths, blank=0):
    b, t, _ = log_probs.shape
    n = 2 * labels.shape[1] + 1
    extended = jnp.full((b, n), blank).at[:, 1::2].set(labels)
    emit = jnp.take_along_axis(log_probs, jnp.broadcast_to(extended[:, None, :], (b, t, n)), axis=2)
    low = -1e30
    same = jnp.pad(extended[:, 2:] == extended[:, :-2], ((0, 0), (2, 0)), constant_values=True)
    may_skip = (extended != blank) & ~same
    alpha = jnp.full((b, n), low).at[:, :2].set(emit[:, 0, :2])

    def step(alpha, frame):
        emission, time = frame
        stay = alpha
        advance = jnp.pad(alpha, ((0, 0), (1, 0)), constant_values=low)[:, :-1]
        skip = jnp.pad(alpha, ((0, 0), (2, 0)), constant_values=low)[:, :-2]
        skip = jnp.where(may_skip, skip, low)
        new = jax.nn.logsumexp(jnp.stack([stay, advance, skip]), axis=0) + emission
        return jnp.where((time < frame_lengths)[:, None], new, alpha), None

    alpha, _ = jax.lax.scan(step, alpha, (jnp.swapaxes(emit[:, 1:], 0, 1), jnp.arange(1, t)))
    ends = jnp.stack([2 * label_lengths, 2 * label_lengths - 1], axis=1)
    return -jax.nn.logsumexp(jnp.take_along_axis(alpha, ends, axis=1), axis=1)


def recognise(params, spectrogram, labels, label_lengths, frame_lengths):
    x = jax.nn.relu(conv1d(params["down"], spectrogram, 2))
    x = x + jax.nn.relu(conv1d(params["mix"], x, 1))
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = params["ln"]["scale"] * (x - mean) / jnp.sqrt(var + 1e-5) + params["ln"]["bias"]
    log_probs = jax.nn.log_softmax(x @ params["head"]["kernel"] + params["head"]["bias"])
    loss = ctc(log_probs, labels, label_lengths, frame_lengths)
    return {"log_probs": log_probs, "loss": jnp.mean(loss / label_lengths)}


def jax_side():
    sd = {k: v.numpy() for k, v in torch_side().state_dict().items()}
    params = {
        "down": {"kernel": sd["conv1.weight"].transpose(2, 1, 0), "bias": sd["conv1.bias"]},
        "mix": {"kernel": sd["conv2.weight"].transpose(2, 1, 0), "bias": sd["conv2.bias"]},
        "ln": {"scale": sd["norm.weight"], "bias": sd["norm.bias"]},
        "head": {"kernel": sd["ctc_lo.weight"].T, "bias": sd["ctc_lo.bias"]},
    }
    return recognise, jax.tree.map(jnp.asarray, params)


MISTAKES = [
    {
        "name": "a repeated label may be reached without a blank between",
        "side": "jax",
        "old": "may_skip = (extended != blank) & ~same",
        "new": "may_skip = extended != blank",
        "line": 65,
    },
    {
        "name": "the path must end with a blank",
        "side": "jax",
        "old": "ends = jnp.stack([2 * label_lengths, 2 * label_lengths - 1], axis=1)",
        "new": "ends = jnp.stack([2 * label_lengths], axis=1)",
        "line": 78,
    },
    {
        "name": "padded frames are counted",
        "side": "jax",
        "old": "return jnp.where((time < frame_lengths)[:, None], new, alpha), None",
        "new": "return new, None",
        "line": 75,
    },
    {
        "name": "the loss is not divided by the number of labels",
        "side": "torch",
        "old": '"loss": (loss / label_lengths).mean()',
        "new": '"loss": loss.mean()',
        "line": 40,
    },
    {
        "name": "the strided convolution is padded as SAME, at the end only",
        "side": "jax",
        "old": 'p["kernel"], (stride,), ((1, 1),), dimension_numbers',
        "new": 'p["kernel"], (stride,), "SAME", dimension_numbers',
        "line": 54,
    },
]
