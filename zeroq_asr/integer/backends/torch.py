"""The simulation: the same integers on torch tensors, on any device.

Pointwise convolutions are int8 matrix products where the device has fast ones.  The others run in a float
type that carries their integers exactly: float32 on the CPU where every partial sum stays below 2^24,
float64 (below 2^53) elsewhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.integer.backends.base import ROWS, Body, Step, interpreted
from zeroq_asr.integer.backends.patterns import parse
from zeroq_asr.integer.types import IntType

_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int32": torch.int32,
    "int64": torch.int64,
}


class TorchBackend:
    """Interprets the primitives on torch tensors; run it under ``torch.inference_mode()``."""

    def __init__(self, device: str | torch.device = "cpu", *, int8: bool | None = None) -> None:
        """``int8``: use int8 matrix products; by default on CUDA, whose tensor cores have them."""
        self.device = torch.device(device)
        self.int8 = self.device.type == "cuda" if int8 is None else int8
        #: constant → its array and what of it is on the device: a program run again copies nothing
        self._constants: dict[str, tuple[np.ndarray, Tensor]] = {}
        #: by the identity of the tensor, of which another may be once it is gone
        self._host: dict[int, tuple[weakref.ref[Tensor], np.ndarray]] = {}

    def instruction(self, i: Instruction, operands: list[Tensor]) -> tuple[Tensor, ...]:
        """Run the definition."""
        return interpreted(self, i, operands)

    def constant(self, name: str, array: np.ndarray) -> Tensor:
        """Copy a constant to the device, once."""
        known = self._constants.get(name)
        if known is None or known[0] is not array:
            moved = torch.from_numpy(np.array(array, order="C")).to(self.device)
            known = self._constants[name] = array, moved
            self._host[id(moved)] = weakref.ref(moved), array
        return known[1]

    def array(self, v: Tensor) -> np.ndarray:
        """The constant, on the host."""
        known = self._host.get(id(v))
        return known[1] if known is not None and known[0]() is v else v.cpu().numpy()

    def per_channel(self, v: Tensor, axes: int = 1) -> Tensor:
        """[C] → [C, 1] or [C, 1, 1] int32."""
        return v.to(torch.int32).reshape(-1, *(1,) * axes)

    def per_batch(self, lengths: Tensor) -> Tensor:
        """[B] → [B, 1, 1] int32."""
        return lengths.to(torch.int32)[:, None, None]

    def cast(self, v: Tensor, to: IntType) -> Tensor:
        """Change the type."""
        return v.to(_DTYPES[to.name])

    def add(self, a: Tensor, b: Tensor | int) -> Tensor:
        """a + b."""
        return a + b

    def sub(self, a: Tensor, b: Tensor | int) -> Tensor:
        """a − b."""
        return a - b

    def mul(self, a: Tensor, b: Tensor | int) -> Tensor:
        """a · b."""
        return a * b

    def square(self, v: Tensor) -> Tensor:
        """v · v."""
        return v * v

    def clamp(self, v: Tensor, lo: int | np.ndarray, hi: int | np.ndarray) -> Tensor:
        """Clamp to ints or to per-channel vectors [C]."""
        if isinstance(lo, np.ndarray) or isinstance(hi, np.ndarray):
            low, high = (torch.as_tensor(np.asarray(b), device=v.device)[..., None] for b in (lo, hi))
            return torch.minimum(torch.maximum(v, low.to(v.dtype)), high.to(v.dtype))
        return v.clamp(lo, hi)

    def shift_right(self, v: Tensor, c: int) -> Tensor:
        """Arithmetic shift."""
        return torch.bitwise_right_shift(v, c)

    def bit_and(self, v: Tensor, mask: int) -> Tensor:
        """Bitwise and."""
        return torch.bitwise_and(v, mask)

    def low_bits_equal(self, v: Tensor, c: int, bit: int) -> Tensor:
        """Compare with c zeros or ones."""
        mask = (1 << c) - 1
        return torch.bitwise_and(v, mask) == bit * mask

    def set_parity(self, y: Tensor, where: Tensor, bit: int) -> Tensor:
        """Set or clear the lowest bit."""
        chosen = where.to(torch.uint8)
        return y | chosen if bit else y & ~chosen

    def conv(
        self,
        x: Tensor,
        w: Tensor,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        """Exact convolution in a float carrier; over time alone in 2-D of height 1, which is faster."""
        padded = any(any(pad) for pad in pads)
        pointwise = w.dim() == 3 and w.shape[2] == 1 and strides == (1,) and groups == 1
        if pointwise and self.int8 and not padded and _fits_int8(x, w):
            return _int8_product(x, w[:, :, 0], zero_point)
        carrier = self._carrier(w)
        centred = x.to(carrier, copy=True).sub_(zero_point)
        if padded:
            centred = F.pad(centred, [p for pad in reversed(pads) for p in pad])
        weight = w.to(carrier)
        if pointwise:
            return self._whole(torch.matmul(weight[:, :, 0], centred))
        flat = w.dim() == 3
        if flat:
            centred, weight = centred.unsqueeze(2), weight.unsqueeze(2)
            strides, dilations = (1, *strides), (1, *dilations)
        acc = F.conv2d(centred, weight, None, strides, 0, dilations, groups)
        # an exact carrier needs no rounding; what convolves by transforms does
        return (acc.squeeze(2) if flat else acc).round_().to(torch.int32)

    def matmul(self, a: Tensor, b: Tensor, *, za: int, zb: int, terms: Tensor | int) -> Tensor:
        """Exact product in a float carrier."""
        largest = 255 * 255 * a.shape[-1]
        carrier = torch.float32 if self._plain() and largest < 1 << 24 else torch.float64
        return self._whole(torch.matmul(a.to(carrier) - za, b.to(carrier) - zb))

    def rearrange(self, v: Tensor, pattern: str, **sizes: int) -> Tensor:
        """Reshape, permute, reshape."""
        rearrangement = parse(pattern)
        before, after = rearrangement.shapes(v.shape, sizes)
        return v.reshape(before).permute(rearrangement.permutation).reshape(after)

    def slice_frames(self, table: Tensor, like: Tensor, *, around: bool = False) -> Tensor:
        """First columns, or those in the middle."""
        frames, longest = like.shape[2], table.shape[1] // 2
        part = table[:, longest - frames : longest + frames] if around else table[:, :frames]
        return part[None].to(torch.int32) if table.dtype == torch.int16 else part[None]

    def relative_shift(self, v: Tensor) -> Tensor:
        """Line up distances with pairs."""
        rows, frames = v.shape[2], v.shape[3] - v.shape[2]
        row, column = (torch.arange(count, device=v.device) for count in (rows, frames))
        wanted = rows - row[:, None] + column
        return v.gather(3, wanted.expand(*v.shape[:2], rows, frames))

    def row_blocks(
        self,
        body: Body[Tensor],
        queries: Tensor,
        positions: Tensor | None,
        distances: Tensor | None,
        *,
        heads: int,
        frames: Tensor,
    ) -> Tensor:
        """Concatenate."""
        count, parts = queries.shape[2], []
        for first in range(0, count, ROWS):
            rows = slice(first, min(first + ROWS, count))
            columns = slice(count - rows.stop, 2 * count - first)
            beside = None if positions is None else positions[:, :, rows]
            near = None if distances is None else distances[..., columns]
            parts.append(body(queries[:, :, rows], beside, near))
        return torch.cat(parts, dim=2)

    def below_peak(self, v: Tensor) -> Tensor:
        """Distance to the largest."""
        return v.amax(dim=-1, keepdim=True) - v

    def append_column(self, v: Tensor, value: int) -> Tensor:
        """Pad."""
        return F.pad(v, (0, 1), value=value)

    def split_columns(self, v: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Split."""
        return v[..., :size], v[..., size:]

    def reduce(
        self,
        v: Tensor,
        kind: Literal["sum", "peak"],
        axis: Literal["channels", "frames"],
        terms: Tensor | int,
    ) -> Tensor:
        """Sum, or the largest magnitude."""
        along = 1 if axis == "channels" else 2
        if kind == "peak":
            return v.abs().amax(dim=along, keepdim=True)
        return v.sum(dim=along, keepdim=True, dtype=v.dtype)

    def quotient(self, a: Tensor | int, b: Tensor | int) -> Tensor:
        """Truncated division."""
        if isinstance(a, int):
            like = torch.as_tensor(b)
            a = torch.tensor(a, dtype=like.dtype, device=like.device)
        return torch.div(a, b, rounding_mode="trunc")

    def isqrt(self, v: Tensor) -> Tensor:
        """Integer square root: a correctly rounded root below 2^26 has no way to cross an integer."""
        return v.to(torch.float64).sqrt().to(torch.int64)

    def low_byte(self, v: Tensor) -> Tensor:
        """Lowest byte."""
        return torch.bitwise_and(v, 255).to(torch.uint8)

    def _carrier(self, w: Tensor) -> torch.dtype:
        """float32 where no partial sum can reach 2^24 and products are full float32, else float64."""
        if not self._plain():
            return torch.float64
        fan_in = w[0].numel()
        if 255 * 128 * fan_in < 1 << 24:
            return torch.float32
        reach = 255 * int(w.to(torch.int32).abs_().reshape(len(w), fan_in).sum(dim=1).max())
        return torch.float32 if reach < 1 << 24 else torch.float64

    def _whole(self, products: Tensor) -> Tensor:
        """Exact products as int32: a CPU's need no rounding, of other devices none is presumed."""
        return (products if self.device.type == "cpu" else products.round_()).to(torch.int32)

    def _plain(self) -> bool:
        return self.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"

    def time_mask(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Bool [B, 1, T]."""
        return (torch.arange(x.shape[2], device=x.device)[None, :] < lengths[:, None])[:, None, :]

    def select(self, mask: Tensor, v: Tensor, otherwise: int) -> Tensor:
        """Masked choice."""
        return torch.where(mask, v, torch.tensor(otherwise, dtype=v.dtype, device=v.device))

    def lookup(self, v: Tensor, table: Tensor) -> Tensor:
        """Table entries; of plain indices PyTorch selects them several times faster than by indexing."""
        return table.index_select(0, v.reshape(-1).to(torch.int32)).reshape(v.shape)

    def take_channels(self, v: Tensor, index: tuple[int, ...]) -> Tensor:
        """Reorder channels."""
        return v[:, list(index)]

    def filled(self, like: Tensor, channels: int, value: int, to: IntType) -> Tensor:
        """Full."""
        return torch.full((like.shape[0], channels, 1), value, dtype=_DTYPES[to.name], device=like.device)

    def join_channels(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat([a, b], dim=1)

    def scan(
        self,
        step: Step[Tensor],
        carried: Sequence[Tensor],
        inputs: Sequence[Tensor],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Frame after frame."""
        held, made = [*carried], []
        frames = range(inputs[0].shape[2])
        for frame in reversed(frames) if backwards else frames:
            held, results = step(held, [v[:, :, frame : frame + 1] for v in inputs])
            made.append(results)
        made = made[::-1] if backwards else made
        return held, [torch.cat(parts, dim=2) for parts in zip(*made, strict=True)]

    def quantize(self, v: Tensor, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> Tensor:
        """float32 division, half-even, saturation."""
        divisor = torch.tensor(scale, dtype=torch.float32, device=v.device)
        quotient = torch.round(v.to(torch.float32) / divisor)
        return (quotient + zero_point).clamp(lo, hi).to(_DTYPES[to.name])

    def dequantize(self, v: Tensor, *, scale: float, zero_point: int) -> Tensor:
        """One float32 product."""
        factor = torch.tensor(scale, dtype=torch.float32, device=v.device)
        return (v.to(torch.int32) - zero_point).to(torch.float32) * factor

    def float_graph(self, body: str, operands: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Run by ONNX Runtime, on the CPU, as numpy has it."""
        from zeroq_asr.integer.backends.onnxruntime_bodies import evaluate

        arrays = [v.contiguous().cpu().numpy() for v in operands]
        result = torch.from_numpy(evaluate(body, arrays, [self.array(w) for w in weights]))
        return torch.where(result.isnan(), 0.0, result).to(self.device)


def _fits_int8(x: Tensor, w: Tensor) -> bool:
    """Whether CUDA's int8 product takes the shapes: more than 16 rows, the other sides multiples of 8."""
    return x.shape[0] * x.shape[2] > 16 and w.shape[0] % 8 == 0 and w.shape[1] % 8 == 0


def _int8_product(x: Tensor, w: Tensor, zero_point: int) -> Tensor:
    """Σ (x − zero_point)·w, x uint8 [B, C, T], w int8 [O, C], as (x − 128)·w + (128 − zero_point)·Σ w."""
    batch, channels, frames = x.shape
    # flipping the highest bit of a byte subtracts 128 in two's complement
    signed = torch.bitwise_xor(x, 128).view(torch.int8)
    rows = signed.transpose(1, 2).reshape(batch * frames, channels)
    product = torch._int_mm(rows, w.t())
    product = product + (128 - zero_point) * w.sum(dim=1, dtype=torch.int32)
    return product.view(batch, frames, -1).transpose(1, 2)


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.base import Backend
    from zeroq_asr.integer.program import Instruction

    _backend: Backend[Tensor] = TorchBackend()
