"""The primitives: the whole vocabulary in which integer operators are defined.

Shapes: B batch, C channels, T frames.  Activations are [B, C, T], lengths [B].  An operand
written ``v`` is a backend value, ``n`` a Python int.  Every primitive but ``quantize`` and those of float
islands, ``dequantize`` and ``float_graph``, maps integers to integers, and the interval backend proves that
none leaves its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from zeroq_asr.integer.types import IntType

#: A backend's own value: an array, a tensor, a node output, a pair of bounds.
V = Any
#: what is computed of blocks of rows: queries, and positions and distances or neither
Body = Callable[[V, V | None, V | None], V]
#: rows of a block, about
ROWS = 512


def row_parts(queries: V, positions: V | None, distances: V | None) -> Iterator[tuple[V, V | None, V | None]]:
    """What ``row_blocks`` computes each block of, for arrays and tensors."""
    frames = queries.shape[2]
    for first in range(0, frames, ROWS):
        rows = slice(first, min(first + ROWS, frames))
        columns = slice(frames - rows.stop, 2 * frames - first)
        yield (
            queries[:, :, rows],
            None if positions is None else positions[:, :, rows],
            None if distances is None else distances[..., columns],
        )


class Backend(Protocol):
    """An interpreter of the primitives."""

    def constant(self, name: str, array: np.ndarray) -> V:
        """Take a constant of the program (weights, biases, multipliers, tables)."""

    def array(self, v: V) -> np.ndarray:
        """Return the array of a constant, for bounds that a definition derives from it."""

    def per_channel(self, v: V, axes: int = 1) -> V:
        """Shape a constant vector [C] so that it broadcasts against [B, C, T]; ``axes`` = 2: [B, C, T, F]."""

    def per_batch(self, lengths: V) -> V:
        """Shape lengths [B] int64 as [B, 1, 1] int32 so that they broadcast against [B, C, T]."""

    def cast(self, v: V, to: IntType) -> V:
        """Change the type; the value must fit (proven, never wrapped)."""

    def add(self, a: V, b: V) -> V:
        """a + b in the type of ``a``; ``b`` may be a Python int."""

    def sub(self, a: V, b: V) -> V:
        """a − b in the type of ``a``; ``b`` may be a Python int."""

    def mul(self, a: V, b: V) -> V:
        """a · b in the type of ``a``; ``b`` may be a Python int."""

    def square(self, v: V) -> V:
        """v · v, which is never negative."""

    def clamp(self, v: V, lo: int | np.ndarray, hi: int | np.ndarray) -> V:
        """min(max(v, lo), hi); bounds are ints or per-channel vectors [C]."""

    def shift_right(self, v: V, c: int) -> V:
        """floor(v / 2^c): an arithmetic right shift of an int32."""

    def bit_and(self, v: V, mask: int) -> V:
        """Bitwise and of an int32 with a non-negative mask."""

    def low_bits_equal(self, v: V, c: int, bit: int) -> V:
        """Bool: the c lowest bits of an int32 are all ``bit`` (0 or 1); 0 ≤ v < 257·2^c and 0 < c ≤ 16."""

    def set_parity(self, y: V, where: V, bit: int) -> V:
        """A uint8 y with its lowest bit made ``bit`` (0 or 1) where the mask is true."""

    def divide(self, a: V, b: V) -> V:
        """floor(a / b) for a ≥ 0 and b ≥ 1; ``b`` may be a Python int."""

    def conv(
        self,
        x: V,
        w: V,
        *,
        zero_point: int,
        stride: int,
        padding: tuple[int, int],
        dilation: int,
        groups: int,
    ) -> V:
        """Convolve (x − zero_point), x [B, C, T] uint8, with w [O, C/groups, K] into int32 [B, O, T'].

        Frames beyond the ends count as zero after the subtraction.
        """

    def conv2d(
        self,
        x: V,
        w: V,
        *,
        zero_point: int,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> V:
        """Convolve (x − zero_point), x [B, C, T, F] uint8, with w [O, C/groups, K, L] into int32.

        ``padding`` is of either side of time and of frequency.
        """

    def matmul(self, a: V, b: V, *, za: int, zb: int, terms: V) -> V:
        """(a − za) @ (b − zb) over the last two axes, uint8 each, into int32.

        ``terms``: how many products a sum has at most, a Python int or lengths.
        """

    def heads(self, v: V, heads: int, size: int) -> V:
        """[B, H·E, T] → [B, H, E, T]."""

    def merge(self, v: V, channels: int) -> V:
        """[B, H, E, T] → [B, H·E, T]."""

    def image(self, v: V) -> V:
        """[B, M, T] → [B, 1, T, M]."""

    def middle(self, table: V, like: V) -> V:
        """The middle columns of a constant [C, 2L] as [1, C, 2T]; ``like`` [B, C', T] gives T ≤ L."""

    def first_frames(self, table: V, like: V) -> V:
        """The first columns of an int16 constant [R, L] as int32 [1, R, T]; ``like`` [B, C, T] gives T."""

    def relative_shift(self, v: V) -> V:
        """[B, H, N, N + T] by falling distance → [B, H, N, T] with entry (i, j) = v[i, N − i + j]."""

    def row_blocks(
        self,
        body: Body,
        queries: V,
        positions: V | None,
        distances: V | None,
        *,
        heads: int,
        frames: V,
    ) -> V:
        """``body`` of [B, H, T, E], [B, H, T, E] and [1, H, E, 2T], at once or by blocks of rows.

        To rows i to i + N belong the columns T − i − N to 2T − i; results are joined along the rows.
        ``frames`` [B] bounds T.
        """

    def of_keys(self, mask: V) -> V:
        """[B, 1, T] → [B, 1, 1, T]."""

    def of_image(self, mask: V) -> V:
        """[B, 1, T] → [B, 1, T, 1]."""

    def below_peak(self, v: V) -> V:
        """max over the last axis minus v, ≥ 0."""

    def with_ones(self, v: V) -> V:
        """[B, H, T, E] → [B, H, T, E + 1], uint8: a column of ones at the end."""

    def without_ones(self, v: V, size: int) -> tuple[V, V]:
        """[B, H, T, E + 1] → its first E = ``size`` columns and its last."""

    def sum_channels(self, v: V, channels: int) -> V:
        """Sum [B, C, T] over C into [B, 1, T]."""

    def peak_channels(self, v: V) -> V:
        """max over C of |v|, [B, C, T] into [B, 1, T]."""

    def peak_time(self, v: V) -> V:
        """max over T of |v|, [B, C, T] into [B, C, 1]."""

    def quotient(self, a: V, b: V) -> V:
        """a / b cut toward zero, b ≥ 1; ``b`` may be a Python int."""

    def reciprocal(self, n: int, v: V) -> V:
        """floor(n / v) for n ≥ 0 and v ≥ 1, in the type of v."""

    def isqrt(self, v: V) -> V:
        """floor(√v) of an int64, 1 ≤ v < 2^52."""

    def low_byte(self, v: V) -> V:
        """v mod 256 as uint8, v ≥ 0."""

    def time_mask(self, x: V, lengths: V) -> V:
        """Bool [B, 1, T], true where the frame index of x [B, C, T] is below its utterance's length."""

    def select(self, mask: V, v: V, otherwise: int) -> V:
        """``v`` where the mask is true, else the int ``otherwise``."""

    def sum_time(self, v: V, lengths: V) -> V:
        """Sum [B, C, T] over T into [B, C, 1]; frames at or beyond the length are zero already."""

    def lookup(self, v: V, table: V) -> V:
        """table[v] elementwise, in the table's type; v uint8 or int32, 0 ≤ v < length of the table."""

    def take_channels(self, v: V, index: tuple[int, ...]) -> V:
        """v[:, index, :]."""

    def transpose(self, v: V, perm: tuple[int, ...]) -> V:
        """Permute the axes."""

    def quantize(self, v: V, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> V:
        """clamp(half_even(v / scale) + zero_point, lo, hi) as uint8 or int32, v float32: the way in.

        The division is float32, as in ONNX QuantizeLinear.
        """

    def dequantize(self, v: V, *, scale: float, zero_point: int) -> V:
        """scale · (v − zero_point) as float32, |v − zero_point| ≤ 2^24: the way into a float island."""

    def float_graph(self, body: str, operands: list[V], weights: list[V]) -> V:
        """Float32 result of an ONNX graph (``integer/backends/onnxruntime_islands.py``), a NaN as 0.

        ``operands``: float32 values and lengths; ``weights``: int32 constants, the bits of float32.
        """
