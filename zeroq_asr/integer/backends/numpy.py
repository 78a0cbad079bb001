"""The reference: numpy arrays, every int32 result checked against its type.

Convolutions run as float matrix products, which carry integers exactly: float32 where every partial
sum stays below 2^24, float64 (below 2^53) elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.base import Body, Step, interpreted, row_parts
from zeroq_asr.integer.backends.patterns import parse
from zeroq_asr.integer.types import I32, IntType

Array = np.ndarray


class NumpyBackend:
    """Interprets the primitives on numpy arrays; an overflow raises instead of wrapping."""

    def instruction(self, i: Instruction, operands: list[Array]) -> tuple[Array, ...]:
        """Run the definition."""
        return interpreted(self, i, operands)

    def constant(self, name: str, array: Array) -> Array:
        """Weights [O, I, K] stay as they are, vectors become int32, tables uint8."""
        return array

    def array(self, v: Array) -> Array:
        """The constant itself."""
        return v

    def per_channel(self, v: Array, axes: int = 1) -> Array:
        """[C] → [C, 1] or [C, 1, 1] int32."""
        return v.astype(np.int32).reshape(-1, *(1,) * axes)

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

    def square(self, v: Array) -> Array:
        """v · v, checked."""
        return self.mul(v, v)

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

    def conv(
        self,
        x: Array,
        w: Array,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Array:
        """Exact convolution in a float carrier."""
        carrier = _carrier(w)
        centred = np.pad(x.astype(carrier) - carrier(zero_point), ((0, 0), (0, 0), *pads))
        weight, axes = w.astype(carrier), tuple(range(2, w.ndim))
        spans = tuple(d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True))
        windows = sliding_window_view(centred, spans, axis=axes)
        kept = [slice(None, None, stride) for stride in strides]
        windows = windows[(slice(None), slice(None), *kept, *(slice(None, None, d) for d in dilations))]
        rows = len(w) // groups
        out, taps = "tf"[: len(axes)], "kl"[: len(axes)]
        if w.shape[1] == 1 and len(axes) == 1:
            acc = np.einsum("bctk,ck->bct", np.repeat(windows, rows, axis=1), weight[:, 0])
        else:
            product = f"bi{out}{taps},oi{taps}->bo{out}"
            blocks = [
                np.einsum(product, block, weight[g * rows : (g + 1) * rows], optimize=True)
                for g, block in enumerate(np.split(windows, groups, axis=1))
            ]
            acc = np.concatenate(blocks, axis=1)
        _require(acc, I32)
        return acc.astype(np.int32)

    def matmul(self, a: Array, b: Array, *, za: int, zb: int, terms: Array | int) -> Array:
        """Exact product in float64."""
        acc = np.matmul(a.astype(np.float64) - za, b.astype(np.float64) - zb)
        _require(acc, I32)
        return acc.astype(np.int32)

    def rearrange(self, v: Array, pattern: str, **sizes: int) -> Array:
        """Reshape, transpose, reshape."""
        rearrangement = parse(pattern)
        before, after = rearrangement.shapes(v.shape, sizes)
        return v.reshape(before).transpose(rearrangement.permutation).reshape(after)

    def slice_frames(self, table: Array, like: Array, *, around: bool = False) -> Array:
        """First columns, or those in the middle."""
        frames, longest = like.shape[2], table.shape[1] // (2 if around else 1)
        if frames > longest:
            what = "distances of " if around else ""
            raise ProofError("slice_frames", f"{frames} frames, the table has {what}{longest}")
        part = table[:, longest - frames : longest + frames] if around else table[:, :frames]
        return part[None].astype(np.int32) if table.dtype == np.int16 else part[None]

    def relative_shift(self, v: Array) -> Array:
        """Line up distances with pairs."""
        rows = v.shape[2]
        row, column = np.arange(rows)[:, None], np.arange(v.shape[3] - rows)
        return v[:, :, row, rows - row + column]

    def row_blocks(
        self,
        body: Body[Array],
        queries: Array,
        positions: Array | None,
        distances: Array | None,
        *,
        heads: int,
        frames: Array,
    ) -> Array:
        """Concatenate."""
        parts = [body(*part) for part in row_parts(queries, positions, distances)]
        return np.concatenate(parts, axis=2)

    def below_peak(self, v: Array) -> Array:
        """Distance to the largest."""
        return _checked(np.subtract(v.max(axis=-1, keepdims=True), v, dtype=np.int64), v)

    def append_column(self, v: Array, value: int) -> Array:
        """Pad."""
        return np.pad(v, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=value)

    def split_columns(self, v: Array, size: int) -> tuple[Array, Array]:
        """Split."""
        return v[..., :size], v[..., size:]

    def reduce(
        self,
        v: Array,
        kind: Literal["sum", "peak"],
        axis: Literal["channels", "frames"],
        terms: Array | int,
    ) -> Array:
        """Sum, or the largest magnitude."""
        along = 1 if axis == "channels" else 2
        if kind == "peak":
            high, low = v.max(axis=along, keepdims=True), v.min(axis=along, keepdims=True)
            return _checked(np.maximum(high, -low.astype(np.int64)), v)
        return _checked(v.sum(axis=along, keepdims=True, dtype=np.int64), v)

    def quotient(self, a: Array | int, b: Array | int) -> Array:
        """Truncated division."""
        if np.size(b) and np.min(b) < 1:
            raise ProofError("quotient", "needs b ≥ 1")
        like = a if isinstance(a, np.ndarray) else np.asarray(b)
        if np.size(a) and np.min(a) < 0:
            # as int64, in which the lowest int32 has a magnitude
            wide = np.asarray(a, dtype=np.int64)
            return np.where(wide < 0, -(-wide // b), wide // b).astype(like.dtype)
        return np.floor_divide(a, b).astype(like.dtype)

    def isqrt(self, v: Array) -> Array:
        """Integer square root."""
        if v.size and (v.min() < 1 or v.max() >= 1 << 52):
            raise ProofError("isqrt", "needs 1 ≤ v < 2^52")
        # a correctly rounded root below 2^26 has no way to cross an integer
        return np.sqrt(v.astype(np.float64)).astype(np.int64)

    def low_byte(self, v: Array) -> Array:
        """Lowest byte."""
        return (v & 255).astype(np.uint8)

    def time_mask(self, x: Array, lengths: Array) -> Array:
        """Bool [B, 1, T]."""
        return (np.arange(x.shape[2])[None, :] < lengths[:, None])[:, None, :]

    def select(self, mask: Array, v: Array, otherwise: int) -> Array:
        """Masked choice."""
        return np.where(mask, v, v.dtype.type(otherwise))

    def lookup(self, v: Array, table: Array) -> Array:
        """Table entries."""
        return table[v]

    def take_channels(self, v: Array, index: tuple[int, ...]) -> Array:
        """Reorder channels."""
        return v[:, list(index)]

    def filled(self, like: Array, channels: int, value: int, to: IntType) -> Array:
        """Full."""
        return np.full((like.shape[0], channels, 1), value, dtype=to.name)

    def join_channels(self, a: Array, b: Array) -> Array:
        """Concatenate."""
        return np.concatenate([a, b], axis=1)

    def scan(
        self,
        step: Step[Array],
        carried: Sequence[Array],
        inputs: Sequence[Array],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[Array], list[Array]]:
        """Frame after frame."""
        if not inputs[0].shape[2]:
            raise ProofError("scan", "needs a frame")
        kinds = [IntType("what a scan carries", lo, hi) for lo, hi in bounds]
        held, made = [*carried], []
        frames = range(inputs[0].shape[2])
        for frame in reversed(frames) if backwards else frames:
            for value, kind in zip(held, kinds, strict=True):
                _require(value, kind)
            held, results = step(held, [v[:, :, frame : frame + 1] for v in inputs])
            made.append(results)
        for value, kind in zip(held, kinds, strict=True):
            _require(value, kind)
        made = made[::-1] if backwards else made
        return held, [np.concatenate(parts, axis=2) for parts in zip(*made, strict=True)]

    def quantize(self, v: Array, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> Array:
        """float32 division, half-even, saturation."""
        with np.errstate(over="ignore"):  # a quotient beyond float32 saturates like any large one
            quotient = np.rint(v.astype(np.float32) / np.float32(scale))
        return np.clip(quotient + zero_point, lo, hi).astype(to.name)

    def dequantize(self, v: Array, *, scale: float, zero_point: int) -> Array:
        """One float32 product."""
        return (v.astype(np.int32) - np.int32(zero_point)).astype(np.float32) * np.float32(scale)

    def float_graph(self, body: str, operands: list[Array], weights: list[Array]) -> Array:
        """Run by ONNX Runtime, which integers alone do not need."""
        from zeroq_asr.integer.backends.onnxruntime_bodies import evaluate

        result = evaluate(body, operands, weights)
        return np.where(np.isnan(result), np.float32(0), result)


def _carrier(w: Array) -> type[np.floating]:
    """float32 where no partial sum of bytes times these weights can reach 2^24, else float64."""
    reach = 255 * int(np.abs(w.astype(np.int64)).reshape(len(w), -1).sum(axis=1).max(initial=0))
    return np.float32 if reach < 1 << 24 else np.float64


def _require(v: Array, to: IntType) -> None:
    if v.size and not to.holds(int(v.min()), int(v.max())):
        raise ProofError(
            to.name, f"overflow: a value in [{int(v.min())}, {int(v.max())}]", "the program is not proven"
        )


def _checked(v: Array, like: Array) -> Array:
    if like.dtype != np.int64:
        _require(v, I32)
        return v.astype(np.int32)
    return v


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.base import Backend
    from zeroq_asr.integer.program import Instruction

    _backend: Backend[Array] = NumpyBackend()
