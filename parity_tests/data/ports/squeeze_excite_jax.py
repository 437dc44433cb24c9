"""MobileNetV3's squeeze and excitation in Flax Linen, channels last inside."""

from flax import linen as nn


class SqueezeExcite(nn.Module):
    squeezed: int

    @nn.compact
    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        s = nn.relu(nn.Dense(self.squeezed, name="fc1")(x.mean(axis=(1, 2))))
        gate = nn.hard_sigmoid(nn.Dense(x.shape[-1], name="fc2")(s))  # here
        return (x * gate[:, None, None, :]).transpose(0, 3, 1, 2)


def build(checkpoint):
    dense = {n: {"kernel": checkpoint[f"{n}.weight"][..., 0, 0].T, "bias": checkpoint[f"{n}.bias"]} for n in ("fc1", "fc2")}
    return SqueezeExcite(squeezed=4), {"params": dense}
