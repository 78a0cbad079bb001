"""A frontend as ONNX nodes, for files that take audio: what ``zeroq_asr.speech.frontend`` computes.

The Fourier transform is a convolution of the samples with windowed cosines and sines, one frame a step: as
fast as a fast one at these lengths, nearer to the exact value, and known to every runtime.  A file stores one
period of each wave, and nodes that depend on constants alone make the kernel, once, as it is loaded.

Every name begins with ``frontend/``, but for what enters, ``audio`` float32 [B, N] and ``audio_length`` int64
[B], and what leaves, ``audio_signal`` float32 [B, M, T] and ``length`` int64 [B].  Samples at or behind an
utterance's length are not looked at, so that a batch never changes a result.

Shapes: B batch, N samples, T feature frames, F frequency bins, L samples of a window, M mels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from zeroq_asr.deployment.prefixed_nodes import PrefixedNodes
from zeroq_asr.errors import ExportError
from zeroq_asr.speech.frontend import STD_GUARD, VARIANCE_GUARD
from zeroq_asr.speech.frontend_config import FrontendConfig
from zeroq_asr.speech.mel import mel_filterbank

#: what every tensor of a frontend is called by
PREFIX = "frontend/"
#: what enters: samples, and how many of them are of each utterance
AUDIO, AUDIO_LENGTH = "audio", "audio_length"
#: what leaves, which is what enters a network
FEATURES, LENGTH = "audio_signal", "length"


def frontend_inputs() -> list[ValueInfoProto]:
    """Return the declarations of what enters: ``audio`` [B, N], ``audio_length`` [B]."""
    return [
        helper.make_tensor_value_info(AUDIO, TensorProto.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info(AUDIO_LENGTH, TensorProto.INT64, ["batch"]),
    ]


def check_frontend(config: FrontendConfig) -> None:
    """Raise ExportError, naming it, for a frontend that is a function of Python: no nodes stand for that."""
    if config.function is not None:
        problem = f"is the Python function {config.function_name}, for which no ONNX nodes stand"
        raise ExportError("frontend", problem, "write the file without its frontend")


def frontend_graph(config: FrontendConfig) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes of a frontend and the constants that they read.

    Raises ExportError for a frontend that is a function (``check_frontend``).

    Features differ from those of ``Frontend`` by rounding alone: at most 1e-4, where these have a deviation
    of 1.  Log-mels that are not normalized have one of 3 or 4 and differ by as much more, which is float32
    itself: quiet bins beside loud ones have few digits, and either way is as far from the exact values.  A
    mel that never changes has no deviation, and its features no digits.

    An utterance of fewer than ``config.min_samples`` samples is an index out of bounds, which ONNX Runtime
    refuses.
    """
    check_frontend(config)
    b = PrefixedNodes(PREFIX)
    length = _lengths(b, config)
    raw = _samples(b) if config.is_waveform else _log_mel(b, config)
    frames = b.add("Shape", [raw], start=2, end=3)
    valid = b.add("Unsqueeze", [_mask(b, length, frames), b.ints(1)])
    kept = b.add("Where", [valid, _normalized(b, config, raw, length, valid), b.floats(config.pad_value)])
    _padded(b, config, kept, frames)
    return b.nodes, b.constants


def _lengths(b: PrefixedNodes, config: FrontendConfig) -> str:
    """Valid frames [B], ⌊(n + a) / hop⌋; of what is too short, the hop is looked up out of bounds."""
    short = b.add("Less", [AUDIO_LENGTH, b.int(config.min_samples)])
    hop = b.add("Gather", [b.ints(config.hop_length), b.add("Cast", [short], to=TensorProto.INT64)])
    samples = AUDIO_LENGTH
    if config.surplus:
        samples = b.add("Add", [AUDIO_LENGTH, b.int(config.surplus)])
    return b.add("Div", [samples, hop], LENGTH)


def _mask(b: PrefixedNodes, lengths: str, extent: str) -> str:
    """Bool [B, extent]: what lies before the lengths."""
    index = b.add("Range", [b.int(0), b.add("Squeeze", [extent, b.ints(0)]), b.int(1)])
    return b.add("Less", [index, b.add("Unsqueeze", [lengths, b.ints(1)])])


def _samples(b: PrefixedNodes) -> str:
    """The samples as features [B, 1, N]."""
    return b.add("Unsqueeze", [AUDIO, b.ints(1)])


