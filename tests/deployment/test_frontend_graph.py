"""The frontend as ONNX nodes gives the features of the frontend itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

import zeroq_asr as zq
from zeroq_asr.deployment.frontend_graph import PREFIX, frontend_graph, frontend_inputs
from zeroq_asr.speech.audio import AudioReader

#: of features of a deviation of about 1; both are float32, and quiet bins have few digits beside loud ones
TOLERANCE = 1e-4

CONFIGS: dict[str, zq.FrontendConfig] = {
    "nemo": zq.FrontendConfig(features=80, window_size=0.025),
    "quartznet": zq.FrontendConfig(),
    "all-features": zq.FrontendConfig(normalize="all_features", pad_to=0),
    "fixed": zq.FrontendConfig(
        features=8, normalize={"fixed_mean": [-9.0] * 8, "fixed_std": [3.0] * 8}, pad_value=-1.0
    ),
    "exact-pad": zq.FrontendConfig(exact_pad=True, window_size=0.025, window="hamming"),
    # the window is shorter than the hop, so that some samples are read by no frame
    "sparse": zq.FrontendConfig(exact_pad=True, window_size=0.005, n_fft=512, window="blackman"),
    "odd": zq.FrontendConfig(n_fft=401, window="bartlett", pad_to=1),
    "rectangular": zq.FrontendConfig(
        window="none", preemph=None, n_fft=400, window_size=0.025, log_zero_guard_type="clamp",
        log_zero_guard_value=1e-5,
    ),
    "8-kHz": zq.FrontendConfig(sample_rate=8000, features=40, highfreq=3800.0, lowfreq=60.0, mel_norm=None),
    "waveform": zq.FrontendConfig(kind="waveform", features=1, normalize="unit_variance", pad_to=0),
    "energies": zq.FrontendConfig(normalize="all_features", log=False),
    "as-they-are": zq.FrontendConfig(normalize=None),
    "samples": zq.FrontendConfig(kind="waveform", features=1, normalize=None, pad_to=64, pad_value=2.0),
}  # fmt: skip


@cache
def session(name: str) -> ort.InferenceSession:
    config = CONFIGS[name]
    nodes, constants = frontend_graph(config)
    leaving = [
        helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", config.features, "t"]),
        helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "frontend", frontend_inputs(), leaving, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert all(tensor.name.startswith(PREFIX) for tensor in constants)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(name: str, waveforms: list[np.ndarray], fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features and lengths of a batch, whose rows are filled up with a number that must not matter."""
    audio = np.full((len(waveforms), max(map(len, waveforms))), fill, dtype=np.float32)
    for row, waveform in zip(audio, waveforms, strict=True):
        row[: len(waveform)] = waveform
    lengths = np.array([len(waveform) for waveform in waveforms])
    features, frames = session(name).run(None, {"audio": audio, "audio_length": lengths})
    return features, frames


def noise(seed: int, samples: int) -> np.ndarray:
    """Pink noise, as loud as speech."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) / np.sqrt(1 + np.arange(samples // 2 + 1))
    found = np.fft.irfft(spectrum, samples)
    return (0.1 * found / max(np.abs(found).max(), 1e-9)).astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_features_are_those_of_the_frontend(name: str, data: st.DataObject) -> None:
    config = CONFIGS[name]
    least = config.min_samples
    counts = data.draw(st.lists(st.integers(least, least + 9000), min_size=1, max_size=3))
    waveforms = [noise(seed, count) for seed, count in enumerate(counts)]
    expected, lengths = zq.Frontend(config).batch(waveforms)
    found, frames = run(name, waveforms, fill=data.draw(st.sampled_from([0.0, 0.5, float("nan")])))
    assert found.shape == expected.shape
    assert np.array_equal(frames, lengths)
    # of two or three frames, a deviation near 0 is divided by
    steady = TOLERANCE if min(counts) > 4 * least else 100 * TOLERANCE
    np.testing.assert_allclose(found, expected, rtol=steady, atol=steady)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recording_that_is_too_short_is_refused(name: str) -> None:
    config = CONFIGS[name]
    least = config.min_samples
    assert run(name, [noise(0, least)])[1].tolist() == [config.frames(least)]
    with pytest.raises(InvalidArgument, match="out of data bounds"):
        run(name, [noise(0, 4 * least), noise(1, least - 1)])


@pytest.mark.parametrize("name", ["nemo", "quartznet", "exact-pad", "waveform"])
def test_clips_of_the_package(name: str) -> None:
    frontend = zq.Frontend(CONFIGS[name])
    with AudioReader(frontend.config.sample_rate) as reader:
        clips = [reader.hear(one)[0] for one in zq.read_manifest(zq.embedded_files().test)[:8]]
    expected, _ = frontend.batch(clips)
    np.testing.assert_allclose(run(name, clips)[0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["nemo", "quartznet", "all-features", "waveform"])
def test_recordings_of_librispeech(name: str, test_data: Path) -> None:
    frontend = zq.Frontend(CONFIGS[name])
    manifest = test_data / "speech" / "librispeech-test-other"
    with AudioReader(frontend.config.sample_rate) as reader:
        for one in zq.read_manifest(manifest)[:10]:
            samples, _ = reader.hear(one)
            expected, _ = frontend(samples)
            np.testing.assert_allclose(run(name, [samples])[0][0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["waveform", "quartznet", "all-features", "energies"])
def test_a_long_recording_keeps_its_digits(name: str) -> None:
    samples = noise(0, 60 * 16000) + np.float32(0.3)
    # silence is far from the mean, and there is much of it
    samples[: 30 * 16000] = 0.0
    expected, _ = zq.Frontend(CONFIGS[name])(samples)
    np.testing.assert_allclose(run(name, [samples])[0][0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["nemo", "as-they-are"])
def test_features_are_as_near_to_their_exact_values_as_those_of_the_frontend(name: str) -> None:
    frontend, exact = zq.Frontend(CONFIGS[name]), zq.Frontend(CONFIGS[name])
    exact._filters, exact._window = exact._filters.double(), exact._window.double()
    with AudioReader(frontend.config.sample_rate) as reader:
        clips = [reader.hear(one)[0] for one in zq.read_manifest(zq.embedded_files().test)[:8]]
    ours, files = [], []
    for clip in clips:
        features, length = frontend(clip)
        waveform = torch.from_numpy(clip.astype(np.float64))
        wanted = exact._normalize(exact._log_mel(waveform), length).numpy()[:, :length]
        ours.append(np.abs(features[:, :length] - wanted).max())
        files.append(np.abs(run(name, [clip])[0][0][:, :length] - wanted).max())
    # log-mels as they are have a deviation of 3 or 4
    assert max(files) < (TOLERANCE if frontend.config.normalize else 4 * TOLERANCE)
    assert np.mean(files) < 2 * np.mean(ours)
