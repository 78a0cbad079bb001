"""Beams and language models at the command line: what they decode, and where they are refused."""

from __future__ import annotations

import itertools
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


def test_a_comparison_says_how_its_rows_are_decoded(transducer: Path, clip: Path, tmp_path: Path) -> None:
    manifest, tables = tmp_path / "list.jsonl", tmp_path / "tables.md"
    manifest.write_text(json.dumps({"audio_filepath": str(clip), "text": "a b"}) + "\n")
    fast = ("--batch", 2, "--frames", 64, "--iterations", 1)
    given = ("compare", transducer, "-m", manifest, "--markdown", tables, *fast)
    beam = ("--beam", 3, "--hotword", "ab", "--length-bonus", 1)
    result = run(*given, *beam, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    spec = zq.BeamSpec(3, hotwords=("ab",), length_bonus=1.0)
    assert found["beam"] == spec.to_dict()
    assert all(row["median_seconds"] for row in found["rows"])
    words = zq.evaluate(zq.open_recognizer(transducer, beam=spec), zq.read_manifest(manifest)).words
    assert found["rows"][0]["words"] == words.to_dict()
    title, *lines = tables.read_text().splitlines()
    assert title.endswith("of recordings with text, decoded by a beam of 3, 1 hotword")
    (timed,) = (line for line in lines if line.startswith("ms: "))
    assert "speech decoded by a beam of 3, 1 hotword on one thread" in timed
    refused(
        run(*given, "--markdown", tmp_path / "x.md", "--beam", 2, "--hotword", "ü"), 2, "cannot be spelled"
    )
    assert not (tmp_path / "x.md").exists()


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


@pytest.mark.parametrize("command", ["transcribe", "evaluate", "compare"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lm", "x.arpa"), "--lm: means nothing without --beam"),
        (("--beam-search", "maes"), "--beam-search: means nothing without --beam"),
        (("--length-bonus", "1"), "--length-bonus: means nothing without --beam"),
        (("--ilm-weight", "1"), "--ilm-weight: means nothing without --beam"),
        (("--hotword", "x"), "--hotword: means nothing without --beam"),
        (("--beam", "2", "--hotword-weight", "1"), "--hotword-weight: means nothing without --hotword"),
        (("--beam", "2", "--hotword", "x", "--hotword-weight", "-1"), "--hotword-weight: must be a finite"),
        (("--beam", "2", "--lm-weight", "1"), "--lm-weight: means nothing without --lm"),
        (("--beam", "2", "--lm-unit", "word"), "--lm-unit: means nothing without --lm"),
        (("--beam", "2", "--unk-score-offset", "-1"), "--unk-score-offset: means nothing without --lm"),
        (("--word-bonus", "1"), "--word-bonus: means nothing without --beam"),
        (("--beam", "2", "--lm", "x", "--lm-unit", "piece"), "'piece' is not one of auto, token, word"),
        (
            ("--beam", "2", "--lm", "x", "--unk-score-offset", "1"),
            "--unk-score-offset: must be a finite",
        ),
        (("--beam", "2", "--source-lm", "x"), "--source-lm: means nothing without --lm"),
        (
            ("--beam", "2", "--lm", "x", "--source-lm-weight", "1"),
            "--source-lm-weight: means nothing without --source-lm",
        ),
        (("--beam", "0"), "--beam"),
        (("--beam", "x"), "--beam"),
        (("--beam", "2", "--beam-search", "alsd"), "'alsd' is not one of auto, modified, maes, prefix"),
        (("--beam", "2", "--ilm-weight", "-1"), "--ilm-weight: must be a finite number >= 0"),
        (("--beam", "2", "--length-bonus", "nan"), "--length-bonus: must be a finite number"),
        (("--beam", "2", "--lm", "x", "--lm-weight", "nan"), "--lm-weight: must be a finite number"),
        (("--beam", "2", "--hotword", "x" * 201), "--hotword: the hotword 'xx"),
        (("--beam", "2", "--hotword", " "), "--hotword: a name of hotwords must be"),
    ],
)
def test_options_that_make_no_sense(
    command: str, options: tuple[str, ...], words: str, tmp_path: Path, clip: Path
) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(clip), "text": "a"}) + "\n")
    rest = (clip,) if command == "transcribe" else ("-m", manifest)
    # before the model is read
    refused(run(command, tmp_path / "none.nemo", *rest, *options), 2, words)


def test_models_that_cannot_be_read(transducer: Path, clip: Path, tmp_path: Path) -> None:
    given = ("transcribe", transducer, clip, "--beam", 2, "--lm")
    refused(run(*given, tmp_path / "none.arpa"), 2, "none.arpa: there is no such file")
    refused(run(*given, clip), 2, "a.wav: is not an ARPA file")


