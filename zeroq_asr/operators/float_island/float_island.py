"""A float island: what the user keeps in float, between explicit dequantizations and a quantization.

The one operator that computes in float.  Nothing is proven of what happens inside, but that its result is
what its quantization clamps it to: so all else in the program is proven as ever, and a program with an
island is not integer-only.  In ONNX its body is spelled by float nodes, which only ``fused`` files may hold.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from zeroq_asr.errors import ProofError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.attributes import BYTE, FAR, INT32, SCALE, TYPE, is_positive, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.types import TYPES, U8
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.float_island.body import float_body
from zeroq_asr.operators.float_island.cases import island_cases
from zeroq_asr.registry import (
    ALWAYS,
    EVERY,
    NAMED,
    Attribute,
    IntegerOperator,
    Operator,
    Traits,
    register,
    traits_of,
)


def _meaning(*operands: Tensor, nodes: tuple[FloatNode, ...]) -> Tensor:
    takes = dict.fromkeys(name for node in nodes for name in node.ins)
    made = {name for node in nodes for name in node.outs}
    env = dict(zip((name for name in takes if name not in made), operands, strict=True))
    for node in nodes:
        env.update(zip(node.outs, node.compute([env[name] for name in node.ins]), strict=True))
    return env[nodes[-1].out]


def float_island(
    f: Backend[V],
    *operands: V,
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
) -> V:
    """y = clamp(half_even(body(scales·(x − zx), …) / scale) + zero_point, lo, hi); a NaN counts as 0.

    ``operands``: an activation [B, C, T] or [B, C, T, F] for every one of ``scales``, uint8 or int32 of 16
    bits; ``lengths`` lengths [B]; and the weights, whose float32 bits are the program's int32 constants.
    ``body`` is an ONNX graph (``integer/backends/onnxruntime_bodies.py``), ``layers`` are the paths of what
    it computes.  Within an island results may differ by rounding between graphs, versions and devices, so its
    integers by 1.
    """
    activations, rest = operands[: len(scales)], operands[len(scales) :]
    reals = [f.dequantize(x, scale=s, zero_point=z) for x, s, z in zip(activations, scales, zx, strict=True)]
    y = f.float_graph(body, [*reals, *rest[:lengths]], [*rest[lengths:]])
    return f.quantize(y, TYPES[type], scale=scale, zero_point=zero_point, lo=lo, hi=hi)


def _check(view: Checked) -> None:
    """Its body takes what it is given and gives one value."""
    # here, since integers alone need no ONNX
    from zeroq_asr.integer.backends.onnxruntime_bodies import check_operands

    a, i, made = view.attrs, view.instruction, view.made
    first, last = len(a["scales"]), len(a["scales"]) + a["lengths"]
    view.require(isinstance(a["zx"], tuple) and len(a["zx"]) == first, "has as many zero points as scales")
    view.require(a["type"] == U8.name or a["zero_point"] == 0, "an int32 has zero point 0")
    view.require(len(i.ins) >= last, f"has {len(i.ins)} operands, not {last} or more")
    values, weights = i.ins[:last], i.ins[last:]
    view.require(all(name in made for name in values), "an operand before its weights is a constant")
    constants = view.program.constants
    view.require(all(name in constants for name in weights), "a weight is no constant")
    channels = [made[name].channels for name in values]
    right = all(channels[:first]) and not any(channels[first:])
    view.require(right, "its operands are activations, then lengths, then weights")
    try:
        arrays = [constants[name] for name in weights]
        check_operands(a["body"], channels[:first], a["lengths"], arrays)
    except ValueError as error:
        raise ProofError(view.where, f"its body {error}") from None


def _lower(ctx: Lowering, node: FloatNode) -> None:
    inside: tuple[FloatNode, ...] = node.attrs["nodes"]
    longest = [ctx.longest(n.ins[0]) for n in inside if traits_of(n).of_frames]
    names = {name for n in inside for name in (*n.ins, *n.outs)}
    shapes = {name: ctx.shape(name) for name in names}
    body, activations, lengths, weights = float_body(node, shapes, max(longest, default=1))
    target, sources = ctx.activation(node), [ctx.info(name) for name in activations]
    constants = [ctx.constant(f"{node.out}:{name}", array) for name, array in weights.items()]
    ctx.emit(
        "float_island",
        node,
        (*activations, *lengths, *constants),
        scales=tuple(single(info.scale) for info in sources),
        zx=tuple(info.zero_point for info in sources),
        lengths=len(lengths),
        body=body,
        layers=tuple(dict.fromkeys(inner.where for inner in node.attrs["nodes"] if inner.where)),
        scale=single(target.scale),
        zero_point=target.zero_point,
        lo=target.lo,
        hi=target.hi,
        type=target.type,
    )


def single(scale: float) -> float:
    """Return a scale as float32 holds it."""
    return float(np.float32(scale))


FLOAT_ISLAND = register(
    Operator(
        "float_island",
        _meaning,
        traits=Traits(reads_wide=ALWAYS, makes_wide=NAMED, holds_nodes=True),
        lower=_lower,
        integers=(
            IntegerOperator(
                "float_island",
                float_island,
                {
                    "scales": Attribute(
                        "positive and finite",
                        lambda v: isinstance(v, tuple) and bool(v) and all(map(is_positive, v)),
                    ),
                    "zx": BYTE,
                    "lengths": whole(0, FAR, "a count"),
                    "body": Attribute("text", lambda v: isinstance(v, str)),
                    "layers": Attribute(
                        "paths",
                        lambda v: isinstance(v, tuple) and all(isinstance(path, str) for path in v),
                    ),
                    "scale": SCALE,
                    "zero_point": BYTE,
                    "lo": INT32,
                    "hi": INT32,
                    "type": TYPE,
                },
                zero_points={"zx": EVERY},
                check=_check,
                computes_in_float=True,
                # float32, then one rounding
                tolerance={"float_island": 0.5 + 2e-4},
                cases=island_cases,
            ),
        ),
    )
)
