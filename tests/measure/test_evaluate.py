from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from zeroq_asr.deployment.recognizer import OnnxRecognizer, TorchRecognizer, is_onnx, open_recognizer
from zeroq_asr.errors import AudioError, CheckpointError, ConfigError, ManifestError, VerificationError
from zeroq_asr.measure.evaluate import ErrorCounts, count_errors, evaluate
from zeroq_asr.measure.recognize import transcribe
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.manifest import Utterance, read_manifest
from zeroq_asr.speech.tokenizer import Tokenizer

FRONTEND = FrontendConfig(features=8)
TOKENIZER = Tokenizer((" ", "a", "b"))
WEIGHTS = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


class Linear(nn.Module):
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return features.transpose(1, 2)[:, ::2] @ torch.from_numpy(WEIGHTS), (lengths + 1) // 2


class Fixed:
    """A recogniser that says what it is told, one word a call, and keeps the batch shapes."""

    frontend, tokenizer, name, max_seconds = FRONTEND, TOKENIZER, "fixed", 2.0
    subsampling_factor: int | None = None

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def log_probs(self, features, lengths):
        self.shapes.append(features.shape)
        scores = np.zeros((len(features), 3, 4), np.float32)
        for row, length in zip(scores, lengths, strict=True):
            # "a" for recordings below one second, "a b" for others
            for frame, token in enumerate((1, 3, 3) if length < 100 else (1, 0, 2)):
                row[frame, token] = 1
        return scores, np.full(len(features), 3)


@pytest.fixture
def model() -> AsrModel:
    return AsrModel(Linear().eval(), FRONTEND, TOKENIZER, "linear", subsampling_factor=2)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(1)
    paths = []
    for number, seconds in enumerate((0.5, 1.5, 0.7)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, (rng.standard_normal(int(16000 * seconds)) * 0.1).astype(np.float32), 16000)
        paths.append(path)
    return paths


