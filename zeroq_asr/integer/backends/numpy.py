"""The reference: numpy arrays, every int32 result checked against its type.

Convolutions run as float matrix products, which carry integers exactly: float32 where every partial
sum stays below 2^24, float64 (below 2^53) elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.types import I32, IntType

Array = np.ndarray


class NumpyBackend:
    """Interprets the primitives on numpy arrays; an overflow raises instead of wrapping."""

    def constant(self, name: str, array: Array) -> Array:
        """Weights [O, I, K] stay as they are, vectors become int32, tables uint8."""
        return array

    def array(self, v: Array) -> Array:
        """The constant itself."""
        return v

    def per_channel(self, v: Array) -> Array:
        """[C] → [C, 1] int32."""
        return v.astype(np.int32)[:, None]

    def per_batch(self, lengths: Array) -> Array:
        """[B] → [B, 1, 1] int32."""
        return self.cast(lengths, I32)[:, None, None]

    def cast(self, v: Array, to: IntType) -> Array:
        """Change the type; raise if a value does not fit."""
        if v.size and v.dtype != np.bool_:
            _require(v, to)
        return v.astype(to.name)

    def add(self, a: Array, b: Array | int) -> Array:
        """a + b, checked."""
        return _checked(np.add(a, b, dtype=np.int64), a)

    def sub(self, a: Array, b: Array | int) -> Array:
        """a − b, checked."""
        return _checked(np.subtract(a, b, dtype=np.int64), a)

    def mul(self, a: Array, b: Array | int) -> Array:
        """a · b, checked."""
        return _checked(np.multiply(a, b, dtype=np.int64), a)

    def clamp(self, v: Array, lo: int | Array, hi: int | Array) -> Array:
        """Clamp to ints or to per-channel vectors [C]."""
        if isinstance(lo, np.ndarray) or isinstance(hi, np.ndarray):
            lo, hi = np.asarray(lo)[..., None], np.asarray(hi)[..., None]
        return np.clip(v, lo, hi).astype(v.dtype)

    def shift_right(self, v: Array, c: int) -> Array:
        """Arithmetic shift."""
        return np.right_shift(v, c)

    def bit_and(self, v: Array, mask: int) -> Array:
        """Bitwise and."""
        return np.bitwise_and(v, mask).astype(v.dtype)

    def low_bits_equal(self, v: Array, c: int, bit: int) -> Array:
        """Compare with c zeros or ones."""
        mask = (1 << c) - 1
        return np.bitwise_and(v, mask) == bit * mask

    def set_parity(self, y: Array, where: Array, bit: int) -> Array:
        """Set or clear the lowest bit."""
        return y | where if bit else y & ~where.astype(np.uint8)

    def divide(self, a: Array, b: Array | int) -> Array:
        """Floor division of non-negative integers."""
        if a.size and (a.min() < 0 or np.min(b) < 1):
            raise ProofError("divide", "needs a ≥ 0 and b ≥ 1")
        return np.floor_divide(a, b).astype(a.dtype)

    def conv(
        self,
        x: Array,
        w: Array,
        *,
        zero_point: int,
        stride: int,
        padding: tuple[int, int],
        dilation: int,
        groups: int,
    ) -> Array:
        """Exact convolution in a float carrier."""
        out_channels, per_group, kernel = w.shape
        carrier = _carrier(w)
        centred = np.pad(x.astype(carrier) - carrier(zero_point), ((0, 0), (0, 0), padding))
        weight = w.astype(carrier)
        span = dilation * (kernel - 1) + 1
        windows = sliding_window_view(centred, span, axis=2)[:, :, ::stride, ::dilation]
        rows = out_channels // groups
        if per_group == 1:
            acc = np.einsum("bctk,ck->bct", np.repeat(windows, rows, axis=1), weight[:, 0])
        else:
            blocks = [
                np.einsum("bitk,oik->bot", block, weight[g * rows : (g + 1) * rows], optimize=True)
                for g, block in enumerate(np.split(windows, groups, axis=1))
            ]
            acc = np.concatenate(blocks, axis=1)
        _require(acc, I32)
        return acc.astype(np.int32)

    def time_mask(self, x: Array, lengths: Array) -> Array:
        """Bool [B, 1, T]."""
        return (np.arange(x.shape[2])[None, :] < lengths[:, None])[:, None, :]

    def select(self, mask: Array, v: Array, otherwise: int) -> Array:
        """Masked choice."""
        return np.where(mask, v, v.dtype.type(otherwise))

    def sum_time(self, v: Array, lengths: Array) -> Array:
        """Sum over frames."""
        return _checked(v.sum(axis=2, keepdims=True, dtype=np.int64), v)

    def lookup(self, v: Array, table: Array) -> Array:
        """Table entries."""
        return table.astype(np.uint8)[v]

    def take_channels(self, v: Array, index: tuple[int, ...]) -> Array:
        """Reorder channels."""
        return v[:, list(index)]

    def transpose(self, v: Array, perm: tuple[int, ...]) -> Array:
        """Permute axes."""
        return v.transpose(perm)

    def quantize(self, v: Array, *, scale: float, zero_point: int, lo: int, hi: int) -> Array:
        """float32 division, half-even, saturation."""
        with np.errstate(over="ignore"):  # a quotient beyond float32 saturates like any large one
            quotient = np.rint(v.astype(np.float32) / np.float32(scale))
        return np.clip(quotient + zero_point, lo, hi).astype(np.uint8)


def _carrier(w: Array) -> type[np.floating]:
    """float32 where no partial sum of bytes times these weights can reach 2^24, else float64."""
    reach = 255 * int(np.abs(w.astype(np.int64)).sum(axis=(1, 2)).max(initial=0))
    return np.float32 if reach < 1 << 24 else np.float64


def _require(v: Array, to: IntType) -> None:
    if v.size and not to.holds(int(v.min()), int(v.max())):
        raise ProofError(
            to.name, f"overflow: a value in [{int(v.min())}, {int(v.max())}]", "the program is not proven"
        )


def _checked(v: Array, like: Any) -> Array:
    if like.dtype != np.int64:
        _require(v, I32)
        return v.astype(np.int32)
    return v
