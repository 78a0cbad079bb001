"""The command line: what it prints where, its exit codes, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.cli.exits import CODES, MEANINGS, code_of
from zeroq_asr.lines import size

#: the least work that still is a synthesis
FAST = ("--batch", "2", "--frames", "64", "--iterations", "1")


def _run(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


def _fails(result: Any, code: int, *words: str) -> str:
    """Check that a command failed as documented: one line on stderr, nothing on stdout."""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    others = [
        line for line in lines if line not in errors and not re.match(r"\w+: ([\d.]+ s|\d+ of \d+, )", line)
    ]
    assert (result.exit_code, len(errors), others) == (code, 1, []), result.output
    if result.stdout:  # with --json, the same in JSON
        found = json.loads(result.stdout)
        assert (set(found), found["error"]["exit_code"]) == ({"schema", "error"}, code)
        assert found["error"]["problem"] in errors[0]
    for word in words:
        assert word in errors[0]
    return str(errors[0])


def _wav(path: Path, seconds: float) -> Path:
    noise = np.random.default_rng(0).standard_normal(int(16000 * seconds)) * 0.1
    soundfile.write(path, noise.astype(np.float32), 16000)
    return path


@pytest.fixture(scope="module")
def work(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its quantized file (proven to 2 s), recordings and a manifest."""
    folder = tmp_path_factory.mktemp("cli")
    zq.save_checkpoint(small_model, folder / "small.pt")
    _wav(folder / "one.wav", 1.0)
    _wav(folder / "half.wav", 0.5)
    _wav(folder / "long.wav", 3.0)
    lines = [{"audio_filepath": f"{name}.wav", "text": "a b c"} for name in ("one", "half")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = _run(
        "quantize", folder / "small.pt", "-o", folder / "small.onnx", "--max-seconds", 2, "--json", *FAST
    )
    assert result.exit_code == 0, result.output
    (folder / "report.json").write_text(result.stdout)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a failed command must leave nothing."""
    folder = tmp_path / "out"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


# -- what works --------------------------------------------------------------------------------


def test_quantize_reports_in_json(work: Path) -> None:
    report = json.loads((work / "report.json").read_text())
    assert report["file"] == str(work / "small.onnx")
    assert report["bytes"] == (work / "small.onnx").stat().st_size
    assert report["float_bytes"] > 0
    assert report["dialect"] == "fused"
    assert re.fullmatch("[0-9a-f]{64}", report["program_sha256"])
    assert report["proof"]["headroom_bits"] >= 0
    assert report["seconds"].keys() >= {"load", "capture", "features", "prove", "export"}
    assert report["tokens"] is None
    assert len(report["synthesis"]["losses"]) == 2
    assert {"name", "kl_before", "kl_after"} <= report["synthesis"]["layers"][0].keys()


def test_nonlinearities_can_be_polynomials(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "polynomial.onnx"
    command = ("quantize", work / "small.pt", "-o", path, *FAST, "--max-seconds", 2)
    assert _run(*command, "--nonlinearity", "polynomial").exit_code == 0
    content = json.loads(_run("inspect", path, "--json").stdout)
    assert content["recipe"]["quantization"]["nonlinearity"] == "polynomial"
    assert "polynomial_requant" in content["instructions"]
    assert "table" not in content["instructions"]
    assert _run("verify", path).exit_code == 0
    found = _run(*command, "--set", "nonlinearity=polynomial", "--json")
    assert json.loads(found.stdout)["program_sha256"] == content["program_sha256"]


def test_quantize_for_people(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(
        "quantize",
        work / "small.pt",
        "--dialect",
        "strict",
        "--bits",
        "w4a8",
        "--tokens",
        "tokens.txt",
        *FAST,
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("small.w4a8.strict.onnx\n")
    assert "times as large as float" in result.stdout
    assert "strict" in result.stdout
    assert "bits of headroom" in result.stdout
    assert "the worst 3:" in result.stdout
    assert result.stdout.endswith("Next: zeroq-asr verify small.w4a8.strict.onnx\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.w4a8.strict.onnx", "tokens.txt"]
    assert (tmp_path / "tokens.txt").read_text().splitlines()[-1] == "<blk> 28"
    verified = _run("verify", "small.w4a8.strict.onnx")
    assert verified.exit_code == 0
    assert "1. The integer program is proven." in verified.stdout
    assert "2. The dialect is strict: no float type" in verified.stdout


def test_verify(work: Path) -> None:
    file = work / "small.onnx"
    digest = json.loads((work / "report.json").read_text())["program_sha256"]
    text = _run("verify", file).stdout
    for part in (
        "is proven",
        digest,
        "2 s",
        "dialect is fused",
        "QLinearConv",
        "headroom",
        "x86-any",
    ):
        assert part in text
    assert _run("verify", file, "--quiet", "--hash", digest.upper()).stdout == f"{digest}\n"
    assert json.loads(_run("verify", file, "--json", "--hash", digest[:8]).stdout)["program_sha256"] == digest


def test_common_options_stand_anywhere(work: Path) -> None:
    before, after = (
        _run("--json", "verify", work / "small.onnx"),
        _run("verify", work / "small.onnx", "--json"),
    )
    assert before.stdout == after.stdout
    assert before.stderr == after.stderr == ""


@pytest.mark.parametrize("model", ["small.onnx", "small.pt"])
def test_transcribe(work: Path, model: str) -> None:
    one = _run("transcribe", work / model, work / "one.wav", "--threads", 1)
    assert one.exit_code == 0, one.output
    assert (len(one.stdout.splitlines()), one.stderr) == (1, "")
    both = _run("transcribe", work / model, work / "one.wav", work / "half.wav", "--batch-size", 2)
    lines = [line.split("\t") for line in both.stdout.split("\n")[:-1]]
    assert [path for path, _ in lines] == [str(work / "one.wav"), str(work / "half.wav")]
    assert lines[0][1] == one.stdout[:-1]
    report = json.loads(_run("transcribe", work / model, work / "one.wav", "--json").stdout)
    (row,) = report["transcripts"]
    assert (row["audio"], row["text"]) == (str(work / "one.wav"), lines[0][1])
    assert " ".join(word["word"] for word in row["words"]) == " ".join(lines[0][1].split())


def test_transcribe_takes_folders_and_manifests(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("one.wav", "half.wav"):
        (folder / name).write_bytes((work / name).read_bytes())
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"audio_filepath": "clips/one.wav"}) + "\n")
    found = _run("transcribe", work / "small.onnx", folder, listed, work / "one.wav", "--batch-size", 4)
    lines = [line.split("\t") for line in found.stdout.split("\n")[:-1]]
    one = folder / "one.wav"
    assert [path for path, _ in lines] == [*map(str, (folder / "half.wav", one, one, work / "one.wav"))]
    assert lines[1][1] == lines[2][1] == lines[3][1]
    _fails(_run("transcribe", work / "small.onnx", tmp_path / "no.jsonl"), 3, "no.jsonl")


def test_evaluate(work: Path, tmp_path: Path) -> None:
    command = ("evaluate", work / "small.onnx", "--manifest", work, "--threads", 1)
    text = _run(*command, "-o", tmp_path / "hyps.jsonl")
    assert text.exit_code == 0, text.output
    for part in ("2 utterances, 1.5 s", "words", "characters", "substituted", "real-time factor"):
        assert part in text.stdout
    lines = [json.loads(line) for line in (tmp_path / "hyps.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a b c", "a b c"]
    assert {"audio_filepath", "pred_text"} <= lines[0].keys()
    report = json.loads(_run(*command, "--json", "--batch-size", 2).stdout)
    assert report["words"]["length"] == 6
    quiet = _run(*command, "--quiet").stdout
    assert float(quiet) == pytest.approx(100 * report["words"]["rate"], abs=0.01)
    assert _run(*command, "--limit", 1, "--json").stdout.count("hypothesis") == 1


def test_a_verdict_fits_on_a_screen_and_all_has_every_name(work: Path) -> None:
    """Neither command prints a line for every name unless it is asked."""
    file = work / "small.onnx"
    short, whole = (_run("verify", file, *more).stdout for more in ((), ("--all",)))
    assert len(short.splitlines()) <= 24
    assert "2^c ≤ 2^24" not in short
    assert "2^c ≤ 2^24" in whole
    short, whole = (json.loads(_run("verify", file, "--json", *more).stdout) for more in ((), ("--all",)))
    assert len(whole.pop("float_tensors")) == sum(whole["float_makers"].values())
    assert short == whole

    text, every = (_run("inspect", file, *more).stdout for more in ((), ("--all",)))
    content = json.loads(_run("inspect", file, "--json", "--all").stdout)
    names = [value["name"] for value in content["values"]]
    assert len(names) > 12
    assert f"… and {len(names) - 12} more" in text
    assert all(f"\n  {name} " in every for name in names)
    assert not any(f"\n  {name} " in text for name in names[12:])
    assert not {"values", "layers"} & json.loads(_run("inspect", file, "--json").stdout).keys()
    assert "tokens" not in json.loads(_run("inspect", work / "small.pt", "--json").stdout)["tokenizer"]


def test_inspect(work: Path) -> None:
    assert "a float checkpoint" in _run("inspect", work / "small.pt").stdout
    quantized = _run("inspect", work / "small.onnx").stdout
    assert "not verified" in quantized
    assert "quantize_input" in quantized
    assert json.loads(_run("inspect", work / "small.onnx", "--json").stdout)["kind"] == "quantized"
    assert _run("inspect", work / "small.pt", "--quiet").stdout == "checkpoint\n"


def test_sensitivity(work: Path, tmp_path: Path) -> None:
    args = ("inspect", work / "small.pt", "--sensitivity")
    text = _run(*args, "--calibration", "noise", "--top", "3").stdout
    assert "The 3 of " in text
    assert "=16" in text.splitlines()[-1]
    assert _run("synthesize", work / "small.pt", "-o", tmp_path / "f.npz", *FAST).exit_code == 0
    found = json.loads(_run(*args, "--calibration", tmp_path / "f.npz", "--json").stdout)
    assert found["source"] == "features"
    first = found["layers"][0]
    assert first["divergence_nats"] >= found["layers"][1]["divergence_nats"]
    finer = json.loads(
        _run(*args, "--calibration", tmp_path / "f.npz", "--bits", f"{first['name']}=16", "--json").stdout
    )
    assert len(finer["layers"]) == len(found["layers"])


def test_a_file_that_says_what_surrounds_it_is_lent_nothing(work: Path) -> None:
    command = ("transcribe", work / "small.onnx", work / "long.wav", "--checkpoint", work / "small.pt")
    _fails(_run(*command), 3, "brings its frontend and its tokens; leave --checkpoint out")


def test_senseless_sensitivity(work: Path, tmp_path: Path) -> None:
    model = work / "small.pt"
    _fails(_run("inspect", model, "--calibration", "noise"), 2, "--calibration: is of --sensitivity")
    _fails(_run("inspect", model, "--top", "3"), 2, "--top: is of --sensitivity; add it")
    config = ("--config", tmp_path / "c.yaml")
    _fails(_run("inspect", work / "small.onnx", *config), 3, "as the configuration of an ONNX file")
    absent = tmp_path / "no.npz"
    _fails(_run("inspect", model, "--sensitivity", "--calibration", absent), 2, "there is no file")
    _fails(_run("inspect", model, "--sensitivity", "--calibration", model), 3, "is not UTF-8")
    _fails(_run("inspect", model, "--sensitivity", "--bits", "x=12"), 2, "a single layer can have 16")
    _fails(_run("inspect", work / "small.onnx", "--sensitivity"), 3, "small.onnx")


def test_inspect_of_another_tool(tmp_path: Path) -> None:
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [tensor], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "other.onnx")
    text = _run("inspect", tmp_path / "other.onnx").stdout
    assert "of another tool" in text
    assert "x float [batch]" in text
    _fails(_run("verify", tmp_path / "other.onnx"), 5, "was not written by zeroq-asr")
    _fails(_run("transcribe", tmp_path / "other.onnx", "a.wav"), 3, "audio_signal")


def test_synthesize(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "features.npz"
    result = _run("synthesize", work / "small.pt", "-o", file, *FAST)
    assert result.exit_code == 0, result.output
    assert "2 utterances of 64 frames, 16 mels" in result.stdout
    assert "in 1 steps" in result.stdout
    assert zq.SyntheticFeatures.load(file).features.shape == (2, 16, 64)
    report = json.loads(_run("synthesize", work / "small.pt", "--json", *FAST).stdout)
    assert report["file"] is None
    assert report["losses"][1] == pytest.approx(min(report["losses"]), rel=0.5)
    options = ("--objective", "moments", "--iterations", "40", "--patience", "2", *FAST[:4])
    chosen = json.loads(_run("synthesize", work / "small.pt", "--json", *options).stdout)
    assert (chosen["spec"]["objective"], chosen["spec"]["patience"]) == ("moments", 2)
    assert chosen["losses"][0] != report["losses"][0]
    fields = ("--set", "init=speech", "--set", "slack=0.2", "--set", "emphasis=0.5", *FAST)
    terms = ("--set", "nonblank=0.5", "--set", "confidence=0.25")
    given = json.loads(_run("synthesize", work / "small.pt", "--json", *fields, *terms).stdout)["spec"]
    assert (given["init"], given["slack"], given["emphasis"]) == ("speech", 0.2, 0.5)
    assert (given["nonblank"], given["confidence"]) == (0.5, 0.25)
    _fails(_run("synthesize", work / "small.pt", "--set", "locality=1", *FAST), 4, "has no attention")
    made = _run(
        "quantize",
        work / "small.pt",
        "-o",
        tmp_path / "x.onnx",
        "--quiet",
        "--calibration",
        file,
        "--calibration-limit",
        1,
    )
    assert made.stdout == f"{tmp_path / 'x.onnx'}\n", made.output


def test_report(work: Path, tmp_path: Path) -> None:
    command = ("report", work / "small.pt", work / "small.onnx", *FAST)
    shown = _run(*command, "--top", 2).stdout
    assert "another best token" in shown
    assert "2 values with the most noise" in shown
    assert "no error rates" in shown
    found = json.loads(_run(*command, "--json").stdout)
    assert found["values"][-1]["name"] == "logits"
    assert float(_run(*command, "--quiet").stdout) == pytest.approx(found["divergence_nats"], rel=1e-4)
    _fails(_run("report", work / "small.pt", tmp_path / "absent.onnx"), 3, "there is no such file")
    (tmp_path / "x.onnx").write_bytes((work / "small.pt").read_bytes())
    _fails(_run("report", work / "small.pt", tmp_path / "x.onnx"), 5, "an ONNX file was expected")


def test_report_as_a_page(work: Path, tmp_path: Path) -> None:
    page = tmp_path / "<b> page.html"
    command = ("report", work / "small.pt", work / "small.onnx", *FAST, "--html", page)
    heard = ("--manifest", work / "manifest.jsonl", "--limit", 1)
    found = json.loads(_run(*command, *heard, "--json").stdout)
    assert found["values"][-1]["name"] == "logits"
    text = page.read_text()
    assert json.loads((work / "report.json").read_text())["program_sha256"] in text
    assert "<p>1 utterance, 0.0 minutes, 3 words.</p>" in text
    line = (
        "zeroq-asr report small.pt small.onnx --iterations 1 --batch 2 --frames 64 "
        "--html &#x27;&lt;b&gt; page.html&#x27; --manifest manifest.jsonl --limit 1 --json"
    )
    assert line in text
    assert "<b> page" not in text
    # its own page is replaced with a word, another's is not
    again = _run(*command, "--quiet")
    assert again.stderr == f"replaces {page}\n"
    assert "<h2>Words</h2>" not in page.read_text()
    page.write_text("<!doctype html>\nof another")
    _fails(_run(*command), 2, "is there already, and not a file that this command writes")
    assert page.read_text() == "<!doctype html>\nof another"


def test_what_a_page_cannot_be(work: Path, tmp_path: Path, out: Path) -> None:
    command = ("report", work / "small.pt", work / "small.onnx", *FAST)
    manifest = ("--manifest", work / "manifest.jsonl")
    _fails(_run(*command, "--html", out / "page.pdf"), 2, "--html: cannot write .pdf; use .html or .htm")
    _fails(_run(*command, *manifest), 2, "--manifest: is for the page of a report; say --html FILE too")
    _fails(_run(*command, "--html", out / "x.html", "--limit", 1), 2, "--limit: is of recordings")
    _fails(_run(*command, "--html", out / "x.html", "--channel", 0), 2, "--channel: is of recordings")
    (tmp_path / "untold.jsonl").write_text(json.dumps({"audio_filepath": str(work / "one.wav")}))
    untold = ("--manifest", tmp_path / "untold.jsonl")
    _fails(_run(*command, "--html", out / "x.html", *untold), 3, "has no text to compare with")
    line = json.dumps({"audio_filepath": str(work / "one.wav"), "text": "a"})
    (tmp_path / "x.html").write_text(line)
    same = ("--html", tmp_path / "x.html", "--manifest", tmp_path / "x.html", "--force")
    _fails(_run(*command, *same), 2, "is the input itself")
    assert (tmp_path / "x.html").read_text() == line
    # longer than the file takes: nothing is written
    (tmp_path / "long.jsonl").write_text(json.dumps({"audio_filepath": str(work / "long.wav"), "text": "a"}))
    long = ("--manifest", tmp_path / "long.jsonl")
    _fails(_run(*command, "--html", out / "x.html", *long), 3, "long.wav")


def test_files_in_the_place_of_others(work: Path, tmp_path: Path) -> None:
    model, made = work / "small.pt", work / "small.onnx"
    _fails(_run("report", made, model, *FAST), 2, "MODEL and FILE are swapped; name the checkpoint first")
    for command in (("quantize", made, "-o", tmp_path / "x.onnx"), ("compare", made), ("synthesize", made)):
        output = ("-o", tmp_path / "x.npz") if command[0] == "synthesize" else ()
        _fails(_run(*command, *output), 3, "is an ONNX file, a checkpoint was expected; name the checkpoint")
    _fails(_run("inspect", made, "--sensitivity"), 3, "is an ONNX file, a checkpoint was expected")
    _fails(
        _run("verify", model), 5, "is a file of torch.save or torch.export.save, an ONNX file was expected"
    )
    _fails(_run("inspect", model, "--language", "fra"), 3, "has no choice of languages; leave --language out")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    _fails(_run("quantize", tmp_path / "bundle", "-o", tmp_path / "x.onnx"), 3, "is a bundle of ONNX files")
    (tmp_path / "config.json").write_text("{}")
    _fails(_run("verify", tmp_path), 5, "is the folder of a Hugging Face model, an ONNX file was expected")


def test_compare(work: Path, tmp_path: Path) -> None:
    args = ("compare", work / "small.pt", *FAST, "--max-seconds", "2")
    heard = (*args, "--manifest", work / "manifest.jsonl")
    table = tmp_path / "table.md"
    result = _run(*heard, "--calibration-manifest", work / "manifest.jsonl", "--markdown", table)
    assert result.exit_code == 0, result.output
    for label in ("float", "data-free", "real data", "ORT static, real data", "ORT dynamic", "noise"):
        assert re.search(rf"^ +{label} ", result.stdout, flags=re.MULTILINE)
        assert f"| {label} |" in table.read_text()
    assert "95 % interval" in result.stdout
    # the legend is several lines, none of which holds an escaped end of one
    assert re.search(r"^frames: ", result.stdout, flags=re.MULTILINE)
    assert "\\n" not in result.stdout + table.read_text()
    assert "warning: " not in result.stderr
    assert "2 s of features on one thread" in result.stdout
    assert "noisy on a busy machine" in result.stdout
    assert "| ms | speed-up |" in table.read_text()
    assert "2 s of recordings with text" in result.stdout
    twice = _run(*heard, "--manifest", work / "manifest.jsonl", "--json").stdout
    assert json.loads(twice)["utterances"] == 2 * json.loads(_run(*heard, "--json").stdout)["utterances"]
    report = json.loads(_run(*heard, "--json").stdout)
    assert [row["label"] for row in report["rows"]] == ["float", "data-free", "ORT dynamic", "noise"]
    assert all(row["median_seconds"] > 0 and row["speedup"] > 0 for row in report["rows"])
    assert report["gaps"][0]["low"] <= report["gaps"][0]["value"] <= report["gaps"][0]["high"]
    bare = _run(*args, "--quiet").stdout.splitlines()
    assert [line.split("\t")[0] for line in bare] == ["float", "data-free", "ORT dynamic", "noise"]
    untimed = _run(*args, "--no-time", "--quiet").stdout.splitlines()
    assert {len(line.split("\t")) for line in bare} == {9}
    assert {len(line.split("\t")) for line in untimed} == {7}
    several = _run(*args, "--bits", "8,w4a8", "--set", "rounding=nearest", "--quiet").stdout.splitlines()
    labels = [line.split("\t")[0] for line in several]
    assert labels == ["float", "data-free", "data-free W4A8 to nearest", "ORT dynamic", "noise"]
    spoken = _run(*args, "--no-time").stdout
    assert "speed-up" not in spoken
    assert "held-out synthetic features" in spoken
    assert "not an error rate" in spoken


def test_compare_refuses_before_the_work(work: Path, tmp_path: Path) -> None:
    args = ("compare", work / "small.pt")
    _fails(_run(*args, "--calibration-limit", "3"), 2, "is of --calibration-manifest, and there is none")
    _fails(_run(*args, "--train", "5m"), 2, "--train: is of weights of 5 bits or fewer")
    _fails(_run(*args, "--manifest", work / "absent"), 3, "there is no such file")
    _fails(_run(*args, "--calibration-manifest", work / "absent"), 3, "there is no such file")
    _fails(_run(*args, "--markdown", work / "small.pt"), 2, "small.pt")
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": str(work / "long.wav")}) + "\n")
    _fails(_run(*args, "--manifest", tmp_path / "m.jsonl", "--max-seconds", "2"), 3, "lasts 3 s")


def test_help_documents_the_exit_codes() -> None:
    text = " ".join(_run("--help").stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code} {meaning}" in text
    assert _run("--version").stdout == f"{zq.__version__}\n"


def test_every_error_has_a_code() -> None:
    for name in zq.__all__:
        thing = getattr(zq, name)
        if isinstance(thing, type) and issubclass(thing, zq.ZeroqError) and thing is not zq.ZeroqError:
            assert CODES[thing] in MEANINGS
    assert set(CODES.values()) <= MEANINGS.keys()
    assert code_of(KeyError("x")) == 1
    assert code_of(PermissionError("x")) == 6
    assert code_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")) == 6


def test_sizes_read_well() -> None:
    sizes = [size(n) for n in (0, 999, 1000, 91452, 999_600, 18_900_000, 190_000_000, 7e9, 2e12)]
    assert sizes == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "91.5 kB",
        "1 MB",
        "18.9 MB",
        "190 MB",
        "7 GB",
        "2000 GB",
    ]


# -- damaged checkpoints -----------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def _tar(path: Path, member: str) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    return path


def _corrupt(work: Path, folder: Path) -> Path:
    data = bytearray((work / "small.pt").read_bytes())
    data[100:2000] = bytes(1900)
    return _write(folder / "corrupt.pt", bytes(data))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BROKEN: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "absent": (lambda work, folder: folder / "absent.nemo", "no such file"),
    "folder": (lambda work, folder: folder, "is a folder"),
    "empty": (lambda work, folder: _write(folder / "empty.nemo", b""), "is empty"),
    "other": (lambda work, folder: _write(folder / "other.nemo", b"hello" * 99), "neither"),
    "corrupt": (_corrupt, "corrupt.pt"),
    "truncated": (
        lambda work, folder: _write(folder / "cut.pt", (work / "small.pt").read_bytes()[:-3000]),
        "cut.pt",
    ),
    "traversing": (lambda work, folder: _tar(folder / "x.nemo", "../evil"), "points outside the archive"),
    "absolute": (lambda work, folder: _tar(folder / "x.nemo", "/tmp/evil"), "points outside the archive"),
    "pickle": (lambda work, folder: _write(folder / "x.ckpt", pickle.dumps(_Evil())), "x.ckpt"),
    "escape": (lambda work, folder: _tar(folder / "x.nemo", "../\x1b[31m"), "\\x1b[31m"),
}


@pytest.mark.parametrize("command", ["quantize", "inspect", "synthesize", "transcribe"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints(
    kind: str, command: str, work: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)  # where a default output or a pickle's folder would appear
    make, words = BROKEN[kind]
    line = _fails(_run(command, make(work, tmp_path), *(["a.wav"] * (command == "transcribe"))), 3, words)
    assert line.isprintable()


def _without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


_WEIGHT = "encoder.encoder.1.mconv.0.conv.weight"
WRONG_WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "missing": lambda state: _without(state, _WEIGHT),
    "misshaped": lambda state: {**state, _WEIGHT: torch.zeros(3, 1, 5)},
    "not finite": lambda state: {**state, _WEIGHT: state[_WEIGHT] * torch.nan},
    "surplus": lambda state: {**state, f"{_WEIGHT}2": torch.zeros(3)},
}


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_wrong_weights_are_named(
    kind: str, conv_config: Any, conv_state: Any, write_nemo: Any, out: Path
) -> None:
    path = write_nemo(conv_config, WRONG_WEIGHTS[kind](conv_state))
    _fails(_run("quantize", path, "-o", out / "x.onnx"), 3, _WEIGHT)


def test_broken_configuration(work: Path, tmp_path: Path, out: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "weights.pt")
    config = tmp_path / "model.yaml"
    config.write_text("encoder: [")
    _fails(_run("quantize", tmp_path / "weights.pt", "--config", config, "-o", out / "x.onnx"), 3, "not YAML")


LOADERS = """
import torch
import zeroq_asr as zq
from zeroq_asr import AsrModel, FrontendConfig, Tokenizer


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(16)
        self.rnn = torch.nn.GRU(16, 29, batch_first=True)

    def forward(self, features, lengths):
        return self.rnn(self.norm(features).transpose(1, 2))[0], lengths


def recurrent(path):
    return AsrModel(Recurrent().eval(), FrontendConfig(features=16), Tokenizer(tuple("a" * 28)), "recurrent")


def chatty(path):
    print("hello from the loader")
    return zq.load_checkpoint(path)


def failing(path):
    raise KeyError("layer")


def odd(path):
    class OddError(BaseException):
        def __str__(self):
            raise ValueError
    raise OddError


def nothing(path):
    raise GeneratorExit


def slow(path):
    import pathlib, time
    pathlib.Path("started").touch()
    time.sleep(60)
"""


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cli_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_unsupported_operator(loaders: Path, work: Path, out: Path) -> None:
    command = ("quantize", work / "small.pt", "-o", out / "x.onnx", "--loader", "cli_loaders:recurrent")
    _fails(_run(*command, *FAST), 4, "error: rnn: operator ", "no integer lowering")


def test_loaders(loaders: Path, work: Path, out: Path) -> None:
    for loader, words in {
        "cli_loaders:failing": "KeyError",
        "cli_loaders:odd": "failed (OddError: OddError)",
        "cli_loaders:nothing": "failed (GeneratorExit: GeneratorExit)",
        "builtins:exit": "failed (SystemExit: ",
        "cli_loaders:absent": "has no absent",
        "no_such_module_here:x": "cannot be imported",
        "cli_loaders": "write package.module:function",
    }.items():
        command = ("quantize", work / "small.pt", "-o", out / "x.onnx", "--loader", loader)
        _fails(_run(*command), 3, words)
    chatty = _run("inspect", work / "small.pt", "--loader", "cli_loaders:chatty", "--json")
    assert json.loads(chatty.stdout)["name"] == "small"
    assert chatty.stderr == "hello from the loader\n"


# -- options and outputs -----------------------------------------------------------------------


def test_outputs_are_checked_before_the_work(work: Path, out: Path) -> None:
    """With checkpoints that do not exist: the output comes first."""
    model = work / "absent.nemo"
    _fails(_run("quantize", model, "-o", out / "no" / "x.onnx"), 2, "there is no folder")
    _fails(_run("quantize", model, "-o", out), 2, "is a folder")
    _fails(
        _run("quantize", model, "-o", out / "x.onnx", "--tokens", out / "no" / "t"), 2, "there is no folder"
    )
    _fails(_run("quantize", model, "-o", out / "x", "--tokens", out / "x"), 2, "is the output itself")
    _fails(_run("synthesize", model, "-o", out / "x.onnx"), 2, ".npz")
    _fails(_run("quantize", work / "small.pt", "-o", work / "small.pt"), 2, "is the input itself")
    _fails(_run("evaluate", model, "-m", work, "-o", out / "no" / "x"), 2, "there is no folder")


def test_unwritable_folder(work: Path, out: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a folder that even root cannot write")
    _fails(_run("quantize", work / "small.pt", "-o", "/proc/self/x.onnx"), 2, "cannot be written")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bits", "nine"), "cannot read 'nine'"),
        (("--bits", "9"), "weight_bits"),
        (("--bits", "8", "--bits", "7"), "both of the whole network"),
        (("--bits", "encoder=12"), "encoder cannot have 12 bits: a single layer can have 16"),
        (("--bits", "stemm=16"), "no layer or value 'stemm'"),
        (("--max-seconds", "-1"), "max_seconds"),
        (("--preset", "best"), "paper, default, fast"),
        (("--frames", "1"), "frames"),
        (("--objective", "guess"), "'guess' is not one of kl, kl_reverse"),
        (("--percentile", "120"), "percentile"),
        (("--calibration", "absent.npz"), "there is no file or folder absent.npz"),
        (("--set", "nonlinearity=spline"), "'spline' is not one of table, polynomial"),
        (("--set", "colour=red"), "NAME=VALUE with one of weight_bits"),
        (("--set", "floor"), "cannot read 'floor'"),
        (("--set", "weight_bits=" + "9" * 5000), "weight_bits"),
        (("--set", "weight_bits=" + "[" * 5000), "weight_bits"),
        (("--set", "weight_bits=1e400"), "weight_bits"),
        (("--bits", "8,8"), "cannot read '8,8'"),
        (("--bits", ""), "cannot read ''"),
        (("--bits", "plan.yaml"), "plan.yaml"),
        (("--max-seconds", "nan"), "max_seconds"),
        (("--max-seconds", "1e400"), "max_seconds"),
        (("--percentile", "nan"), "percentile"),
        (("--margin", "-inf"), "margin"),
        (("--set", "floor=high"), "floor must be a finite number"),
        (("--set", "init=music"), "normal, uniform, smooth, student, speech"),
    ],
)
def test_senseless_options(options: tuple[str, ...], words: str, work: Path, out: Path) -> None:
    _fails(_run("quantize", work / "small.pt", "-o", out / "x.onnx", *options), 2, words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("quantize", "m", "--dialect", "loose"), "fused, strict, qdq"),
        (("quantize", "m", "--target", "z80"), "x86-any"),
        (("quantize", "m", "--nonlinearity", "spline"), "table, polynomial"),
        (("quantize", "m", "--method", "guess"), "minmax, percentile, mse"),
        (("quantize", "m", "--calibration-limit", "0"), "limit"),
        (("quantize", "m", "--nonsense"), "--nonsense"),
        (("quantize", "m", "--calibration-limit", "99999999999999999999999999999x"), "limit"),
        (("quantize", "m", "--method", "\x1b]0;x\x07"), "\\x1b]0;x\\x07"),
        (("transcribe", "m", "a", "--threads", "513"), "threads"),
        (("transcribe", "m", "a", "--batch-size", "nan"), "batch-size"),
        (("bench", "--seconds", "nan"), "seconds"),
        (("bench", "--rounds", "9" * 23), "rounds"),
        (("compare", "m", "--seeds", "9" * 23), "seeds"),
        (("bench", "--threads", "1e400"), "threads"),
        (("bench", "--device", ""), "device"),
        (("quantize",), "MODEL"),
        (("transcribe", "m"), "AUDIO"),
        (("evaluate", "m"), "--manifest"),
        (("dance",), "dance"),
    ],
)
def test_usage(args: tuple[str, ...], words: str) -> None:
    result = _run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.isprintable() or result.stderr[:-1].isprintable()
    assert words in result.stderr


def test_no_output_may_be_an_input(work: Path, tmp_path: Path) -> None:
    for name in ("small.pt", "one.wav"):
        (tmp_path / name).write_bytes((work / name).read_bytes())
    _write(tmp_path / "manifest.jsonl", b'{"audio_filepath": "one.wav", "text": "a"}\n')
    _write(tmp_path / "c.yaml", b"{}")
    assert _run("synthesize", work / "small.pt", "-o", tmp_path / "f.npz", *FAST).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model, features = tmp_path / "small.pt", tmp_path / "f.npz"
    for command in (
        ("evaluate", work / "small.onnx", "-m", tmp_path, "-o", tmp_path / "manifest.jsonl"),
        ("compare", model, "-m", tmp_path, "--markdown", tmp_path / "manifest.jsonl"),
        ("quantize", model, "--config", tmp_path / "c.yaml", "-o", tmp_path / "c.yaml"),
        ("quantize", model, "--calibration", features, "-o", features),
        ("quantize", model, "--calibration", features, "-o", tmp_path / "x", "--tokens", features),
    ):
        _fails(_run(*command), 2, "is the input itself")
    (tmp_path / "d").mkdir()
    twice = ("-o", tmp_path / "x", "--tokens", tmp_path / "d" / ".." / "x")
    _fails(_run("quantize", model, *twice), 2, "is the output itself")
    _fails(_run("quantize", model, "-o", os.devnull), 2, "is no regular file")
    (tmp_path / "d").rmdir()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_is_written_through(work: Path, tmp_path: Path) -> None:
    (tmp_path / "target.npz").touch()
    (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")
    assert _run("synthesize", work / "small.pt", "-o", tmp_path / "link.npz", *FAST).exit_code == 0
    assert (tmp_path / "link.npz").is_symlink()
    assert zq.SyntheticFeatures.load(tmp_path / "target.npz").features.shape == (2, 16, 64)


def test_tokens_that_are_no_lines_are_found_first(work: Path, tmp_path: Path) -> None:
    content = torch.load(work / "small.pt", weights_only=True)
    content["tokenizer"]["tokens"][3] = "\n"
    torch.save(content, tmp_path / "broken.pt")
    command = ("quantize", tmp_path / "broken.pt", "-o", tmp_path / "x.onnx", "--tokens", tmp_path / "t.txt")
    _fails(_run(*command), 2, "contains a line break")
    assert not (tmp_path / "x.onnx").exists()


def test_names_as_long_as_the_file_system_allows(work: Path, tmp_path: Path) -> None:
    name = "x" * 250 + ".npz"
    assert _run("synthesize", work / "small.pt", "-o", tmp_path / name, *FAST).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_next_command_is_whole(work: Path, tmp_path: Path, loaders: Path) -> None:
    options = ("--loader", "cli_loaders:chatty", "-o", tmp_path / "f.npz", *FAST)
    shown = _run("synthesize", work / "small.pt", *options)
    assert "--loader cli_loaders:chatty" in " ".join(shown.stdout.split()), shown.output


def test_when_the_reader_leaves(work: Path) -> None:
    """As `head` does: the command ends quietly, as others do."""
    command = shlex.join(_command("inspect", work / "small.onnx"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert int(done.stdout) in (0, 128 + signal.SIGPIPE)


def test_recordings_by_any_name(work: Path, tmp_path: Path) -> None:
    """A name that the system's encoding lacks is still the name of a file."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe.wav"
    with open(path, "wb") as stream:
        stream.write((work / "one.wav").read_bytes())
    done = subprocess.run(
        [*_command("transcribe", work / "small.onnx"), path], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    _write(tmp_path / "x.raw", b"12345678")
    _fails(_run("transcribe", work / "small.onnx", tmp_path / "x.raw"), 3, "not a readable sound file")


def test_bad_calibration(work: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    command = ("quantize", work / "small.pt", "-o", out / "x.onnx", "--calibration")
    _fails(_run(*command, tmp_path / "bad.npz"), 3, "not a file of synthetic features")


# -- recordings and manifests ------------------------------------------------------------------


def test_bad_audio(work: Path, tmp_path: Path) -> None:
    model = work / "small.onnx"
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "short.wav", np.zeros(3, np.float32), 16000)
    _write(tmp_path / "text.wav", b"this is no sound")
    _fails(_run("transcribe", model, tmp_path / "empty.wav"), 3, "is empty")
    _fails(_run("transcribe", model, tmp_path / "short.wav"), 3, "3 samples are fewer than two frames")
    _fails(_run("transcribe", model, tmp_path / "text.wav"), 3, "not a readable sound file")
    _fails(_run("transcribe", model, tmp_path / "absent.wav"), 3, "no such file")
    row = {"audio_filepath": str(work / "long.wav"), "text": "a"}
    manifest = _write(tmp_path / "long.jsonl", json.dumps(row).encode())
    _fails(_run("evaluate", model, "-m", manifest), 3, "lasts 3 s", "proven for at most 2 s")
    _fails(_run("evaluate", model, "-m", manifest, "--json"), 3, "--max-seconds")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ('{"text": "a"}', "has no audio_filepath"),
        ('{"audio_filepath": "absent.wav", "text": "a"}', "does not exist"),
        ('{"audio_filepath": "one.wav", "text": 3}', "text must be a string"),
        ('{"audio_filepath": "one.wav"}', "has no text"),
    ],
)
def test_bad_manifest(line: str, words: str, work: Path, tmp_path: Path, out: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    good = json.dumps({"audio_filepath": str(work / "one.wav"), "text": "a"})
    manifest.write_text(f"{good}\n{line.replace('one.wav', str(work / 'one.wav'))}\n")
    where = "" if words == "has no text" else f"{manifest}:2: "
    result = _run("evaluate", work / "small.onnx", "-m", manifest, "-o", out / "hyps.jsonl")
    _fails(result, 3, where, words)


# -- tampered files ----------------------------------------------------------------------------


def _tampered(work: Path, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(work / "small.onnx"))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def _flip_a_weight(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    data = bytearray(tensor.raw_data)
    data[7] ^= 1
    tensor.raw_data = bytes(data)


def _swap_a_node(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "QLinearConv").attribute[0].i += 1


def _edit_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value += "!"


@pytest.mark.parametrize(
    ("change", "words"),
    [(_flip_a_weight, "hash"), (_swap_a_node, "differs"), (_edit_metadata, "was changed")],
)
def test_tampered_files_are_refused(change: Any, words: str, work: Path, tmp_path: Path) -> None:
    file = _tampered(work, tmp_path / "tampered.onnx", change)
    _fails(_run("verify", file), 5, "tampered.onnx", words)
    _fails(_run("verify", file, "--json"), 5, words)


def test_files_that_are_not_to_be_trusted(work: Path, tmp_path: Path) -> None:
    cut = _write(tmp_path / "cut.onnx", (work / "small.onnx").read_bytes()[:-100])
    _fails(_run("verify", cut), 5, "damaged")
    _fails(_run("inspect", cut), 3, "damaged")
    _fails(_run("transcribe", cut, work / "one.wav"), 3, "cut.onnx")
    _fails(_run("verify", tmp_path / "absent.onnx"), 3, "there is no such file")
    _fails(_run("verify", work / "small.onnx", "--hash", "0" * 64), 5, "holds another program")
    _fails(_run("verify", work / "small.onnx", "--hash", "xyz"), 2, "hexadecimal")


# -- the machine, the developer and the user's fingers -----------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device"), 6, "No space left on device"),
        (MemoryError(), 6, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("x"), 1, "internal: KeyError"),
        (zq.ProofError("layer", "overflows"), 5, "layer: overflows"),
    ],
)
def test_whatever_happens_is_one_line(
    error: BaseException, code: int, words: str, work: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("zeroq_asr.quantize", fail)
    _fails(_run("quantize", work / "small.pt", "-o", out / "x.onnx"), code, words)


def test_traceback_for_developers(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "absent.onnx"), "--traceback"])
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("error: ")


