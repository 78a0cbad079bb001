"""Transducers on sherpa-onnx and onnx-asr themselves, against our own decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from jiwer import cer
from onnx import TensorProto, helper, numpy_helper
from quantized_transducers import quantized
from runtimes import required
from trained_transducers import speech

import zeroq_asr as zq
from zeroq_asr.decoding.transducer import Hypothesis
from zeroq_asr.deployment.export import export_bundle, write_bundle
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.bundle import Bundle

FAST = zq.SynthesisSpec.preset("fast")
TINY = ["conformer_rnnt_tiny", "fastconformer_tdt_tiny", "fastconformer_hybrid_tiny"]
#: tokens of one frame that sherpa-onnx takes at most, of a transducer without durations and with them
MOST = (10, 5)


def clips() -> list[np.ndarray]:
    """Every third clip of the package."""
    paths = (u.audio_path for u in zq.read_manifest(zq.embedded_files().test)[::3])
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def onnx_asr_of(folder: Path, frontend: zq.Frontend) -> Any:
    """onnx-asr on a folder, given the features of a frontend, as its own are of 80 or 128 mels alone."""
    required("onnx_asr")
    from onnx_asr.models.nemo import NemoConformerRnnt, NemoConformerTdt

    durations = "tdt" in (folder / "config.json").read_text()
    names = {"encoder": "encoder-model", "decoder_joint": "decoder_joint-model"}
    paths = {key: folder / f"{name}.onnx" for key, name in names.items()}
    paths |= {"vocab": folder / "vocab.txt", "config": folder / "config.json"}
    kind = NemoConformerTdt if durations else NemoConformerRnnt
    return kind(paths, lambda name: lambda x, n: frontend.batch([*x]), {})


def sherpa_of(folder: Path, mels: int) -> Any:
    parts = [str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt")]
    return required("sherpa_onnx").OfflineRecognizer.from_transducer(
        *parts, feature_dim=mels, model_type="nemo_transducer"
    )


def heard(recognizer: Any, clip: np.ndarray) -> Any:
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, clip)
    recognizer.decode_stream(stream)
    return stream.result


def give_encoding(file: Path, encoded: np.ndarray) -> None:
    """Put a file in the place of an encoder that gives integers [1, J, S] for any features.

    sherpa-onnx makes features of its own, so that only what it decodes can be compared for equality.
    """
    old = onnx.load(file)
    metadata = {one.key: one.value for one in old.metadata_props}
    constants = {"outputs": encoded.astype(np.float32), "encoded_lengths": np.array([encoded.shape[2]])}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in constants.items()
    ]
    outputs = [
        helper.make_tensor_value_info("outputs", TensorProto.FLOAT, encoded.shape),
        helper.make_tensor_value_info("encoded_lengths", TensorProto.INT64, [1]),
    ]
    graph = helper.make_graph(nodes, "encoding", [*old.graph.input], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, file)


def decoded_by_sherpa(
    bundle: Bundle, deployment: Deployment, utterances: Sequence[np.ndarray], folder: Path
) -> list[tuple[Any, Hypothesis]]:
    """What sherpa-onnx and we decode of every utterance's features [M, T], under its limit of tokens."""
    assert deployment.decoding is not None
    most = MOST[bool(deployment.decoding.durations)]
    decoding = dataclasses.replace(deployment.decoding, max_symbols=most)
    deployment = dataclasses.replace(deployment, decoding=decoding)
    write_bundle(folder / "bundle", export_bundle(bundle, deployment, "fused"), deployment)
    zq.runtime_folder(folder / "bundle", "sherpa-onnx").write(folder / "sherpa")
    ours = zq.IntegerTransducer.of_folder(folder / "bundle")
    found = []
    for features in utterances:
        given = (features[None], np.array([features.shape[1]]))
        encoded, ends = bundle.programs["encoder"].run(NumpyBackend(), *given)
        give_encoding(folder / "sherpa" / "encoder.onnx", encoded[:, :, : int(ends[0])])
        result = heard(sherpa_of(folder / "sherpa", len(features)), np.zeros(16000, np.float32))
        found.append((result, ours.hypotheses(*given)[0]))
    return found


def require_alike(found: list[tuple[Any, Hypothesis]], deployment: Deployment) -> None:
    assert sum(len(wanted.tokens) for _, wanted in found) > 5 * len(found)
    for result, wanted in found:
        tokens = [deployment.tokenizer.tokens[token] for token in wanted.tokens]
        assert result.tokens == tokens
        seconds = np.array(wanted.frames) * 0.01 * deployment.subsampling_factor
        np.testing.assert_allclose(result.timestamps, seconds, atol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "durations", "tanh"])
