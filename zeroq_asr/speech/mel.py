"""Slaney's mel scale, and the filters that lie on it.

Slaney, "Auditory Toolbox" (Interval Research 1998-010), as librosa and NeMo have it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zeroq_asr.speech.frontend_config import FrontendConfig


def hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney's mel scale: 3 mel every 200 Hz up to 1 kHz, then 27 mel for each factor of 6.4."""
    linear = hz * 3 / 200
    logarithmic = 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4)
    return np.where(hz < 1000, linear, logarithmic)


def mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Invert `hz_to_mel`."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_filterbank(config: FrontendConfig) -> npt.NDArray[np.float32]:
    """Return the filters [M, F]: triangles whose corners lie evenly on the mel scale.

    Filter m rises from corner m to m + 1 and falls to m + 2; "slaney" divides it by its area,
    (right - left) / 2.
    """
    nyquist = config.sample_rate / 2
    top = nyquist if config.highfreq is None else config.highfreq
    limits = hz_to_mel(np.array([config.lowfreq, top], dtype=np.float64))
    corners = mel_to_hz(np.linspace(limits[0], limits[1], config.features + 2))
    bins = np.linspace(0, nyquist, config.fft_length // 2 + 1)
    left, centre, right = (corners[i : i + config.features, None] for i in range(3))
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    if config.mel_norm == "slaney":
        filters = filters * 2 / (right - left)
    return filters.astype(np.float32)
