"""The script that measures beams has a row for every width and fusion, and refuses what it cannot measure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from lookup_transducers import write_arpa
from small_transducers import TOKENS, nemo_config, nemo_state

import zeroq_asr as zq

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import beams
import ctc_decoders


@pytest.fixture
def manifest(tmp_path: Path, speech_like: object) -> Path:
    soundfile.write(tmp_path / "a.wav", speech_like, 16000, subtype="FLOAT")
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a b"}) + "\n")
    return path


@pytest.fixture
def model(write_nemo: Callable[..., Path]) -> Path:
    config = nemo_config()
    return write_nemo(config, nemo_state(config), name="transducer.nemo")


def test_rows(model: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    words = {token.replace(" ", "<space>"): (-0.7, 0.0) for token in TOKENS}
    ends = {"<unk>": (-2.0, 0.0), "<s>": (0.0, 0.0), "</s>": (-1.0, 0.0)}
    lm = str(write_arpa(tmp_path / "t.arpa", ends | words, {("a", "b"): -0.01}))
    out = tmp_path / "beams.txt"
    given = ["--widths", "1", "2", "--search", "modified", "maes", "--lm", lm, "--source-lm", lm]
    of_words = str(write_arpa(tmp_path / "w.arpa", ends | {"ab": (-0.7, 0.0)}, {}))
    given += ["--ilm-weight", "0.2", "--word-lm", of_words, "--word-bonus", "0.1", "--out", str(out)]
    assert beams.main([str(model), "--manifest", str(manifest), *given]) == 0
    text = out.read_text()
    assert text == capsys.readouterr().out
    head, *rows = text.splitlines()[2:]
    assert head.split()[0] == "decoding"
    assert len(rows) == 1 + 2 * 2 * 5
    kinds = {(row.split()[0], row.split()[1]) for row in rows}
    assert kinds == {("greedy", "–"), *((s, w) for s in ("modified", "maes") for w in "12")}


def test_rows_of_hotwords_and_of_networks_of_frames(
    model: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--manifest", str(manifest), "--widths", "2", "--hotword-letters", "1"]
    for path in (model, zq.embedded_files().model):
        assert beams.main([str(path), *given]) == 0
        _, *rows = capsys.readouterr().out.splitlines()[2:]
        assert [row.split()[:4] for row in rows[1:]] == [
            ["auto", "2", "–", rows[1].split()[3]],
            ["auto", "2", "2", "hotwords"],
        ]


def test_decoders_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    files = zq.embedded_files()
    given = ["--checkpoint", str(files.model), "--manifest", str(files.test), "--limit", "2"]
    assert ctc_decoders.main([*given, "--cases", "5", "--widths", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # with a beam of everything, the truth
    assert ["zeroq-asr", "1000", "5/5", "5/5"] in lines
    assert any(line[:3] == ["zeroq-asr", "4", "–"] for line in lines)
    assert ctc_decoders.main([*given[:3], "x.jsonl", "--cases", "1"]) == 1
    assert "error: x.jsonl" in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused(
    model: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--manifest", str(manifest), "--widths", "2"]
    assert beams.main([str(zq.embedded_files().model), *rest, "--ilm-weight", "1"]) == 1
    assert "a CTC network has no internal language model" in capsys.readouterr().err
    assert beams.main([str(model), *rest, "--source-lm", "x"]) == 1
    assert "--source-lm: means nothing without --lm" in capsys.readouterr().err
    assert beams.main([str(model), *rest, "--search", "alsd"]) == 1
    assert "'alsd' is not one of auto, modified, maes, prefix" in capsys.readouterr().err
