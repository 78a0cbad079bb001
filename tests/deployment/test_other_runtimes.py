"""The small Conformer and QuartzNet on the runtimes that users have, against ONNX Runtime and ourselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from jiwer import cer, wer
from runtimes import required

import zeroq_asr as zq
from zeroq_asr.deployment.export import export

NETWORKS = ("quartznet", "conformer")
#: every second clip is enough
_CLIPS = slice(None, None, 2)
#: of 30 clips, those that a runtime may spell otherwise where only roundings differ
_OTHERS = 2
#: largest share of frames with another best token: of qdq against integers, of OpenVINO against ONNX Runtime
_SHARE = 0.02

Log = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def made() -> dict[str, zq.Quantized]:
    demo, fast = zq.embedded_files(), zq.SynthesisSpec.preset("fast")
    sources = {"quartznet": demo.model, "conformer": demo.conformer}
    return {name: zq.quantize(zq.load_checkpoint(source), synthesis=fast) for name, source in sources.items()}


@pytest.fixture(scope="module")
def files(made: dict[str, zq.Quantized], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """NAME.DIALECT, and NAME.slow: of a frame every 10 ms."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name, one in made.items():
        slow = replace(one.deployment.frontend, window_stride=0.01)
        surroundings = {dialect: (one.deployment, dialect) for dialect in ("fused", "qdq")}
        surroundings["slow"] = (replace(one.deployment, frontend=slow, max_seconds=40.0), "fused")
        for label, (deployment, dialect) in surroundings.items():
            found[f"{name}.{label}"] = folder / f"{name}.{label}.onnx"
            found[f"{name}.{label}"].write_bytes(export(one.program, deployment, dialect).to_bytes())
    return found


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    paths = (u.audio_path for u in zq.read_manifest(zq.embedded_files().test)[_CLIPS])
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def transcripts(file: Path) -> list[str]:
    paths = [u.audio_path for u in zq.read_manifest(zq.embedded_files().test)[_CLIPS]]
    return [str(text) for text in zq.transcribe(zq.OnnxRecognizer(file), paths)]


def best_of(scores: Log, frontend: zq.Frontend, clips: list[np.ndarray], encoded: Log) -> list[np.ndarray]:
    """The best token of every valid frame of every clip; ``encoded`` says which are valid."""
    found = []
    for clip in clips:
        features, lengths = frontend.batch([clip])
        frames = int(encoded(features, lengths)[1][0])
        found.append(scores(features, lengths)[0][0, :frames].argmax(axis=-1))
    return found


def text_of(best: np.ndarray, tokenizer: zq.Tokenizer) -> str:
    kept = [b for i, b in enumerate(best) if b != tokenizer.blank_id and (i == 0 or b != best[i - 1])]
    return tokenizer.decode(map(int, kept))


