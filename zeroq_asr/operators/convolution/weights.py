"""Choosing the integer weights, biases and multipliers of convolutions.

With x = s_x·(q_x − z_x), w = s_w·q_w per output channel and y = s_y·(q_y − z_y):

    q_y = z_y + (s_x·s_w / s_y) · (Σ (q_x − z_x)·q_w + b / (s_x·s_w))

The weight scale is free, so it is *chosen* such that s_x·s_w/s_y is the dyadic m / 2^c: nothing is
approximated after the fact, and ONNX Runtime's float32 requantization is then exact.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from zeroq_asr.errors import CalibrationError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.dyadic import largest_shift
from zeroq_asr.integer.grid import Grid
from zeroq_asr.integer.pair_saturation import bounded, in_order, most, out_of_order
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.convolution.feedback import round_by_feedback, weighted_gain
from zeroq_asr.registry import Attrs
from zeroq_asr.threads import available

#: Fractions of the no-clipping multiplier that are tried first for rounding the weights,
SHRINK = np.linspace(0.3, 1.0, 8)
#: and those where neighbours must not add up to too much: at 2 all weights have 7 bits, and none do;
SHRINK_PAIRS = np.linspace(0.6, 2.0, 9)
#: then those around the best of them, and around the best of all, as shares of the distance between two.  The
#: cost is smooth but for the chance that weights fall near integers: of so many draws near its minimum the
#: best costs less than that of a grid of four times as many fractions (``benchmarks/rounding.py``).
_AROUND = ((-0.75, -0.5, -0.25, 0.25, 0.5, 0.75), (-0.15, -0.1, -0.05, 0.05, 0.1, 0.15))
#: weights that are rounded at once
_AT_ONCE = 1 << 15


def quantize_weight(
    w: np.ndarray, ratio: float, grid: Grid, together: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose per output channel the integer weights closest in angle and the multiplier that keeps the gain.

    ``w`` float [O, ...]; ``ratio`` = s_y·2^-c / s_x, so that the weight scale is m·ratio.  Returns
    integer weights [O, ...] of ``grid`` and multipliers m [O] ≥ 1.  A channel whose weights are all zero
    gets m = 1: its bias alone speaks, or, on a grid without 0, weights of the smallest step there is.
    ``together``: what the magnitudes of neighbours of one sign may add up to, if weights are in the order in
    which kernels sum them, and the grid holds whatever lies between its levels and 0.

    With g = ⟨ŵ, w⟩ / ⟨w, w⟩ the gain and θ the angle between ŵ and w, tan²θ + (g − 1)² is least.  Least
    squares would give g = cos²θ < 1 instead: every layer would shrink its signal a little, and over the
    layers of a deep network at few bits that costs more than the noise it saves.
    """
    flat = w.reshape(w.shape[0], -1).astype(np.float64)
    # channels do not depend on each other, and a few at a time stay in the processor's cache
    few = max(1, _AT_ONCE // max(flat.shape[1], 1))
    rows = [flat[first : first + few] for first in range(0, len(flat), few)]
    # numpy lets other threads run while it computes
    with ThreadPoolExecutor(available()) as pool:
        parts = [*pool.map(lambda part: _quantized_rows(part, ratio, grid, together), rows)]
    integers, multipliers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return integers.reshape(w.shape), multipliers


def _quantized_rows(
    flat: np.ndarray, ratio: float, grid: Grid, together: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """What ``quantize_weight`` makes of rows [O, N]."""
    # in units of each channel's largest weight, so that no square vanishes
    peak = np.abs(flat).max(axis=1)
    peak[peak == 0] = 1.0
    flat, step = flat / peak[:, None], ratio / peak
    energy = (flat**2).sum(axis=1)
    ideal = 1.0 / (grid.limit * step)
    # no integer at all is a gain of zero, where the grid allows that
    best_cost = np.full(len(flat), 1.0 if 0 in grid.levels else np.inf)
    best_m, best_scale = np.ones(len(flat), dtype=np.int64), np.full(len(flat), np.inf)
    best_fraction = np.ones(len(flat))
    q, product = np.empty_like(flat), np.empty_like(flat)

    def rounded(scale: np.ndarray) -> np.ndarray:
        np.divide(flat, scale[:, None], out=q)
        nearest = grid.nearest(q, out=q)
        return nearest if together is None else bounded(nearest, together, out=nearest)

    def attempt(fraction: np.ndarray, whole: np.ufunc = np.rint) -> None:
        scale = np.maximum(whole(ideal * fraction), 1.0) * step
        found = rounded(scale)
        along = np.multiply(found, flat, out=product).sum(axis=1)
        some = along > 0
        inner = np.where(some, along, 1.0)
        m = np.maximum(np.rint(energy / (inner * step)), 1.0)
        gain = m * step * inner / np.where(some, energy, 1.0)
        # whole numbers: exact in whatever order they are summed
        squares = np.matmul(found[:, None, :], found[:, :, None])[:, 0, 0]
        cost = energy * squares / inner**2 - 1.0 + (gain - 1.0) ** 2
        better = some & (cost < best_cost)
        best_cost[better], best_scale[better] = cost[better], scale[better]
        best_m[better], best_fraction[better] = m[better].astype(np.int64), fraction[better]

    coarse = SHRINK if together is None else SHRINK_PAIRS
    for fraction in coarse:
        attempt(np.full(len(flat), fraction))
    # so that none is worse than plain rounding, of which the largest weight is the end of the grid
    for whole in (np.floor, np.ceil):
        attempt(np.ones(len(flat)), whole)
    for shares in _AROUND:
        middle = best_fraction.copy()
        for share in shares:
            attempt(np.minimum(middle + share * (coarse[1] - coarse[0]), coarse[-1]))
    return rounded(best_scale).astype(np.int8), best_m


def corrected_bias(
    bias: np.ndarray, w: np.ndarray, rounded: np.ndarray, mean: np.ndarray | None, groups: int
) -> np.ndarray:
    """Add to ``bias`` [O] what rounding the weights [O, I/groups, K] takes from the mean of the output.

    b + Σ_ik (w − ŵ)[o, i, k] · E[x_i], where ``mean`` [I] is E[x] over time (Nagel et al., arXiv 1906.04721,
    section 4.2); the frames that padding touches are taken to be like the others.
    """
    if mean is None:
        return bias
    outputs = w.shape[0]
    of_group = mean.reshape(groups, -1)[np.arange(outputs) // (outputs // groups)]
    return bias + ((w - rounded).sum(axis=2) * of_group).sum(axis=1)


def as_bytes(info: ValueInfo) -> ValueInfo:
    """Return what a byte of a value means: itself, or the high byte of 16 bits (``convolution.wide``)."""
    if info.type == U8.name:
        return info
    return replace(info, type=U8.name, scale=256 * info.scale, zero_point=128, lo=U8.lo, hi=U8.hi)


@dataclass(frozen=True)
class Quantized:
    """A convolution's constants and the attributes that its requantization takes."""

    #: int8, of the weight's own shape
    weight: np.ndarray
    #: int32 [O] each
    bias: np.ndarray
    multiplier: np.ndarray
    attrs: Attrs
    grid: Grid


def quantize_convolution(ctx: Lowering, node: FloatNode) -> Quantized:
    """Choose integer weights, biases and multipliers of a convolution, between the formats of its ends."""
    a = node.attrs
    source, target = as_bytes(ctx.info(node.ins[0])), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    shape = tuple(a["weight"].shape)
    weight = np.asarray(a["weight"], dtype=np.float64).reshape(*shape[:2], -1)
    grid = ctx.grid(node)
    rows, together = in_order(weight), None
    depthwise = shape[1] == 1 < a["groups"] == shape[0]
    # what reads 16 bits takes unsigned weights, and saturates nowhere either, unless it is a product
    product = len(shape) == 3 and shape[2] == a["stride"] == a["groups"] == 1 and not any(a["padding"])
    of_pairs = ctx.info(node.ins[0]).type == U8.name or product
    if ctx.spec.target == "x86-any" and of_pairs and not depthwise and is_filled(grid):
        together = most(source.hi) if most(source.hi) < 2 * grid.limit else None
    steepest = np.abs(weight).max() * source.scale / (grid.limit * target.scale)
    if steepest > I32.hi // 8:
        raise CalibrationError(
            node.where or node.out,
            f"its range is {steepest:.3g} times too narrow for its weights",
            "calibrate on features that excite it",
        )
    # the largest shift that leaves room for the largest multiplier it entails
    bias = 0.0
    if target.type != U8.name:
        # rounding the weights may move it a little
        bias = 1.05 * float(np.abs(np.asarray(a["bias"], dtype=np.float64)).max()) / target.scale + 16
    c = ctx.largest_shift(node.out, target, bias)
    while True:
        ratio = target.scale / 2.0**c / source.scale
        q, m = quantize_weight(rows, ratio, grid, together)
        room = largest_shift(lo, hi, target.zero_point, int(m.max()))
        if room >= c:
            break
        c -= 1
    if (covariance := ctx.covariances.get(node.out)) is not None:
        order = in_order(np.arange(rows.shape[1]).reshape(1, *weight.shape[1:]))[0]
        covariance = covariance[np.ix_(order, order)]
        q = round_by_feedback(rows, m * ratio, covariance, grid, together)
        # c has room for the largest multiplier there was
        restored = np.rint(m / weighted_gain(rows, q * (m * ratio)[:, None], covariance))
        m = np.clip(restored, 1, m.max()).astype(np.int64)
    q = out_of_order(q, weight.shape).astype(np.int8)
    real_bias = corrected_bias(
        np.asarray(a["bias"], dtype=np.float64),
        weight,
        q * (m * ratio)[:, None, None],
        ctx.means.get(node.ins[0]),
        a["groups"],
    )
    offset = np.rint(real_bias / (m * ratio * source.scale))
    offset = np.clip(offset, -(2**30), 2**30).astype(np.int32)
    reach = np.abs(q.astype(np.int64)).sum(axis=(1, 2)) * max(
        source.hi - source.zero_point, source.zero_point
    )
    saturate = bool(((reach + np.abs(offset.astype(np.int64))) * m).max() > I32.hi // 2)
    attrs = {
        "zx": source.zero_point,
        "c": c,
        "zy": target.zero_point,
        "lo": lo,
        "hi": hi,
        "type": target.type,
        "saturate": saturate,
    }
    return Quantized(q.reshape(shape), offset, m.astype(np.int32), attrs, grid)


def is_filled(grid: Grid) -> bool:
    """Whether a grid holds every integer between its levels and 0, so that any weight may be shortened.

    Those of any other are left as they are: where neighbours add up to too much, kernels take them unsigned.
    """
    low, high = grid.levels[0], grid.levels[-1]
    return low <= 0 <= high and high - low == len(grid.levels) - 1


def emit_convolution(
    ctx: Lowering, op: str, of_16_bits: str, node: FloatNode, **layout: int | tuple[int, int]
) -> None:
    """Quantize a convolution and emit it as ``op``, or ``of_16_bits``; ``layout``: its further attributes."""
    made = quantize_convolution(ctx, node)
    attrs = {**made.attrs, **layout}
    if ctx.info(node.ins[0]).type != U8.name:
        op = of_16_bits
        del attrs["zx"]
    names = (
        ctx.constant(f"{node.out}:weight", made.weight, made.grid),
        ctx.constant(f"{node.out}:bias", made.bias),
        ctx.constant(f"{node.out}:multiplier", made.multiplier),
    )
    ctx.emit(op, node, (node.ins[0], *names), **attrs)
