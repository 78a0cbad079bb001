"""Which log-mels speech runtimes make, and how these differ from what a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zeroq_asr.config.choices import SHERPA_ONNX
from zeroq_asr.errors import ExportError
from zeroq_asr.speech.frontend import FrontendConfig

#: what either runtime computes for any network of NeMo's: field of the frontend → its only value
_FIXED: Mapping[str, Any] = {
    "kind": "log_mel",
    "window_stride": 0.01,
    "window": "hann",
    "preemph": 0.97,
    "lowfreq": 0,
    "log": True,
    "mag_power": 2.0,
    "mel_norm": "slaney",
}
#: the mels that onnx-asr has filters for
_MELS = (80, 128)
#: seconds of the window that both have, whatever a network was trained with
_WINDOW = 0.025
_GUARD = 2.0**-24


def feature_differences(where: str, runtime: str, frontend: FrontendConfig) -> list[str]:
    """Return what a runtime's features have otherwise than a frontend's, each in a sentence.

    Raises ExportError, naming the first field, for features that it cannot make or come near to.
    """
    if frontend.function is not None:
        _refuse(where, runtime, "function", frontend.function_name, "none")
    sherpa = runtime == SHERPA_ONNX
    fixed = dict(_FIXED)
    if not sherpa:
        fixed["sample_rate"] = 16000
    for name, only in fixed.items():
        if (found := getattr(frontend, name)) != only:
            _refuse(where, runtime, name, found, f"{only}")
    if frontend.highfreq not in (None, frontend.sample_rate / 2):
        _refuse(where, runtime, "highfreq", frontend.highfreq, "half the sample rate")
    normalized = ("per_feature", None) if sherpa else ("per_feature",)
    if frontend.normalize not in normalized:
        found = "fixed" if isinstance(frontend.normalize, dict) else frontend.normalize
        _refuse(where, runtime, "normalize", found, " or ".join(map(str, normalized)))
    if not sherpa and frontend.features not in _MELS:
        _refuse(where, runtime, "features", frontend.features, " or ".join(map(str, _MELS)))
    told = []
    if frontend.window_size != _WINDOW:
        told.append(f"a window is of {_WINDOW * 1000:g} ms, the network's of {frontend.window_size * 1000:g}")
    samples = int(_WINDOW * frontend.sample_rate)
    transform = 1 << (samples - 1).bit_length()
    if frontend.fft_length != transform:
        told.append(f"a transform is of {transform} samples, the network's of {frontend.fft_length}")
    if frontend.exact_pad:
        told.append("the first frame begins half a window before the recording (exact_pad is set)")
    if sherpa:
        # kaldi's framing; its pre-emphasis, floor and variance
        return [
            *told,
            "frames are centred half a step later, with a periodic window, and mirrored at the ends; "
            "pre-emphasis ends at a frame's edge; log(max(x, 2^-23)); the variance is that of n, not n − 1",
        ]
    if (frontend.log_zero_guard_type, frontend.guard) != ("add", _GUARD):
        told.append(f"log(x + 2^-24), the network's is {frontend.log_zero_guard_type} {frontend.guard:g}")
    return told


def _refuse(where: str, runtime: str, name: str, found: object, only: str) -> None:
    problem = f"{runtime} makes no such features: {name} is {found}, and can only be {only}"
    raise ExportError(where, problem, "run the file on features of its own frontend, as on ONNX Runtime")
