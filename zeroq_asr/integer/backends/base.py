"""The primitives: the whole vocabulary in which integer operators are defined.

Shapes: B batch, C channels, T frames.  Activations are [B, C, T], lengths [B].  An operand written ``v`` is
a backend value, ``n`` a Python int.  Every primitive but ``quantize`` and those of float islands,
``dequantize`` and ``float_graph``, maps integers to integers, and the interval backend proves that none
leaves its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np

from zeroq_asr.integer.types import IntType
from zeroq_asr.registry import INTEGER_OPERATORS

if TYPE_CHECKING:
    from zeroq_asr.integer.program import Instruction

#: a backend's own value: an array, a tensor, a node output, a pair of bounds
V = TypeVar("V")
#: bounds of a clamp: ints, or vectors [C] (or [C, 1] for images)
Bound = int | np.ndarray
#: what runs on each block of rows: queries, and positions and distances or neither
Body = Callable[[V, V | None, V | None], V]
#: one step of a scan: the carried values and this frame's inputs → the carried values and this frame's
#: results
Step = Callable[[list[V], list[V]], tuple[list[V], list[V]]]
#: rows of a block, about
ROWS = 512


class Backend(Protocol[V]):
    """An interpreter of the primitives."""

    def instruction(self, i: Instruction, operands: list[V]) -> tuple[V, ...]:
        """Run one instruction; by default its definition, see ``interpreted``."""

    # -- constants and types -------------------------------------------------------------------------

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

    def low_byte(self, v: V) -> V:
        """v mod 256 as uint8, v ≥ 0."""

    # -- arithmetic ----------------------------------------------------------------------------------

    def add(self, a: V, b: V | int) -> V:
        """a + b in the type of ``a``; ``b`` may be a Python int."""

    def sub(self, a: V, b: V | int) -> V:
        """a − b in the type of ``a``; ``b`` may be a Python int."""

    def mul(self, a: V, b: V | int) -> V:
        """a · b in the type of ``a``; ``b`` may be a Python int."""

    def square(self, v: V) -> V:
        """v · v, which is never negative."""

    def clamp(self, v: V, lo: Bound, hi: Bound) -> V:
        """min(max(v, lo), hi); bounds are ints or per-channel vectors [C]."""

    def quotient(self, a: V | int, b: V | int) -> V:
        """a / b cut toward zero, b ≥ 1; either may be a Python int, and the result has the other's type."""

    def isqrt(self, v: V) -> V:
        """floor(√v) of an int64, 1 ≤ v < 2^52."""

    def shift_right(self, v: V, c: int) -> V:
        """floor(v / 2^c): an arithmetic right shift of an int32."""

    def bit_and(self, v: V, mask: int) -> V:
        """Bitwise and of an int32 with a non-negative mask."""

    def low_bits_equal(self, v: V, c: int, bit: int) -> V:
        """Bool: the c lowest bits of an int32 are all ``bit`` (0 or 1); 0 ≤ v < 257·2^c and 0 < c ≤ 16."""

    def set_parity(self, y: V, where: V, bit: int) -> V:
        """A uint8 y with its lowest bit made ``bit`` (0 or 1) where the mask is true."""

    def lookup(self, v: V, table: V) -> V:
        """table[v] elementwise, in the table's type; v uint8 or int32, 0 ≤ v < length of the table."""

    def select(self, mask: V, v: V, otherwise: int) -> V:
        """``v`` where the mask is true, else the int ``otherwise``."""

    # -- contractions --------------------------------------------------------------------------------

    def conv(
        self,
        x: V,
        w: V,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> V:
        """Convolve (x − zero_point), x uint8 [B, C, *extents], with w [O, C/groups, *taps] into int32.

        One axis of time, or those of time and frequency; each has its stride, its padding before and behind,
        and its dilation.  Entries beyond the ends count as zero after the subtraction.
        """

    def matmul(self, a: V, b: V, *, za: int, zb: int, terms: V | int) -> V:
        """(a − za) @ (b − zb) over the last two axes, uint8 each, into int32.

        ``terms``: how many products a sum has at most, a Python int or lengths.
        """

    def reduce(
        self, v: V, kind: Literal["sum", "peak"], axis: Literal["channels", "frames"], terms: V | int
    ) -> V:
        """Reduce [B, C, T] over one axis, which keeps an extent of 1: the sum, or the largest magnitude.

        ``terms``: how many entries there are at most, a Python int or lengths; frames at or beyond the
        length are zero already.
        """

    def below_peak(self, v: V) -> V:
        """max over the last axis minus v, ≥ 0."""

    # -- moves ---------------------------------------------------------------------------------------

    def rearrange(self, v: V, pattern: str, **sizes: int) -> V:
        """Split, permute, join and insert axes as ``pattern`` says: "b (h e) t -> b h t e".

        Axes have names of one letter; parentheses join axes, the last of them fastest; 1 is an axis of one
        entry. ``sizes`` gives the extents that cannot be told from the operand: all but one of a split axis.
        Of joined axes it may give the product, under their letters: ``cf`` of "(c f)".
        """

    def take_channels(self, v: V, index: tuple[int, ...]) -> V:
        """v[:, index, :]."""

    def join_channels(self, a: V, b: V) -> V:
        """[B, C, T] and [B, C', T] of one type → [B, C + C', T], the channels of ``a`` first."""

    def slice_frames(self, table: V, like: V, *, around: bool = False) -> V:
        """The columns of a constant [C, L] for as many frames T ≤ L as ``like`` [B, C', T] has: [1, C, T].

        ``around``: of a table [C, 2L] of distances the middle, [1, C, 2T].  A table of int16 comes as int32.
        """

    def relative_shift(self, v: V) -> V:
        """[B, H, N, N + T] by falling distance → [B, H, N, T] with entry (i, j) = v[i, N − i + j]."""

    def append_column(self, v: V, value: int) -> V:
        """[B, H, T, E] → [B, H, T, E + 1], uint8: a column of ``value`` at the end."""

    def split_columns(self, v: V, size: int) -> tuple[V, V]:
        """[B, H, T, E] → its first ``size`` columns and the others."""

    # -- frames --------------------------------------------------------------------------------------

    def time_mask(self, x: V, lengths: V) -> V:
        """Bool [B, 1, T], true where the frame index of x [B, C, T] is below its utterance's length."""

    def row_blocks(
        self, body: Body[V], queries: V, positions: V | None, distances: V | None, *, heads: int, frames: V
    ) -> V:
        """``body`` of [B, H, T, E], [B, H, T, E] and [1, H, E, 2T], at once or by blocks of rows.

        To rows i to i + N belong the columns T − i − N to 2T − i; results are joined along the rows.
        ``frames`` [B] bounds T.
        """

    def filled(self, like: V, channels: int, value: int, to: IntType) -> V:
        """[B, channels, 1] of one integer, for as many utterances as ``like`` has."""

    def scan(
        self,
        step: Step[V],
        carried: Sequence[V],
        inputs: Sequence[V],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[V], list[V]]:
        """Run ``step`` frame after frame over ``inputs`` [B, C, T], each step given [B, C, 1] of them.

        ``carried``: values [B, C', 1] that one step hands to the next.  Returns what the last step carried,
        and the results of all steps joined along the frames.  ``bounds``: lowest and highest integer of each
        carried value, an invariant that the proof shows by induction: with values inside of them carried in,
        those carried out lie inside.  ``backwards``: from the last frame to the first; results keep the order
        of the frames.
        """

    # -- floats --------------------------------------------------------------------------------------

    def quantize(self, v: V, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> V:
        """clamp(half_even(v / scale) + zero_point, lo, hi) as uint8 or int32, v float32: the way in.

        The division is float32, as in ONNX QuantizeLinear.
        """

    def dequantize(self, v: V, *, scale: float, zero_point: int) -> V:
        """scale · (v − zero_point) as float32, |v − zero_point| ≤ 2^24: the way into a float island."""

    def float_graph(self, body: str, operands: list[V], weights: list[V]) -> V:
        """Float32 result of an ONNX graph (``integer/backends/onnxruntime_bodies.py``), a NaN as 0.

        ``operands``: float32 values and lengths; ``weights``: int32 constants, the bits of float32.
        """


def interpreted(backend: Backend[V], i: Instruction, operands: list[V]) -> tuple[V, ...]:
    """Run the definition of an instruction over ``backend``: one result, or as many as its operator gives."""
    operator = INTEGER_OPERATORS[i.op]
    made = operator.define(backend, *operands, **i.attrs)
    return tuple(made) if operator.results > 1 else (made,)


def row_parts(
    queries: np.ndarray, positions: np.ndarray | None, distances: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """What ``row_blocks`` computes each block of, for arrays (and tensors, which slice alike)."""
    frames = queries.shape[2]
    for first in range(0, frames, ROWS):
        rows = slice(first, min(first + ROWS, frames))
        columns = slice(frames - rows.stop, 2 * frames - first)
        yield (
            queries[:, :, rows],
            None if positions is None else positions[:, :, rows],
            None if distances is None else distances[..., columns],
        )
