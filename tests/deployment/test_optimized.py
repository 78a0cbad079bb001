"""Files that ONNX Runtime has optimized: the same integers, on the machine that they say and no other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner, Result

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.deployment import optimized
from zeroq_asr.deployment.sessions import open_session

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=2)
CLIPS = [one.audio_path for one in zq.read_manifest(zq.embedded_files().test)[:3]]
#: network and dialect, with its frontend or without
FILES = ("quartznet.fused", "quartznet.strict", "quartznet.audio", "conformer.fused")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the embedded networks, NAME.onnx, and what is optimized of them, NAME.ort."""
    made = tmp_path_factory.mktemp("optimized")
    networks = {
        "quartznet": zq.embedded_model(),
        "conformer": zq.load_checkpoint(zq.embedded_files().conformer),
    }
    for name, network in networks.items():
        prepared = zq.prepare(
            network, synthesis=FAST, calibration=zq.CalibrationSpec(source="noise"), check_ranges=False
        )
        for dialect in ("fused", "strict", "qdq") if name == "quartznet" else ("fused",):
            zq.quantize(prepared, made / f"{name}.{dialect}.onnx", dialect=dialect)
    zq.reexport(made / "quartznet.fused.onnx", with_frontend=True).write(made / "quartznet.audio.onnx")
    for name in FILES:
        result = zq.reexport(made / f"{name}.onnx", optimized=True)
        assert result.deployment.with_frontend == name.endswith("audio")
        result.write(made / f"{name}.ort")
        assert result.size == (made / f"{name}.ort").stat().st_size
        assert "optimized for this machine" in repr(result)
    return made


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FILES)
def test_every_output_is_the_same(folder: Path, name: str, threads: int) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    plain = ort.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    others = [
        ort.InferenceSession(folder / f"{name}.ort", options, providers=["CPUExecutionProvider"]),
        open_session(name, str(folder / f"{name}.ort"), threads),
        open_session(name, str(folder / f"{name}.onnx"), threads),
    ]
    generator = np.random.default_rng(0)
    for batch, length in ((1, 300), (1, 77), (3, 120)):
        if name.endswith("audio"):
            shape: tuple[int, ...] = (batch, 160 * length)
            inputs = ("audio", "audio_length")
        else:
            shape = (batch, plain.get_inputs()[0].shape[1], length)
            inputs = ("audio_signal", "length")
        lengths = np.array([shape[-1] - 20 * n for n in range(batch)])
        feed = dict(zip(inputs, (generator.standard_normal(shape).astype(np.float32), lengths), strict=True))
        expected = plain.run(None, feed)
        assert len(expected) == 3
        for other in others:
            assert [value.name for value in other.get_outputs()] == [v.name for v in plain.get_outputs()]
            for found, wanted in zip(other.run(None, feed), expected, strict=True):
                assert found.dtype == wanted.dtype
                assert np.array_equal(found, wanted)


def test_recognisers_take_it_by_name_by_bytes_and_by_any_ending(folder: Path, tmp_path: Path) -> None:
    path = folder / "conformer.fused.ort"
    renamed = tmp_path / "renamed"
    renamed.write_bytes(path.read_bytes())
    plain = zq.open_recognizer(folder / "conformer.fused.onnx")
    expected = [one.words for one in zq.recognize(plain, CLIPS)]
    for source in (path, path.read_bytes(), renamed):
        recognizer = zq.open_recognizer(source)
        assert isinstance(recognizer, zq.OnnxRecognizer)
        assert recognizer.is_ours
        assert [one.words for one in zq.recognize(recognizer, CLIPS)] == expected


def test_commands_take_it(folder: Path) -> None:
    said = [run("transcribe", folder / f"quartznet.audio{end}", CLIPS[0]).stdout for end in (".onnx", ".ort")]
    assert said[0] == said[1]
    manifest = zq.embedded_files().test
    rows = [
        json.loads(run("evaluate", folder / f"conformer.fused{end}", "-m", manifest, "--json").stdout)
        for end in (".onnx", ".ort")
    ]
    assert rows[0]["words"] == rows[1]["words"]
    assert rows[0]["transcripts"] == rows[1]["transcripts"]
    bench = zq.bench([folder / "conformer.fused.ort"], seconds=[1.0], rounds=1)
    assert [row.load_seconds is not None for row in bench.rows] == [True]


