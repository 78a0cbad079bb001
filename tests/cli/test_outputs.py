"""What commands write, and what they replace: their own files with a word, another's only with --force."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app, outputs
from zeroq_asr.cli.terminal import Terminal

FAST = ("--batch", "2", "--frames", "64", "--iterations", "1")
#: a name that is no UTF-8, as Python gives it
ODD = os.fsdecode(b"\xff\xfe")


def _run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def _refused(result: Any, code: int, words: str) -> None:
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines), result.stdout) == (code, 1, ""), result.output
    assert words in lines[0]


@pytest.fixture
def model(small_model: Any, tmp_path: Path) -> Path:
    zq.save_checkpoint(small_model, tmp_path / "small.pt")
    return tmp_path / "small.pt"


@pytest.fixture
def messages() -> io.StringIO:
    """What was told on stderr."""
    return io.StringIO()


@pytest.fixture
def terminal(messages: io.StringIO) -> Terminal:
    return Terminal(io.StringIO(), messages, as_json=False, quiet=True)


def test_a_features_file_is_replaced_with_a_word(model: Path, tmp_path: Path) -> None:
    command = ("synthesize", model, "-o", tmp_path / "f.npz", *FAST)
    assert _run(*command, "--quiet").stderr == ""
    for option in ("--quiet", "--json"):
        again = _run(*command, option)
        assert (again.exit_code, again.stderr) == (0, f"replaces {tmp_path / 'f.npz'}\n")
    np.savez(tmp_path / "g.npz", weights=np.zeros(3))
    before = (tmp_path / "g.npz").read_bytes()
    other = ("synthesize", model, "-o", tmp_path / "g.npz", *FAST)
    _refused(_run(*other), 2, "g.npz: is there already, and not a file that this command writes")
    assert (tmp_path / "g.npz").read_bytes() == before
    assert _run(*other, "--force").exit_code == 0
    assert zq.SyntheticFeatures.load(tmp_path / "g.npz").features.shape == (2, 16, 64)
    _refused(_run("synthesize", model, "-o", model.with_suffix(".npz"), *FAST, "--set", "x=1"), 2, "--set")


@pytest.fixture(scope="module")
def written(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind, written by the command, from recordings whose names are no UTF-8."""
    folder = tmp_path_factory.mktemp("written")
    named = zq.AsrModel(
        **{**{f: getattr(small_model, f) for f in ("network", "frontend", "tokenizer")}, "name": ODD},
        architecture=small_model.architecture,
        config=small_model.config,
        subsampling_factor=2,
    )
    zq.save_checkpoint(named, folder / "m.pt")
    (folder / "m.pt").rename(folder / f"{ODD}.pt")
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    soundfile.write(folder / "a.wav", noise, 16000)
    (folder / "a.wav").rename(folder / f"{ODD}.wav")
    (folder / "m.jsonl").write_text(json.dumps({"audio_filepath": str(folder / f"{ODD}.wav"), "text": "a"}))
    for command in (
        ("synthesize", folder / f"{ODD}.pt", "-o", folder / f"{ODD}.npz", *FAST),
        (
            *("quantize", folder / f"{ODD}.pt", "-o", folder / f"{ODD}.onnx", "--tokens", folder / "tokens"),
            *("--calibration", folder / f"{ODD}.npz", "--max-seconds", 1),
        ),
        (
            *("evaluate", folder / f"{ODD}.onnx", "-m", folder / "m.jsonl"),
            *("-o", folder / "transcripts"),
        ),
    ):
        result = _run(*command)
        assert result.exit_code == 0, result.output
        assert "replaces" not in result.stderr
    return folder


def test_names_that_are_no_unicode(written: Path) -> None:
    for command in (("verify",), ("inspect",)):
        result = _run(*command, written / f"{ODD}.onnx")
        assert result.exit_code == 0, result.output
        assert "\\udcff\\udcfe" in result.stdout
    inspected = json.loads(_run("inspect", written / f"{ODD}.onnx", "--json").stdout)
    assert inspected["name"] == "\\udcff\\udcfe"
    assert inspected["recipe"]["calibration"]["source"] == "\\udcff\\udcfe.npz"
    # what evaluate writes names the recording, so that it is found again
    line = json.loads((written / "transcripts").read_text())
    assert line["audio_filepath"] == str(written / f"{ODD}.wav")
    assert _run("evaluate", written / f"{ODD}.onnx", "-m", written / "transcripts").exit_code == 0


