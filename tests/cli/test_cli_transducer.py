"""Commands on transducers, checkpoints and bundles, and those that say that they take none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_transducers import nemo_config, nemo_state
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app

Write = Callable[..., Path]
REFUSED = "is a transducer, a CTC head was expected"


def run(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def transducer(write_nemo: Write) -> Path:
    config = nemo_config(durations=(0, 1, 2))
    return write_nemo(config, nemo_state(config), name="transducer.nemo")


@pytest.fixture
def hybrid(write_nemo: Write) -> Path:
    config = nemo_config(hybrid=True)
    state = nemo_state(config)
    # one head says a, the other says b
    state["joint.joint_net.2.bias"][1] = state["ctc_decoder.decoder_layers.0.bias"][2] = 100.0
    return write_nemo(config, state, name="hybrid.nemo")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for name, seconds in (("a", 0.6), ("b", 0.35)):
        wave = generator.standard_normal(int(16000 * seconds)) * np.linspace(0.01, 0.3, int(16000 * seconds))
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000, subtype="FLOAT")
        paths.append(tmp_path / f"{name}.wav")
    return paths


def test_transcribe_and_evaluate_run_it_in_float(transducer: Path, clips: list[Path], tmp_path: Path) -> None:
    model = zq.load_model(transducer)
    assert isinstance(model, zq.TransducerModel)
    recognizer = zq.TransducerRecognizer(model)
    expected = []
    for clip in clips:
        features, lengths = zq.Frontend(model.frontend).batch([soundfile.read(clip, dtype="float32")[0]])
        (found,) = recognizer.hypotheses(features, lengths)
        expected.append(model.tokenizer.decode(found.tokens))
    result = run("transcribe", transducer, *clips, "--json")
    assert result.exit_code == 0, result.output
    assert [row["text"] for row in json.loads(result.stdout)["transcripts"]] == expected
    assert any(expected)
    rows = [{"audio_filepath": str(c), "text": t or "a"} for c, t in zip(clips, expected, strict=True)]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for batch in (1, 2):
        result = run("evaluate", transducer, "-m", manifest, "--json", "--batch-size", batch)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["words"]["errors"] == sum(not text for text in expected)
        assert [t["hypothesis"] for t in found["transcripts"]] == [" ".join(t.split()) for t in expected]


def test_a_head_of_a_hybrid_is_chosen(hybrid: Path, clips: list[Path]) -> None:
    texts = {}
    for head in ("auto", "ctc", "transducer"):
        result = run("transcribe", hybrid, clips[0], "--head", head, "-q")
        assert result.exit_code == 0, result.output
        texts[head] = set(result.stdout.strip())
        assert ("the transducer left out" in result.stderr) is (head != "transducer")
    assert texts == {"auto": {"b"}, "ctc": {"b"}, "transducer": {"a"}}


def test_what_takes_no_transducer_says_so_in_one_line(transducer: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    result = run("synthesize", transducer, "-o", tmp_path / "x.npz")
    assert (result.exit_code, result.stdout) == (4, ""), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert REFUSED in line
    assert set(tmp_path.iterdir()) == before


QUICK = ("--preset", "fast", "--batch", 2, "--frames", 64, "--iterations", 1)


def listed(clips: list[Path], folder: Path) -> Path:
    manifest = folder / "list.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": str(c), "text": "a"}) + "\n" for c in clips))
    return manifest


def test_compare(transducer: Path, hybrid: Path, clips: list[Path], tmp_path: Path) -> None:
    manifest, table = listed(clips, tmp_path), tmp_path / "table.md"
    args = ("-m", manifest, "--calibration-manifest", manifest, "--max-seconds", 2, *QUICK)
    result = run("compare", transducer, *args, "--set", "joint_pairs=64", "--markdown", table)
    assert (result.exit_code, "warning: " in result.stderr) == (0, False), result.output
    for label in ("float", "data-free", "real data", "ORT dynamic", "noise"):
        assert f"  {label} " in result.stdout
        assert f"| {label} |" in table.read_text()
    assert "steps of the float network's own greedy path" in result.stdout
    assert "2 s of speech decoded greedily on one thread" in result.stdout
    result = run("compare", hybrid, "--head", "transducer", "--no-time", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["head"], found["heard"]) == ("transducer", "synthetic features")
    assert [row["label"] for row in found["rows"]] == ["float", "data-free", "ORT dynamic", "noise"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--bits", "w2a8"), "have 4 to 8 bits and its values 8, not 2 and 8"),
        (("--train", "1s"), "--train: "),
        (("--reconstruct",), "--reconstruct: "),
        (("--set", "section_steps=1"), "--set: "),
        (("--keep-float", "joiner*"), "a transducer takes no keep_float"),
        (("--allow-float",), "a transducer takes no allow_float"),
    ],
)
def test_compare_refuses(transducer: Path, options: tuple[str, ...], problem: str) -> None:
    result = run("compare", transducer, "--no-time", *QUICK, *options)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert problem in line


def test_compare_sets_no_labels_of_a_ctc_network() -> None:
    result = run("compare", zq.embedded_files().model, *QUICK, "--set", "joint_pairs=4")
    assert (result.exit_code, "error: --set: changes the labels" in result.stderr) == (2, True), result.output


def test_the_commands_on_a_bundle(transducer: Path, clips: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "small.int8"
    fast = ("--calibration", "noise", "--max-seconds", "5", "--set", 'label_sources=["pieces", "random"]')
    result = run("quantize", transducer, "-o", folder, *fast, "--tokens", tmp_path / "tokens.txt", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["recipe"]["labels"]["label_sources"] == ["pieces", "random"]
    assert made["speech_joined_for"] is None
    assert 0 <= made["shortfall"]["median"] <= 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "bundle.json",
        "encoder.onnx",
        "joiner.onnx",
        "predictor.onnx",
    ]
    assert (tmp_path / "tokens.txt").read_text().splitlines()[1] == "a 1"
    result = run("verify", folder, "--hash", made["program_sha256"][:12], "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["parts"]) == {"encoder", "predictor", "joiner"}
    opened = zq.open_recognizer(folder)
    assert isinstance(opened, zq.IntegerTransducer)
    expected = []
    for clip in clips:
        features, lengths = zq.Frontend(opened.frontend).batch([soundfile.read(clip, dtype="float32")[0]])
        (found,) = opened.hypotheses(features, lengths)
        expected.append(opened.tokenizer.decode(found.tokens))
    result = run("transcribe", folder, *clips, "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert [row["text"] for row in json.loads(result.stdout)["transcripts"]] == expected
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": str(c), "text": "a"}) + "\n" for c in clips))
    result = run("evaluate", folder, "-m", manifest, "--batch-size", 2, "--json")
    assert result.exit_code == 0, result.output
    heard = {t["hypothesis"] for t in json.loads(result.stdout)["transcripts"]}
    assert heard == {" ".join(text.split()) for text in expected}
    result = run("inspect", folder, "--json")
    assert (result.exit_code, json.loads(result.stdout)["kind"]) == (0, "bundle"), result.output
    assert run("inspect", folder).exit_code == 0
    assert run("verify", folder).exit_code == 0
    # a bundle is replaced, anything else is not
    result = run("quantize", transducer, "-o", folder, *fast)
    assert result.exit_code == 0
    told = [line.split(maxsplit=1)[1] for line in result.stdout.splitlines() if line.startswith("  ranges ")]
    assert told == ["of noise"]
    blind = "Where the ranges fall shortest of what made speech reaches:" in result.stdout
    assert blind == made["shortfall"]["blind"]
    result = run("bench", folder, "--against", transducer, "--rounds", 1, "--seconds", "0.5,1")
    assert result.exit_code == 0, result.output
    for heading in (
        "the whole recogniser, 0.5 s of speech decoded greedily, 1 thread, median of 1:",
        "encoder, 1 s of speech, 1 thread",
        "predictor, one step, 1 thread",
        "joiner, one frame, 1 thread",
        "joiner, 32 frames at once, 1 thread",
    ):
        assert heading in result.stdout
    assert result.stdout.count("\n  small.int8 ") == 7
    html = tmp_path / "report.html"
    quick = ("--preset", "fast", "--batch", 2, "--frames", 64, "--iterations", 1)
    result = run("report", transducer, folder, *quick, "--html", html, "--manifest", manifest)
    assert result.exit_code == 0, result.output
    assert "steps: of the float network's own path" in result.stdout
    assert "<h2>Parts</h2>" in html.read_text()
    assert "<h2>Words</h2>" in html.read_text()
    result = run("report", folder, transducer)
    assert (result.exit_code, "MODEL and FILE are swapped" in result.stderr) == (2, True), result.output
    (folder / "notes.txt").write_text("mine")
    result = run("quantize", transducer, "-o", folder, *fast)
    assert (result.exit_code, "is a folder, a file name was expected" in result.stderr) == (2, True), (
        result.output
    )
    for args, words in (
        (("transcribe", folder, clips[0], "--head", "ctc"), "has no CTC head"),
        (("transcribe", folder, clips[0], "--checkpoint", transducer), "leave --checkpoint out"),
        (("transcribe", folder, clips[0], "--config", "x.yaml"), "leave --config out"),
        (("transcribe", folder, clips[0], "--loader", "a:b"), "leave --loader out"),
        (("transcribe", folder, clips[0], "--language", "fra"), "leave --language out"),
        (("transcribe", transducer, clips[0], "--checkpoint", transducer), "leave --checkpoint out"),
        (("quantize", transducer, "-o", tmp_path / "x", "--set", "clipping_steps=1"), "error: --set: "),
        (("compare", folder), "verify, transcribe, evaluate, bench and inspect take bundles"),
        (("bench", folder, zq.embedded_files().model, "--rounds", 1), "measure them apart"),
        (("transcribe", folder / "encoder.onnx", clips[0]), "a recogniser gives logprobs"),
        (("quantize", transducer, "-o", tmp_path / "x", "--bits", "w2a8"), "not 2 and 8; say --bits 8"),
        (("quantize", transducer, "-o", tmp_path / "x", "--max-size", "1MB"), "has one format throughout"),
        (("quantize", transducer, "-o", tmp_path / "x", "--dialect", "qdq"), "use fused or strict"),
    ):
        result = run(*args)
        assert result.exit_code in (2, 3), result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert words in line
    assert not (tmp_path / "x").exists()


def test_labels_are_not_set_of_a_ctc_network(tmp_path: Path) -> None:
    output = tmp_path / "x.onnx"
    result = run("quantize", zq.embedded_files().model, "-o", output, "--set", "joint_pairs=4")
    assert (result.exit_code, "error: --set: changes the labels" in result.stderr) == (2, True), result.output
    assert not output.exists()


@pytest.mark.parametrize("head", [("--head", "transducer"), ()])
def test_a_file_is_no_folder_and_is_not_said_to_be_replaced(
    hybrid: Path, transducer: Path, tmp_path: Path, head: tuple[str, ...]
) -> None:
    output = tmp_path / "x.onnx"
    output.write_bytes(b"")
    result = run("quantize", hybrid if head else transducer, *head, "-o", output)
    assert result.exit_code == 2, result.output
    assert "is a file, a folder was to be written" in " ".join(result.stderr.split())
    assert "replaces" not in result.stderr
    assert output.read_bytes() == b""


def test_a_file_takes_no_configuration_of_its_own(tmp_path: Path, clips: list[Path]) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(b"")
    result = run("transcribe", file, clips[0], "--config", "x.yaml")
    assert (result.exit_code, "leave --config out" in result.stderr) == (3, True), result.output
    model = zq.embedded_model()
    with pytest.raises(zq.CheckpointError, match="a loaded model is whole; leave --loader out"):
        zq.open_recognizer(model, loader="a:b")


def test_inspect_shows_the_parts(transducer: Path) -> None:
    result = run("inspect", transducer, "--json", "--all")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["kind"], found["architecture"]) == ("checkpoint", "conformer_transducer")
    assert {layer["path"].partition(".")[0] for layer in found["layers"]} == {
        "encoder",
        "predictor",
        "joiner",
    }
    assert run("inspect", transducer).exit_code == 0


def test_sensitivity_ranks_all_parts(transducer: Path, hybrid: Path) -> None:
    quick = ("--sensitivity", "--calibration", "noise")
    result = run("inspect", transducer, *quick, "--json")
    assert result.exit_code == 0, result.output
    assert "the weights of its lstm_step are not among the ranked" in result.stderr
    found = json.loads(result.stdout)
    assert found["head"] == "transducer"
    parts = {layer["name"].partition(".")[0] for layer in found["layers"]}
    assert parts == {"encoder", "predictor", "joiner"}
    for option, value in (("--bits", "w2a8"), ("--bits", "joiner*=16"), ("--keep-float", "joiner*")):
        result = run("inspect", transducer, *quick, option, value)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert (result.exit_code, "transducer" in line) == (2, True), result.output
    result = run("inspect", hybrid, "--head", "transducer")
    assert (result.exit_code, "--head: is of --sensitivity" in result.stderr) == (2, True), result.output


def test_heads_that_are_not_there(transducer: Path, clips: list[Path], tmp_path: Path) -> None:
    result = run("transcribe", transducer, clips[0], "--head", "ctc")
    assert (result.exit_code, REFUSED in result.stderr) == (4, True), result.output
    files = zq.embedded_files()
    shutil.copy(files.model, tmp_path / "ctc.pt")
    result = run("transcribe", tmp_path / "ctc.pt", clips[0], "--head", "transducer")
    assert (result.exit_code, "has no transducer's head" in result.stderr) == (4, True), result.output
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    result = run("transcribe", tmp_path / "x.onnx", clips[0], "--head", "transducer")
    assert (result.exit_code, "a transducer is a folder of them" in result.stderr) == (3, True), result.output
    result = run("transcribe", transducer, clips[0], "--head", "rnnt")
    assert (result.exit_code, "not one of auto, ctc, transducer" in result.stderr) == (2, True), result.output


def test_a_tokenizer_of_another_model(transducer: Path) -> None:
    model = zq.load_model(transducer)
    assert isinstance(model, zq.TransducerModel)
    other = zq.TransducerModel(model.network, model.frontend, zq.Tokenizer(("a", "b")), "other")
    with pytest.raises(
        zq.CheckpointError, match="gives 9 scores, expected 6: tokens, the blank and durations"
    ):
        zq.TransducerRecognizer(other)


def test_python_refuses_what_the_command_refuses(transducer: Path) -> None:
    model = zq.load_model(transducer)
    for work in (zq.prepare, zq.quantize):
        with pytest.raises(zq.ConfigError, match="takes a CTC network; prepare_transducer takes others"):
            work(model)  # type: ignore[operator]  # what it takes no transducer for
    with pytest.raises(zq.ConfigError, match="takes a CTC network"):
        zq.TorchRecognizer(model)  # type: ignore[arg-type]  # what it takes no transducer for
