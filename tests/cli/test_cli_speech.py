"""Commands that read recordings: segments, channels, and what is said of odd files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.measure.compare import _Recordings
from zeroq_asr.pipeline.prepare import _features, _open_source
from zeroq_asr.progress import silent
from zeroq_asr.speech.audio import load_audio

#: the least work that still is a synthesis
QUICK = ("--batch", "2", "--frames", "64", "--iterations", "1")


def _run(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def work(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, two clips, a file of one after the other with a list of segments, and one side by side."""
    folder = tmp_path_factory.mktemp("speech")
    zq.save_checkpoint(small_model, folder / "small.pt")
    files = zq.embedded_files()
    shutil.copy(files.model, folder / "model.pt")
    spoken = [load_audio(u.audio_path, 16000) for u in zq.read_manifest(files.test)[:2]]
    clips = [spoken[0][:16000], spoken[1][:12000]]
    single, segments, at = [], [], 0.0
    for name, clip in zip("ab", clips, strict=True):
        soundfile.write(folder / f"{name}.wav", clip, 16000, subtype="FLOAT")
        seconds = len(clip) / 16000
        single.append({"audio_filepath": f"{name}.wav", "text": "a b c"})
        segments.append({"audio_filepath": "long.wav", "offset": at, "duration": seconds, "text": "a b c"})
        at += seconds
    soundfile.write(folder / "long.wav", np.concatenate(clips), 16000, subtype="FLOAT")
    _list(folder / "single.jsonl", *single)
    _list(folder / "segments.jsonl", *segments)
    stereo = np.stack([clips[0][:12000], clips[1]], axis=1)
    soundfile.write(folder / "stereo.wav", stereo, 16000, subtype="FLOAT")
    for side in (0, 1):
        soundfile.write(folder / f"side{side}.wav", stereo[:, side], 16000, subtype="FLOAT")
    soundfile.write(folder / "mean.wav", stereo.mean(axis=1), 16000, subtype="FLOAT")
    return folder


def _list(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _evaluated(work: Path, manifest: Path, *options: object) -> list[dict[str, Any]]:
    result = _run("evaluate", work / "model.pt", "-m", manifest, "--json", *options)
    assert (result.exit_code, "warning" in result.stderr) == (0, False), result.output
    return json.loads(result.stdout)["transcripts"]


@pytest.mark.parametrize("batch", [1, 2])
def test_segments_are_heard_like_files_of_their_own(work: Path, tmp_path: Path, batch: int) -> None:
    output = tmp_path / "out.jsonl"
    single = _evaluated(work, work / "single.jsonl", "--batch-size", batch)
    cut = _evaluated(work, work / "segments.jsonl", "--batch-size", batch, "-o", output)
    assert [t["hypothesis"] for t in single] == [t["hypothesis"] for t in cut]
    assert len({t["hypothesis"] for t in cut}) == 2
    assert [(t["offset_seconds"], t["duration_seconds"]) for t in cut] == [(0.0, 1.0), (1.0, 0.75)]
    # what is written says what was heard, and can be read again
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["offset"], line["duration"]) for line in lines] == [(0.0, 1.0), (1.0, 0.75)]
    assert zq.read_manifest(output)[1].duration == 0.75


def _calibrated_on(model: Any, source: Path, channel: int | None = None) -> list[np.ndarray]:
    spec = zq.CalibrationSpec(str(source), channel=channel)
    _, stream, count = _features(model, _open_source(model, spec), zq.SynthesisSpec(), spec, silent)
    found = [features.numpy() for features in stream()]
    assert len(found) == count
    return found


def test_segments_calibrate_like_files_of_their_own(work: Path, small_model: Any) -> None:
    single, cut = (_calibrated_on(small_model, work / f"{name}.jsonl") for name in ("single", "segments"))
    assert len(single) == 2
    for one, other in zip(single, cut, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_comparison_hears_segments(work: Path, small_model: Any) -> None:
    heard = [
        [features for features, _ in _Recordings(small_model, zq.read_manifest(work / f"{name}.jsonl"))]
        for name in ("single", "segments")
    ]
    for one, other in zip(*heard, strict=True):
        np.testing.assert_array_equal(one, other)
    command = ("compare", work / "small.pt", "-m", work / "segments.jsonl", "--no-time", *QUICK)
    result = _run(*command, "--max-seconds", 0.9)
    assert result.exit_code == 3
    assert "long.wav from 0 s to 1 s: lasts 1 s, files are to be proven for 0.9 s" in result.stderr


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"offset": 9.0, "duration": 1.0}, "offset 9 s is behind the end of"),
        ({"offset": 1.0, "duration": 1.0}, "the segment ends at 2.0000 s, behind the end of"),
        ({"offset": -1.0}, "offset must be a number of seconds, zero or more, got -1.0"),
        ({"offset": "1"}, "offset must be a number of seconds, zero or more, got '1'"),
        ({"duration": True}, "duration must be a number of seconds, zero or more, got True"),
        ({"start": 1.0}, "the key start changes what is heard"),
        ({"channel_selector": 1}, "has one channel, 0: there is no channel 1"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "compare", "quantize"])