def _command(*args: object) -> list[str]:
    return [sys.executable, "-m", "zeroq_asr", *(str(arg) for arg in args)]


def test_a_full_disk_leaves_nothing(work: Path, out: Path) -> None:
    """A limit on the size of files, which strikes in the middle of writing the output."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        _command("quantize", work / "small.pt", "--calibration", "speech", "--json"),
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "error: small.int8.onnx: File too large\n"


def test_interruption_leaves_nothing(loaders: Path, work: Path, out: Path) -> None:
    command = _command("quantize", work / "small.pt", "-o", out / "x.onnx", "--loader", "cli_loaders:slow")
    with subprocess.Popen(
        command,
        cwd=loaders,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in the background with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for _ in range(600):
            if (loaders / "started").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "error: interrupted\n")


# -- float islands -----------------------------------------------------------------------------


def test_a_layer_is_kept_in_float_from_quantize_to_transcribe(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept.onnx"
    keep = ("--keep-float", "encoder.encoder.1.*", "--max-seconds", 2)
    result = _run("quantize", work / "small.pt", "-o", file, *keep, *FAST)
    assert result.exit_code == 0, result.output
    assert "not integer-only" in result.stdout
    for command in ("verify", "inspect"):
        result = _run(command, file)
        assert result.exit_code == 0, result.output
        text = " ".join(result.stdout.split())
        assert "float island" in text
        assert "encoder.encoder.1." in text
        assert "scale" in text
    text = _run("verify", file).stdout
    assert "verified; not integer-only" in text
    assert "The integer program is proven." not in text
    report = json.loads(_run("verify", file, "--json").stdout)
    assert report["integer_only"] is False
    assert {"layers", "operators", "inputs", "result", "bounds"} <= set(report["islands"][0])
    assert report["islands"] == json.loads(_run("inspect", file, "--json").stdout)["islands"]
    plain = json.loads(_run("verify", work / "small.onnx", "--json").stdout)
    assert (plain["integer_only"], plain["islands"]) == (True, [])
    assert _run("transcribe", file, work / "half.wav").exit_code == 0
    assert _run("evaluate", file, "--manifest", work / "manifest.jsonl").exit_code == 0
    model = onnx.load(str(file))
    comment = next(p.value for p in model.metadata_props if p.key == "comment")
    assert comment.startswith("not integer-only")


def test_what_cannot_be_kept_in_float(work: Path, out: Path) -> None:
    command = ("quantize", work / "small.pt", "-o", out / "x.onnx", *FAST, "--keep-float")
    _fails(_run(*command, "encoder.encodr.1"), 2, "no layer or value 'encoder.encodr.1'", "near it: ")
    _fails(_run(*command, "encoder*", "--dialect", "strict"), 4, "strict cannot hold", "--keep-float")
    _fails(_run("inspect", work / "small.pt", "--allow-float"), 2, "of --sensitivity")


ODD_LOADER = """
import torch, zeroq_asr as zq

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = torch.nn.Conv1d(16, 8, 3, padding=1), torch.nn.Mish()
        self.last = torch.nn.Conv1d(8, 29, 1)

    def forward(self, x, lengths):
        return self.last(self.act(self.first(x))).transpose(1, 2), lengths

