"""The inverse error function as XLA computes it, used to draw normal from uniform numbers.

    erf_inverse(x) = x P(w),  w = -log(1 - x^2)        P a polynomial in w - a near 0, and in sqrt(w) - a towards 1

The coefficients are Giles'. XLA rounds their products and its logarithm a little differently on each processor, so that
JAX itself gives the same last bit only on one version and one machine; here each step is rounded once.

References:
    Giles, "Approximating the erfinv function", GPU Computing Gems, 2011.
"""

from __future__ import annotations

import numpy as np

SHORT = (
    (
        *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503),
        *(-0.00417768164, 0.246640727, 1.50140941),
    ),
    (
        *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613),
        *(0.00943887047, 1.00167406, 2.83297682),
    ),
)
"""Of float32: w below 5, by w - 2.5; the rest, by sqrt(w) - 3."""

LONG = (
    (
        *(-3.6444120640178196996e-21, -1.685059138182016589e-19, 1.2858480715256400167e-18, 1.115787767802518096e-17),
        *(-1.333171662854620906e-16, 2.0972767875968561637e-17, 6.6376381343583238325e-15, -4.0545662729752068639e-14),
        *(-8.1519341976054721522e-14, 2.6335093153082322977e-12, -1.2975133253453532498e-11, -5.4154120542946279317e-11),
        *(1.051212273321532285e-09, -4.1126339803469836976e-09, -2.9070369957882005086e-08, 4.2347877827932403518e-07),
        *(-1.3654692000834678645e-06, -1.3882523362786468719e-05, 0.0001867342080340571352, -0.00074070253416626697512),
        *(-0.0060336708714301490533, 0.24015818242558961693, 1.6536545626831027356),
    ),
    (
        *(2.2137376921775787049e-09, 9.0756561938885390979e-08, -2.7517406297064545428e-07, 1.8239629214389227755e-08),
        *(1.5027403968909827627e-06, -4.013867526981545969e-06, 2.9234449089955446044e-06, 1.2475304481671778723e-05),
        *(-4.7318229009055733981e-05, 6.8284851459573175448e-05, 2.4031110387097893999e-05, -0.0003550375203628474796),
        *(0.00095328937973738049703, -0.0016882755560235047313, 0.0024914420961078508066, -0.0037512085075692412107),
        *(0.005370914553590063617, 1.0052589676941592334, 3.0838856104922207635),
    ),
    (
        *(-2.7109920616438573243e-11, -2.5556418169965252055e-10, 1.5076572693500548083e-09, -3.7894654401267369937e-09),
        *(7.6157012080783393804e-09, -1.4960026627149240478e-08, 2.9147953450901080826e-08, -6.7711997758452339498e-08),
        *(2.2900482228026654717e-07, -9.9298272942317002539e-07, 4.5260625972231537039e-06, -1.9681778105531670567e-05),
        *(7.5995277030017761139e-05, -0.00021503011930044477347, -0.00013871931833623122026, 1.0103004648645343977),
        *(4.8499064014085844221,),
    ),
)
"""Of float64: w below 6.25, by w - 3.125; below 16, by sqrt(w) - 3.25; the rest, by sqrt(w) - 5."""


def erf_inverse(x: np.ndarray) -> np.ndarray:
    """Return the number whose error function is `x`, in the dtype of `x`: float32 or float64.

    Args:
        x: in [-1, 1]; its ends have infinities.

    >>> round(float(erf_inverse(np.array([0.5]))[0]), 12)
    0.476936276204
    """
    # 1 and -1 have no logarithm; their answer is set below.
    outer = np.abs(x) >= 1
    square = np.where(outer, 0, x * x)
    w = -np.log1p(-square.astype(np.float64)).astype(x.dtype)
    root = np.sqrt(w)
    if x.dtype == np.float32:
        made = np.where(w < 5, _polynomial(SHORT[0], w - x.dtype.type(2.5)), _polynomial(SHORT[1], root - x.dtype.type(3)))
    else:
        far = np.where(w < 16, _polynomial(LONG[1], root - 3.25), _polynomial(LONG[2], root - 5))
        made = np.where(w < 6.25, _polynomial(LONG[0], w - 3.125), far)
    return np.where(outer, np.copysign(x.dtype.type(np.inf), x), made * x)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Return the polynomial with these coefficients, highest first; a product and its sum are rounded as one."""
    wide = x.astype(np.float64)
    total = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = (total * wide + float(x.dtype.type(c))).astype(x.dtype)
    return total