def test_rows_that_cannot_be_heard(
    work: Path, tmp_path: Path, row: dict[str, object], problem: str, command: str
) -> None:
    good = {"audio_filepath": str(work / "a.wav"), "text": "a"}
    bad = {"audio_filepath": str(work / "long.wav"), "text": "a", **row}
    manifest = _list(tmp_path / "list.jsonl", good, bad)
    options: dict[str, tuple[object, ...]] = {
        "evaluate": ("-m", manifest),
        "compare": ("-m", manifest, "--no-time", *QUICK),
        "quantize": ("-o", tmp_path / "out.onnx", "--calibration", manifest),
    }
    result = _run(command, work / "small.pt", *options[command])
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, result.stdout, len(errors)) == (3, "", 1), result.output
    assert problem in errors[0]
    assert f"{manifest}:2: " in errors[0] or "channel" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_averaging_is_said_on_stderr_alone(work: Path, option: str) -> None:
    files = [work / "stereo.wav", work / "mean.wav"]
    loud = _run("transcribe", work / "small.pt", *files, option)
    calm = _run("transcribe", work / "small.pt", *files, option, "--channel", "average")
    assert (loud.exit_code, calm.exit_code) == (0, 0)
    warnings = [line for line in loud.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "stereo.wav: its 2 channels were averaged into one; choose one with --channel" in warnings[0]
    assert "warning" not in calm.stderr
    assert loud.stdout == calm.stdout
    assert "warning" not in loud.stdout


def test_channels_are_chosen(work: Path) -> None:
    model = zq.open_recognizer(work / "model.pt")
    sides = [zq.transcribe(model, [work / f"side{side}.wav"])[0] for side in (0, 1)]
    assert sides[0] != sides[1]
    for side in (0, 1):
        result = _run("transcribe", work / "model.pt", work / "stereo.wav", "-q", "--channel", side)
        assert (result.exit_code, result.stdout) == (0, sides[side] + "\n")
    assert zq.transcribe(model, [work / "stereo.wav"], channel=1) == [sides[1]]
    manifest = _list(work / "stereo.jsonl", {"audio_filepath": "stereo.wav", "text": "a"})
    assert _evaluated(work, manifest, "--channel", 1)[0]["hypothesis"] == sides[1].strip()
    np.testing.assert_array_equal(
        load_audio(work / "stereo.wav", 16000, channel=1), load_audio(work / "side1.wav", 16000)
    )


@pytest.mark.parametrize("channel", [("2", 3), ("left", 2), ("-1", 2), ("1.0", 2), ("", 2), ("9" * 30, 2)])
def test_channels_that_are_not_there(work: Path, channel: tuple[str, int]) -> None:
    result = _run("transcribe", work / "small.pt", work / "stereo.wav", f"--channel={channel[0]}")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, result.stdout, len(errors)) == (channel[1], "", 1), result.output
    assert "channel" in errors[0]


def test_a_channel_to_calibrate_on(
    work: Path, small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stereo = _list(work / "pair.jsonl", {"audio_filepath": "stereo.wav"})
    alone = _list(work / "alone.jsonl", {"audio_filepath": "side1.wav"})
    one, other = _calibrated_on(small_model, stereo, 1), _calibrated_on(small_model, alone)
    np.testing.assert_array_equal(one[0], other[0])
    asked: list[zq.CalibrationSpec] = []

    def spy(*_: object, calibration: zq.CalibrationSpec, **options: object) -> None:
        asked.append(calibration)
        raise zq.ConfigError("here", "enough")

    monkeypatch.setattr(zq, "prepare", spy)
    command = ("quantize", work / "small.pt", "-o", tmp_path / "out.onnx")
    _run(*command, "--calibration", stereo, "--channel", 1)
    assert [spec.channel for spec in asked] == [1]
    refused = _run(*command, "--channel", 1)
    assert refused.exit_code == 2
    assert "channel 1 is of recordings, the source is 'auto'" in refused.stderr


def test_features_that_claim_terabytes(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    zq.gaussian_noise(zq.load_checkpoint(work / "small.pt"), zq.SynthesisSpec(batch=1, frames=64)).save(path)
    data = path.read_bytes()
    shape = re.search(rb"\(1, (\d+, 64\), }) {9}", data)
    assert shape
    path.write_bytes(data.replace(shape[0], b"(9999999999, " + shape[1], 1))
    result = _run("quantize", work / "small.pt", "-o", tmp_path / "out.onnx", "--calibration", path)
    assert result.exit_code == 3
    assert "damaged" in result.stderr
    assert "memory" not in result.stderr
