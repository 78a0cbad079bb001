"""How many frames a layer leaves: the one formula of strides and padding."""

from __future__ import annotations


def stepped(frames: int, growth: int, stride: int) -> int:
    """Return (frames + growth − 1) div stride + 1, the frames behind a convolution.

    ``growth``: padding on both sides less dilation · (taps − 1).
    """
    return (frames + growth - 1) // stride + 1


def growth_of(padding: int, dilation: int, taps: int) -> int:
    """Return what a convolution of stride 1 adds to the number of frames; ``padding``:

    of both sides together.
    """
    return padding - dilation * (taps - 1)