def test_ours_are_known_by_what_is_in_them(written: Path, tmp_path: Path) -> None:
    kinds: dict[str, outputs.Ours] = {
        f"{ODD}.onnx": outputs.onnx,
        f"{ODD}.npz": outputs.features,
        "tokens": outputs.tokens,
        "transcripts": outputs.transcripts,
    }
    for name, ours in kinds.items():
        for other in [*kinds, "m.jsonl", f"{ODD}.wav", f"{ODD}.pt"]:
            path = written / other
            assert ours(path, path.read_bytes()[: 1 << 20]) == (name == other), (name, other)
    for ours in (*kinds.values(), outputs.tables, outputs.plots, outputs.pages):
        for data in (
            b"text\n",
            b"<!doctype html>\n",
            b"\x08\x08\x12\x07pytorch",
            b"PK\x03\x04",
            b"[" * 9999,
            b"\x89PNG\r\n",
            b"** bold",
        ):
            (tmp_path / "x").write_bytes(data)
            assert not ours(tmp_path / "x", data)
    assert outputs.tables(tmp_path, b"**m 8**, 2 utterances\n\n| | size | WER % | S/D/I |\n")


def test_plots_name_who_drew_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from zeroq_asr.measure.bench.plot import plot
    from zeroq_asr.measure.pictures import FORMATS

    class Result:
        rows = ()

        class machine:  # noqa: N801
            processor = "none"

    for suffix in FORMATS:
        path = tmp_path / f"x{suffix}"
        plot(Result(), path)  # type: ignore[arg-type]  # a stand-in
        assert outputs.plots(path, path.read_bytes())


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere" / "x")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a folder"),
        (os.mkfifo, "no regular file but a pipe"),
        (_link, "there is no folder"),
        (_loop, "a link that leads to itself"),
        (lambda path: path.write_bytes(b"x"), "is there already"),
    ],
)
def test_what_may_not_be_written(
    make: Callable[[Path], object], words: str, tmp_path: Path, terminal: Terminal
) -> None:
    make(tmp_path / "x")
    before = os.listdir(tmp_path)
    with pytest.raises(zq.ConfigError, match=words):
        outputs.check_output(terminal, tmp_path / "x", outputs.onnx)
    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize("name", ["-", "", ".", "x" * 300, "/dev/full", "/dev/null", "small.pt/x", "no/x"])
def test_names_that_are_no_files(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    before = os.listdir()
    _refused(_run("quantize", "absent.pt", "-o", name), 2, "; ")
    assert os.listdir() == before


def test_an_empty_file_and_what_a_link_points_to(
    tmp_path: Path, terminal: Terminal, messages: io.StringIO
) -> None:
    (tmp_path / "empty").touch()  # as mktemp leaves it
    outputs.check_output(terminal, tmp_path / "empty", outputs.onnx)
    told = messages.getvalue()
    assert told == f"replaces {tmp_path / 'empty'}\n"
    (tmp_path / "link").symlink_to(tmp_path / "new")
    outputs.check_output(terminal, tmp_path / "link", outputs.onnx)
    assert messages.getvalue() == told
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").write_bytes(b"another's")
    with pytest.raises(zq.ConfigError, match="is there already"):
        outputs.check_output(terminal, tmp_path / "link", outputs.onnx)
    outputs.check_output(terminal, tmp_path / "link", outputs.onnx, force=True)


def test_force_does_not_make_an_input_an_output(written: Path, tmp_path: Path, terminal: Terminal) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b"{}")
    for source in (tmp_path, tmp_path / "manifest.jsonl"):
        with pytest.raises(zq.ConfigError, match="is the input itself"):
            outputs.check_output(terminal, tmp_path / "manifest.jsonl", outputs.onnx, source, force=True)
    audio = written / f"{ODD}.wav"
    command = ("evaluate", written / f"{ODD}.onnx", "-m", written / "m.jsonl", "-o", audio, "--force")
    _refused(_run(*command), 2, "is the input itself")
    (tmp_path / "plan.yaml").write_text("{}")
    plan = ("--bits", tmp_path / "plan.yaml", "-o", tmp_path / "plan.yaml", "--force")
    assert _run("quantize", "absent.pt", *plan).exit_code == 2
    assert (tmp_path / "plan.yaml").read_text() == "{}"


def test_the_demonstration_replaces_nothing_of_another(tmp_path: Path) -> None:
    (tmp_path / "model.int8.onnx").write_bytes(b"another's")
    _refused(_run("demo", tmp_path), 2, "is there already")
    assert os.listdir(tmp_path) == ["model.int8.onnx"]
    (tmp_path / "model.int8.onnx").unlink()
    (tmp_path / "test.jsonl").write_bytes(b"another's")
    _refused(_run("demo", tmp_path), 2, "is there already")
    assert os.listdir(tmp_path) == ["test.jsonl"]
    zq.copy_embedded(tmp_path, replace=True)
    assert zq.read_manifest(tmp_path / "test.jsonl")
    zq.copy_embedded(tmp_path)  # nothing is another file any more