@pytest.mark.parametrize("name", NETWORKS)
def test_qdq_is_near_the_integers_and_openvino_near_it(
    files: dict[str, Path], clips: list[np.ndarray], name: str
) -> None:
    exact, near = zq.OnnxRecognizer(files[f"{name}.fused"]), zq.OnnxRecognizer(files[f"{name}.qdq"])
    frontend = zq.Frontend(exact.frontend)
    wanted = best_of(exact.log_probs, frontend, clips, exact.log_probs)
    found = best_of(near.log_probs, frontend, clips, exact.log_probs)
    assert np.mean(np.concatenate(found) != np.concatenate(wanted)) <= _SHARE

    openvino = required("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(files[f"{name}.qdq"], "CPU", options)

    def elsewhere(features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        results = compiled({"audio_signal": features, "length": lengths})
        return results["logprobs"], results["encoded_lengths"]

    other = best_of(elsewhere, frontend, clips, exact.log_probs)
    assert np.mean(np.concatenate(other) != np.concatenate(found)) <= _SHARE
    texts = [[text_of(best, exact.tokenizer) for best in each] for each in (found, other)]
    assert sum(a != b for a, b in zip(*texts, strict=True)) <= _OTHERS


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_asr_says_what_we_say(
    files: dict[str, Path], clips: list[np.ndarray], name: str, tmp_path: Path
) -> None:
    """Given our features: it makes none of 64 mels, every 12.5 ms."""
    required("onnx_asr")
    from onnx_asr.models.nemo import NemoConformerCtc

    file = files[f"{name}.fused"]
    zq.runtime_folder(file, "onnx-asr", own_features=True).write(tmp_path / "folder")
    frontend = zq.Frontend(zq.OnnxRecognizer(file).frontend)
    names = {"model": "model.onnx", "vocab": "vocab.txt", "config": "config.json"}
    paths = {key: tmp_path / "folder" / value for key, value in names.items()}
    network = NemoConformerCtc(paths, lambda name: lambda x, n: frontend.batch([*x]), {})
    found = [next(network.recognize_batch(clip[None], np.array([len(clip)]))).text for clip in clips]
    assert found == transcripts(file)


@pytest.mark.parametrize("name", NETWORKS)
def test_sherpa_onnx_says_nearly_what_we_say(
    files: dict[str, Path], clips: list[np.ndarray], name: str, tmp_path: Path
) -> None:
    """Of a frame every 10 ms, the only step that it makes, on features that are near ours and not equal."""
    sherpa = required("sherpa_onnx")
    file = files[f"{name}.slow"]
    zq.runtime_folder(file, "sherpa-onnx").write(tmp_path / "folder")
    model, tokens = (str(tmp_path / "folder" / name) for name in ("model.onnx", "tokens.txt"))
    recognizer: Any = sherpa.OfflineRecognizer.from_nemo_ctc(model, tokens, feature_dim=64)
    found = []
    for clip in clips:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, clip)
        recognizer.decode_stream(stream)
        found.append(stream.result.text.strip())
    # 0.9 and 1.6 letters in a hundred
    assert cer(transcripts(file), found) <= 0.03


def test_a_real_conformer_reads_alike(test_data: Path, tmp_path: Path) -> None:
    """Conformer-CTC small, whose features both runtimes make: 80 mels every 10 ms.

    onnx-asr's are ours to 10^-4, so that a byte of the input here and there is rounded to its neighbour.
    """
    onnx_asr, sherpa = required("onnx_asr"), required("sherpa_onnx")
    file = tmp_path / "conformer.onnx"
    checkpoint = test_data / "models" / "conformer_ctc_small.nemo"
    zq.quantize(checkpoint, file, synthesis=zq.SynthesisSpec.preset("fast"))
    manifest = test_data / "speech" / "librispeech-test-other" / "manifest.jsonl"
    paths = [u.audio_path for u in zq.read_manifest(manifest)[:20]]
    wanted = [str(text) for text in zq.transcribe(zq.OnnxRecognizer(file), paths)]
    for runtime in ("onnx-asr", "sherpa-onnx"):
        zq.runtime_folder(file, runtime).write(tmp_path / runtime)
    recognizer: Any = onnx_asr.load_model("nemo-conformer-ctc", tmp_path / "onnx-asr")
    model, tokens = (str(tmp_path / "sherpa-onnx" / name) for name in ("model.onnx", "tokens.txt"))
    streams: Any = sherpa.OfflineRecognizer.from_nemo_ctc(model, tokens)
    found: dict[str, list[str]] = {"onnx-asr": [], "sherpa-onnx": []}
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        found["onnx-asr"].append(recognizer.recognize(samples, sample_rate=rate))
        stream = streams.create_stream()
        stream.accept_waveform(rate, samples)
        streams.decode_stream(stream)
        found["sherpa-onnx"].append(stream.result.text.strip())
    # 3.0 words in a hundred of both
    assert wer(wanted, found["onnx-asr"]) <= 0.05
    assert wer(wanted, found["sherpa-onnx"]) <= 0.06