def _log_mel(b: PrefixedNodes, config: FrontendConfig) -> str:
    """Log-mel energies [B, M, T], not normalised."""
    samples = _samples(b)
    if config.preemph is not None:
        kernel = b.floats(np.array([[[-config.preemph, 1.0]]]))
        samples = b.add("Conv", [samples, kernel], pads=[1, 0])
    extent = b.add("Shape", [AUDIO], start=1, end=2)
    own = b.add("Unsqueeze", [_mask(b, AUDIO_LENGTH, extent), b.ints(1)])
    samples = b.add("Where", [own, samples, b.floats(0.0)])
    length, transform = config.window_length, config.fft_length
    pad = (transform - config.hop_length if config.exact_pad else transform) // 2
    # the window stands in the middle of a transform, and only what it covers is read
    left = (transform - length) // 2
    pads = b.ints(pad - left, pad - (transform - length - left))
    padded = b.add("Pad", [samples, pads, b.floats(0.0), b.ints(2)])
    spectrum = b.add("Conv", [padded, _transform(b, config)], strides=[config.hop_length])
    bins = transform // 2 + 1
    parts = [b.add("Slice", [spectrum, b.ints(at), b.ints(at + bins), b.ints(1)]) for at in (0, bins)]
    power = b.add("Add", [b.add("Mul", [part, part]) for part in parts])
    if config.mag_power != 2.0:
        power = b.add("Pow", [power, b.floats(config.mag_power / 2)])
    energies = b.add("MatMul", [b.floats(mel_filterbank(config).astype(np.float64)), power])
    if not config.log:
        return energies
    guarded = "Add" if config.log_zero_guard_type == "add" else "Max"
    return b.add("Log", [b.add(guarded, [energies, b.floats(config.guard)])])


def _transform(b: PrefixedNodes, config: FrontendConfig) -> str:
    """The kernel [2F, 1, L] of the transform: w[n]·cos(2πkn / N) of every bin k, behind them the sines.

    A power has no phase, so it does not matter where in the transform the window stands.
    """
    transform, length = config.fft_length, config.window_length
    bins = b.store(np.arange(transform // 2 + 1, dtype=np.int64)[:, None])
    turns = b.add("Mul", [bins, b.store(np.arange(length, dtype=np.int64))])
    place = b.add("Mod", [turns, b.int(transform)])
    angles = 2 * np.pi * np.arange(transform) / transform
    waves = [b.add("Gather", [b.floats(f(angles)), place]) for f in (np.cos, np.sin)]
    both = b.add("Concat", waves, axis=0)
    windowed = b.add("Mul", [both, b.floats(_WINDOWS[config.window](length).astype(np.float64))])
    return b.add("Unsqueeze", [windowed, b.ints(1)])


_WINDOWS: dict[str, Callable[[int], npt.NDArray[Any]]] = {
    "hann": np.hanning,
    "hamming": np.hamming,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
    "none": np.ones,
}


def _normalized(b: PrefixedNodes, config: FrontendConfig, raw: str, length: str, valid: str) -> str:
    """Features [B, M, T] less their mean, over their deviation, of the valid frames alone."""
    if config.normalize is None:
        return raw
    if isinstance(config.normalize, dict):
        fixed = [b.floats(np.array(config.normalize[key])[:, None]) for key in ("fixed_mean", "fixed_std")]
        return b.add("Div", [b.add("Sub", [raw, fixed[0]]), fixed[1]])
    axes = b.ints(2) if config.normalize == "per_feature" else b.ints(1, 2)
    frames = b.add("Cast", [length], to=TensorProto.FLOAT)
    count = b.add("Unsqueeze", [frames, b.ints(1, 2)])
    if config.normalize == "all_features":
        count = b.add("Mul", [count, b.floats(config.features)])
    nothing = b.floats(0.0)
    total = _sum(b, b.add("Where", [valid, raw, nothing]), axes)
    centred = b.add("Sub", [raw, b.add("Div", [total, count])])
    own = b.add("Where", [valid, centred, nothing])
    squares = _sum(b, b.add("Mul", [own, own]), axes)
    if config.normalize == "unit_variance":
        variance = b.add("Div", [squares, count])
        std = b.add("Sqrt", [b.add("Add", [variance, b.floats(VARIANCE_GUARD)])])
    else:
        variance = b.add("Div", [squares, b.add("Sub", [count, b.floats(1.0)])])
        std = b.add("Add", [b.add("Sqrt", [variance]), b.floats(STD_GUARD)])
    return b.add("Div", [centred, std])


def _sum(b: PrefixedNodes, terms: str, axes: str) -> str:
    """Sums along axes, which stay; in float64, or a minute of terms loses three digits of float32."""
    wide = b.add("ReduceSum", [b.add("Cast", [terms], to=TensorProto.DOUBLE), axes], keepdims=1)
    return b.add("Cast", [wide], to=TensorProto.FLOAT)


def _padded(b: PrefixedNodes, config: FrontendConfig, kept: str, frames: str) -> None:
    """Give features their name, padded to a multiple of ``pad_to`` frames."""
    if config.pad_to <= 1:
        b.add("Identity", [kept], FEATURES)
        return
    # Mod takes its sign from the divisor
    surplus = b.add("Mod", [b.add("Neg", [frames]), b.ints(config.pad_to)])
    pads = b.add("Concat", [b.ints(0), surplus], axis=0)
    b.add("Pad", [kept, pads, b.floats(config.pad_value), b.ints(2)], FEATURES)
