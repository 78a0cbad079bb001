"""Weights of 8 bits that multiply bytes exactly on every x86, although its fast instruction saturates.

Without VNNI, a kernel of u8 × s8 multiplies by ``vpmaddubsw``: it adds the products of two *neighbours*, at
2j and 2j + 1 of the order in which the kernel sums, in an int16, and saturates there.  A product is in
[−255·127, 255·127] and fits; of two with weights of different signs the sum lies between them; so with bytes
of at most x only neighbours of one sign can leave an int16, and do not where

    |w_2j| + |w_2j+1| ≤ ⌊(2^15 − 1) / x⌋,   128 for x = 255.

That is all that exactness needs.  The usual remedy, 7 bits for every weight, bounds the sum by bounding
both: it gives up a bit of all weights for the sake of few.  ONNX Runtime's kernels sum in the order
[taps, channels], four at a time from the first on (MLAS: ``QgemmU8S8KernelAvx2``, ``QgemvU8S8KernelAvx2``,
``ConvSymKernelAvx2`` and their AVX-512 twins); depthwise kernels widen both factors and saturate nowhere.
"""

from __future__ import annotations

import numpy as np

from zeroq_asr.integer.types import I16


def in_order(weight: np.ndarray) -> np.ndarray:
    """Return weights [O, I, *kernel] as rows [O, N], in the order in which kernels sum them."""
    return np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2).reshape(len(weight), -1)


def out_of_order(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of ``shape`` [O, I, *kernel] that ``in_order`` made ``rows`` [O, N] of."""
    return np.moveaxis(rows.reshape(len(rows), -1, shape[1]), 1, 2).reshape(shape)


def most(x: int) -> int:
    """Largest sum of the magnitudes of two neighbours at which bytes of at most ``x`` saturate nothing."""
    return I16.hi // max(x, 1)


def excess(rows: np.ndarray, limit: int) -> np.ndarray:
    """By how much every two neighbours of one sign in ``rows`` [O, N] exceed ``limit``: [O, ⌊N/2⌋], ≥ 0."""
    left, right = _halves(rows)
    over: np.ndarray = np.where(left * right > 0, np.abs(left + right) - limit, 0)
    return np.maximum(over, 0)


def bounded(rows: np.ndarray, limit: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return ``rows`` [O, N], integers, with neighbours shortened alike until none exceed ``limit``.

    ``out``: a contiguous array that may be overwritten, perhaps ``rows``; the result may be it, or ``rows``.
    """
    left, right = _halves(rows)
    sums = left + right
    # cheap and mostly empty: whatever their signs, the sum is too large
    pairs = np.flatnonzero(np.abs(sums, out=sums) > limit)
    if not len(pairs):
        return rows
    if out is None:
        out = rows.copy()
    elif out is not rows:
        np.copyto(out, rows)
    numbers = out.reshape(-1)
    first = 2 * pairs if rows.shape[1] % 2 == 0 else 2 * pairs + pairs // left.shape[1]
    one, other = numbers[first], numbers[first + 1]
    over = np.where(one * other > 0, np.abs(one + other) - limit, 0)
    # the first of the two takes what is odd
    half = np.floor(over / 2)
    numbers[first] = one - np.sign(one) * (over - half)
    numbers[first + 1] = other - np.sign(other) * half
    return out


def saturates(weight: np.ndarray, x: int) -> bool:
    """Whether some bytes of at most ``x`` saturate the products with ``weight`` [O, I, *kernel]."""
    return bool(excess(in_order(weight.astype(np.int64)), most(x)).any())


def _halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of the first and of the second of every two neighbours; the last of an odd number has none."""
    even = rows.shape[1] // 2 * 2
    return rows[:, 0:even:2], rows[:, 1:even:2]