def test_it_is_told_of_before_it_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ort"
    result = run("export", folder / "quartznet.fused.onnx", "--optimized", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert "this release of ONNX Runtime and this kind of processor alone" in result.stderr
    assert "cannot be verified" in result.stderr
    found = json.loads(result.stdout)
    assert found["with_frontend"] is False
    assert found["optimized_for"] == optimized.here()
    assert found["optimized_for"]["onnxruntime"] == ort.__version__
    # what is ours may be replaced, and nothing else
    again = run("export", folder / "quartznet.fused.onnx", "--optimized", "-o", out)
    assert (again.exit_code, f"replaces {out}" in " ".join(again.stderr.split())) == (0, True), again.output
    out.write_bytes(b"\x14\0\0\0ORTM of somebody else")
    other = run("export", folder / "quartznet.fused.onnx", "--optimized", "-o", out)
    assert (other.exit_code, "not a file that this command writes" in other.output) == (2, True)


def test_what_needs_the_program_refuses_it(folder: Path) -> None:
    path = folder / "quartznet.fused.ort"
    refused = "optimized by ONNX Runtime .* nothing can be proven of it; name the file that it was made of"
    for call in (
        zq.verify,
        lambda file: zq.reexport(file, optimized=True),
        lambda file: zq.verify(file.read_bytes()),
    ):
        with pytest.raises(zq.VerificationError, match=refused):
            call(path)
    with pytest.raises(zq.CheckpointError, match=refused):
        zq.inspect_file(path)
    with pytest.raises(zq.VerificationError, match=refused):
        zq.runtime_folder(path, "sherpa-onnx")
    result = run("verify", path)
    assert (result.exit_code, "nothing can be proven of it" in result.stderr) == (5, True)


def test_what_cannot_be_optimized_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(zq.VerificationError, match="qdq"):
        zq.reexport(folder / "quartznet.qdq.onnx", optimized=True)
    source = folder / "quartznet.fused.onnx"
    for name, more, problem in (
        ("x.onnx", ["--optimized"], "must end in .ort"),
        ("x.ort", [], "must not end in .ort"),
    ):
        result = run("export", source, *more, "-o", tmp_path / name)
        assert (result.exit_code, problem in " ".join(result.stderr.split())) == (2, True), result.output
    made = zq.reexport(source, optimized=True)
    with pytest.raises(zq.ConfigError, match=r"must end in \.ort"):
        made.write(tmp_path / "x.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("onnxruntime", "9.9.9", f"was optimized by ONNX Runtime {ort.__version__}, 9.9.9 is installed"),
        ("instruction_sets", ["AVX-1024"], "another processor: .*; this one is .* with AVX-1024"),
        ("architecture", "abacus", "another processor: .*; this one is abacus"),
    ],
)
def test_another_machine_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any, problem: str
) -> None:
    there = {**optimized.here(), field: value}
    monkeypatch.setattr(optimized, "here", lambda: there)
    path = folder / "quartznet.fused.ort"
    digest = zq.verify(folder / "quartznet.fused.onnx").file_sha256
    with pytest.raises(zq.CheckpointError, match=f"{problem}.*; export it here again.* {digest[:8]}"):
        zq.open_recognizer(path)
    with pytest.raises(zq.CheckpointError, match=problem):
        zq.bench([path], seconds=[1.0], rounds=1)
    zq.open_recognizer(folder / "quartznet.fused.onnx")
    # it names FILE, also where the frontend was put in on the way
    audio = zq.reexport(folder / "quartznet.fused.onnx", with_frontend=True, optimized=True).optimized
    assert audio is not None
    assert digest.encode() in audio["network"]


