from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zeroq_asr.errors import AudioError, ConfigError
from zeroq_asr.speech.frontend import Frontend, FrontendConfig
from zeroq_asr.speech.frontend_config import frontend_of
from zeroq_asr.speech.mel import hz_to_mel, mel_filterbank, mel_to_hz


def test_config_survives_json() -> None:
    config = FrontendConfig(features=80, window_size=0.025, pad_to=0, n_fft=None)
    assert FrontendConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "change",
    [
        {"n_mels": 80},
        {"features": "80"},
        {"features": True},
        {"features": 0},
        {"window": "kaiser"},
        {"normalize": "per_utterance"},
        {"normalize": {"fixed_mean": [0.0]}},
        {"normalize": {"fixed_mean": [0.0] * 63, "fixed_std": [1.0] * 63}},
        {"normalize": {"fixed_mean": [0.0] * 64, "fixed_std": [0.0] * 64}},
        {"n_fft": 256},
        {"preemph": float("nan")},
        {"lowfreq": 9000},
        {"highfreq": 9000},
        {"log_zero_guard_value": "small"},
        {"frame_splicing": 3},
        {"mel_norm": "l2"},
        {"pad_to": -1},
        {"window_stride": 0.0},
        {"kind": "spectrogram"},
        {"features": 64, "kind": "waveform", "normalize": None},
        {"normalize": "per_feature", "kind": "waveform", "features": 1},
        {"normalize": "unit_variance"},
    ],
)
def test_config_refuses_nonsense(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        FrontendConfig.from_dict(change)


def test_defaults_are_counted_in_samples() -> None:
    config = FrontendConfig()
    assert (config.window_length, config.hop_length, config.fft_length) == (320, 160, 512)
    assert config.frames_per_second == 100
    assert config.frames(64000) == 400
    assert config.frames(config.min_samples) == 2
    assert config.frames(config.min_samples - 1) == 1


def test_mel_scale_inverts() -> None:
    hz = np.array([0.0, 200, 999, 1000, 1001, 6400, 8000])
    np.testing.assert_allclose(hz_to_mel(np.array([0.0, 200, 1000, 6400])), [0, 3, 15, 42])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz)


def test_slaney_filters_have_unit_area_where_bins_are_dense() -> None:
    config = FrontendConfig(n_fft=2**16, features=40)
    area = mel_filterbank(config).sum(axis=1) * config.sample_rate / config.fft_length
    np.testing.assert_allclose(area, 1, atol=1e-3)
    peak = mel_filterbank(FrontendConfig(n_fft=2**16, features=40, mel_norm=None)).max(axis=1)
    np.testing.assert_allclose(peak, 1, atol=0.02)


