"""A decoder's upsampling step: a transposed convolution of stride two, and a plain one."""

from torch import nn
from torch.nn import functional as F


class Upsampler(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.up = nn.ConvTranspose2d(n_in, n_out, kernel_size=3, stride=2, bias=False)
        self.smooth = nn.Conv2d(n_out, n_out, kernel_size=3, padding=1)

    def forward(self, x):
        y = self.up(x)  # here
        return self.smooth(F.leaky_relu(y, 0.2))


def build():
    return Upsampler(n_in=3, n_out=4)


def inputs(rng):
    return (rng.normal(size=(2, 3, 5, 4)),)
