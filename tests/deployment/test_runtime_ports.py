"""Transducers with the ports of other runtimes: the same integers, verified whole, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from quantized_transducers import quantized
from trained_transducers import BLANK, speech
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.config.choices import RUNTIMES
from zeroq_asr.deployment.export import bundle_files, export_bundle, write_bundle
from zeroq_asr.deployment.metadata import Decoding, Deployment, RuntimePorts
from zeroq_asr.deployment.runtime_ports import PREFIX
from zeroq_asr.integer.backends.numpy import NumpyBackend

#: tokens of one frame that sherpa-onnx takes, of a transducer without durations and with them
MOST = {"lstm": 10, "durations": 5}


def folder_of(kind: str, path: Path, dialect: str = "fused", symbols: int = 0) -> Path:
    made = quantized(kind)
    decoding = made.deployment.decoding
    assert decoding is not None
    decoding = dataclasses.replace(decoding, max_symbols=symbols or decoding.max_symbols)
    deployment = dataclasses.replace(made.deployment, decoding=decoding)
    write_bundle(path, export_bundle(made.bundle, deployment, dialect), deployment)
    return path


def written(source: Path, runtime: str, out: Path) -> Path:
    zq.runtime_folder(source, runtime, own_features=runtime == "onnx-asr").write(out)
    return out


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


class Files:
    """A folder's files, run by a runtime's ports: all float32, and states that are zeros at first."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.sherpa = runtime == "sherpa-onnx"
        names = ("encoder", "decoder", "joiner") if self.sherpa else ("encoder-model", "decoder_joint-model")
        self.encoder, self.decoder, *rest = (session(folder / f"{name}.onnx") for name in names)
        self.joiner = rest[0] if rest else None
        shapes = {one.name: one.shape for one in self.decoder.get_inputs()}
        layers, _, units = shapes["input_states_1"]
        self.start = [np.zeros((layers, 1, units), np.float32)] * 2

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs, ends = self.encoder.run(None, {"audio_signal": features, "length": lengths})
        assert (outputs.dtype, ends.dtype) == (np.float32, np.int64)
        return outputs.transpose(0, 2, 1), ends

    def scores(self, label: int, states: list[np.ndarray], frame: np.ndarray) -> tuple[np.ndarray, list[Any]]:
        given = {"targets": np.array([[label]], np.int32), "target_length": np.array([1], np.int32)}
        given |= dict(zip(("input_states_1", "input_states_2"), states, strict=True))
        encoded = {"encoder_outputs": frame[None, :, None]}
        if self.joiner is None:
            outputs, length, *after = self.decoder.run(None, given | encoded)
        else:
            predicted, length, *after = self.decoder.run(None, given)
            (outputs,) = self.joiner.run(None, encoded | {"decoder_outputs": predicted})
        assert length.tolist() == [1]
        assert outputs.dtype == np.float32
        return outputs[0, 0, 0], after

    def decode(self, frames: np.ndarray, decoding: Decoding) -> tuple[list[int], list[int]]:
        """The rules of both runtimes, which are those of ``greedy_transducer``."""
        tokens: list[int] = []
        at: list[int] = []
        t = given = 0
        states, label = self.start, BLANK
        while t < len(frames):
            scores, after = self.scores(label, states, frames[t])
            best = int(scores[: BLANK + 1].argmax())
            step = int(scores[BLANK + 1 :].argmax()) if decoding.durations else 0
            if best != BLANK:
                tokens.append(best)
                at.append(t)
                states, label, given = after, best, given + 1
            if step == 0 and (best == BLANK or given == decoding.max_symbols):
                step = 1
            t, given = t + step, 0 if step else given
        return tokens, at


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dialect", ["fused", "strict"])
@pytest.mark.parametrize("kind", ["lstm", "durations", "tanh"])
def test_files_say_what_the_programs_say(kind: str, dialect: str, runtime: str, tmp_path: Path) -> None:
    made = quantized(kind)
    source = folder_of(kind, tmp_path / "bundle", dialect)
    files = Files(written(source, runtime, tmp_path / "out"), runtime)
    features, _ = speech(4, 12, 3)
    lengths = np.array([features.shape[2]] * 3 + [60])
    wanted = zq.IntegerTransducer.of_programs(made.bundle, made.deployment)
    hypotheses = wanted.hypotheses(features.numpy(), lengths)
    assert sum(len(one.tokens) for one in hypotheses) > 20
    encoded, ends = files.encode(features.numpy(), lengths)
    assert made.deployment.decoding is not None
    for one, frames, end in zip(hypotheses, encoded, ends, strict=True):
        assert files.decode(frames[:end], made.deployment.decoding) == (one.tokens, one.frames)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_integer_crosses(runtime: str, tmp_path: Path) -> None:
    made = quantized("lstm")
    programs, backend = made.bundle.programs, NumpyBackend()
    files = Files(written(folder_of("lstm", tmp_path / "bundle"), runtime, tmp_path / "out"), runtime)
    generator = np.random.default_rng(0)
    predictor, joiner = programs["predictor"], programs["joiner"]
    first = [state.initial for state in predictor.states]
    assert first == [128, 0, 128, 0]
    integers, states = predictor.initial_states(batch=1), files.start
    scale = np.float32(joiner.values[joiner.outputs[0].value].scale)
    for _ in range(50):
        label = int(generator.integers(0, BLANK + 1))
        encoded = generator.integers(-32767, 32768, (1, int(joiner.inputs[0].dims[1]), 1)).astype(np.int32)
        predicted, *integers = predictor.run(backend, np.array([[[label]]], np.int32), *integers)
        (scores,) = joiner.run(backend, encoded, predicted)
        found, states = files.scores(label, states, encoded[0, :, 0].astype(np.float32))
        np.testing.assert_array_equal(found, scores[0, :, 0].astype(np.float32) * scale)
        # neighbours stay neighbours: the best score, and ties, are those of the integers
        np.testing.assert_array_equal(found[:, None] > found, scores[0] > scores[0].T)
        for k, whole in enumerate(states):
            for layer in range(2):
                wanted = integers[2 * layer + k][0, :, 0].astype(np.int64) - first[2 * layer + k]
                np.testing.assert_array_equal(whole[layer, 0], wanted)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_a_folder_is_verified_whole(dialect: str, runtime: str, tmp_path: Path) -> None:
    source = folder_of("durations", tmp_path / "bundle", dialect)
    out = written(source, runtime, tmp_path / "out")
    plain, ports = zq.verify(source), zq.verify(out)
    assert (ports.runtime, plain.runtime, plain.ports) == (runtime, "", {})
    assert ports.ports["Mul"] == 1
    assert sum(ports.nodes.values()) >= sum(ports.ports.values()) > 0
    assert ports.integer_only
    assert f"for {runtime}" in repr(ports)
    if dialect == "strict":
        assert ports.float_tensors == []
    if runtime == "sherpa-onnx":
        assert ports.program_sha256 == plain.program_sha256
        assert {name: one.program_sha256 for name, one in ports.parts.items()} == {
            name: one.program_sha256 for name, one in plain.parts.items()
        }
    else:
        assert [*ports.parts] == ["encoder", "decoder_joint"]
        assert ports.parts["encoder"].program_sha256 == plain.parts["encoder"].program_sha256
    result = CliRunner().invoke(app, ["verify", str(out)])
    assert f"float32, as {runtime} has them" in result.output
    assert (f"but for the ports of {runtime}." in result.output) == (dialect == "strict")
    assert zq.verify(next(out.glob("encoder*.onnx"))).runtime == runtime
    assert zq.inspect_file(out)["runtime"] == runtime
    assert zq.inspect_file(source)["runtime"] == ""
    assert zq.inspect_file(out)["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    # once more over what is there, with the same bytes
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    written(source, runtime, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def change(file: Path, text: bytes | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("tokens.txt", b"a 0\n", "tokens.txt: is not what the files beside it make"),
        ("tokens.txt", None, "tokens.txt"),
        ("vocab.txt", b"a 0\n", "vocab.txt: is not what the files beside it make"),
        ("bundle.json", b"{}", "does not list the files"),
        ("notes.onnx", b"", "notes.onnx"),
        ("joiner.onnx", None, "bundle"),
    ],
)
def test_what_was_changed_is_refused(name: str, text: bytes | None, problem: str, tmp_path: Path) -> None:
    out = written(folder_of("lstm", tmp_path / "bundle"), "sherpa-onnx", tmp_path / "out")
    zq.verify(out)
    change(out / name, text)
    with pytest.raises((zq.VerificationError, zq.CheckpointError), match=problem):
        zq.verify(out)


@pytest.mark.parametrize("what", ["node", "constant", "metadata"])
def test_a_changed_port_is_refused(what: str, tmp_path: Path) -> None:
    out = written(folder_of("lstm", tmp_path / "bundle", "strict"), "sherpa-onnx", tmp_path / "out")
    model = onnx.load(out / "joiner.onnx")
    if what == "node":
        next(node for node in model.graph.node if node.name.startswith(PREFIX)).name = f"{PREFIX}other"
    elif what == "constant":
        scale = next(one for one in model.graph.initializer if one.name.startswith(PREFIX))
        assert scale.data_type == onnx.TensorProto.FLOAT
        scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(-1), scale.name))
    else:
        model.metadata_props.add(key="url", value="tdt")
    onnx.save(model, out / "joiner.onnx")
    with pytest.raises(zq.VerificationError, match="not the export"):
        zq.verify(out)