def _onnx(path: Path, *, lengths: bool = True, metadata: dict[str, str] | None = None, **names: str) -> Path:
    """Write `Linear` with a log-softmax as ONNX."""
    signal, output = names.get("signal", "audio_signal"), names.get("output", "logprobs")
    nodes = [
        helper.make_node("Transpose", [signal], ["t"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["t", "zero", "end", "one", "two"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], [output], axis=-1),
    ]
    constants = {
        "zero": np.array([0]),
        "end": np.array([1 << 40]),
        "one": np.array([1]),
        "two": np.array([2]),
        "w": WEIGHTS,
    }
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", "S", 4])]
    if lengths:
        nodes += [
            helper.make_node("Add", ["length", "one"], ["sum"]),
            helper.make_node("Div", ["sum", "two"], ["encoded_lengths"]),
        ]
        outputs.append(helper.make_tensor_value_info("encoded_lengths", TensorProto.INT64, ["B"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info(signal, TensorProto.FLOAT, ["B", 8, "T"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["B"]),
        ],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, metadata or {})
    path.write_bytes(proto.SerializeToString())
    return path


def _own(**changes) -> dict[str, str]:
    own = {
        "frontend": FRONTEND.to_dict(),
        "tokenizer": TOKENIZER.to_dict(),
        "name": "mine",
        "max_seconds": 1.0,
        "subsampling_factor": 1,
        "recipe": {},
        "dialect": "float",
        "version": "1",
    }
    return {"zeroq_asr": json.dumps({**own, **changes})}


def test_counts() -> None:
    words, characters = count_errors(["The  cat SAT", "on"], ["the cat sits", "on it"])
    assert words == ErrorCounts(hits=3, substitutions=1, deletions=0, insertions=1)
    assert words.rate == pytest.approx(2 / 4)
    assert characters.length == len("the cat sat") + len("on")
    assert words.to_dict()["errors"] == 2


@pytest.mark.parametrize(
    ("references", "hypotheses", "expected", "rate"),
    [
        ([""], [""], ErrorCounts(0, 0, 0, 0), None),
        ([""], ["a b"], ErrorCounts(0, 0, 0, 2), None),
        (["", "a"], ["b", "a"], ErrorCounts(1, 0, 0, 1), 1.0),
        (["a b"], [""], ErrorCounts(0, 0, 2, 0), 1.0),
        (["a"], ["a"], ErrorCounts(1, 0, 0, 0), 0.0),
        ([], [], ErrorCounts(0, 0, 0, 0), None),
    ],
)
def test_empty_texts(references, hypotheses, expected, rate) -> None:
    words, _ = count_errors(references, hypotheses)
    assert words == expected
    assert words.rate == rate


def test_count_errors_wants_pairs() -> None:
    with pytest.raises(ConfigError, match="1 references but 2"):
        count_errors(["a"], ["a", "b"])


@pytest.mark.parametrize(("batch_size", "by_duration"), [(1, False), (2, False), (2, True), (5, True)])
def test_evaluation(recordings: list[Path], batch_size: int, by_duration: bool) -> None:
    utterances = [
        Utterance(recordings[0], 0.5, "A"),
        Utterance(recordings[1], None, "a  a"),
        Utterance(recordings[2], 0.7, ""),
    ]
    recognizer, reports = Fixed(), []
    result = evaluate(
        recognizer,
        utterances,
        batch_size=batch_size,
        by_duration=by_duration,
        progress=lambda *report: reports.append(report[:3]),
    )
    assert [t.hypothesis for t in result.transcripts] == ["a", "a b", "a"]
    assert [t.reference for t in result.transcripts] == ["a", "a a", ""]
    assert result.words == ErrorCounts(hits=2, substitutions=1, deletions=0, insertions=1)
    assert result.audio_seconds == pytest.approx(2.7)
    assert 0 < result.network_seconds <= result.seconds
    assert result.real_time_factor == result.seconds / result.audio_seconds
    assert (reports[0], reports[-1]) == (("evaluate", 0, 3), ("evaluate", 3, 3))
    assert len(recognizer.shapes) == -(-3 // batch_size)
    if by_duration:
        assert recognizer.shapes[0][2] >= 150  # the longest comes first
    data = json.loads(json.dumps(result.to_dict()))
    assert data["words"]["rate"] == pytest.approx(2 / 3)
    assert data["transcripts"][1]["hypothesis"] == "a b"


def test_evaluation_refuses(recordings: list[Path]) -> None:
    with pytest.raises(ManifestError, match="has no text"):
        evaluate(Fixed(), [Utterance(recordings[0])])
    with pytest.raises(ManifestError, match="no utterances"):
        evaluate(Fixed(), [])
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(Fixed(), [Utterance(recordings[0], None, "a")], batch_size=0)


def test_transcribe_takes_paths_and_samples(recordings: list[Path]) -> None:
    samples, _ = soundfile.read(recordings[0], dtype="float32")
    assert transcribe(Fixed(), [recordings[1], samples, str(recordings[2])], 2) == ["a b", "a", "a"]
    assert transcribe(Fixed(), []) == []


def test_too_long_for_the_proof(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(32001, np.float32), 16000)
    with pytest.raises(AudioError, match=r"lasts 2\.000062 s.*at most 2 s.*--max-seconds"):
        evaluate(Fixed(), [Utterance(tmp_path / "long.wav", None, "a")])


def test_onnx_equals_torch(model: AsrModel, recordings: list[Path], tmp_path: Path) -> None:
    recognizer = open_recognizer(_onnx(tmp_path / "m.onnx", metadata=_own()), threads=1)
    assert (recognizer.name, recognizer.max_seconds) == ("mine", 1.0)
    assert (recognizer.frontend, recognizer.tokenizer) == (FRONTEND, TOKENIZER)
    features = np.random.default_rng(2).standard_normal((2, 8, 11)).astype(np.float32)
    lengths = np.array([11, 6])
    expected, expected_lengths = TorchRecognizer(model).log_probs(features, lengths)
    scores, encoded = recognizer.log_probs(features, lengths)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert encoded.tolist() == expected_lengths.tolist() == [6, 3]
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1, rtol=1e-5)
    with pytest.raises(AudioError, match="mine is proven for at most 1 s"):
        evaluate(recognizer, [Utterance(path, None, "a") for path in recordings])


@pytest.mark.parametrize("metadata", [{}, {"subsampling_factor": "2"}, {"subsampling_factor": "x"}])
def test_foreign_onnx(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = _onnx(tmp_path / "foreign.onnx", lengths=False, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"a frontend is missing.*--checkpoint"):
        OnnxRecognizer(path)
    with pytest.raises(CheckpointError, match="a tokenizer is missing"):
        OnnxRecognizer(path, frontend=FRONTEND)
    recognizer = OnnxRecognizer(path, frontend=FRONTEND, tokenizer=TOKENIZER)
    assert (recognizer.name, recognizer.max_seconds) == ("foreign", None)
    features = np.zeros((2, 8, 13), np.float32)
    assert recognizer.log_probs(features, np.array([13, 4]))[1].tolist() == [7, 2]


def test_foreign_onnx_borrows_from_its_checkpoint(
    tmp_path: Path, model: AsrModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeroq_asr.deployment.recognizer.load_model", lambda path, **options: model)
    path = _onnx(tmp_path / "foreign.onnx", lengths=False)
    recognizer = open_recognizer(path, checkpoint="model.nemo")
    assert recognizer.tokenizer is model.tokenizer
    assert isinstance(open_recognizer(tmp_path / "model.nemo"), TorchRecognizer)
    assert isinstance(open_recognizer(path, loader="mine:load"), TorchRecognizer)


@pytest.mark.parametrize(
    ("names", "problem"),
    [({"signal": "waveform"}, "takes"), ({"output": "softmax"}, "a recogniser gives logprobs")],
)
def test_other_networks_are_refused(tmp_path: Path, names: dict[str, str], problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        OnnxRecognizer(_onnx(tmp_path / "m.onnx", **names))


@pytest.mark.parametrize(
    "metadata",
    [
        {"zeroq_asr": "{"},
        {"zeroq_asr": "[]"},
        _own(frontend={"colour": 1}),
        _own(tokenizer={}),
        _own(max_seconds="long"),
        _own(max_seconds=-1),
        _own(max_seconds=10**400),
        _own(max_seconds=float("nan")),
        _own(name="a\nb"),
        _own(recipe=[]),
        _own(recipe={"quantization": {"weight_bits": "many"}}),
        _own(recipe={"quantization": 8}),
        _own(subsampling_factor=-1),
        _own(subsampling_factor="x\n"),
        _own(colour=1),
        _own(dialect="strict"),
        _own(format=3),
    ],
)
def test_damaged_metadata(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(VerificationError, match="damaged"):
        OnnxRecognizer(_onnx(tmp_path / "m.onnx", metadata=metadata))


def test_scores_must_fit_the_tokenizer(tmp_path: Path, model: AsrModel) -> None:
    features, lengths = np.zeros((1, 8, 4), np.float32), np.array([4])
    other = Tokenizer((" ", "a"))
    path = _onnx(tmp_path / "m.onnx", metadata=_own(tokenizer=other.to_dict()))
    with pytest.raises(CheckpointError, match="tokenizer"):
        OnnxRecognizer(path).log_probs(features, lengths)
    with pytest.raises(CheckpointError, match="tokenizer"):
        TorchRecognizer(AsrModel(model.network, FRONTEND, other, "m")).log_probs(features, lengths)


@pytest.mark.parametrize("data", [b"", b"\x08\x08", b"\x08\x08garbage garbage", b"not onnx", "truncated"])
def test_unreadable_onnx_is_one_line(tmp_path: Path, data: bytes | str, capfd) -> None:
    path = _onnx(tmp_path / "m.onnx", metadata=_own())
    path.write_bytes(path.read_bytes()[:200] if isinstance(data, str) else data)
    with pytest.raises(CheckpointError) as caught:
        open_recognizer(path)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert capfd.readouterr() == ("", "")


def test_failing_onnx_is_one_line(tmp_path: Path, capfd) -> None:
    recognizer = OnnxRecognizer(_onnx(tmp_path / "m.onnx", metadata=_own()))
    with pytest.raises(CheckpointError, match=r"fails on features \[1, 9, 4\]") as caught:
        recognizer.log_probs(np.zeros((1, 9, 4), np.float32), np.array([4]))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_missing_file_and_bad_threads(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_recognizer(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError):
        open_recognizer(tmp_path / "none.nemo")
    with pytest.raises(ConfigError, match="threads"):
        open_recognizer(_onnx(tmp_path / "m.onnx", metadata=_own()), threads=0)


def test_onnx_is_known_by_content(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "model.bin", metadata=_own())
    assert is_onnx(path)
    assert isinstance(open_recognizer(path), OnnxRecognizer)
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    assert not is_onnx(tmp_path / "x.pt")
    assert onnx.load(path).ir_version == 8


def test_real_quartznet(test_data: Path) -> None:
    utterances = read_manifest(test_data / "speech" / "librispeech-test-other")[:6]
    recognizer = open_recognizer(test_data / "models" / "quartznet15x5.nemo")
    result = evaluate(recognizer, utterances, batch_size=3, by_duration=True)
    assert result.words.rate is not None
    assert result.words.rate < 0.15