@pytest.fixture(scope="module")
def transducers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded transducer's bundle, plain, and plain.ort, which is optimized of it; audio, audio.ort."""
    made = tmp_path_factory.mktemp("transducers")
    model = zq.load_model(zq.embedded_files().transducer)
    assert isinstance(model, zq.TransducerModel)
    clips = zq.CalibrationSpec(str(zq.embedded_files().calibration), limit=4)
    labels = zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64)
    zq.quantize_transducer(model, made / "plain", calibration=clips, labels=labels)
    zq.reexport(made / "plain", with_frontend=True).write(made / "audio")
    for name in ("plain", "audio"):
        result = zq.reexport(made / name, optimized=True)
        result.write(made / f"{name}.ort")
        assert result.size == sum(one.stat().st_size for one in (made / f"{name}.ort").iterdir())
        assert "optimized for this machine" in repr(result)
    return made


@pytest.mark.parametrize("name", ["plain", "audio"])
def test_a_transducers_folder(transducers: Path, name: str) -> None:
    ahead = transducers / f"{name}.ort"
    assert {one.name for one in ahead.iterdir()} == {
        "bundle.json",
        *(f"{part}.ort" for part in ("encoder", "predictor", "joiner")),
    }
    beam = zq.BeamSpec(4)
    for how in (None, beam):
        found, expected = (
            [one.words for one in zq.recognize(zq.open_recognizer(folder, beam=how), CLIPS)]
            for folder in (ahead, transducers / name)
        )
        assert found == expected
    listed = json.loads((ahead / "bundle.json").read_text())["parts"]
    plain = json.loads((transducers / name / "bundle.json").read_text())["parts"]
    for part, one in listed.items():
        data = (ahead / one["file"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest()
        assert one["program_sha256"] == plain[part]["program_sha256"]
        # which file it was made of
        assert plain[part]["sha256"].encode() in data


def test_commands_take_a_folder(transducers: Path, tmp_path: Path) -> None:
    said = [run("transcribe", transducers / f"plain{end}", CLIPS[0]).stdout for end in ("", ".ort")]
    assert said[0] == said[1]
    bench = zq.bench([transducers / "plain.ort"], seconds=[1.0], rounds=1)
    assert all(row.load_seconds is not None and not row.absent for row in bench.rows)
    out = tmp_path / "out"
    result = run("export", transducers / "plain", "--optimized", "-o", out)
    assert (result.exit_code, "this kind of processor alone" in " ".join(result.stderr.split())) == (0, True)
    again = run("export", transducers / "plain", "--optimized", "-o", out)
    assert (again.exit_code, "replaces" in again.stderr) == (0, True), again.output
    # what it was made of is not replaced by it, nor it by that
    for source, target, more in (
        (transducers / "plain", transducers / "audio", ["--optimized"]),
        (transducers / "plain", out, ["--with-frontend"]),
    ):
        result = run("export", source, *more, "-o", target)
        assert (result.exit_code, "is there already" in " ".join(result.stderr.split())) == (2, True)
        assert "replaces" not in result.stderr
    for command in ("verify", "inspect"):
        result = run(command, out)
        assert result.exit_code in (3, 5), result.output
        assert "nothing can be proven of it; name the file that it was made of" in result.stderr
    with pytest.raises(zq.VerificationError, match="nothing can be proven of it"):
        zq.runtime_folder(out, "sherpa-onnx")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"onnxruntime": "1.24"}', "[" * 10_000])
def test_damage_to_what_it_says_is_refused(folder: Path, text: str) -> None:
    assert optimized.misfit({}) is None
    problem, _ = optimized.misfit({optimized.OPTIMIZED_KEY: text}) or ("", "")
    assert "damaged" in problem


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_a_torn_file_is_refused(folder: Path, tmp_path: Path, share: float) -> None:
    data = (folder / "quartznet.fused.ort").read_bytes()
    (tmp_path / "torn.ort").write_bytes(data[: max(optimized.HEAD, int(share * len(data)))])
    with pytest.raises(zq.CheckpointError, match=r"ONNX Runtime's own format, which .* cannot run"):
        zq.open_recognizer(tmp_path / "torn.ort")


def test_another_file_of_that_name_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.ort").write_bytes((folder / "quartznet.fused.onnx").read_bytes())
    with pytest.raises(zq.CheckpointError, match="is not an ONNX file that can be run"):
        zq.open_recognizer(tmp_path / "x.ort")


def test_a_model_that_onnx_runtime_refuses_is_not_optimized() -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(zq.ExportError, match="cannot optimize it"):
        optimized.optimized(model, "0" * 64)
