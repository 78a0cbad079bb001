"""Waveform to the features that checkpoints expect: log-mels, or the waveform itself.

Shapes: N samples, T feature frames, F = n_fft // 2 + 1 frequency bins, M mels.

"log_mel"::

    y[0] = x[0],  y[t] = x[t] - preemph · x[t-1]             pre-emphasis
    P    = |STFT(y)| ** mag_power                            [F, T]
    L    = log(mel @ P + guard)                              [M, T]
    Z    = (L - mean) / (std + 1e-5)                         over the valid frames only

"waveform", for networks that begin with convolutions of their own (M = 1, T = N; Baevski et al., arXiv
2006.11477, section 4.1)::

    Z    = (x - mean) / sqrt(var + 1e-7)                     over the valid samples only

A function of one's own may compute either kind in place of these formulas (``FrontendConfig.function``).

Frames at or after the length are ``pad_value``; T is then padded to a multiple of ``pad_to``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from zeroq_asr.errors import AudioError, ConfigError
from zeroq_asr.lines import said, shown
from zeroq_asr.speech.frontend_config import FrontendConfig as FrontendConfig
from zeroq_asr.speech.mel import mel_filterbank

#: added to every standard deviation before the division
STD_GUARD = 1e-5
#: added to the variance of a waveform before its square root
VARIANCE_GUARD = 1e-7

_WINDOWS: dict[str, Callable[..., torch.Tensor]] = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}


class Frontend:
    """Compute features of waveforms, each alone, so that a batch never changes a result."""

    def __init__(self, config: FrontendConfig) -> None:
        """Raises ConfigError where a function computes the features of which only the name is known."""
        self.config = config
        if isinstance(config.function, str):
            problem = f"is the Python function {shown(config.function)}, which is not here"
            raise ConfigError("frontend", problem, "give it: zq.open_recognizer(…, frontend=FUNCTION)")
        if config.is_waveform or config.function is not None:
            return
        self._filters = torch.from_numpy(mel_filterbank(config))
        make = _WINDOWS.get(config.window)
        length = config.window_length
        self._window = torch.ones(length) if make is None else make(length, periodic=False)

    def __call__(
        self, waveform: npt.NDArray[np.float32], name: str = "waveform"
    ) -> tuple[npt.NDArray[np.float32], int]:
        """Return the features [M, T] of a mono waveform [N] and how many frames are valid.

        ``name`` is what errors call it.  Raises AudioError when the waveform is not a finite vector or
        gives fewer than two frames (as a waveform: is shorter than the network's receptive field), and
        ConfigError when a function gives something else than finite features [M, T].
        """
        config = self.config
        samples = np.asarray(waveform, dtype=np.float32)
        if samples.ndim != 1:
            raise AudioError(name, f"expected one axis, mono samples, received shape {samples.shape}")
        if len(samples) < config.min_samples:
            needed = config.min_samples / config.sample_rate
            least = "one encoded frame takes" if config.is_waveform else "two frames"
            raise AudioError(
                name,
                f"{len(samples)} samples are fewer than {least} ({config.min_samples} samples)",
                f"use a recording of {needed:g} s or more",
            )
        if not np.isfinite(samples).all():
            raise AudioError(name, "contains NaN or infinite samples", "decode the recording again")
        with torch.no_grad():
            features, length = self._features(samples)
            features[:, length:] = config.pad_value
            surplus = -features.shape[1] % config.pad_to if config.pad_to > 1 else 0
            features = torch.nn.functional.pad(features, (0, surplus), value=config.pad_value)
        return features.numpy(), length

    def batch(
        self, waveforms: Sequence[npt.NDArray[np.float32]], names: Sequence[str] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return features [B, M, T], padded to the longest with ``pad_value``, and lengths [B]."""
        if not waveforms:
            raise AudioError("batch", "no waveforms were given")
        names = names or ["waveform"] * len(waveforms)
        pairs = [self(waveform, name) for waveform, name in zip(waveforms, names, strict=True)]
        longest = max(features.shape[1] for features, _ in pairs)
        shape = (len(pairs), self.config.features, longest)
        batch = np.full(shape, self.config.pad_value, dtype=np.float32)
        for row, (features, _) in zip(batch, pairs, strict=True):
            row[:, : features.shape[1]] = features
        return batch, np.array([length for _, length in pairs], dtype=np.int64)

    def _features(self, samples: npt.NDArray[np.float32]) -> tuple[torch.Tensor, int]:
        """Return the features [M, T] of samples [N], and how many frames are valid."""
        config = self.config
        if config.function is not None:
            made = self._made(samples)
            return made, made.shape[1]
        length = config.frames(len(samples))
        source = torch.from_numpy(samples)
        raw = source[None].clone() if config.is_waveform else self._log_mel(source)
        return self._normalize(raw, length), length

    def _made(self, samples: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return what the function makes of samples; ConfigError where that is not finite features [M, T]."""
        function, where = self.config.function, f"frontend {self.config.function_name}"
        assert callable(function)
        found = function(samples.copy())
        try:
            made = np.array(found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else found)
        except ValueError as error:  # rows of several lengths
            raise ConfigError(where, f"gives no array ({said(error)})", "return features [M, T]") from None
        if made.ndim != 2 or made.shape[0] != self.config.features or not made.shape[1]:
            expected = f"[{self.config.features}, T]"
            problem = f"gives {list(made.shape)} of {len(samples)} samples, expected {expected}"
            raise ConfigError(where, problem, "return features [M, T]")
        if made.dtype.kind not in "fiu" or not np.isfinite(made).all():
            raise ConfigError(where, "gives features that are not finite numbers", "return float32 [M, T]")
        return torch.from_numpy(made.astype(np.float32))

    def _log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """Return log-mel energies [M, T] of samples [N], not normalised."""
        config = self.config
        if config.preemph is not None:
            samples = torch.cat((samples[:1], samples[1:] - config.preemph * samples[:-1]))
        if config.exact_pad:
            pad = (config.fft_length - config.hop_length) // 2
            samples = torch.nn.functional.pad(samples, (pad, pad))
        spectrum = torch.stft(
            samples,
            n_fft=config.fft_length,
            hop_length=config.hop_length,
            win_length=config.window_length,
            window=self._window,
            center=not config.exact_pad,
            pad_mode="constant",
            return_complex=True,
        )
        magnitude = torch.view_as_real(spectrum).pow(2).sum(-1).sqrt()
        energies = self._filters @ magnitude.pow(config.mag_power)
        if not config.log:
            return energies
        if config.log_zero_guard_type == "add":
            return torch.log(energies + config.guard)
        return torch.log(energies.clamp(min=config.guard))

    def _normalize(self, features: torch.Tensor, length: int) -> torch.Tensor:
        """Shift and scale features [M, T] by the moments of their first ``length`` frames."""
        valid = features[:, :length]
        match self.config.normalize:
            case None:
                return features
            case "per_feature":
                mean, std = valid.mean(dim=1, keepdim=True), valid.std(dim=1, keepdim=True) + STD_GUARD
            case "all_features":
                mean, std = valid.mean(), valid.std() + STD_GUARD
            case "unit_variance":
                mean, std = valid.mean(), (valid.var(correction=0) + VARIANCE_GUARD).sqrt()
            case fixed:
                assert isinstance(fixed, dict)
                mean = torch.tensor(fixed["fixed_mean"])[:, None]
                std = torch.tensor(fixed["fixed_std"])[:, None]
        return (features - mean) / std