def test_normalised_features_have_unit_moments(speech_like: np.ndarray) -> None:
    features, length = Frontend(FrontendConfig())(speech_like)
    assert features.shape == (64, 64)
    assert features.dtype == np.float32
    assert length == 50
    valid = features[:, :length]
    np.testing.assert_allclose(valid.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(valid.std(axis=1, ddof=1), 1, atol=1e-3)
    assert not features[:, length:].any()


def test_features_match_the_formula_in_double_precision(speech_like: np.ndarray) -> None:
    config = FrontendConfig(normalize=None, pad_to=0)
    features, length = Frontend(config)(speech_like)
    x = speech_like.astype(np.float64)
    y = np.pad(np.append(x[0], x[1:] - 0.97 * x[:-1]), 256)
    window = np.pad(np.hanning(320), 96)
    frames = np.stack([y[160 * t : 160 * t + 512] * window for t in range(length)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(mel_filterbank(config).astype(np.float64) @ power.T + 2**-24)
    np.testing.assert_allclose(features[:, :length], expected, atol=1e-3)


@pytest.mark.parametrize(
    "normalize", ["all_features", None, {"fixed_mean": [1.0] * 64, "fixed_std": [2.0] * 64}]
)
def test_other_normalisations(normalize: object, speech_like: np.ndarray) -> None:
    raw, length = Frontend(FrontendConfig(normalize=None))(speech_like)
    got, _ = Frontend(FrontendConfig.from_dict({"normalize": normalize}))(speech_like)
    valid = raw[:, :length]
    if normalize == "all_features":
        valid = (valid - valid.mean()) / valid.std(ddof=1)
    elif normalize:
        valid = (valid - 1) / 2
    np.testing.assert_allclose(got[:, :length], valid, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"exact_pad": True},
        {"window": "none"},
        {"window": "hamming"},
        {"log": False},
        {"log_zero_guard_type": "clamp", "log_zero_guard_value": "tiny"},
        {"preemph": None},
        {"mag_power": 1.0},
        {"sample_rate": 8000},
        {"n_fft": 513},
    ],
)
def test_every_option_runs(options: dict[str, object], speech_like: np.ndarray) -> None:
    config = FrontendConfig.from_dict(options)
    features, length = Frontend(config)(speech_like)
    assert np.isfinite(features).all()
    assert length == config.frames(len(speech_like)) <= features.shape[1]
    shortest, two = Frontend(config)(speech_like[: config.min_samples])
    assert two == 2
    assert np.isfinite(shortest).all()


def test_batch_gives_each_what_it_gets_alone(speech_like: np.ndarray) -> None:
    frontend = Frontend(FrontendConfig(pad_value=-1.0))
    features, lengths = frontend.batch([speech_like, speech_like[:3000]])
    assert features.shape == (2, 64, 64)
    assert lengths.tolist() == [50, 18]
    alone, _ = frontend(speech_like[:3000])
    np.testing.assert_array_equal(features[1, :, : alone.shape[1]], alone)
    assert (features[1, :, 18:] == -1).all()


@pytest.mark.parametrize(
    ("waveform", "problem"),
    [
        (np.zeros(319, np.float32), "fewer than two frames"),
        (np.zeros(0, np.float32), "fewer than two frames"),
        (np.zeros((2, 1000), np.float32), "mono"),
        (np.full(1000, np.nan, np.float32), "NaN"),
    ],
)
def test_refuses_unusable_waveforms(waveform: np.ndarray, problem: str) -> None:
    with pytest.raises(AudioError, match=problem):
        Frontend(FrontendConfig())(waveform)


def test_silence_is_finite() -> None:
    features, _ = Frontend(FrontendConfig())(np.zeros(16000, np.float32))
    assert np.abs(features).max() < 1


def test_empty_batch_is_refused() -> None:
    with pytest.raises(AudioError, match="no waveforms"):
        Frontend(FrontendConfig()).batch([])


def test_filters_are_those_of_the_real_checkpoint(test_data: Path) -> None:
    from zeroq_asr.checkpoints.archive import open_tar
    from zeroq_asr.checkpoints.pickles import load_tensors

    for name, config in {
        "quartznet15x5": FrontendConfig(),
        "citrinet_tiny": FrontendConfig(features=80),
    }.items():
        path = test_data / "models" / f"{name}.nemo"
        with open_tar(path) as files, files.open("model_weights.ckpt") as stream:
            state = load_tensors(path, stream)
        theirs = state["preprocessor.featurizer.fb"][0].numpy()
        np.testing.assert_allclose(mel_filterbank(config), theirs, atol=1e-6)


def waveform(**options: object) -> FrontendConfig:
    defaults = {"kind": "waveform", "features": 1, "normalize": "unit_variance", "window_size": 0.025}
    return FrontendConfig.from_dict({**defaults, "pad_to": 0, **options})


def test_a_waveform_is_its_own_feature(speech_like: np.ndarray) -> None:
    config = waveform()
    assert FrontendConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.frames_per_second, config.hop_length, config.min_samples) == (16000, 1, 400)
    assert config.frames(8000) == 8000
    features, lengths = Frontend(config).batch([speech_like + 0.1, speech_like[:3000]])
    assert features.shape == (2, 1, 8000)
    assert lengths.tolist() == [8000, 3000]
    for row, wave in enumerate((speech_like + 0.1, speech_like[:3000])):
        x = wave.astype(np.float64)
        expected = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
        np.testing.assert_allclose(features[row, 0, : len(wave)], expected, atol=1e-5)
    assert not features[1, 0, 3000:].any()


def test_a_waveform_as_it_is(speech_like: np.ndarray) -> None:
    frontend = Frontend(waveform(normalize=None, pad_to=16, pad_value=-1.0))
    features, length = frontend(speech_like[:1001])
    assert features.shape == (1, 1008)
    np.testing.assert_array_equal(features[0, :length], speech_like[:1001])
    assert (features[0, length:] == -1).all()


def test_a_waveform_of_silence_is_finite() -> None:
    features, _ = Frontend(waveform())(np.full(400, 0.5, np.float32))
    assert not features.any()


