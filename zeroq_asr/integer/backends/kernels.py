"""What an exact kernel may call: the vocabulary in which operators spell themselves for ``fused``.

An operator's file sees this protocol alone, which needs no ONNX; behind it stands ``OnnxFusedBackend``.
A ``Sym`` is a tensor that holds integers, a ``str`` the name of any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, overload

if TYPE_CHECKING:
    import numpy as np

    from zeroq_asr.integer.backends.base import Body
    from zeroq_asr.integer.backends.onnx_nodes import Sym
    from zeroq_asr.integer.backends.onnx_shapes import Dims
    from zeroq_asr.integer.program import Instruction
    from zeroq_asr.integer.types import IntType

    Operands = Sequence[Sym | str]

#: values of the attributes of nodes
Setting = int | float | str | Sequence[int]


class Kernels(Protocol):
    """A graph as it grows under a kernel's nodes."""

    #: "x86-any", "x86-vnni" or "arm": what the products of kernels may rely on
    target: str
    #: tensor → its shape, where it is known
    dims: dict[str, Dims]

    # -- nodes -----------------------------------------------------------------------------------

    @overload
    def node(self, op: str, inputs: Operands, kind: None, domain: str = "", **attrs: Setting) -> str: ...

    @overload
    def node(self, op: str, inputs: Operands, kind: IntType, domain: str = "", **attrs: Setting) -> Sym: ...

    def node(
        self, op: str, inputs: Operands, kind: IntType | None, domain: str = "", **attrs: Setting
    ) -> Sym | str:
        """Append a kernel; an integer result is a Sym bounded by its type, a float one a name."""

    def add_node(self, op: str, inputs: Operands, domain: str = "", **attrs: Setting) -> str:
        """Append a node and return its output's name."""

    def add_node_of(self, op: str, inputs: Operands, results: int, **attrs: Setting) -> tuple[str, ...]:
        """Append a node of several outputs, of which nothing is inferred; returns their names."""

    def conv_integer(self, x: Sym | str, w: Sym, zero_point: int, **layout: int | Sequence[int]) -> str:
        """ConvInteger, which is several times slower with signed weights whatever the target."""

    def tensor(self, name: str, kind: IntType, carried: bool = False) -> Sym:
        """A tensor of the graph as an operand of primitives, where what bounds it is up to conditions."""

    def shared(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """The tensor that ``make`` emits, once."""

    def called(self, kernel: str) -> None:
        """Name the nodes of the instruction at hand, which else are called after the first of them."""

    def tell_dims(self, name: str, dims: Dims, kind: IntType | None = None) -> None:
        """Say what shape a tensor has, and its type, where ONNX cannot follow."""

    # -- scalars and vectors ---------------------------------------------------------------------

    def scalar(self, value: int, kind: IntType) -> str:
        """A shared integer scalar."""

    def float_scalar(self, value: float) -> str:
        """A shared float32 scalar; refuses a value that float32 does not hold exactly."""

    def double_scalar(self, value: float) -> str:
        """A shared float64 scalar."""

    def axes(self, *values: int) -> str:
        """A shared int64 vector (axes, starts, ...)."""

    def channel_index(self, index: tuple[int, ...]) -> str:
        """Channel numbers, int64 [C]."""

    # -- constants of the program ----------------------------------------------------------------

    def multiplier(self, m: Sym, c: int) -> str:
        """m / 2^c as float32 [C], exact; the program's m is read back from it."""

    def scaled(self, v: Sym, c: int, axes: int = 1) -> str:
        """v / 2^c as float32 [C, 1] or [C, 1, 1], exact."""

    def vector(self, v: Sym) -> str:
        """An int32 vector [C]."""

    def per_channel(self, v: Sym, axes: int = 1) -> Sym:
        """An int32 vector as [C, 1] or [C, 1, 1]."""

    def leave_out(self, v: Sym) -> None:
        """Remember a vector of zeros [C] of the program that no node needs."""

    def kernel_weight(
        self, x: Sym, w: Sym, groups: int, padding: int | None, summed: np.ndarray | None = None
    ) -> tuple[str, str]:
        """A convolution's weights and their zero point: signed where u8 times s8 is exact.

        ``padding``: the byte that stands beyond the ends; None without.  ``summed``: the weights as the
        kernel will have them, where nodes are to turn them first.
        """

    def matrix(self, x: Sym, w: Sym) -> tuple[str, str]:
        """Pointwise weights [O, I, 1] as [I, O], and their zero point: signed where u8 × s8 is exact."""

    def codes(self, index: str, high: Sym, low: Sym) -> str:
        """2^8·high[i] + low[i] as int32, index int32 of any shape: one lookup for two tables of bytes."""

    # -- the order of axes -----------------------------------------------------------------------

    def channels_first(self, v: Sym) -> Sym:
        """[B, C, T]: Transpose, once, where frames come first."""

    def frames_first(self, v: Sym) -> Sym:
        """[B, T, C], in which matrix products and sums over channels are fastest: Transpose, once."""

    def alike(self, operands: list[Sym]) -> list[Sym]:
        """The operands in one order of axes: frames first, where one of them has it."""

    def like(self, v: Sym, other: Sym) -> Sym:
        """A result whose axes have the order of those of ``other``."""

    def plain(self, v: Sym) -> Sym:
        """A tensor [B, C, T] of the integers' own type."""

    # -- floats that hold integers ---------------------------------------------------------------

    def carry(self, v: Sym) -> str:
        """An integer in float32, exact below 2^24."""

    def planes(self, v: Sym) -> tuple[Sym, Sym]:
        """Bytes h and l of a 16-bit value, v + 2^15 = 256·h + l; made once, in the order of its axes."""

    def to_float(self, v: Sym | str) -> str:
        """Cast to float32."""

    def to_double(self, v: Sym | str) -> str:
        """Cast to float64."""

    def to_byte(self, v: Sym | str) -> str:
        """Cast to uint8, which keeps the lowest byte of an integer."""

    def signed(self, v: Sym | str) -> str:
        """Bytes less 128, as int8."""

    def to_int32(self, v: Sym | str) -> str:
        """Cast to int32, which cuts toward zero."""

    def quantized(self, v: str, i: Instruction) -> Sym:
        """Round ``v`` half to even, add ``zy``, clamp to ``lo`` and ``hi``: bytes, or carried integers."""

    def rounded(self, v: str, i: Instruction, zero_point: int = 0) -> Sym:
        """Round ``v`` half to even, add ``zero_point``, and clamp to ``lo`` and ``hi``."""

    def clip_u8(self, v: Sym, lo: int, hi: int) -> Sym:
        """Clip a byte that its kernel saturates at 0 and 255 to a narrower range."""

    # -- primitives that move --------------------------------------------------------------------

    def rearrange(self, v: Sym, pattern: str, **sizes: int) -> Sym:
        """Split, permute, join and insert axes."""

    def relative_shift(self, v: Sym) -> Sym:
        """[B, H, N, N + T] by falling distance → [B, H, N, T]."""

    def append_column(self, v: Sym, value: int) -> Sym:
        """[B, H, T, E] → [B, H, T, E + 1]: a column of ``value`` at the end."""

    def row_blocks(
        self,
        body: Body[Sym],
        queries: Sym,
        positions: Sym | None,
        distances: Sym | None,
        *,
        heads: int,
        frames: Sym,
    ) -> Sym:
        """``body`` of all rows at once, or of blocks of them."""
