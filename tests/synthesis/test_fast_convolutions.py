from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from zeroq_asr.synthesis.fast_convolutions import FastConv


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "options"),
    [
        (6, 6, 33, {"padding": 16, "groups": 6}),
        (6, 6, 75, {"padding": 37, "groups": 6}),
        (6, 6, 12, {"padding": "same", "groups": 6}),
        (6, 6, 11, {"padding": "same", "groups": 6}),
        (6, 6, 11, {"padding": "valid", "groups": 6, "bias": True}),
        (6, 6, 11, {"padding": 20, "groups": 6}),
        (6, 6, 11, {"padding": 5, "groups": 6, "stride": 2}),
        (6, 6, 11, {"padding": 10, "groups": 6, "dilation": 2}),
        (6, 12, 11, {"padding": 5, "groups": 6}),
        (6, 9, 1, {"bias": True}),
        (6, 9, 1, {"padding": 1}),
        (6, 9, 5, {"padding": 2}),
        (6, 6, 1, {"groups": 6}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("frames", [40, 93])
def test_fast_convolution_is_the_convolution(
    channels: int, out: int, kernel: int, options: dict, frames: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(channels, out, kernel, **{"bias": False, **options}).requires_grad_(False)
    x = torch.randn(2, channels, frames, requires_grad=True)
    try:
        expected = conv(x)
    except RuntimeError:  # the kernel is longer than the input
        return
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    with FastConv(conv):
        actual = conv(x)
    (actual_gradient,) = torch.autograd.grad((actual * weight).sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual_gradient, gradient, rtol=1e-5, atol=1e-5)


def test_fast_convolution_remembers_only_the_network_s_weights() -> None:
    conv = nn.Conv1d(4, 4, 9, groups=4, bias=False).requires_grad_(False)
    fast, x = FastConv(conv), torch.randn(1, 4, 20)
    with fast:
        for _ in range(3):
            functional.conv1d(x, conv.weight * 2, groups=4)
            conv(x)
        conv(torch.randn(4, 20))  # without a batch: left to torch
    assert list(fast._bands) == [id(conv.weight)]
