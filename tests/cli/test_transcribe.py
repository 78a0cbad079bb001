"""``transcribe``: formats, files, folders, long recordings and jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.subtitles import srt, vtt


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network, a file of it for 4 s at most, three clips, and all of them in one recording."""
    folder = tmp_path_factory.mktemp("transcribe")
    files = zq.embedded_files()
    shutil.copy(files.model, folder / "model.pt")
    few = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
    spec = zq.QuantSpec(max_seconds=4.0)
    zq.quantize(folder / "model.pt", folder / "model.onnx", spec=spec, synthesis=few)
    clips = [load_audio(u.audio_path, 16000) for u in zq.read_manifest(files.test)[:3]]
    for name, clip in zip("abc", clips, strict=True):
        soundfile.write(folder / f"{name}.wav", clip, 16000, subtype="FLOAT")
    soundfile.write(folder / "long.wav", np.concatenate(clips), 16000, subtype="FLOAT")
    return folder


def transcriptions(work: Path, *names: str) -> list[zq.Transcription]:
    recognizer = zq.open_recognizer(work / "model.onnx")
    return [*zq.recognize(recognizer, [work / f"{name}.wav" for name in names])]


def test_json_has_words_and_is_the_same_by_either_option(work: Path) -> None:
    (expected,) = transcriptions(work, "a")
    printed = run("transcribe", work / "model.onnx", work / "a.wav", "--json").stdout
    assert run("transcribe", work / "model.onnx", work / "a.wav", "--format", "json").stdout == printed
    document = json.loads(printed)
    (row,) = document["transcripts"]
    assert (row["audio"], row["text"]) == (str(work / "a.wav"), expected.text)
    assert row["words"] == [word.to_dict() for word in expected.words]
    assert [word["word"] for word in row["words"]] == expected.text.split()


@pytest.mark.parametrize(("name", "write"), [("srt", srt), ("vtt", vtt)])
def test_subtitles(work: Path, tmp_path: Path, name: str, write: Any) -> None:
    (expected,) = transcriptions(work, "a")
    args = ("transcribe", work / "model.onnx", work / "a.wav", "--format", name)
    assert run(*args).stdout == write(expected.words)
    result = run(*args, "--output", tmp_path / "x")
    assert result.stdout == f"{tmp_path / 'x'}\n"
    assert (tmp_path / "x").read_text() == write(expected.words)
    # a file of ours is replaced, another's is not
    assert f"replaces {tmp_path / 'x'}" in run(*args, "--out", tmp_path / "x").stderr
    (tmp_path / "x").write_text("mine")
    run(*args, "-o", tmp_path / "x", code=2)
    assert (tmp_path / "x").read_text() == "mine"
    run(*args, "-o", tmp_path / "x", "--force")


@pytest.mark.parametrize("name", ["txt", "json", "srt", "vtt"])
def test_a_folder_gets_a_file_for_each_recording(work: Path, tmp_path: Path, name: str) -> None:
    clips = [work / "a.wav", work / "b.wav"]
    folder = tmp_path / "made"
    result = run("transcribe", work / "model.onnx", *clips, "--format", name, "-o", f"{folder}/")
    files = [folder / f"a.{name}", folder / f"b.{name}"]
    assert result.stdout.splitlines() == [str(file) for file in files]
    assert sorted(folder.iterdir()) == files
    for clip, file in zip(clips, files, strict=True):
        alone = run("transcribe", work / "model.onnx", clip, "--format", name).stdout
        assert file.read_text() == alone
    # with --json the same files, and the document of all of them on stdout
    result = run(
        "transcribe", work / "model.onnx", *clips, "--format", name, "-o", folder, "--json", "--force"
    )
    assert len(json.loads(result.stdout)["transcripts"]) == 2


