"""Convolutions over time as matrix products: the same sums, several times faster on a CPU.

Shapes: B batch, C channels, T frames, k kernel size, L tile.

PyTorch's 1-D depthwise convolution runs at some 3 GMAC/s on two cores, a matrix product at
100.  A tile of L outputs of one channel is a product of L + k - 1 inputs and a banded Toeplitz
matrix, (1 + (L - 1) / k) times the work and still about five times faster; its gradient is
the same product on reversed time, since ``d/dx (x * w) = g * reverse(w)``.  A pointwise
convolution is faster as a 2-D one.  Anything else runs unchanged.

``FastConv`` is a ``TorchFunctionMode``: only calls made while it is entered are replaced, and
the network is not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CALLS = frozenset({functional.conv1d, torch.conv1d, torch.ops.aten.conv1d.default})
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = (None, None, None, 1, 0, 1, 1)
_SMALLEST_KERNEL = 8  # below it the direct kernel wins


class FastConv(TorchFunctionMode):
    """Replaces ``conv1d`` with frozen weights while entered; keeps a Toeplitz matrix per weight."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Only the network's own tensors are remembered: one computed on the way is new each time.
        self._known = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
        self._bands: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a 1-D convolution the fast way where there is one, everything else unchanged."""
        kwargs = kwargs or {}
        if func in _CALLS:
            given = {**dict(zip(_NAMES, _DEFAULTS, strict=True)), **kwargs, **dict(zip(_NAMES, args))}  # noqa: B905
            result = self._conv1d(**given)
            if result is not None:
                return result
        return func(*args, **kwargs)

    def _conv1d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor | None:
        kernel = weight.shape[-1]
        spread = padding if isinstance(padding, str) else _one(padding)
        if input.dim() != 3 or _one(stride) != 1 or weight.requires_grad:
            return None
        if kernel == 1 and groups == 1 and spread in (0, "valid", "same"):
            return functional.conv2d(input.unsqueeze(2), weight.unsqueeze(2), bias).squeeze(2)
        depthwise = groups == input.shape[1] == weight.shape[0] and weight.shape[1] == 1
        if not depthwise or _one(dilation) != 1 or kernel < _SMALLEST_KERNEL:
            return None
        if isinstance(spread, str):
            if spread == "same" and kernel % 2 == 0:  # its padding is lopsided
                return None
            spread = kernel // 2 if spread == "same" else 0
        if input.shape[2] + 2 * spread < kernel:
            return None
        output: Tensor = _Depthwise.apply(input, self._band(weight), kernel, spread)
        return output if bias is None else output + bias[None, :, None]

    def _band(self, weight: Tensor) -> Tensor:
        band = self._bands.get(id(weight))
        if band is None:
            tile = 16 if weight.shape[-1] < 48 else 32  # measured: longer kernels pay for longer tiles
            band = _toeplitz(weight.detach()[:, 0], tile)
            if id(weight) in self._known:
                self._bands[id(weight)] = band
        return band


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution over time with frozen weights, stride 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, kernel: int, padding: int) -> Tensor:
        """Convolve x [B, C, T] to [B, C, T + 2 padding - kernel + 1]."""
        ctx.save_for_backward(band)
        ctx.kernel, ctx.padding = kernel, padding
        return _convolve(x, band, kernel, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of x: the same product on reversed time."""
        (band,) = ctx.saved_tensors
        reverse = _convolve(gradients[0].flip(2), band, ctx.kernel, ctx.kernel - 1 - ctx.padding)
        return reverse.flip(2), None, None, None


def _convolve(x: Tensor, band: Tensor, kernel: int, padding: int) -> Tensor:
    batch, channels, frames = x.shape
    window, tile = band.shape[1:]
    outputs = frames + 2 * padding - kernel + 1
    tiles = -(-outputs // tile)
    padded = functional.pad(x, (padding, tiles * tile + kernel - 1 - frames - padding))
    # [B, C, tiles, window] -> [C, B tiles, window] @ [C, window, L]
    windows = padded.unfold(2, window, tile).transpose(0, 1).reshape(channels, batch * tiles, window)
    product = torch.bmm(windows, band).view(channels, batch, tiles * tile)
    return product.transpose(0, 1)[:, :, :outputs]


def _toeplitz(weight: Tensor, tile: int) -> Tensor:
    """Return the band [C, tile + k - 1, tile] whose entry (j, i) is ``weight[:, j - i]``, 0 outside."""
    kernel = weight.shape[1]
    padded = functional.pad(weight, (tile - 1, tile - 1))
    rows, columns = torch.arange(tile + kernel - 1), torch.arange(tile)
    return padded[:, tile - 1 + rows[:, None] - columns[None]].contiguous()


@functools.singledispatch
def _one(value: Any) -> int:
    """Return the single entry of a one-dimensional option, given as a number or a sequence."""
    return int(value[0])


@_one.register
def _(value: int) -> int:
    return value
