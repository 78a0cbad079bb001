"""A float island: what the user keeps in float, between explicit dequantizations and a quantization.

The one operator that computes in float.  Nothing is proven of what happens inside, but that its result is
what its quantization clamps it to: so all else in the program is proven as ever, and a program with an
island is not integer-only.  In ONNX its body is spelled by float nodes, which only ``fused`` files may hold.
"""

from __future__ import annotations

from typing import Any

from zeroq_asr.integer.types import TYPES
from zeroq_asr.operators import integer_op, lowers


@integer_op
def float_island(
    f: Any,
    *operands: Any,
    scales: tuple[float, ...],
    zx: tuple[int, ...],
    lengths: int,
    body: str,
    layers: tuple[str, ...],
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    type: str,
) -> Any:
    """y = clamp(half_even(body(scales·(x − zx), …) / scale) + zero_point, lo, hi); a NaN counts as 0.

    ``operands``: an activation [B, C, T] or [B, C, T, F] for every one of ``scales``, uint8 or int32 of 16
    bits; ``lengths`` lengths [B]; and the weights, whose float32 bits are the program's int32 constants.
    ``body`` is an ONNX graph (``integer/backends/onnxruntime_islands.py``), ``layers`` are the paths of what
    it computes.  Within an island results may differ by rounding between graphs, versions and devices, so its
    integers by 1.
    """
    activations, rest = operands[: len(scales)], operands[len(scales) :]
    reals = [f.dequantize(x, scale=s, zero_point=z) for x, s, z in zip(activations, scales, zx, strict=True)]
    y = f.float_graph(body, [*reals, *rest[:lengths]], [*rest[lengths:]])
    return f.quantize(y, TYPES[type], scale=scale, zero_point=zero_point, lo=lo, hi=hi)


@lowers("float_island")
def _lower(ctx: Any, node: Any) -> None:
    body, activations, lengths, weights = ctx.float_body(node)
    target, sources = ctx.activation(node), [ctx.info(name) for name in activations]
    constants = [ctx.constant(f"{node.out}:{name}", array) for name, array in weights.items()]
    ctx.emit(
        "float_island",
        node,
        (*activations, *lengths, *constants),
        scales=tuple(ctx.single(info.scale) for info in sources),
        zx=tuple(info.zero_point for info in sources),
        lengths=len(lengths),
        body=body,
        layers=tuple(dict.fromkeys(inner.where for inner in node.attrs["nodes"] if inner.where)),
        scale=ctx.single(target.scale),
        zero_point=target.zero_point,
        lo=target.lo,
        hi=target.hi,
        type=target.type,
    )