def test_segments_of_a_file_are_one_subtitle(work: Path, tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": str(work / "long.wav"), "offset": offset, "duration": 1.5} for offset in (0.0, 1.9)
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("transcribe", work / "model.onnx", manifest, "--json")
    found = json.loads(result.stdout)["transcripts"]
    assert [(row["offset_seconds"], row["duration_seconds"]) for row in found] == [(0.0, 1.5), (1.9, 1.5)]
    assert all(1.9 <= word["start_seconds"] <= word["end_seconds"] <= 3.4 for word in found[1]["words"])
    words = [
        zq.Word(word["word"], word["start_seconds"], word["end_seconds"])
        for row in found
        for word in row["words"]
    ]
    assert run("transcribe", work / "model.onnx", manifest, "--format", "srt").stdout == srt(words)


def test_long_recordings_are_cut_with_a_warning(work: Path) -> None:
    result = run("transcribe", work / "model.onnx", work / "long.wav", "--json")
    assert "is proven for at most 4 s: it was cut at pauses into 3 pieces" in result.stderr
    (row,) = json.loads(result.stdout)["transcripts"]
    said = {word for one in transcriptions(work, "a", "b", "c") for word in one.text.split()}
    assert len(said & set(row["text"].split())) >= 0.7 * len(said)
    starts = [word["start_seconds"] for word in row["words"]]
    assert starts == sorted(starts)
    assert starts[-1] > 4.5
    # the float network takes any length
    assert "warning" not in run("transcribe", work / "model.pt", work / "long.wav").stderr


@pytest.mark.parametrize("model", ["model.onnx", "model.pt"])
def test_jobs_say_what_one_says(work: Path, model: str) -> None:
    clips = [work / "a.wav", work / "b.wav", work / "c.wav", work / "a.wav"]
    one = run("transcribe", work / model, *clips, "--json").stdout
    assert run("transcribe", work / model, *clips, "--json", "--jobs", 3).stdout == one
    lines = run("transcribe", work / model, *clips).stdout
    assert run("transcribe", work / model, *clips, "--jobs", 2).stdout == lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "doc"), "not one of txt, json, srt, vtt"),
        (("--format", "srt"), "subtitles are of one recording, 2 were given"),
        (("--format", "vtt", "-o", "x.vtt"), "name a folder"),
        (("--jobs", "0"), "--jobs"),
        (("-o", "absent/x.txt"), "no folder"),
        (("-o", "absent/deep/"), "no folder"),
        (("-o", "-"), "is not a file name"),
        (("-o", "x.exe"), "--output: x.exe ends in none of .txt, .json, .srt, .vtt; say --format"),
    ],
)
def test_what_makes_no_sense_is_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("transcribe", work / "model.onnx", work / "a.wav", work / "b.wav", *options, code=2)
    (line,) = result.stderr.splitlines()
    assert words in line
    assert result.stdout == ""
    assert not [*tmp_path.iterdir()]


def test_json_leaves_no_place_for_subtitles(work: Path) -> None:
    result = run("transcribe", work / "model.onnx", work / "a.wav", "--format", "srt", "--json", code=2)
    assert "--json prints JSON, which leaves no place for srt" in result.output
    assert "transcripts" not in result.output


def test_what_a_file_ends_in_is_its_format(work: Path, tmp_path: Path) -> None:
    said = run("transcribe", work / "model.onnx", work / "a.wav", "--format", "srt").stdout
    run("transcribe", work / "model.onnx", work / "a.wav", "-o", tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_text() == said
    command = ("transcribe", work / "model.onnx", work / "a.wav", "-o", tmp_path / "a.vtt")
    result = run(*command, "--format", "txt", code=2)
    assert "--format: says txt, and --output" in result.stderr
    assert not (tmp_path / "a.vtt").exists()
    # what the option says needs no ending
    run("transcribe", work / "model.onnx", work / "a.wav", "-o", tmp_path / "a.subtitles", "--format", "srt")
    assert (tmp_path / "a.subtitles").read_text() == said


def test_two_recordings_of_one_name_are_no_one_file(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "b.wav", tmp_path / "a.wav")
    result = run(
        "transcribe", work / "model.onnx", work / "a.wav", tmp_path / "a.wav", "-o", f"{tmp_path}/", code=2
    )
    assert "would both be a.txt" in result.stderr
    # nor is a recording overwritten by what is said in it
    over = ("-o", work / "a.wav", "--format", "txt", "--force")
    result = run("transcribe", work / "model.onnx", work / "a.wav", *over, code=2)
    assert "is the input itself" in result.stderr
