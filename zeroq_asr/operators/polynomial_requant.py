"""An elementwise function of bytes as a polynomial of their magnitude, for targets without tables.

With d = x − z_x, e = clamp(d, −R, R) and u = |e|, a function is a line for d > 0, and beside it what the
symmetry of the rest allows:

    odd    sigmoid − ½, tanh, Φ − ½                              e·g(u)
    even   silu, gelu:  x·σ(x) = max(x, 0) − |x|·σ(−|x|)         slope·max(d, 0) + u·g(u)
    none   elu, selu, with e = clamp(d, −R, 0)                   slope·max(d, 0) + u·g(u)

So it is exact at 0, and constant, or that line, beyond the reach R.  g is a polynomial of degree 4 at most,
by Horner's scheme in u / 2^shift ≤ 1, so that no step is larger than the coefficients together.

I-BERT's i-GELU (Kim et al., arXiv 2101.01321, section 3.4) clips |x| likewise and fits erf by degree 2, once
for all scales.  Here degree and reach are chosen for the scales at hand, by the error in steps of the output,
and u·g(u) does not jump at 0.

Products have at most 24 bits, by the choice of c, so that float32 may carry them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.dyadic import MAX_SHIFT, requantize
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators import Condition, fused, integer_op

#: function → what is left of it without its value at 0 and its line
SYMMETRIES = {
    "sigmoid": "odd",
    "tanh": "odd",
    "normal_cdf": "odd",
    "silu": "even",
    "gelu": "even",
    "elu": "none",
    "selu": "none",
}
#: largest magnitude of any integer: what a float32 carries
_LARGEST = 1 << 24
#: degree of u·g(u) at most, and the error in steps of the output, rounding included, that will do
_DEGREE, _ENOUGH = 5, 1.0
#: reaches that are tried, each 2^(1/8) of the next, and how many of a degree are tried in integers
_REACHES, _TRIED = 64, 3
#: rounds of reweighted least squares
_ROUNDS = 40
#: beyond so many steps of the output, also for a step of the input, everything saturates
_SATURATED = 4096.0


@integer_op
def polynomial_requant(
    f: Any,
    x: Any,
    *,
    zx: int,
    reach: int,
    symmetry: str,
    coefficients: tuple[int, ...],
    shift: int,
    slope: int,
    bias: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    function: str,
) -> Any:
    """y = clamp(half_even((w·g(u) + slope·max(x − zx, 0) + bias) / 2^c) + zy, lo, hi).

    x uint8 of any shape.  e is x − zx clamped to ±``reach``, or to [−``reach``, 0] where ``symmetry`` is
    none; u = |e|, and w is e where it is odd, else u.  g(u): from the first coefficient, that of the highest
    power, g ← ⌊g·u / 2^shift⌋ + the next one.  ``function`` says what it stands for.
    """
    d = f.sub(f.cast(x, I32), zx)
    below = f.clamp(d, -reach, 0)
    if symmetry == "none":
        e = u = f.mul(below, -1)
    else:
        above = f.clamp(d, 0, reach)
        # bounds cannot know that one of both is 0
        e, u = f.add(above, below), f.clamp(f.sub(above, below), 0, reach)
    w = e if symmetry == "odd" else u
    if len(coefficients) == 1:
        v = f.mul(w, coefficients[0])
    else:
        g = f.mul(u, coefficients[0])
        for coefficient in coefficients[1:-1]:
            g = f.mul(f.add(f.shift_right(g, shift), coefficient), u)
        v = f.mul(f.add(f.shift_right(g, shift), coefficients[-1]), w)
    if slope:
        v = f.add(v, f.mul(f.clamp(d, 0, U8.hi), slope))
    return requantize(f, f.add(v, bias), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _peak(x: Interval, attrs: dict[str, Any]) -> int:
    """Largest magnitude of any integer between x and y; ProofError where one leaves its type."""
    proof = IntervalBackend()
    polynomial_requant(proof, x, **attrs)
    return proof.peak


def _exact_if(i: Any, x: Any) -> list[Condition]:
    peak = _peak(x, i.attrs)
    return [
        Condition("the input is unsigned bytes", x.type is U8),
        Condition("no integer of the definition exceeds 2^24", peak <= _LARGEST, f"{peak}"),
    ]


@fused(polynomial_requant, exact_if=_exact_if, kernel="polynomial in exact floats")
def _carried(b: Any, i: Any, ins: list[Any]) -> Any:
    a = i.attrs

    def node(op: str, *operands: Any) -> str:
        return str(b.node(op, list(operands), None))

    def single(value: float) -> str:
        return str(b.float_scalar(value))

    d = b.carry(ins[0])
    if a["zx"]:
        d = node("Sub", d, single(a["zx"]))
    e = node("Clip", d, single(-a["reach"]), single(0 if a["symmetry"] == "none" else a["reach"]))
    u = node("Abs", e)
    w = e if a["symmetry"] == "odd" else u
    first, *others = a["coefficients"]
    g = single(first)
    v = node("Mul", u, single(2.0 ** -a["shift"])) if others else u
    for coefficient in others:
        g = node("Add", node("Floor", node("Mul", v, g)), single(coefficient))
    y = node("Mul", node("Mul", w, single(2.0 ** -a["c"])), g)
    if a["slope"]:
        y = node("Add", y, node("Mul", node("Relu", d), single(a["slope"] / 2.0 ** a["c"])))
    if a["bias"]:
        y = node("Add", y, single(a["bias"] / 2.0 ** a["c"]))
    return replace(b.quantized(y, i), frames_first=ins[0].frames_first)


# -- lowering ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """A real polynomial Σ_j ``weights``[j − 1]·(u / ``reach``)^j, in steps of the output."""

    reach: int
    weights: np.ndarray


def fitted(
    source: Any, target: Any, function: str, real: Callable[[float], float], clamp: tuple[int, int]
) -> dict[str, Any]:
    """Return the attributes of ``function`` from bytes of format ``source`` to bytes of ``target``.

    The lowest degree wins whose largest error over every byte is ``_ENOUGH`` steps of the output, else the
    least error; those that rise wherever the function does come first.
    """
    odd = SYMMETRIES[function] == "odd"
    x = np.arange(source.lo, source.hi + 1)
    centred = (x - source.zero_point).tolist()
    reals = [real(source.scale * d) / target.scale + target.zero_point for d in centred]
    ideal = np.clip(reals, *clamp)
    rises = bool((np.diff(ideal) >= 0).all())
    widest = -centred[0] if SYMMETRIES[function] == "none" else max(-centred[0], centred[-1])
    unit = source.scale if odd else -source.scale
    left = [(real(unit * u) - real(0.0)) / target.scale for u in range(1, widest + 1)]
    best: tuple[bool, float, dict[str, Any]] | None = None
    for degree in range(1, _DEGREE + 1):
        for fit in _fits(np.clip(left, -_SATURATED, _SATURATED), degree)[:_TRIED]:
            attrs = _integers(source, target, function, real, fit, clamp)
            y = polynomial_requant(NumpyBackend(), x.astype(np.uint8), **attrs).astype(np.int64)
            turns = rises and bool((np.diff(y) < 0).any())
            error = float(np.abs(y - ideal).max())
            if best is None or (turns, error) < best[:2]:
                best = turns, error, attrs
        if best is not None and not best[0] and best[1] <= _ENOUGH:
            break
    assert best is not None  # every function has a fit of degree 1
    return best[2]


def _fits(left: np.ndarray, degree: int) -> list[_Fit]:
    """Polynomials of one degree and several reaches, the least largest error first.

    ``left`` [U]: the values at u = 1 … U.  Least squares, weighted anew by the errors that remain (Lawson
    1961), tends to the polynomial of least largest error.
    """
    widest = len(left)
    if widest == 0:
        return [_Fit(0, np.zeros(1))]
    degree = min(degree, widest)
    every = {round(widest * 2.0 ** (-k / 8)) for k in range(_REACHES)}
    reaches = np.array(sorted(reach for reach in every if reach >= degree))
    u = np.minimum(np.arange(1, widest + 1), reaches[:, None]) / reaches[:, None]
    powers = u[..., None] ** np.arange(1, degree + 1)
    weights = np.full(u.shape, 1.0 / widest)
    errors = np.full(len(reaches), np.inf)
    found = np.zeros((len(reaches), degree))
    for _ in range(_ROUNDS):
        weighted = (powers * weights[..., None]).swapaxes(1, 2)
        gram = weighted @ powers
        # weights that vanish leave fewer equations than unknowns
        gram += 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(degree)
        solved = np.linalg.solve(gram, weighted @ left[:, None])[..., 0]
        residual = np.abs(left - (powers @ solved[..., None])[..., 0])
        largest = residual.max(axis=1)
        better = largest < errors
        errors[better], found[better] = largest[better], solved[better]
        # a weight that is 0 would never come back
        weights *= residual + 1e-12 * largest[:, None] + 1e-300
        weights /= weights.sum(axis=1, keepdims=True)
    return [_Fit(int(reaches[k]), found[k]) for k in np.argsort(errors, kind="stable")]


def _integers(
    source: Any,
    target: Any,
    function: str,
    real: Callable[[float], float],
    fit: _Fit,
    clamp: tuple[int, int],
) -> dict[str, Any]:
    """Attributes of a fit, with the largest c at which a float32 carries every integer."""
    reach, powers = max(fit.reach, 1), np.arange(len(fit.weights))
    shift = (reach - 1).bit_length()
    reals = fit.weights / reach * (2.0**shift / reach) ** powers
    # a floor takes half a unit on average, which the next coefficient gives back
    taken = np.where(powers < powers[-1], 0.5 if shift else 0.0, 0.0)
    symmetry = SYMMETRIES[function]
    middle = min(real(0.0) / target.scale, _SATURATED)
    # what the function tends to over x, far from 0
    line = 0.0 if symmetry == "odd" else real(64.0) / 64.0
    slope = min(line * source.scale / target.scale, _SATURATED)
    x = Interval.of(source.lo, source.hi, U8)
    for c in range(MAX_SHIFT, -1, -1):
        attrs = {
            "zx": source.zero_point,
            "reach": fit.reach,
            "symmetry": symmetry,
            "coefficients": tuple(int(v) for v in np.rint(reals * 2.0**c + taken)[::-1]),
            "shift": shift,
            "slope": round(slope * 2.0**c),
            "bias": round(middle * 2.0**c),
            "c": c,
            "zy": target.zero_point,
            "lo": clamp[0],
            "hi": clamp[1],
            "type": target.type,
            "function": function,
        }
        try:
            if _peak(x, attrs) <= _LARGEST:
                break
        except ProofError:
            continue
    return attrs