def test_models_over_words(spoken: zq.Utterance, tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    said = (spoken.text or "").upper().split()
    # a model of the one sentence, in upper case
    pairs = dict.fromkeys(itertools.pairwise(("<s>", *said)), -0.01)
    lm = write_arpa(tmp_path / "words.arpa", ENDS | dict.fromkeys(said, (-3.0, -1.0)), pairs)
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(spoken.audio_path), "text": spoken.text}) + "\n")
    given = ("evaluate", zq.embedded_files().model, "-m", manifest, "--beam", 8)
    plain, helped = (json.loads(run(*given, *more, "--json").stdout) for more in ((), ("--lm", lm)))
    assert (plain["words"]["errors"], helped["words"]["errors"]) == (1, 0)
    spec = zq.BeamSpec(8, lm=str(lm), lm_unit="word")  # as it was found
    assert (helped["beam"], plain["beam"]["lm_unit"]) == (spec.to_dict(), "auto")
    result = run(*given, "--lm", lm, "--word-bonus", 1, "--unk-score-offset", -5)
    assert "words.arpa, over words" in result.stdout
    refused(run(*given, "--lm", lm, "--lm-unit", "token"), 2, "words.arpa: is no model over the tokens")


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small QuartzNet in integers."""
    path = tmp_path_factory.mktemp("ctc") / "quartznet.int8.onnx"
    heard = zq.CalibrationSpec(str(zq.embedded_files().calibration), limit=6)
    zq.quantize(zq.embedded_model(), path, calibration=heard)
    return path


@pytest.fixture(scope="module")
def spoken() -> zq.Utterance:
    """A clip of whose words the small QuartzNet hears one wrong."""
    listed = zq.read_manifest(zq.embedded_files().test)
    return next(one for one in listed if "portsmouth" in (one.text or "").lower())


@pytest.mark.parametrize("integer", [False, True], ids=["float", "integer"])
def test_networks_of_frames_are_decoded_by_the_same_options(
    integer: bool, ctc: Path, spoken: zq.Utterance, tmp_path: Path
) -> None:
    model = ctc if integer else zq.embedded_files().model
    words = tmp_path / "hotwords.txt"
    words.write_text("\ufeffNorthanger\r\n\n Portsmouth \n", encoding="utf-8")
    named = ("northanger", "portsmouth")
    cases: dict[tuple[object, ...], zq.BeamSpec | None] = {
        (): None,
        ("--beam", 1): zq.BeamSpec(1),
        ("--beam", 8, "--beam-search", "prefix", "--length-bonus", 1): zq.BeamSpec(
            8, "prefix", length_bonus=1.0
        ),
        ("--beam", 8, "--hotwords", words): zq.BeamSpec(8, hotwords=named),
        ("--beam", 8, "--hotword", named[0], "--hotword", named[1], "--hotword-weight", 9): zq.BeamSpec(
            8, hotwords=named, hotword_weight=9.0
        ),
    }
    texts = {}
    for options, spec in cases.items():
        result = run("transcribe", model, spoken.audio_path, "--json", *options)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        (found,) = document["transcripts"]
        told = document["beam"]
        assert (told is None) == (spec is None)
        if spec is not None:
            # the file has them with capitals
            told["hotwords"] = [word.lower() for word in told["hotwords"]]
            assert told == spec.to_dict()
        one = next(zq.recognize(zq.open_recognizer(model, beam=spec), [spoken]))
        assert (found["text"], found["words"]) == (one.text, [word.to_dict() for word in one.words])
        texts[options] = found
    greedy, *_, hot, hotter = texts.values()
    assert "portsmouth" not in greedy["text"]
    for one in (hot, hotter):
        assert one["text"] == (spoken.text or "").lower()
        assert one.keys() == greedy.keys()
        # where the word is said, greedy decoding found another
        times = [(word["start_seconds"], word["end_seconds"]) for word in one["words"]]
        assert times[-1] == pytest.approx(
            (greedy["words"][-1]["start_seconds"], greedy["words"][-1]["end_seconds"]), abs=0.1
        )
        assert times == sorted(times)
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(spoken.audio_path), "text": spoken.text}) + "\n")
    result = run("evaluate", model, "-m", manifest, "--json", "--beam", 8, "--hotwords", words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["words"]["errors"] == 0


def test_what_networks_of_frames_do_not_have_is_refused(spoken: zq.Utterance, tmp_path: Path) -> None:
    given = ("transcribe", zq.embedded_files().model, spoken.audio_path, "--beam", 2)
    refused(run(*given, "--beam-search", "maes"), 2, "maes is of transducers, this is a CTC network")
    refused(run(*given, "--ilm-weight", 0.1), 2, "--ilm-weight: a CTC network has no internal language model")
    refused(run(*given, "--hotword", "señor"), 2, "hotword 'señor' cannot be spelled")
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    refused(run(*given, "--lm", zq.embedded_files().grams), 2, "pieces.arpa.gz: is no model over the tokens")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"\n \n", "holds no hotwords"),
        (b"a" * 201, "has more than 200 characters"),
        (None, "there is no such file"),
    ],
)
def test_files_of_hotwords_that_are_none(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "hot.txt"
    if content is not None:
        path.write_bytes(content)
    refused(run("transcribe", tmp_path / "x.nemo", tmp_path, "--beam", 2, "--hotwords", path), 2, words)


def test_a_file_that_is_none_is_said_to_be_none_with_a_beam(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    refused(run("transcribe", tmp_path / "x.onnx", clip, "--beam", 2), 3, "x.onnx: ")


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
