"""Normalization of every channel over an utterance's own frames: y = γ·(x − μ) / √(σ² + ε) + β.

With n frames of integers x, the mean is formed with 4 binary places, d = 2^4·x − ⌊2^4·μ⌉; then, as in
``layer_norm``, d are cut to 12 bits and a sign, e = d / k with k = ⌊max|d| / 2^12⌋ + 1, and

    V = ⌊2^8·Σ e² / n⌋ + ⌊2^16·ε / (s_x²·k²)⌋ + 1      (2^8 mean squares of e)
    r = 2^24 / √(V / 2^8),   (x − μ)/σ = e·r / 2^24

r has no more than 18 bits: beyond a peak of 64 deviations the result is too small.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode, valid_frames
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, COUNT, REQUANTIZATION, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32, I64
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import WIDE, Arrays, Case, edge_words, frames_of, with_lengths
from zeroq_asr.operators.instance_norm.captured import captures
from zeroq_asr.registry import (
    ALWAYS,
    VALID,
    Attrs,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)

#: binary places of the mean, bits of e, binary places of V, of its root, and what is shifted out of e·r
_PLACES, _BITS, _ENERGY, _ROOT, _CUT = 4, 12, 8, 6, 14
#: bits of r at most, and of 2^24
_LARGEST, _UNIT = 18, 24
#: V and twelve binary places of its root fit 52 bits
_LARGEST_EPSILON = (1 << 39) - 1
#: largest magnitude of a multiplier: 16 bits of e·r / 2^14 times this fit int32
_MULTIPLIER = 1 << 13


def _meaning(x: Tensor, lengths: Tensor, *, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x − mean) / sqrt(variance + epsilon) · weight + bias; a channel's moments over the valid frames."""
    valid, count = valid_frames(x, lengths), lengths.clamp(min=1)[:, None, None]
    centred = x - torch.where(valid, x, 0.0).sum(dim=2, keepdim=True) / count
    variance = torch.where(valid, centred, 0.0).square().sum(dim=2, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon) * weight[:, None] + bias[:, None]


def _spelling(w: Writer, node: FloatNode) -> None:
    a, (x, lengths) = node.attrs, node.ins
    source, valid, zero = w.channels(x), w.mask(x, lengths, 1), w.store(0.0)
    count = w.add("Unsqueeze", [w.add("Cast", [lengths], to=TensorProto.FLOAT), w.axes(1, 2)])
    kept = w.add("Where", [valid, source, zero])
    mean = w.add("Div", [w.add("ReduceSum", [kept, w.axes(2)], keepdims=1), count])
    centred = w.add("Sub", [source, mean])
    squares = w.add("ReduceSumSquare", [w.add("Where", [valid, centred, zero]), w.axes(2)], keepdims=1)
    variance = w.add("Add", [w.add("Div", [squares, count]), w.store(a["epsilon"])])
    normal = w.add("Div", [centred, w.add("Sqrt", [variance])])
    scaled = w.add("Mul", [normal, w.store(a["weight"].numpy()[:, None])])
    w.done(node, w.add("Add", [scaled, w.store(a["bias"].numpy()[:, None])]), False)


