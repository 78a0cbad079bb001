"""Transcribe with ONNX Runtime, NumPy and soundfile alone: a quantized file needs nothing of this package.

    python transcribe_onnxruntime.py FILE.onnx CLIP.flac [CLIP.flac …]

Everything that surrounds the network, frontend and tokens, is in the file's metadata.  This reads what
QuartzNet-like files say; options of the frontend that it does not know are refused.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import soundfile


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear to 1 kHz, logarithmic above."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def filterbank(options: dict, fft: int) -> np.ndarray:
    """Triangles of unit area [mels, fft // 2 + 1]."""
    top = options["highfreq"] or options["sample_rate"] / 2
    limits = hz_to_mel(np.array([options["lowfreq"], top], dtype=float))
    corners = mel_to_hz(np.linspace(*limits, options["features"] + 2))
    bins = np.linspace(0, options["sample_rate"] / 2, fft // 2 + 1)
    left, centre, right = (corners[i : i + options["features"], None] for i in range(3))
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.maximum(0, triangles) * 2 / (right - left)


def features(samples: np.ndarray, options: dict) -> np.ndarray:
    """Log-mel features [mels, frames], every mel at mean 0 and variance 1."""
    usual = {
        "window": "hann",
        "log": True,
        "log_zero_guard_type": "add",
        "normalize": "per_feature",
        "mel_norm": "slaney",
        "exact_pad": False,
    }
    odd = {key: options[key] for key, value in usual.items() if options[key] != value}
    if odd or isinstance(options["log_zero_guard_value"], str):
        sys.exit(f"this example does not know such a frontend: {odd or 'a log guard by name'}")
    window = int(options["window_size"] * options["sample_rate"])
    hop = int(options["window_stride"] * options["sample_rate"])
    fft = options["n_fft"] or 1 << (window - 1).bit_length()
    frames = (len(samples) + fft // 2 * 2 - fft) // hop
    if options["preemph"] is not None:
        samples = np.append(samples[:1], samples[1:] - options["preemph"] * samples[:-1])
    # the window lies in the middle of the transform, the transform around its frame
    taper = np.zeros(fft)
    start = (fft - window) // 2
    taper[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    padded = np.pad(samples, fft // 2)
    rows = np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop][:frames] * taper
    power = np.abs(np.fft.rfft(rows)) ** options["mag_power"]
    mels = np.log(power @ filterbank(options, fft).T + options["log_zero_guard_value"]).T
    deviation = mels.std(axis=1, ddof=1, keepdims=True)
    return (mels - mels.mean(axis=1, keepdims=True)) / (deviation + 1e-5)


def text_of(tokens: list[str], best: np.ndarray) -> str:
    """Greedy CTC: repeats collapse, the blank, which is the last class, is dropped."""
    kept = [b for i, b in enumerate(best) if b != len(tokens) and (i == 0 or b != best[i - 1])]
    return "".join(tokens[b] for b in kept).replace("\u2581", " ").strip()


def main(file: str, clips: list[str]) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    own = json.loads(session.get_modelmeta().custom_metadata_map["zeroq_asr"])
    for clip in clips:
        samples, rate = soundfile.read(clip, dtype="float64")
        if rate != own["frontend"]["sample_rate"] or samples.ndim != 1:
            sys.exit(f"{clip}: this example wants mono at {own['frontend']['sample_rate']} Hz")
        x = features(samples, own["frontend"])[None].astype(np.float32)
        feed = {"audio_signal": x, "length": np.array([x.shape[2]], dtype=np.int64)}
        (logits,) = session.run(["logits"], feed)  # integers: the best needs no softmax
        print(text_of(own["tokenizer"]["tokens"], logits[0].argmax(axis=-1)))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