def test_a_waveform_must_give_a_frame() -> None:
    with pytest.raises(AudioError, match=r"399 samples are fewer than one encoded frame takes \(400"):
        Frontend(waveform())(np.zeros(399, np.float32))


def test_files_from_before_waveforms_stay_as_they_are() -> None:
    assert "kind" not in FrontendConfig().to_dict()
    assert waveform().to_dict()["kind"] == "waveform"


def frames_of(samples: np.ndarray) -> np.ndarray:
    """Peaks of the samples in every hundredth of a second, four times."""
    usable = len(samples) // 160 * 160
    return np.repeat(np.abs(samples[:usable]).reshape(-1, 160).max(axis=1)[None], 4, axis=0)


def test_a_function_makes_the_features() -> None:
    config = FrontendConfig(features=4, normalize=None, pad_to=8, pad_value=-1.0, function=frames_of)
    samples = np.linspace(0, 1, 160 * 11 + 5, dtype=np.float32)
    features, length = Frontend(config)(samples)
    assert (features.shape, features.dtype, length) == ((4, 16), np.float32, 11)
    np.testing.assert_array_equal(features[:, :11], frames_of(samples))
    assert (features[:, 11:] == -1).all()
    batch, lengths = Frontend(config).batch([samples, samples[:800]])
    assert lengths.tolist() == [11, 5]
    np.testing.assert_array_equal(batch[1, :, :5], frames_of(samples[:800]))
    # as any other, what is no recording is refused before it is asked
    with pytest.raises(AudioError, match="contains NaN"):
        Frontend(config)(np.full(800, np.nan, np.float32))


def test_a_function_may_not_change_what_it_is_given() -> None:
    def spoils(samples: np.ndarray) -> np.ndarray:
        samples *= 0
        return torch.ones(4, 2)

    samples = np.ones(800, np.float32)
    features, _ = Frontend(FrontendConfig(features=4, pad_to=0, function=spoils))(samples)
    assert samples.all()
    assert features.shape == (4, 2)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (np.zeros((3, 5)), r"test_frontend\.\S*made: gives \[3, 5\] of 800 samples, expected \[4, T\]"),
        (np.zeros(5), r"gives \[5\] of 800 samples"),
        (np.zeros((4, 0)), r"gives \[4, 0\]"),
        (np.full((4, 5), np.inf), "not finite"),
        (np.full((4, 5), "x"), "not finite numbers"),
        ([[1.0, 2.0], [1.0]], "gives no array"),
        (None, r"gives \[\] of 800 samples"),
    ],
)
def test_a_function_that_gives_something_else_is_named(made: object, words: str) -> None:
    def function_made(samples: np.ndarray) -> object:
        return made

    with pytest.raises(ConfigError, match=words):
        Frontend(FrontendConfig(features=4, function=function_made))(np.ones(800, np.float32))


def test_files_keep_the_name_of_a_function() -> None:
    config = FrontendConfig(features=4, function=frames_of)
    stored = json.loads(json.dumps(config.to_dict()))
    assert stored["function"].endswith("test_frontend.frames_of")
    named = FrontendConfig.from_dict(stored)
    assert named.to_dict() == stored
    with pytest.raises(
        ConfigError, match=r"frontend: is the Python function '\S*frames_of', which is not here"
    ):
        Frontend(named)
    assert named.with_function(frames_of) == config
    assert FrontendConfig(function=np.abs).function_name == "numpy.absolute"
    # other files stay the same, byte for byte
    assert "function" not in FrontendConfig().to_dict()


@pytest.mark.parametrize("function", ["", "x" * 201, 3])
def test_what_is_no_function_is_refused(function: object) -> None:
    with pytest.raises(ConfigError, match="function"):
        FrontendConfig(function=function)  # type: ignore[arg-type]  # wrong types are the point


def test_what_is_given_as_a_frontend() -> None:
    own = FrontendConfig(features=4)
    assert frontend_of(None, own) == own
    assert frontend_of(own, None) == own
    assert frontend_of(frames_of, own) == own.with_function(frames_of)
    with pytest.raises(ConfigError, match="a function says neither the rate"):
        frontend_of(frames_of, None)
    with pytest.raises(ConfigError, match="must be a FrontendConfig or a function, got 3"):
        frontend_of(3, own)  # type: ignore[arg-type]  # a wrong type is the point