def instance_norm(
    f: Backend[V],
    x: V,
    mask: V,
    lengths: V,
    m: V,
    bias: V,
    *,
    zx: int,
    channels: int,
    epsilon: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> V:
    """y = clamp(half_even((((e·r) >> 14)·m + bias) / 2^c) + zy, lo, hi), see above.

    x [B, C, T] uint8, or int32 of 16 bits; mask bool [B, 1, T]; lengths int64 [B] ≥ 1; m and bias int32 [C],
    |m| ≤ 2^13; ``epsilon`` 2^16·ε/s_x² < 2^39.
    """
    n = f.cast(f.per_batch(lengths), I64)
    x = f.sub(f.cast(x, I32), zx)
    total = f.reduce(f.cast(f.select(mask, x, 0), I64), "sum", "frames", lengths)
    # made non-negative to be divided: no |x| is larger than 2^16
    raised = f.add(f.mul(total, 1 << _PLACES), f.mul(n, 1 << 16 + _PLACES))
    mean = f.quotient(f.clamp(f.add(raised, f.quotient(n, 2)), 0, 1 << 50), n)
    # bounds cannot know that n divides its own sum
    mean = f.sub(f.cast(f.clamp(mean, 0, 2 << 16 + _PLACES), I32), 1 << 16 + _PLACES)
    d = f.select(mask, f.sub(f.mul(x, 1 << _PLACES), mean), 0)
    k = f.add(f.shift_right(f.reduce(d, "peak", "frames", lengths), _BITS), 1)
    e = f.clamp(f.quotient(d, k), -(1 << _BITS), 1 << _BITS)
    energy = f.reduce(f.cast(f.square(e), I64), "sum", "frames", lengths)
    energy = f.clamp(f.quotient(f.mul(energy, 1 << _ENERGY), n), 0, 1 << 2 * _BITS + _ENERGY)
    k = f.cast(k, I64)
    energy = f.add(f.add(energy, f.quotient(epsilon, f.mul(k, k))), 1)
    root = f.isqrt(f.mul(energy, 1 << 2 * _ROOT))
    r = f.quotient(1 << _UNIT + _ENERGY // 2 + _ROOT, root)
    # e·r + 2^30 has 31 bits: so many a shift takes
    r = f.cast(f.clamp(r, 0, (1 << _LARGEST) - 1), I32)
    z = f.shift_right(f.mul(e, r), _CUT)
    v = f.add(f.mul(z, f.per_channel(m)), f.per_channel(bias))
    return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _check(view: Checked) -> None:
    takes = view.attrs["channels"]
    view.require_rows(takes, "m", "bias")
    view.require(view.operands[:1] == [takes], f"takes {takes} channels, its operand has {view.operands}")


def _lower(ctx: Lowering, node: FloatNode) -> None:
    a = node.attrs
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    gamma, beta = (np.asarray(a[name], dtype=np.float64) for name in ("weight", "bias"))
    # a unit of z is 2^14 / 2^24 deviations
    ratio = gamma / 2.0 ** (_UNIT - _CUT) / target.scale
    c = 16
    room = max(abs(lo - target.zero_point), hi - target.zero_point)
    while c > 0 and (np.abs(np.rint(ratio * 2.0**c)).max() > _MULTIPLIER or room << c > I32.hi // 4):
        c -= 1
    m = np.clip(np.rint(ratio * 2.0**c), -_MULTIPLIER, _MULTIPLIER)
    # z was cut downwards, by half a unit on average
    bias = np.clip(np.rint(beta / target.scale * 2.0**c + m / 2), -(1 << 29), 1 << 29)
    epsilon = a["epsilon"] * 2.0 ** (2 * _PLACES + _ENERGY) / source.scale**2
    ctx.emit(
        "instance_norm",
        node,
        (
            node.ins[0],
            ctx.mask(node.ins[0], node.ins[1]),
            node.ins[1],
            ctx.constant(f"{node.out}:multiplier", m.astype(np.int32)),
            ctx.constant(f"{node.out}:bias", bias.astype(np.int32)),
        ),
        zx=source.zero_point,
        channels=len(gamma),
        epsilon=min(round(epsilon), _LARGEST_EPSILON),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )


# -- parity ----------------------------------------------------------------------------------------


def instance_case(
    name: str,
    *,
    source: tuple[int, int] = WIDE,
    zx: int = 0,
    epsilon: int = 0,
    m: np.ndarray | int | None = None,
    bias: np.ndarray | int | None = None,
    c: int = 10,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    seed: int = 0,
) -> Case:
    """Channels as long as an utterance, of every kind that normalization finds hard."""
    channels = len(frames_of(2, *source, seed))
    generator = np.random.default_rng(seed)
    inputs: list[Arrays] = []
    for place, one in enumerate(with_lengths(channels)):
        batch, _, frames = one["x"].shape
        rows = [frames_of(frames, *source, seed + place + b) for b in range(batch)]
        dtype = np.uint8 if source[0] >= 0 else np.int32
        inputs.append({**one, "x": np.stack([np.stack(row) for row in rows]).astype(dtype)})
    # what is masked may be anything
    inputs[1]["x"][1:, :, 39:] = edge_words((3, channels, 1), seed, *source).astype(inputs[1]["x"].dtype)
    if m is None:
        m = generator.integers(-8192, 8193, channels)
    if bias is None:
        bias = generator.integers(-(1 << 18), 1 << 18, channels)
    constants = {
        "m": np.broadcast_to(np.asarray(m), (channels,)).astype(np.int32),
        "bias": np.broadcast_to(np.asarray(bias), (channels,)).astype(np.int32),
    }
    attrs = {
        "zx": zx,
        "channels": channels,
        "epsilon": epsilon,
        "c": c,
        "zy": zy,
        "lo": lo,
        "hi": hi,
        "type": kind,
    }
    order = ("x", "mask", "lengths", "m", "bias")
    return Case("instance_norm", name, attrs, order, inputs, constants, bounds={"x": source})


def _cases() -> Iterator[Case]:
    largest = (1 << 39) - 1
    for epsilon in (0, 1, 12345, largest):
        yield instance_case(f"epsilon-{epsilon}", epsilon=epsilon, seed=1)
    for zx in (0, 128, 255):
        yield instance_case(f"bytes-{zx}", source=(0, 255), zx=zx, epsilon=1000, seed=zx)
    wide: Attrs = {"lo": WIDE[0], "hi": WIDE[1], "zy": 0, "kind": "int32"}
    for c in (0, 4, 13):
        yield instance_case(f"wide-c{c}", **wide, c=c, m=8192 if c == 13 else 1 << c, seed=c)
    yield instance_case("multipliers-of-minus-8192", m=-8192, bias=1 << 29, c=16)
    yield instance_case("multipliers-of-zero", m=0, bias=np.arange(12) * 9700)
    yield instance_case("ties", m=1, bias=0, c=1)
    yield instance_case("odd-zero-point", m=3, bias=1, c=1, zy=77)
    yield instance_case("output-4-bits", zy=7, hi=15, c=13)
    yield instance_case("relu-range", lo=128, c=9)


INSTANCE_NORM = register(
    Operator(
        "instance_norm",
        _meaning,
        captures=tuple(captures),
        traits=Traits(reads_wide=ALWAYS, makes_wide=ALWAYS, normalizes=True, scales_channels=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "instance_norm",
                instance_norm,
                {
                    **REQUANTIZATION,
                    "zx": BYTE,
                    "channels": COUNT,
                    "epsilon": whole(0, _LARGEST_EPSILON, "0 ≤ ε < 2^39"),
                },
                zero_points={"zx": 0},
                frames=VALID,
                constants={3: Constant("m", np.int32, 1), 4: Constant("bias", np.int32, 1)},
                check=_check,
                # nothing that a provider would fuse: the integers as they are
                kernels={"qdq": Kernel(spelled)},
                mask=(1, 2),
                tolerance={
                    # multipliers of 13 bits, and a 4096th of the peak is cut off
                    "instance_norm": 0.5 + 0.1,
                    # means to a sixteenth of a step, of deviations of four and more
                    "instance_norm, of bytes": 0.5 + 0.2,
                    "instance_norm, 16 bits": 2**14 / 2**10,
                },
                cases=_cases,
            ),
        ),
        # its moments are those of the valid frames; every other frame makes its own result
        unseen=lambda node, operand, result: {node.ins[1]} & result,
    )
)
