"""Arithmetic and moves of constants that the walk meets as tensors and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import handles
from zeroq_asr.capture.tracer import Real, Tracer

_NUMBER = (Tensor, int, float)


def _both(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda t, a, b, *options: function(a, b)


for _name, _function in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div)):
    handles(_name, _NUMBER, _NUMBER)(_both(_function))


@handles("transpose", Tensor)
def _transpose(t: Tracer, x: Tensor, a: int, b: int) -> Tensor:
    return torch.transpose(x, a, b)


@handles("permute", Tensor)
def _permute(t: Tracer, x: Tensor, order: Any) -> Tensor:
    return torch.permute(x, order)


@handles("unsqueeze", Tensor)
def _unsqueeze(t: Tracer, x: Tensor, dim: int) -> Tensor:
    return x.unsqueeze(dim)


@handles("zeros_like", (Real, Tensor))
def _zeros_like(t: Tracer, x: Real | Tensor, *options: object) -> Tensor:
    """Zeros of any shape broadcast alike."""
    return torch.zeros(())