def test_what_the_files_say_of_the_predictor_is_true(tmp_path: Path) -> None:
    made = quantized("lstm")
    right = RuntimePorts("sherpa-onnx", 2, 16)
    deployment = dataclasses.replace(made.deployment, runtime_ports=right)
    assert Deployment.from_dict(json.loads(json.dumps(deployment.to_dict()))).runtime_ports == right
    exports = export_bundle(made.bundle, deployment, "fused")
    metadata = {one.key: one.value for one in exports["encoder"].model.metadata_props}
    assert (metadata["pred_rnn_layers"], metadata["pred_hidden"]) == ("2", "16")
    assert (metadata["vocab_size"], metadata["subsampling_factor"]) == (str(BLANK), "4")
    assert (metadata["feat_dim"], metadata["url"]) == ("16", "")
    assert not {"url", "vocab_size"} & {one.key for one in exports["joiner"].model.metadata_props}
    wrong = dataclasses.replace(deployment, runtime_ports=dataclasses.replace(right, layers=3))
    with pytest.raises(zq.ExportError, match="has 2 layers of 16 units, not 3 of 16"):
        export_bundle(made.bundle, wrong, "fused")
    for changes in ({"runtime": "vosk"}, {"units": 0}, {"layers": True}):
        with pytest.raises(zq.ConfigError, match=f"runtime_ports.{next(iter(changes))}"):
            dataclasses.replace(right, **changes)
    with pytest.raises(zq.ConfigError, match="whose files take features"):
        dataclasses.replace(deployment, with_frontend=True)
    with pytest.raises(zq.ConfigError, match="an object of runtime, layers, units"):
        Deployment.from_dict({**deployment.to_dict(), "runtime_ports": {"runtime": "sherpa-onnx"}})


