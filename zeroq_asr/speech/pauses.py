"""Where to cut a recording that is too long: at its pauses, by energy.

The energy of a span is the mean square of its samples.  Between half of the longest piece and all of it,
that span of ``SPAN`` seconds is sought whose energy is least, and the cut is in its middle: between words,
as far as the recording has a pause there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: seconds: of the span whose energy is compared, the step between spans, and the least that a last piece has
SPAN, STEP, LEAST = 0.2, 0.02, 1.0


def cut_at_pauses(samples: npt.NDArray[np.float32], rate: int, longest: float) -> list[tuple[int, int]]:
    """Return (first, end) of pieces that follow each other, none longer than ``longest`` seconds.

    ``samples`` [N] at ``rate`` Hz.  A recording that is no longer is one piece.  Of spans that are equally
    quiet the last is taken, so that pieces are few.
    """
    most = int(longest * rate)
    if len(samples) <= most:
        return [(0, len(samples))]
    pieces, start = [], 0
    least = min(int(LEAST * rate), most // 2)
    while len(samples) - start > most:
        # behind the first, what is left over is no shorter than ``least``
        first, last = start + most // 2, min(start + most, len(samples) - least)
        cut = _quietest(samples, rate, first, max(first, last))
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, len(samples))]


def _quietest(samples: npt.NDArray[np.float32], rate: int, first: int, last: int) -> int:
    """Return the middle of the quietest span whose middle lies in ``first`` to ``last``."""
    half, step = max(1, int(SPAN * rate / 2)), max(1, int(STEP * rate))
    middles = np.arange(last, first - 1, -step)
    low = max(0, first - half)
    squares = np.square(samples[low : last + half], dtype=np.float64)
    sums = np.concatenate(([0.0], np.cumsum(squares)))
    begin, end = middles - half - low, np.minimum(middles + half - low, len(squares))
    begin = np.maximum(begin, 0)
    energy = (sums[end] - sums[begin]) / (end - begin)
    # sums of squares are exact to some digits only: what differs less is equally quiet
    quiet = np.flatnonzero(energy <= energy.min() + 1e-12 * sums[-1])
    return int(middles[quiet[0]])
