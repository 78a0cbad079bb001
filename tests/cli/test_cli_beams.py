"""Beams and language models at the command line: what they decode, and where they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lookup_transducers import write_arpa
from small_transducers import TOKENS, nemo_config, nemo_state
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app

Write = Callable[..., Path]
ENDS = {"<unk>": (-2.0, 0.0), "<s>": (0.0, 0.0), "</s>": (-1.0, 0.0)}


def run(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


def refused(result: Any, code: int, words: str) -> None:
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, len(errors)) == (code, 1), result.output
    # with --json, the error in JSON and no result
    assert not result.stdout or set(json.loads(result.stdout)) == {"schema", "error"}
    assert words in errors[0]


@pytest.fixture(params=[(), (0, 1, 2)], ids=["rnnt", "tdt"])
def transducer(request: pytest.FixtureRequest, write_nemo: Write) -> Path:
    config = nemo_config(durations=request.param)
    return write_nemo(config, nemo_state(config), name="transducer.nemo")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    wave = np.random.default_rng(0).standard_normal(9600) * np.linspace(0.01, 0.3, 9600)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    return tmp_path / "a.wav"


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    words = {token.replace(" ", "<space>"): (-0.7, 0.0) for token in TOKENS}
    return write_arpa(tmp_path / "tokens.arpa", ENDS | words, {("a", "b"): -0.01, ("b", "a"): -0.01})


def heard(path: Path, clip: Path, beam: zq.BeamSpec | None) -> str:
    model = zq.load_model(path)
    assert isinstance(model, zq.TransducerModel)
    features, lengths = zq.Frontend(model.frontend).batch([soundfile.read(clip, dtype="float32")[0]])
    (found,) = zq.TransducerRecognizer(model, beam).hypotheses(features, lengths)
    return model.tokenizer.decode(found.tokens)


def test_options_are_those_of_the_specification(
    transducer: Path, clip: Path, arpa: Path, tmp_path: Path
) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    lm = str(arpa)
    cases: dict[tuple[object, ...], zq.BeamSpec] = {
        ("--beam", 1): zq.BeamSpec(1),
        ("--beam", 4, "--beam-search", "modified", "--length-bonus", "0.5"): zq.BeamSpec(4, length_bonus=0.5),
        ("--beam", 4, "--ilm-weight", "0.9"): zq.BeamSpec(4, ilm_weight=0.9),
        ("--beam", 4, "--lm", lm): zq.BeamSpec(4, lm=lm),
        ("--beam", 4, "--lm", lm, "--lm-weight", 2, "--length-bonus", 2): zq.BeamSpec(
            4, lm=lm, lm_weight=2.0, length_bonus=2.0
        ),
        ("--beam", 4, "--lm", lm, "--lm-weight", 2, "--source-lm", lm, "--source-lm-weight", 1): zq.BeamSpec(
            4, lm=lm, lm_weight=2.0, source_lm=lm, source_lm_weight=1.0
        ),
    }
    texts = []
    for options, spec in cases.items():
        result = run("transcribe", transducer, clip, "--json", *options)
        assert result.exit_code == 0, result.output
        (found,) = json.loads(result.stdout)["transcripts"]
        assert found["text"] == heard(transducer, clip, spec)
        texts.append(found["text"])
    # they do something
    assert len(set(texts)) > 2
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(clip), "text": texts[4]}) + "\n")
    result = run("evaluate", transducer, "-m", manifest, "--json", *[*cases][4])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["characters"]["errors"] == 0


def test_adaptive_expansion_is_for_transducers_without_durations(transducer: Path, clip: Path) -> None:
    result = run("transcribe", transducer, clip, "--json", "--beam", 3, "--beam-search", "maes")
    model = zq.load_model(transducer)
    assert isinstance(model, zq.TransducerModel)
    if model.network.durations:
        refused(result, 2, "--beam-search: maes is not known for a transducer with durations (TDT)")
        return
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["transcripts"][0]["text"]
    assert found == heard(transducer, clip, zq.BeamSpec(3, "maes"))


@pytest.mark.parametrize("command", ["transcribe", "evaluate"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lm", "x.arpa"), "--lm: means nothing without --beam"),
        (("--beam-search", "maes"), "--beam-search: means nothing without --beam"),
        (("--length-bonus", "1"), "--length-bonus: means nothing without --beam"),
        (("--ilm-weight", "1"), "--ilm-weight: means nothing without --beam"),
        (("--beam", "2", "--lm-weight", "1"), "--lm-weight: means nothing without --lm"),
        (("--beam", "2", "--source-lm", "x"), "--source-lm: means nothing without --lm"),
        (
            ("--beam", "2", "--lm", "x", "--source-lm-weight", "1"),
            "--source-lm-weight: means nothing without --source-lm",
        ),
        (("--beam", "0"), "--beam"),
        (("--beam", "x"), "--beam"),
        (("--beam", "2", "--beam-search", "alsd"), "'alsd' is not one of modified, maes"),
        (("--beam", "2", "--ilm-weight", "-1"), "ilm_weight must be a finite number >= 0"),
        (("--beam", "2", "--length-bonus", "nan"), "length_bonus must be a finite number"),
    ],
)
def test_options_that_make_no_sense(
    command: str, options: tuple[str, ...], words: str, tmp_path: Path, clip: Path
) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(clip), "text": "a"}) + "\n")
    rest = ("-m", manifest) if command == "evaluate" else (clip,)
    # before the model is read
    refused(run(command, tmp_path / "none.nemo", *rest, *options), 2, words)


def test_models_that_cannot_be_read(transducer: Path, clip: Path, tmp_path: Path) -> None:
    given = ("transcribe", transducer, clip, "--beam", 2, "--lm")
    refused(run(*given, tmp_path / "none.arpa"), 2, "none.arpa: there is no such file")
    refused(run(*given, clip), 2, "a.wav: is not an ARPA file")


def test_networks_that_are_no_transducers_take_no_beam(clip: Path, tmp_path: Path) -> None:
    refused(
        run("transcribe", zq.embedded_files().model, clip, "--beam", 2),
        2,
        "is a CTC network, which is decoded greedily: beams and language models are for transducers",
    )
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    refused(run("transcribe", tmp_path / "x.onnx", clip, "--beam", 2), 2, "x.onnx: is a CTC network")


def test_a_language_model_is_not_written_over(
    transducer: Path, clip: Path, arpa: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(clip), "text": "a"}) + "\n")
    before = arpa.read_bytes()
    result = run("evaluate", transducer, "-m", manifest, "--beam", 2, "--lm", arpa, "-o", arpa, "--force")
    assert result.exit_code != 0
    assert arpa.read_bytes() == before


@pytest.mark.parametrize("name", ["conformer_rnnt_tiny", "fastconformer_tdt_tiny"])
def test_wider_beams_of_real_checkpoints_score_no_less(test_data: Path, name: str) -> None:
    path = test_data / "models" / f"{name}.nemo"
    model = zq.load_model(path, head="transducer")
    assert isinstance(model, zq.TransducerModel)
    listed = zq.read_manifest(test_data / "speech" / "librispeech-test-other" / "manifest.jsonl")[:1]
    samples = soundfile.read(listed[0].audio_path, dtype="float32")[0][: 4 * 16000]
    features, lengths = zq.Frontend(model.frontend).batch([samples])
    found = [
        zq.TransducerRecognizer(model, zq.BeamSpec(width)).hypotheses(features, lengths)[0]
        for width in (1, 4)
    ]
    one, four = found
    assert isinstance(one, zq.ScoredHypothesis)
    assert isinstance(four, zq.ScoredHypothesis)
    assert four.score >= one.score
    if not model.network.durations:
        (more,) = zq.TransducerRecognizer(model, zq.BeamSpec(4, "maes")).hypotheses(features, lengths)
        assert isinstance(more, zq.ScoredHypothesis)
        assert np.isfinite(more.score)