def odd(path):
    torch.manual_seed(0)
    network = Odd().eval().requires_grad_(False)
    tokens = zq.Tokenizer(tuple(" abcdefghijklmnopqrstuvwxyz'"), "characters")
    return zq.AsrModel(
        network=network, frontend=zq.FrontendConfig(features=16), tokenizer=tokens, name="odd",
        architecture="", config={}, subsampling_factor=1,
    )
"""


def test_an_unsupported_operator_is_allowed_in_float(
    work: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "odd_loader.py").write_text(ODD_LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "odd.onnx"
    source = (work / "small.pt", "--loader", "odd_loader:odd")
    noise = ("--calibration", "noise", "--frames", 64, "--batch", 2)
    refused = _run("quantize", *source, "-o", out / "x.onnx", *noise)
    _fails(refused, 4, "act: operator aten.mish.default (in Mish)", "--allow-float")
    result = _run("quantize", *source, "-o", file, "--allow-float", *noise)
    assert result.exit_code == 0, result.output
    report = json.loads(_run("verify", file, "--json").stdout)
    assert [island["layers"] for island in report["islands"]] == [["act"]]
    assert report["islands"][0]["operators"] == {"Mish": 1}
    assert _run("transcribe", file, work / "half.wav").exit_code == 0
    ranked = _run("inspect", *source, "--sensitivity", "--calibration", "noise", "--allow-float")
    assert ranked.exit_code == 0, ranked.output
    assert "--allow-float" in ranked.stdout
    brief = ("--rounds", 1, "--seconds", 1)
    _fails(_run("bench", *source, *brief), 4, "act: operator aten.mish.default (in Mish)", "--allow-float")
    result = _run("bench", *source, *brief, "--allow-float", "--json")
    assert result.exit_code == 0, result.output
    absent = {row["label"]: row["absent"] for row in json.loads(result.stdout)["rows"]}
    assert absent["fused W8"] == absent["ORT static, u8 × u8"] == absent["ORT dynamic"] == ""
    assert absent["strict W8"] == "strict cannot hold float islands"
    assert absent["qdq W8"] == "qdq cannot hold float islands"