def test_onnx_asr_is_told_of_decoding(tmp_path: Path) -> None:
    for kind, name in (("lstm", "rnnt"), ("durations", "tdt")):
        out = written(folder_of(kind, tmp_path / f"{kind}.bundle"), "onnx-asr", tmp_path / kind)
        assert json.loads((out / "config.json").read_text()) == {
            "model_type": f"nemo-conformer-{name}",
            "features_size": 16,
            "subsampling_factor": 4,
            "max_tokens_per_step": 3,
        }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_no_runtime_can_do_is_named(runtime: str, tmp_path: Path) -> None:
    features = {"own_features": runtime == "onnx-asr"}
    stateless = folder_of("stateless", tmp_path / "stateless")
    with pytest.raises(zq.ExportError, match="reads its last labels alone"):
        zq.runtime_folder(stateless, runtime, **features)
    made = quantized("durations")
    odd = dataclasses.replace(made.deployment, decoding=Decoding((0, 1, 4), 3))
    write_bundle(tmp_path / "odd", export_bundle(made.bundle, odd, "fused"), odd)
    with pytest.raises(zq.ExportError, match=r"the best duration, and they are \[0, 1, 4\]"):
        zq.runtime_folder(tmp_path / "odd", runtime, **features)
    audio = dataclasses.replace(made.deployment, with_frontend=True)
    write_bundle(tmp_path / "audio", export_bundle(made.bundle, audio, "fused"), audio)
    with pytest.raises(zq.ExportError, match=f"takes audio, and {runtime} gives a file features"):
        zq.runtime_folder(tmp_path / "audio", runtime, **features)
    frontend = dataclasses.replace(made.deployment.frontend, window="hamming")
    other = dataclasses.replace(made.deployment, frontend=frontend)
    write_bundle(tmp_path / "other", export_bundle(made.bundle, other, "fused"), other)
    with pytest.raises(zq.ExportError, match="window is hamming"):
        zq.runtime_folder(tmp_path / "other", runtime)
    (tmp_path / "empty").mkdir()
    with pytest.raises(zq.CheckpointError, match=r"bundle\.json"):
        zq.runtime_folder(tmp_path / "empty", runtime, **features)
    with pytest.raises(zq.ExportError, match="name a CTC network's file, or a transducer's folder"):
        zq.runtime_folder(stateless / "encoder.onnx", runtime, **features)


