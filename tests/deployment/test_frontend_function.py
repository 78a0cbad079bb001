"""A frontend that is a function of one's own: what hears by it, what is calibrated by it, what refuses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app

FILES = zq.embedded_files()
HEARD = zq.CalibrationSpec(str(FILES.calibration), limit=2)


def own_features(samples: np.ndarray) -> np.ndarray:
    """What the small QuartzNet's own frontend gives, without what is padded."""
    features, length = zq.Frontend(zq.embedded_model().frontend)(samples)
    return features[:, :length]


def nothing(samples: np.ndarray) -> np.ndarray:
    return np.zeros((64, 1 + len(samples) // 160), np.float32)


@pytest.fixture(scope="module")
def model() -> zq.AsrModel:
    made = zq.embedded_model()
    return dataclasses.replace(made, frontend=made.frontend.with_function(own_features))


@pytest.fixture(scope="module")
def quantized(model: zq.AsrModel, tmp_path_factory: pytest.TempPathFactory) -> zq.Quantized:
    path = tmp_path_factory.mktemp("function") / "function.onnx"
    return zq.quantize(model, path, calibration=HEARD)


@pytest.fixture(scope="module")
def utterances() -> list[zq.Utterance]:
    return zq.read_manifest(FILES.test)[:3]


def said(recognizer: Any, utterances: list[zq.Utterance]) -> list[str]:
    return zq.transcribe(recognizer, utterances)


def test_calibration_hears_by_the_function(model: zq.AsrModel, quantized: zq.Quantized) -> None:
    plain = zq.quantize(zq.embedded_model(), calibration=HEARD)
    assert quantized.program.digest() == plain.program.digest()
    deaf = dataclasses.replace(model, frontend=model.frontend.with_function(nothing))
    assert zq.quantize(deaf, calibration=HEARD).program.digest() != plain.program.digest()


def test_recognizers_hear_by_the_function(
    quantized: zq.Quantized, utterances: list[zq.Utterance], model: zq.AsrModel
) -> None:
    files: list[Any] = [zq.embedded_model(), FILES.model, quantized.path, quantized]
    expected = said(zq.open_recognizer(zq.embedded_model()), utterances)
    for file in files[:2]:
        assert said(zq.open_recognizer(file, frontend=own_features), utterances) == expected
        assert said(zq.open_recognizer(file, frontend=nothing), utterances) != expected
    assert said(zq.TorchRecognizer(model), utterances) == expected
    integers = said(zq.open_recognizer(quantized.path, frontend=model.frontend), utterances)
    for file in files[2:]:
        assert said(zq.open_recognizer(file, frontend=own_features), utterances) == integers
    beam = zq.open_recognizer(quantized.path, frontend=own_features, beam=zq.BeamSpec(2))
    assert len(said(beam, utterances)) == 3
    found = zq.evaluate(zq.open_recognizer(FILES.model, frontend=own_features), utterances)
    assert found.words == zq.evaluate(zq.open_recognizer(FILES.model), utterances).words


def test_transducers_hear_by_the_function(utterances: list[zq.Utterance]) -> None:
    made = zq.embedded_model("transducer")

    def own(samples: np.ndarray) -> np.ndarray:
        features, length = zq.Frontend(made.frontend)(samples)
        return features[:, :length]

    expected = said(zq.open_recognizer(made), utterances)
    assert said(zq.open_recognizer(made, frontend=own), utterances) == expected


def test_files_tell_of_the_function_and_are_verified(quantized: zq.Quantized) -> None:
    assert quantized.path is not None
    certificate = zq.verify(quantized.path)
    assert certificate.program_sha256 == quantized.program.digest()
    found = zq.inspect_file(quantized.path)
    assert found["frontend"]["function"].endswith("test_frontend_function.own_features")
    shown = CliRunner().invoke(app, ["inspect", str(quantized.path)])
    assert "by the Python function" in " ".join(shown.output.split())


def test_a_file_without_its_function_is_refused_by_name(
    quantized: zq.Quantized, utterances: list[zq.Utterance]
) -> None:
    with pytest.raises(zq.ConfigError, match=r"frontend: is the Python function '\S*own_features', which is"):
        said(zq.open_recognizer(quantized.path), utterances)
    run = CliRunner().invoke(app, ["transcribe", str(quantized.path), str(utterances[0].audio_path)])
    assert (run.exit_code, "own_features', which is not here" in run.stderr) == (2, True), run.output
    assert "Traceback" not in run.output


def test_what_cannot_carry_a_function_refuses_it_by_name(
    model: zq.AsrModel, quantized: zq.Quantized, tmp_path: Path
) -> None:
    words = r"frontend: is the Python function \S*own_features, for which no ONNX nodes stand"
    with pytest.raises(zq.ExportError, match=words):
        zq.quantize(model, tmp_path / "x.onnx", calibration=HEARD, with_frontend=True)
    assert quantized.path is not None
    with pytest.raises(zq.ExportError, match=words):
        zq.reexport(quantized.path, with_frontend=True)
    transducer = zq.embedded_model("transducer")
    with pytest.raises(zq.ExportError, match="for which no ONNX nodes stand"):
        zq.quantize_transducer(
            dataclasses.replace(transducer, frontend=transducer.frontend.with_function(nothing)),
            tmp_path / "x",
            with_frontend=True,
        )
    with pytest.raises(zq.ExportError, match=r"makes no such features: function is \S*own_features"):
        zq.runtime_folder(quantized.path, "sherpa-onnx")
    assert not [*tmp_path.iterdir()]
    # a checkpoint keeps the name, and says so when it is to hear
    zq.save_checkpoint(model, tmp_path / "model.pt")
    loaded = zq.load_checkpoint(tmp_path / "model.pt")
    assert loaded.frontend.function == model.frontend.function_name


def test_a_file_that_takes_audio_takes_no_frontend(tmp_path: Path) -> None:
    path = tmp_path / "audio.onnx"
    zq.quantize(zq.embedded_model(), path, calibration=HEARD, with_frontend=True)
    with pytest.raises(zq.CheckpointError, match="takes audio and computes its features itself"):
        zq.open_recognizer(path, frontend=own_features)


def test_a_function_alone_says_too_little() -> None:
    made = zq.embedded_model()
    with pytest.raises(zq.ConfigError, match="frontend is a function, which says neither its rate"):
        dataclasses.replace(made, frontend=own_features)  # type: ignore[arg-type]  # refused
