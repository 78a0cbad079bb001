"""The elementwise functions of one real number that networks use, and what is known of each."""

from __future__ import annotations

import math

from zeroq_asr.registry import Function

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


#: by name, on Python floats (float64); ``normal_cdf`` is no operator of networks but a factor of gelu
FUNCTIONS: dict[str, Function] = {
    "sigmoid": Function(_sigmoid, (0.0, 1.0), (0.0, 255 / 256)),
    "tanh": Function(math.tanh, (-1.0, 1.0), (-1.0, 1.0)),
    "silu": Function(lambda x: x * _sigmoid(x), (0.0, None)),
    "gelu": Function(lambda x: x * _normal_cdf(x), (0.0, None)),
    "normal_cdf": Function(_normal_cdf, (0.0, 1.0)),
    "selu": Function(
        lambda x: _SELU_SCALE * (x if x > 0 else _SELU_ALPHA * math.expm1(x)),
        (-_SELU_SCALE * _SELU_ALPHA, None),
    ),
    "elu": Function(lambda x: x if x > 0 else math.expm1(x), (-1.0, None)),
}

#: function → what x is multiplied by, and from where on that rounds to 0 or 1 in 255 steps
FACTORS = {"silu": ("sigmoid", 6.3), "gelu": ("normal_cdf", 2.9)}