def test_a_limit_of_tokens_is_told(tmp_path: Path) -> None:
    for kind, most in MOST.items():
        told = zq.runtime_folder(folder_of(kind, tmp_path / kind), "sherpa-onnx").differences
        assert f"takes at most {most} tokens of one encoded frame, the network's are 3" in told
        same = folder_of(kind, tmp_path / f"{kind}.same", symbols=most)
        assert not any("tokens of one" in one for one in zq.runtime_folder(same, "sherpa-onnx").differences)
        asr = zq.runtime_folder(tmp_path / kind, "onnx-asr", own_features=True)
        assert not any("tokens of one" in one for one in asr.differences)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtimes_folder_is_for_it_alone(runtime: str, tmp_path: Path) -> None:
    source = folder_of("lstm", tmp_path / "bundle")
    out = written(source, runtime, tmp_path / "out")
    alone: dict[str, Callable[[], object]] = {
        "transcribe": lambda: zq.open_recognizer(out),
        "export": lambda: zq.reexport(out, with_frontend=True),
        "bundle": lambda: zq.runtime_folder(out, "onnx-asr", own_features=True),
    }
    for run in alone.values():
        with pytest.raises(zq.ZeroqError, match=f"was written for {runtime}, which alone runs it"):
            run()
    # its own bundle is not lost by a slip
    with pytest.raises(zq.ConfigError, match="something else"):
        written(source, runtime, source)
    zq.verify(source)


def test_the_command(tmp_path: Path) -> None:
    source = folder_of("durations", tmp_path / "bundle")
    arguments = ["bundle", str(source), "--for", "sherpa-onnx", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["files"] == ["bundle.json", "decoder.onnx", "encoder.onnx", "joiner.onnx", "tokens.txt"]
    assert found["program_sha256"] == zq.verify(tmp_path / "out").program_sha256
    assert found["model_sha256"] == zq.verify(tmp_path / "out").file_sha256
    assert "sherpa-onnx differs: takes at most 5 tokens" in done.stderr
    shown = CliRunner().invoke(app, arguments)
    assert "which has those of the other files" in shown.output
    assert "verify" in shown.output
    shutil.rmtree(tmp_path / "out")
    (source / "joiner.onnx").write_bytes(b"")
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0
    assert not (tmp_path / "out").exists()
    assert "joiner.onnx" in refused.output


def test_bundles_of_their_own_ports_are_as_before() -> None:
    made = quantized("lstm")
    assert sorted(bundle_files(made.exports, made.deployment)) == [
        "bundle.json",
        "encoder.onnx",
        "joiner.onnx",
        "predictor.onnx",
    ]
