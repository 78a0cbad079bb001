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

Frames at or after the length are ``pad_value``; T is then padded to a multiple of ``pad_to``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zeroq_asr.errors import AudioError, ConfigError
from zeroq_asr.lines import shown

#: added to every standard deviation before the division
STD_GUARD = 1e-5
#: added to the variance of a waveform before its square root
VARIANCE_GUARD = 1e-7
#: what the features are
KINDS = ("log_mel", "waveform")

_WINDOWS: dict[str, Callable[..., torch.Tensor]] = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
_GUARDS = {"tiny": float(np.finfo(np.float32).tiny), "eps": float(np.finfo(np.float32).eps)}


@dataclass(frozen=True)
class FrontendConfig:
    """What surrounds the short-time Fourier transform; the names are NeMo's.

    A "waveform" has one feature, a frame a sample, and reads ``sample_rate``, ``window_size``, ``normalize``
    ("unit_variance" or None), ``pad_to`` and ``pad_value`` alone.

    Raises ConfigError when a value has the wrong type or makes no sense.
    """

    #: samples a second
    sample_rate: int = 16000
    #: seconds; of a waveform: what the network needs for one encoded frame, its receptive field
    window_size: float = 0.02
    window_stride: float = 0.01
    #: hann, hamming, blackman, bartlett or none (rectangular), all symmetric
    window: str = "hann"
    #: M, the number of mel filters
    features: int = 64
    #: None: the next power of two at or above the window
    n_fft: int | None = None
    #: None: no pre-emphasis
    preemph: float | None = 0.97
    #: Hz
    lowfreq: float = 0
    #: Hz; None: half the sample rate
    highfreq: float | None = None
    log: bool = True
    #: "add": log(x + guard); "clamp": log(max(x, guard))
    log_zero_guard_type: str = "add"
    #: a number, "tiny" or "eps" (of float32)
    log_zero_guard_value: float | str = 2**-24
    #: "per_feature", "all_features", None, or {"fixed_mean": [M], "fixed_std": [M]}; of a waveform
    #: "unit_variance" or None
    normalize: str | dict[str, list[float]] | None = "per_feature"
    #: T is padded to a multiple of this; 0 or 1: not at all
    pad_to: int = 16
    pad_value: float = 0.0
    mag_power: float = 2.0
    #: only 1: stacked frames are not supported
    frame_splicing: int = 1
    #: pad (n_fft - hop) / 2 samples on either side instead of n_fft / 2
    exact_pad: bool = False
    #: "slaney": each filter has unit area; None: unit peak
    mel_norm: str | None = "slaney"
    #: "log_mel" or "waveform"
    kind: str = "log_mel"

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            value = getattr(self, name)
            # bool is an int to Python, but no count of anything
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
                raise ConfigError("frontend", f"{name} must be {expected}, not {shown(value)}")
            # far beyond any meaning, and small enough for what is computed from it
            if isinstance(value, int | float) and not (isinstance(value, bool) or abs(value) < _FAR):
                raise ConfigError("frontend", f"{name} must be a number below 10^9, not {shown(value)}")
        self._check_values()

    def _check_values(self) -> None:
        """Raise ConfigError for a value of the right type that makes no sense."""
        length = self.window_length
        fft = self.fft_length
        top = self.sample_rate / 2 if self.highfreq is None else self.highfreq
        features = (1, 1) if self.is_waveform else (1, 4096)
        # name → whether it holds, and what it must be
        rules = {
            "sample_rate": (self.sample_rate > 0, "above 0"),
            "window_size": (2 <= length <= 2**20, f"2 to {2**20} samples of {self.sample_rate} Hz"),
            "window_stride": (self.hop_length >= 1, f"a sample of {self.sample_rate} Hz or more"),
            "window": (
                self.window == "none" or self.window in _WINDOWS,
                f"one of {', '.join(_WINDOWS)} or none",
            ),
            "features": (features[0] <= self.features <= features[1], "{} to {}".format(*features)),
            "n_fft": (length <= fft <= 2**20, f"from the window's {length} samples to {2**20}"),
            "lowfreq": (0 <= self.lowfreq < top, f"from 0 to below {top:g} Hz"),
            "highfreq": (top <= self.sample_rate / 2, f"at most {self.sample_rate / 2:g} Hz"),
            "log_zero_guard_type": (self.log_zero_guard_type in ("add", "clamp"), "add or clamp"),
            "log_zero_guard_value": (self.guard > 0, "above 0"),
            "pad_to": (self.pad_to >= 0, "0 or more"),
            "mag_power": (self.mag_power > 0, "above 0"),
            "frame_splicing": (self.frame_splicing == 1, "1"),
            "exact_pad": (not (self.exact_pad and self.hop_length % 2), "false where a hop is an odd number"),
            "mel_norm": (self.mel_norm in (None, "slaney"), "slaney or null"),
            "kind": (self.kind in KINDS, f"one of {', '.join(KINDS)}"),
        }
        for name, (holds, must_be) in rules.items():
            if not holds:
                problem = f"{name} = {shown(getattr(self, name))} is out of range or not supported"
                raise ConfigError("frontend", problem, f"it must be {must_be}")
        if self.is_waveform and self.normalize not in ("unit_variance", None):
            problem = f"normalize = {shown(self.normalize)} is unknown for a waveform"
            raise ConfigError("frontend", problem, "use unit_variance or null")
        if (
            isinstance(self.normalize, str)
            and not self.is_waveform
            and self.normalize not in ("per_feature", "all_features")
        ):
            raise ConfigError(
                "frontend",
                f"normalize = {shown(self.normalize)} is unknown",
                "use per_feature, all_features, null, or fixed_mean and fixed_std",
            )
        if isinstance(self.normalize, dict):
            _check_fixed(self.normalize, self.features)

    @property
    def is_waveform(self) -> bool:
        """Whether the features are the samples themselves."""
        return self.kind == "waveform"

    @property
    def window_length(self) -> int:
        """The window, in samples; of a waveform the network's receptive field."""
        length = self.window_size * self.sample_rate
        # log-mels cut fractions off, as NeMo does; a receptive field is a whole number to begin with
        return round(length) if self.is_waveform else int(length)

    @property
    def hop_length(self) -> int:
        """The step between frames, in samples."""
        return 1 if self.is_waveform else int(self.window_stride * self.sample_rate)

    @property
    def fft_length(self) -> int:
        """The length of the Fourier transform, in samples."""
        return self.n_fft or 1 << (self.window_length - 1).bit_length()

    @property
    def guard(self) -> float:
        """The number that keeps the logarithm finite."""
        value = self.log_zero_guard_value
        if isinstance(value, str):
            return _GUARDS.get(value, 0.0)
        return float(value)

    @property
    def frames_per_second(self) -> float:
        """Feature frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def min_samples(self) -> int:
        """The fewest samples that give two frames: with one, no standard deviation exists.

        Of a waveform: the fewest that give one encoded frame.
        """
        return self.window_length if self.is_waveform else 2 * self.hop_length - self._surplus

    def frames(self, num_samples: int) -> int:
        """Return how many valid frames ``num_samples`` samples give."""
        return max(0, (num_samples + self._surplus) // self.hop_length)

    @property
    def _surplus(self) -> int:
        """Samples of padding less one transform; 0 for an even transform without ``exact_pad``."""
        if self.is_waveform:
            return 0
        pad = self.fft_length - self.hop_length if self.exact_pad else self.fft_length
        return pad // 2 * 2 - self.fft_length

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` is its inverse."""
        values = dataclasses.asdict(self)
        if not self.is_waveform:
            # files that were written before there was a choice stay the same, byte for byte
            del values["kind"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrontendConfig:
        """Build a configuration from `to_dict`'s dictionary; absent keys keep their defaults.

        Raises ConfigError for an unknown key or a value of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise ConfigError("frontend", f"expected a mapping, not {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown:
            raise ConfigError("frontend", f"unknown keys {', '.join(unknown)}", f"known: {', '.join(known)}")
        return cls(**values)


_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "sample_rate": (int,),
    "window_size": _NUMBER,
    "window_stride": _NUMBER,
    "window": (str,),
    "features": (int,),
    "n_fft": (int, type(None)),
    "preemph": (*_NUMBER, type(None)),
    "lowfreq": _NUMBER,
    "highfreq": (*_NUMBER, type(None)),
    "log": (bool,),
    "log_zero_guard_type": (str,),
    "log_zero_guard_value": (*_NUMBER, str),
    "normalize": (str, dict, type(None)),
    "pad_to": (int,),
    "pad_value": _NUMBER,
    "mag_power": _NUMBER,
    "frame_splicing": (int,),
    "exact_pad": (bool,),
    "mel_norm": (str, type(None)),
    "kind": (str,),
}


#: no frequency, time or level is larger
_FAR = 1e9


def _check_fixed(normalize: dict[str, list[float]], features: int) -> None:
    """Raise ConfigError unless ``normalize`` holds a mean and a positive deviation a mel."""
    if set(normalize) != {"fixed_mean", "fixed_std"}:
        raise ConfigError("frontend", "normalize must hold fixed_mean and fixed_std and nothing else")
    for name, values in normalize.items():
        if not isinstance(values, list) or not all(
            isinstance(v, (int, float)) and abs(v) < _FAR for v in values
        ):
            raise ConfigError("frontend", f"normalize.{name} must be a list of finite numbers")
        if len(values) != features:
            raise ConfigError("frontend", f"normalize.{name} has {len(values)} numbers for {features} mels")
    if min(normalize["fixed_std"]) <= 0:
        raise ConfigError("frontend", "normalize.fixed_std must be positive")


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


class Frontend:
    """Compute features of waveforms, each alone, so that a batch never changes a result."""

    def __init__(self, config: FrontendConfig) -> None:
        self.config = config
        if config.is_waveform:
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
        gives fewer than two frames (as a waveform: is shorter than the network's receptive field).
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
        length = config.frames(len(samples))
        with torch.no_grad():
            source = torch.from_numpy(samples)
            raw = source[None].clone() if config.is_waveform else self._log_mel(source)
            features = self._normalize(raw, length)
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
