"""Tables of what depends on the frame's number alone, with equal rows kept once."""

from __future__ import annotations

import numpy as np


def distinct(coefficients: np.ndarray) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Return a table [R, T], rows and signs [C]; row c of ``coefficients`` is signs[c]·table[rows[c]]."""
    # no row begins with a minus; adding nothing makes the zero of floats one number
    led = coefficients[np.arange(len(coefficients)), np.argmax(coefficients != 0, axis=1)]
    signs = np.where(led < 0, -1, 1)
    table, rows = np.unique(coefficients * signs[:, None] + 0, axis=0, return_inverse=True)
    kept = table.astype(coefficients.dtype)
    return kept, tuple(int(row) for row in rows.reshape(-1)), signs.astype(np.int32)
