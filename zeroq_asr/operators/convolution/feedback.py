"""Rounding that knows what the weights are multiplied with: errors of one weight are mended by the next.

With inputs x of covariance Σ (their mean is the bias correction's matter), the error of a row w rounded to
ŵ is (w − ŵ)ᵀ Σ (w − ŵ).  Rounding to nearest minimises it weight by weight.  GPTQ (Frantar et al., arXiv
2210.17323, section 3) rounds one weight after the other and moves those still to come so that they make up
for it: with Uᵀ U = (Σ + λI)⁻¹, U upper triangular, after weight j is rounded

    w_k ← w_k − U_jk · (w_j − ŵ_j) / U_jj      for k > j.

λ is ``DAMPING`` times the mean variance: made features are not speech, so what they correlate by accident
must not be trusted (chosen by agreement on train-clean-100: ``benchmarks/lowbits.py --damping``).  What is
least in square has shrunk: with the ``weighted_gain`` of each row given back a deep network loses much less
(docs/experiments.md).
"""

from __future__ import annotations

import numpy as np

from zeroq_asr.integer.grid import Grid
from zeroq_asr.integer.pair_saturation import bounded

DAMPING = 0.3
#: columns whose updates to the rest are made at once
_BLOCK = 64


def round_by_feedback(
    weight: np.ndarray, scale: np.ndarray, covariance: np.ndarray, grid: Grid, most: int | None = None
) -> np.ndarray:
    """Return integers of ``grid`` [O, N] so that ``scale``·integers stand for ``weight`` [O, N].

    ``scale`` [O] > 0; ``covariance`` [N, N] of the N inputs.  Inputs that never vary are rounded to nearest.
    ``most``: what the magnitudes of neighbours of one sign may add up to (``integer.pair_saturation``), if
    the grid holds whatever lies between its levels and 0.
    """
    variance = np.diag(covariance)
    if not variance.mean() > 0:
        nearest = grid.nearest(weight / scale[:, None])
        return nearest if most is None else bounded(nearest, most)
    # those that vary most come first, while many are left to make up for them
    order = np.argsort(-variance, kind="stable")
    damped = _damped(covariance)[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    # columns one after the other in memory, for they are what is worked on
    left = np.ascontiguousarray((weight[:, order].astype(np.float64) / scale[:, None]).T)
    rounded = np.zeros_like(left)
    # where a column's neighbour is among the ordered; the last of an odd number has none
    place = np.argsort(order)
    beside = [place[k ^ 1] if k ^ 1 < len(order) else place[k] for k in order]
    for start in range(0, len(left), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(left)))
        errors = np.empty((left.shape[1], block.stop - start))
        for j in range(start, block.stop):
            column = grid.nearest(left[j])
            if most is not None:
                # a neighbour that is still to come is 0
                neighbour = rounded[beside[j]]
                room = np.where(neighbour * column > 0, most - np.abs(neighbour), grid.limit)
                column = np.clip(column, -room, room)
            rounded[j] = column
            error = (left[j] - column) / upper[j, j]
            left[j + 1 : block.stop] -= upper[j, j + 1 : block.stop, None] * error
            errors[:, j - start] = error
        left[block.stop :] -= (errors @ upper[block, block.stop :]).T
    found = np.empty_like(weight, dtype=np.float64)
    found[:, order] = rounded.T
    return found


def weighted_gain(weight: np.ndarray, rounded: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return ŵᵀ(Σ + λI)w / wᵀ(Σ + λI)w of every row [O]: how much the signal of w [O, N] grows in ŵ.

    1 where there is no signal, or where it would turn around.
    """
    damped = _damped(covariance) if np.diag(covariance).mean() > 0 else np.eye(len(covariance))
    weighted = weight @ damped
    along, energy = (rounded * weighted).sum(axis=1), (weight * weighted).sum(axis=1)
    some = (along > 0) & (energy > 0)
    return np.where(some, along / np.where(some, energy, 1.0), 1.0)


def _damped(covariance: np.ndarray) -> np.ndarray:
    damping = DAMPING * float(np.diag(covariance).mean())
    return covariance + damping * np.eye(len(covariance))
