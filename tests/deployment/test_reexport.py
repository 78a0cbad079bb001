"""Files that take audio: the integers of those that take features, verified, run, and written both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from small_transducers import nemo_config, nemo_state
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.deployment.frontend_graph import PREFIX

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=2)
CLIPS = [one.audio_path for one in zq.read_manifest(zq.embedded_files().test)[:4]]


@pytest.fixture(scope="module")
def folder(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's files of each dialect, DIALECT.onnx of features and DIALECT.audio.onnx of audio."""
    made = tmp_path_factory.mktemp("audio")
    prepared = zq.prepare(small_model, synthesis=FAST)
    for dialect in ("fused", "strict", "qdq"):
        zq.quantize(prepared, made / f"{dialect}.onnx", dialect=dialect)
        zq.quantize(prepared, made / f"{dialect}.audio.onnx", dialect=dialect, with_frontend=True)
    return made


@pytest.mark.parametrize("dialect", ["fused", "strict", "qdq"])
def test_audio_gives_what_its_features_give(folder: Path, dialect: str) -> None:
    session = ort.InferenceSession(folder / f"{dialect}.audio.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("audio", "tensor(float)", ["batch", "samples"]),
        ("audio_length", "tensor(int64)", ["batch"]),
    ]
    plain, audio = (zq.OnnxRecognizer(folder / f"{dialect}{kind}.onnx") for kind in ("", ".audio"))
    assert (plain.takes_audio, audio.takes_audio) == (False, True)
    samples = np.random.default_rng(0).standard_normal(30000).astype(np.float32) * 0.1
    waveforms = [samples, samples[:7000]]
    scores, lengths = plain.log_probs(*zq.Frontend(plain.frontend).batch(waveforms))
    found, encoded = audio.log_probs(*zq.Frontend(audio.frontend).batch(waveforms))
    assert np.array_equal(encoded, lengths)
    # a feature that lies between two bytes may be rounded to either
    assert np.abs(found - scores)[:, : lengths.min()].mean() < 0.01
    for batch_size in (1, 3):
        words = zq.recognize([audio], CLIPS, batch_size=batch_size)
        assert [one.words for one in words] == [one.words for one in zq.recognize([plain], CLIPS)]


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_the_certificate_names_the_frontend(folder: Path, dialect: str) -> None:
    plain, audio = (zq.verify(folder / f"{dialect}{kind}.onnx") for kind in ("", ".audio"))
    assert audio.program_sha256 == plain.program_sha256
    assert audio.float_tensors == plain.float_tensors
    assert audio.integer_only
    assert not plain.frontend
    assert audio.frontend["Conv"] == 2
    assert sum(audio.nodes.values()) == sum(plain.nodes.values()) + sum(audio.frontend.values())
    result = CliRunner().invoke(app, ["verify", str(folder / f"{dialect}.audio.onnx")])
    assert "frontend  in the file, in float" in result.output
    assert ("its frontend is float" in result.output) == (dialect == "strict")
    assert audio.onnxruntime == plain.onnxruntime


def test_a_changed_frontend_is_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "strict.audio.onnx")
    constant = next(t for t in model.graph.initializer if t.name.startswith(PREFIX) and len(t.dims) == 2)
    changed = numpy_helper.to_array(constant).copy()
    changed.flat[0] += 1
    constant.CopyFrom(numpy_helper.from_array(changed, constant.name))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(zq.VerificationError, match="not the export"):
        zq.verify(tmp_path / "x.onnx")


def test_a_file_is_written_again_either_way(folder: Path, tmp_path: Path) -> None:
    for first, option, second in (
        ("fused.onnx", "--with-frontend", "fused.audio.onnx"),
        ("strict.audio.onnx", "--without-frontend", "strict.onnx"),
    ):
        out = tmp_path / second
        result = CliRunner().invoke(app, ["export", str(folder / first), option, "-o", str(out), "--json"])
        assert result.exit_code == 0, result.output
        assert out.read_bytes() == (folder / second).read_bytes()
        assert json.loads(result.stdout)["program_sha256"] == {
            "network": zq.verify(folder / first).program_sha256
        }
    made = zq.reexport((folder / "fused.onnx").read_bytes(), with_frontend=True)
    assert made.size == (folder / "fused.audio.onnx").stat().st_size
    assert "takes audio" in repr(made)


def test_what_takes_no_audio_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(zq.ExportError, match="takes audio, and sherpa-onnx gives"):
        zq.runtime_folder(folder / "fused.audio.onnx", "sherpa-onnx")
    with pytest.raises(zq.CheckpointError, match="takes audio: bench measures networks"):
        zq.bench([folder / "fused.audio.onnx"], seconds=[1.0], rounds=1)
    with pytest.raises(zq.VerificationError, match="qdq"):
        zq.reexport(folder / "qdq.onnx", with_frontend=True)
    result = CliRunner().invoke(app, ["export", str(folder / "fused.onnx"), "-o", str(folder / "fused.onnx")])
    assert (result.exit_code, "is the input itself" in result.output) == (2, True), result.output
    assert zq.inspect_file(folder / "fused.audio.onnx")["with_frontend"] is True


def test_a_transducer_takes_audio(tmp_path: Path, write_nemo: Callable[..., Path]) -> None:
    config = nemo_config(durations=(0, 1, 2))
    path = write_nemo(config, nemo_state(config), name="transducer.nemo")
    made = zq.quantize_transducer(path, tmp_path / "features", synthesis=FAST)
    again = zq.reexport(tmp_path / "features", with_frontend=True)
    again.write(tmp_path / "audio")
    assert again.programs == {part: program.digest() for part, program in made.bundle.programs.items()}
    certificate = zq.verify(tmp_path / "audio")
    assert certificate.program_sha256 == made.bundle.digest()
    assert certificate.frontend == certificate.parts["encoder"].frontend
    plain, audio = (zq.open_recognizer(tmp_path / name) for name in ("features", "audio"))
    assert [one.words for one in zq.recognize(audio, CLIPS)] == [
        one.words for one in zq.recognize(plain, CLIPS)
    ]