def test_sherpa_onnx_decodes_what_we_decode(kind: str, tmp_path: Path) -> None:
    made = quantized(kind)
    utterances = [*speech(4, 12, 3)[0].numpy()]
    require_alike(decoded_by_sherpa(made.bundle, made.deployment, utterances, tmp_path), made.deployment)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The transducer that comes with the package in both dialects, with a frame every 10 ms."""
    model = zq.embedded_model("transducer")
    assert isinstance(model, zq.TransducerModel)
    frontend = dataclasses.replace(model.frontend, window_stride=0.01)
    prepared = zq.prepare_transducer(dataclasses.replace(model, frontend=frontend), synthesis=FAST)
    folder = tmp_path_factory.mktemp("slow")
    for dialect in ("fused", "strict"):
        zq.quantize_transducer(prepared, folder / dialect, dialect=dialect)
    return {dialect: folder / dialect for dialect in ("fused", "strict")}


def transcripts(folder: Path) -> list[str]:
    paths = [u.audio_path for u in zq.read_manifest(zq.embedded_files().test)[::3]]
    return [str(text) for text in zq.transcribe(zq.open_recognizer(folder), paths)]


def test_onnx_asr_says_what_we_say(slow: dict[str, Path], tmp_path: Path) -> None:
    """Given our features: it makes none of 64 mels."""
    zq.runtime_folder(slow["fused"], "onnx-asr", own_features=True).write(tmp_path / "folder")
    frontend = zq.Frontend(zq.open_recognizer(slow["fused"]).frontend)
    network = onnx_asr_of(tmp_path / "folder", frontend)
    found = [next(network.recognize_batch(clip[None], np.array([len(clip)]))).text for clip in clips()]
    assert found == transcripts(slow["fused"])


def test_sherpa_onnx_says_nearly_what_we_say(slow: dict[str, Path], tmp_path: Path) -> None:
    """On features that are near ours and not equal; of either dialect the same, for so are its integers."""
    found = {}
    for dialect, source in slow.items():
        zq.runtime_folder(source, "sherpa-onnx").write(tmp_path / dialect)
        recognizer = sherpa_of(tmp_path / dialect, 64)
        found[dialect] = [heard(recognizer, clip).text for clip in clips()]
    assert found["fused"] == found["strict"]
    # 2.4 letters in a hundred of all clips
    assert cer(transcripts(slow["fused"]), [text.strip() for text in found["fused"]]) <= 0.04


@pytest.mark.parametrize("name", TINY)
def test_nemos_transducers_are_decoded_alike(test_data: Path, name: str, tmp_path: Path) -> None:
    model = zq.load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, zq.TransducerModel)
    made = zq.quantize_transducer(
        model, tmp_path / "made", spec=zq.QuantSpec(max_seconds=10.0), synthesis=FAST
    )
    zq.runtime_folder(tmp_path / "made", "onnx-asr").write(tmp_path / "onnx-asr")
    paths = [u.audio_path for u in zq.read_manifest(zq.embedded_files().test)[:2]]
    frontend = zq.Frontend(model.frontend)
    waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
    network = onnx_asr_of(tmp_path / "onnx-asr", frontend)
    ours = zq.IntegerTransducer.of_folder(tmp_path / "made")
    for wave in waves:
        (wanted,) = ours.hypotheses(*frontend.batch([wave]))
        (result,) = network.recognize_batch(wave[None], np.array([len(wave)]))
        assert result.tokens == [model.tokenizer.tokens[token] for token in wanted.tokens]
        np.testing.assert_allclose(
            result.timestamps, np.array(wanted.frames) * 0.01 * model.subsampling_factor
        )
    utterances = [frontend(wave)[0] for wave in waves]
    require_alike(decoded_by_sherpa(made.bundle, made.deployment, utterances, tmp_path), made.deployment)
    # with features of their own
    zq.runtime_folder(tmp_path / "made", "sherpa-onnx").write(tmp_path / "whole")
    onnx_asr, recognizer = required("onnx_asr"), sherpa_of(tmp_path / "whole", 80)
    kind = "nemo-conformer-tdt" if model.network.durations else "nemo-conformer-rnnt"
    assert onnx_asr.load_model(kind, tmp_path / "onnx-asr").recognize(waves[0], sample_rate=16000)
    assert heard(recognizer, waves[0]).tokens
