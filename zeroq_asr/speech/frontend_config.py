"""What a frontend is: the numbers that turn a waveform into the features that a checkpoint expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import printable, shown

#: what the features are
KINDS = ("log_mel", "waveform")
#: shapes of windows, beside none
WINDOWS = ("hann", "hamming", "blackman", "bartlett")

#: samples float32 [N] → features [M, T]
FeatureFunction = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]

_GUARDS = {"tiny": float(np.finfo(np.float32).tiny), "eps": float(np.finfo(np.float32).eps)}


@dataclass(frozen=True)
class FrontendConfig:
    """What surrounds the short-time Fourier transform; the names are NeMo's.

    A "waveform" has one feature, a frame a sample, and reads ``sample_rate``, ``window_size``, ``normalize``
    ("unit_variance" or None), ``pad_to`` and ``pad_value`` alone.

    Where ``function`` is given, it computes the features, and the numbers say what they are like: how many,
    at which rate, how normalized.  Files keep its name alone, which is a ``function`` that cannot be called.

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
    #: what gives all features [M, T] of samples float32 [N]; None: ``zeroq_asr.speech.frontend``
    function: FeatureFunction | str | None = None

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
        if isinstance(self.function, str):
            if not 0 < len(self.function) <= _LONGEST_NAME:
                raise ConfigError("frontend", f"function = {shown(self.function)} is no name of a function")
        elif self.function is not None and not callable(self.function):
            raise ConfigError("frontend", f"function must be one, not {shown(self.function)}")
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
                self.window == "none" or self.window in WINDOWS,
                f"one of {', '.join(WINDOWS)} or none",
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

    def with_function(self, function: FeatureFunction) -> FrontendConfig:
        """Return the frontend of features that are like these, and that ``function`` computes.

        It takes samples float32 [N] at ``sample_rate`` and gives features [M, T], all of which are valid.
        """
        return dataclasses.replace(self, function=function)

    @property
    def function_name(self) -> str | None:
        """What the function is called that computes the features; None: there is none."""
        if self.function is None or isinstance(self.function, str):
            return self.function
        kind = type(self.function)
        named = self.function if hasattr(self.function, "__qualname__") else kind
        name = f"{getattr(named, '__module__', kind.__module__)}.{named.__qualname__}"
        return printable(name)[:_LONGEST_NAME]

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
        return self.window_length if self.is_waveform else 2 * self.hop_length - self.surplus

    def frames(self, num_samples: int) -> int:
        """Return how many valid frames ``num_samples`` samples give."""
        return max(0, (num_samples + self.surplus) // self.hop_length)

    def handed_on(self) -> FrontendConfig:
        """Return the frontend of a file that has this one in it: the samples as they are, N of them."""
        seconds = self.min_samples / self.sample_rate
        return FrontendConfig(
            self.sample_rate, window_size=seconds, features=1, normalize=None, pad_to=0, kind="waveform"
        )

    @property
    def surplus(self) -> int:
        """Samples of padding less one transform; 0 for an even transform without ``exact_pad``.

        ⌊(n + surplus) / hop⌋ frames of n samples are valid.
        """
        if self.is_waveform:
            return 0
        pad = self.fft_length - self.hop_length if self.exact_pad else self.fft_length
        return pad // 2 * 2 - self.fft_length

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` is its inverse, but for a function's name."""
        values = dataclasses.asdict(dataclasses.replace(self, function=self.function_name))
        # files that were written before there was a choice stay the same, byte for byte
        if not self.is_waveform:
            del values["kind"]
        if self.function is None:
            del values["function"]
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


def frontend_of(given: FrontendConfig | FeatureFunction | None, own: FrontendConfig | None) -> FrontendConfig:
    """Return the frontend that is ``given``: as it is, a function beside the numbers of ``own``, or ``own``.

    Raises ConfigError for anything else, and for a function where there are no numbers.
    """
    if isinstance(given, FrontendConfig):
        return given
    if given is not None and not callable(given):
        raise ConfigError("frontend", f"must be a FrontendConfig or a function, got {shown(given)}")
    if own is None:
        problem = "a function says neither the rate of its samples nor how many features it gives"
        raise ConfigError("frontend", problem, "give zq.FrontendConfig(…, function=FUNCTION)")
    return own if given is None else own.with_function(given)


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


#: characters of the name of a function
_LONGEST_NAME = 200
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
