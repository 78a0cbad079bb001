"""The polynomial of a function for the scales at hand: of the lowest degree that errs by a step at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.dyadic import MAX_SHIFT
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import U8
from zeroq_asr.operators.activations.polynomial import LARGEST, SYMMETRIES, peak, polynomial_requant
from zeroq_asr.registry import Attrs

#: degree of u·g(u) at most, and the error in steps of the output, rounding included, that will do
_DEGREE, _ENOUGH = 5, 1.0
#: reaches that are tried, each 2^(1/8) of the next, and how many of a degree are tried in integers
_REACHES, _TRIED = 64, 3
#: rounds of reweighted least squares
_ROUNDS = 40
#: beyond so many steps of the output, also for a step of the input, everything saturates
_SATURATED = 4096.0


@dataclass(frozen=True)
class _Fit:
    """A real polynomial Σ_j ``weights``[j − 1]·(u / ``reach``)^j, in steps of the output."""

    reach: int
    weights: np.ndarray


def fitted(
    source: ValueInfo,
    target: ValueInfo,
    function: str,
    real: Callable[[float], float],
    clamp: tuple[int, int],
) -> Attrs:
    """Return the attributes of ``function`` from bytes of format ``source`` to bytes of ``target``.

    The lowest degree wins whose largest error over every byte is ``_ENOUGH`` steps of the output, else the
    least error; those that rise wherever the function does come first.
    """
    odd = SYMMETRIES[function] == "odd"
    x = np.arange(source.lo, source.hi + 1)
    every: np.ndarray = x.astype(np.uint8)
    centred = (x - source.zero_point).tolist()
    reals = [real(source.scale * d) / target.scale + target.zero_point for d in centred]
    ideal = np.clip(reals, *clamp)
    rises = bool((np.diff(ideal) >= 0).all())
    widest = -centred[0] if SYMMETRIES[function] == "none" else max(-centred[0], centred[-1])
    unit = source.scale if odd else -source.scale
    left = [(real(unit * u) - real(0.0)) / target.scale for u in range(1, widest + 1)]
    best: tuple[bool, float, Attrs] | None = None
    for degree in range(1, _DEGREE + 1):
        for fit in _fits(np.clip(left, -_SATURATED, _SATURATED), degree)[:_TRIED]:
            attrs = _integers(source, target, function, real, fit, clamp)
            y = polynomial_requant(NumpyBackend(), every, **attrs).astype(np.int64)
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
    source: ValueInfo,
    target: ValueInfo,
    function: str,
    real: Callable[[float], float],
    fit: _Fit,
    clamp: tuple[int, int],
) -> Attrs:
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
        attrs: Attrs = {
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
            if peak(x, attrs) <= LARGEST:
                break
        except ProofError:
            continue
    return attrs
